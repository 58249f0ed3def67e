"""
# Data

Files come in; batches of token windows go out: `sources` finds texts, `documents` streams them, in `blocks`, `corpus`
makes a first pass; once they are tokenized, `packing` cuts windows, `replay` mixes old text in, and `loader` makes
batches of them.

Start with `loader` and `batch`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'batch': ['Batch', 'Template'],
    'batch_reader': ['BatchReader'],
    'loader': ['TrainLoader', 'ValidLoader'],
    'packing': ['PackedDocuments', 'Windows'],
    'replay': ['MixedWindows'],
})
