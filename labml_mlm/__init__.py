r"""
# Masked language models on labml

A masked language model learns a language by filling in blanks: some 15% of a text's tokens are hidden, and
the model predicts each from all that stands left and right of it
([Devlin et al. 2019](https://arxiv.org/abs/1810.04805)). With $\tilde{x}$ the text as the model sees it and $M$ the
hidden places, it minimises

$$\mathcal{L} = \frac{1}{|M|} \sum_{i \in M} -\log p(x_i \mid \tilde{x})$$

No labels are needed, just text. What it is good for afterwards: filling blanks, and its features, from which
classifiers and taggers learn with few examples.

* `MLM` hides the tokens
* `TransformerMLM` predicts them, and computes the loss; `MLMTransformerConfigs` says how it is built
* `MLMConfigs` is a whole run, and `train` runs it from the command line, watched on labml
* `load` brings a trained model back, and `FillMask` has it fill in blanks
"""
import importlib

_MODULES = {'MLM': 'masking.mlm', 'MLMConfigs': 'configs.mlm', 'TransformerMLM': 'model.transformer',
            'MLMTransformerConfigs': 'model.transformer', 'train': 'cli.train', 'FillMask': 'inference.fill_mask',
            'load': 'inference.load'}

__all__ = ['FillMask', 'MLM', 'MLMConfigs', 'MLMTransformerConfigs', 'TransformerMLM', 'load', 'train']


def __getattr__(name: str):
    # Importing torch and labml takes seconds; `import labml_mlm` alone does not
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
