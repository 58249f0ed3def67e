"""
# Recipes

A recipe is a name for values that go together: `recipe=char` in place of six items. What is given beside it, in a
class, in Python or on the command line, wins over it. labml calls this an aggregate; `aggregate(MLMConfigs.recipe, …)`
adds one of your own.

`RECIPES` are those of pre-training. Fine-tuning has a recipe for each of its classes, whose defaults are its values.
"""
from collections.abc import Mapping
from typing import Any

_CHARACTERS = {'optimizer': 'muon', 'lr_schedule': 'warmup_linear', 'lr_warmup_steps': 50, 'masking_schedule': 'linear'}
# Measured by `experiments/<recipe>_mlm.py`; `char` is what learns fastest in `benchmarks/learning.py`
RECIPES: Mapping[str, Mapping[str, Any]] = {
    # A token per character, and what learns most in a few minutes
    'char': {**_CHARACTERS, 'transformer': 'shallow', 'epochs': 8},
    # A vocabulary of subwords, trained on the text
    'subword': {'default_text': 'python_sources', 'tokenizer': 'bpe', 'seq_len': 128, 'batch_size': 32,
                'valid_batch_size': 32, 'epochs': 1, 'inner_iterations': 4},
    # Going on with an encoder, on a text of one's own
    'domain': {'default_text': 'python_topics', 'optimizer': 'muon', 'lr_schedule': 'warmup_linear',
               'lr_warmup_steps': 20, 'seq_len': 128, 'batch_size': 16, 'valid_batch_size': 16},
    # `char` at the size of labml_nn's experiment, to compare with
    'char_labml_nn_size': _CHARACTERS,
}
# The class of configs of each recipe
CLASSES = {**dict.fromkeys(RECIPES, 'MLMConfigs'), 'classify': 'ClassificationConfigs', 'tag': 'TaggingConfigs'}


def of_other_classes(name: str) -> dict[str, str]:
    """Why recipes of other classes cannot be chosen in the class of that `name`, by recipe."""
    return {recipe: f'it is for {class_}, and this is {name}. `labml-mlm train FILE recipe={recipe}` takes it'
            for recipe, class_ in CLASSES.items() if class_ != name}
