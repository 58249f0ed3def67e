"""
# Inference

A run comes in; predictions, features and figures go out.

Start with `load`, then `fill_mask` and `evaluate`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'fill_mask': ['FillMask'],
    'load': ['Pretrained', 'load'],
})
