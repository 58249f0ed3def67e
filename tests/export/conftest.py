import shutil
from pathlib import Path

import pytest
import torch
from support.exports import CUSTOM, FAMILIES, NO_PYTHON

import labml_mlm
from labml_mlm.export.folder import export_folder
from labml_mlm.inference.pretrained import Pretrained


@pytest.fixture(scope='session')
def folders(models, tmp_path_factory) -> dict[str, Path]:
    """Their exports."""
    path = tmp_path_factory.mktemp('folders')
    for name, model in models.items():
        export_folder(model, path / name, is_custom=name in CUSTOM, is_sentence_transformers=name in FAMILIES,
                      python=NO_PYTHON)
    return {name: path / name for name in models}


@pytest.fixture(scope='session')
def run(exports) -> Pretrained:
    """The default run."""
    return labml_mlm.load(exports.path / 'logs/test/feed')


@pytest.fixture
def own_run(exports, tmp_path) -> Pretrained:
    """A copy of it."""
    return labml_mlm.load(shutil.copytree(exports.path / 'logs/test/feed', tmp_path / 'logs/test/feed'))


@pytest.fixture
def logits():
    """Of random tokens, at three lengths."""
    @torch.no_grad()
    def logits(trained: Pretrained) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(2)
        return [trained.model.predict(torch.randint(trained.tokenizer.n_tokens, (n, 2), generator=generator))
                for n in (1, 7, 40)]
    return logits
