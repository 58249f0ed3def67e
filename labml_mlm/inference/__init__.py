"""
# Inference

A run comes in; predictions and features go out.

Start with `loading` and `pretrained`, then `fine_tuned`, `embed`, and `fill_mask` with its three ways to fill in
`masks`: by itself, `joint` and `candidates`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'fill_mask': ['FillMask'],
    'fine_tuned': ['FineTuned', 'Predicted'],
    'loading': ['load'],
    'pretrained': ['Pretrained'],
})
