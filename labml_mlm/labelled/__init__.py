"""
# Labelled data

Files with a label for each text, or for each word, come in; batches with labels go out.

Start with `rows`, texts and their labels as a file has them, and `tagged`, words and theirs. `labels` says what labels
mean, and `split` which rows are for validation; `examples` makes batches of rows, and `loader` shuffles those so that
texts of similar lengths come together.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'examples': ['Examples'],
    'labels': ['LabelSet', 'infer_kind'],
    'loader': ['LabelledLoader'],
    'rows': ['Row', 'Rows', 'read_rows'],
    'split': ['split_rows'],
    'tagged': ['Tagged', 'TaggedRow', 'read_tagged'],
})
