"""
# Sentences

Documents come in; windows of two spans of sentences go out.

Start with `pairs`; `boundaries` says where sentences end, and `plan` which spans an epoch has.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'boundaries': ['SentenceRule'],
    'pairs': ['SentencePairs'],
})
