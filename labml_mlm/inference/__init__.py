"""
# Inference

A run comes in; predictions, features and figures go out.

Start with `pretrained`, then `fill_mask` and `evaluate`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'fill_mask': ['FillMask'],
    'pretrained': ['Pretrained', 'load'],
})
