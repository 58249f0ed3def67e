import json

import numpy as np
import pytest
import torch

from labml_mlm.baselines import measured
from labml_mlm.baselines.masked import Masked
from labml_mlm.baselines.measured import as_json, from_json, measure


@pytest.fixture
def arguments():
    rng = np.random.default_rng(0)
    return {'tokens': torch.from_numpy(rng.integers(2, 9, 300).astype(np.uint8)),
            'masked': Masked(*rng.integers(2, 9, (3, 50))), 'is_maskable': np.arange(9) > 1}


def test_result_is_kept_and_found_again(arguments, tmp_path, monkeypatch):
    found = measure(**arguments, folder=tmp_path)
    assert found == measure(**arguments)
    [path] = tmp_path.iterdir()
    monkeypatch.setattr(measured, 'guess', None)
    assert measure(**arguments, folder=tmp_path) == found
    # Whatever has changed, it is measured anew
    tokens, masked = arguments['tokens'].clone(), arguments['masked']
    tokens[7] = 8 if tokens[7] != 8 else 7
    for other in ({'tokens': tokens}, {'masked': Masked(masked.tokens, masked.right, masked.left)},
                  {'is_maskable': np.arange(9) > 2}):
        with pytest.raises(TypeError):
            measure(**arguments | other, folder=tmp_path)


@pytest.mark.parametrize('content', ['', '{"unigram": 3}', '[1]', '{"unigram": {"loss": 1, "wrong": 2}}'])
def test_damaged_file_is_written_again(arguments, tmp_path, content):
    found = measure(**arguments, folder=tmp_path)
    [path] = tmp_path.iterdir()
    path.write_text(content)
    assert measure(**arguments, folder=tmp_path) == found
    assert json.loads(path.read_text()) == as_json(found)


def test_folder_that_cannot_be_written_does_no_harm(arguments, tmp_path):
    assert measure(**arguments, folder=tmp_path / 'missing') == measure(**arguments)


def test_guesses_survive_json(arguments):
    found = measure(**arguments)
    assert from_json(json.loads(json.dumps(as_json(found)))) == found
