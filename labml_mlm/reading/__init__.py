"""
# Reading files

Paths come in; texts, or the rows of tables, go out, one at a time, each with where it stands.

`listing` finds the files of paths; `files` opens one. Start with `texts`, which reads the texts of any file; `rows` has
the rows of JSON lines and tables, and `lines` the lines of a file, whose errors name the line.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'listing': ['Listing', 'list_files'],
    'rows': ['Wrong'],
    'texts': ['read_texts_of'],
})
