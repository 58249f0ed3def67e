"""
# Masking

Token ids come in; masked ids and labels go out.

Start with `mlm`; `whole_words` has whole word and span masking.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'mlm': ['MLM'],
    'whole_words': ['spans', 'whole_words'],
})
