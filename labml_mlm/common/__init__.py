"""
# Common

Used by every folder: errors for people, exit codes, atomic files, the labml project, declarations of config items,
lists of them (`schema`), and work-arounds for labml. It imports no other folder.

Start with `declarations`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'declarations': ['DeclaredConfigs', 'Item', 'Range'],
    'errors': ['UserError', 'did_you_mean'],
})
