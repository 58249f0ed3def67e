"""A trained run for tests, and `labml-mlm` in its project."""
import io
import sys
from pathlib import Path

import pytest

from labml_mlm import FillMask
from support.project import Project, outcome

# Enough to know the sentence by heart
LEARN = ['transformer.n_layers=2', 'd_model=32', 'transformer.n_heads=4', 'seq_len=16', 'batch_size=16', 'epochs=16',
         'n_prompts=0', 'lr_warmup_steps=20', 'optimizer.learning_rate=0.01', 'checkpoint_interval=none']


@pytest.fixture(scope='session')
def trained(tmp_path_factory, fork_server) -> Project:
    """A project with a trained run `feed`."""
    project = Project(tmp_path_factory.mktemp('trained'), fork_server)
    result = project.run(f'text_path={project.text}', *LEARN, env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    return project


@pytest.fixture(scope='session')
def run(trained) -> Path:
    return trained.path / 'logs/test/feed'


@pytest.fixture(scope='session')
def fill_mask(run) -> FillMask:
    return FillMask.load(run)


@pytest.fixture
def command(trained, monkeypatch, capsys):
    """`labml-mlm` in the project, with `lines` as standard input: exit code, output and errors."""
    monkeypatch.chdir(trained.path)

    def command(*arguments, lines=None):
        if lines is not None:
            monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(lines.encode()), encoding='utf-8'))
        return outcome(capsys, *arguments)
    return command


@pytest.fixture
def assert_refused(command):
    """Asserts that `labml-mlm` exits with 2, and that `message` is in the last line of its errors."""
    def check(*arguments, message, lines=None):
        code, out, err = command(*arguments, lines=lines)
        assert (code, out) == (2, '')
        assert message in err.splitlines()[-1]
        assert 'Traceback' not in err
    return check
