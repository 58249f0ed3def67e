"""What `minicons` says of texts, in the Python of Hugging Face's half."""
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from support.hugging_face import run_hugging_face

_SCRIPT = """
import json, sys
from minicons.scorer import MaskedLMScorer

said = {}
for folder, texts in json.loads(sys.argv[1]).items():
    scorer = MaskedLMScorer(folder, 'cpu')
    # It would encode texts by a method that transformers has no longer
    encoded = scorer.tokenizer(texts, padding=True, return_tensors='pt')
    said[folder] = {metric: scorer.sequence_score(encoded, reduction=lambda x: x.double().sum().item(),
                                                  PLL_metric=metric) for metric in ('original', 'within_word_l2r')}
print(json.dumps(said))
"""


def minicons_scores(texts: Mapping[Path, Sequence[str]]) -> dict[str, dict[str, list[float]]]:
    """
    Pseudo-log-likelihoods of the texts of each folder of `save_pretrained`, by folder, then `original` and
    `within_word_l2r`.
    """
    given = json.dumps({str(folder): of_folder for folder, of_folder in texts.items()})
    return json.loads(run_hugging_face(_SCRIPT, given).stdout.splitlines()[-1])


@functools.cache
def _missing() -> str:
    try:
        run_hugging_face('import minicons.scorer')
    except AssertionError as e:
        return f'the Python of transformers has no minicons: {str(e)[-200:]}'
    return ''


@pytest.fixture(scope='session')
def needs_minicons(needs_transformers):
    """Skips a test where it is not installed, saying why."""
    if missing := _missing():
        pytest.skip(missing)
