"""
# Evaluation

A model and texts come in; how good it is goes out.

Start with `evaluate`, the figures of a run, and `score`, those of single texts. `figures` has them of many texts and of
minimal pairs; `inspection` shows one text.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'figures': ['Corpus', 'Phenomena', 'score_pairs'],
    'inspection': ['inspect_text'],
    'score': ['score_texts'],
})
