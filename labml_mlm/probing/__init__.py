"""
# Probing

A model and labelled texts come in; how well its frozen features tell the labels goes out.

Start with `probe`, logistic regressions on the features that `features` computes at all layers in one pass. `examples`
says which texts are held out, `sequences` makes token ids of them; `prober` probes during training, by `configs`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'examples': ['read_examples'],
    'probe': ['Probed'],
    'prober': ['Prober'],
    'sequences': ['Sequences'],
})
