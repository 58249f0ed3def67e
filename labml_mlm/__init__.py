r"""
# Masked language models on labml

A masked language model learns a language by filling in blanks: some 15% of a text's tokens are hidden, and the model
predicts each of them from everything left and right of it ([Devlin et al. 2019](https://arxiv.org/abs/1810.04805)).
With $\tilde{x}$ the text as the model sees it and $M$ the masked positions, it minimises

$$\mathcal{L} = \frac{1}{|M|} \sum_{i \in M} -\log p(x_i \mid \tilde{x})$$

No labels are needed, just text. Afterwards the model fills in blanks, and its hidden states are features from which
classifiers and taggers learn with few examples.

* `MLM` masks tokens
* `TransformerMLM` predicts them and computes the loss; `MLMTransformerConfigs` says how it is built
* `MLMConfigs` is a whole run, and `train` runs it from the command line, watched on labml; `Item` declares an item
* `load` brings a trained model back, and `FillMask` fills in blanks with it

Text becomes a trained model in the folders `data`, `tokenization`, `masking`, `model`, `optim` and `training`;
`configs` connects them.
"""
import lazy_loader

# Importing torch and labml takes seconds; `import labml_mlm` alone does not
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'cli.train': ['train'],
    'common.declarations': ['Item'],
    'configs.mlm': ['MLMConfigs'],
    'inference.fill_mask': ['FillMask'],
    'inference.pretrained': ['load'],
    'masking.mlm': ['MLM'],
    'model.transformer': ['MLMTransformerConfigs', 'TransformerMLM'],
})
