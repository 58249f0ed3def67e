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
* `ClassificationConfigs` and `TaggingConfigs` fine-tune it on labelled texts
* `load` brings a trained model back, and `FillMask` fills in blanks with it
* `metrics` reads the curves of a run

Text becomes a trained model in the folders `data`, `tokenization`, `masking`, `model`, `optim` and `training`;
`configs` connects them.
"""
from typing import TYPE_CHECKING

import lazy_loader

from labml_mlm.common.closed_outputs import open_closed_outputs
from labml_mlm.common.runtime import wait_briefly

if TYPE_CHECKING:
    # For editors and type checkers, which do not run the lines below
    from labml_mlm.configs.mlm import MLMConfigs as MLMConfigs
    from labml_mlm.finetuning.classification import ClassificationConfigs as ClassificationConfigs
    from labml_mlm.finetuning.tagging import TaggingConfigs as TaggingConfigs
    from labml_mlm.inference.fill_mask import FillMask as FillMask
    from labml_mlm.inference.loading import load as load
    from labml_mlm.items.declarations import Item as Item
    from labml_mlm.launch.train import train as train
    from labml_mlm.masking.mlm import MLM as MLM
    from labml_mlm.model.transformer import MLMTransformerConfigs as MLMTransformerConfigs
    from labml_mlm.model.transformer import TransformerMLM as TransformerMLM
    from labml_mlm.runs.curves import metrics as metrics

# Before labml and torch are imported
open_closed_outputs()
wait_briefly()

# Importing torch and labml takes seconds; `import labml_mlm` alone does not
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'launch.train': ['train'],
    'items.declarations': ['Item'],
    'configs.mlm': ['MLMConfigs'],
    'finetuning.classification': ['ClassificationConfigs'],
    'finetuning.tagging': ['TaggingConfigs'],
    'inference.fill_mask': ['FillMask'],
    'inference.loading': ['load'],
    'masking.mlm': ['MLM'],
    'model.transformer': ['MLMTransformerConfigs', 'TransformerMLM'],
    'runs.curves': ['metrics'],
})
