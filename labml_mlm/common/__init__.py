"""
# Common

Used by every folder: errors for people, exit codes, files that are atomic, ordinary or imported, arguments, tables, the
labml project, and work-arounds for labml. It imports no other folder.

Start with `errors`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'errors': ['UserError', 'did_you_mean'],
})
