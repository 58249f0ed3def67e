"""Which run `load` takes, and what it makes of it."""
import re

import pytest

from labml_mlm import load
from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.character import CharacterTokenizer


@pytest.fixture
def newer(trained):
    """A run that is newer than the trained one, and has no checkpoint."""
    path = trained.path / 'logs/test/dada'
    path.mkdir()
    (path / 'run.pid').write_text('4194305')
    yield
    (path / 'run.pid').unlink()
    path.rmdir()


def test_runs_without_a_checkpoint_are_passed_over_and_said(trained, newer, command):
    for name in ('last', 'test'):
        about = load(name, folder=trained.path).about
        # Other tests train runs there, too
        assert re.search(rf' \(`{name}` is the run \w+: without a checkpoint are dada\)$', about)
    code, _, err = command('fill-mask', 'last', 'the [MASK]uick')
    assert code == 0 and 'without a checkpoint are dada' in err
    # For what needs no checkpoint, the newest is the newest
    assert command('info', 'last')[2].startswith('the run dada has no configs.json')
    with pytest.raises(UserError, match='the run dada has no checkpoint yet'):
        load('dada', folder=trained.path)


def test_a_folder_needs_no_project_and_a_name_does(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(run, folder=tmp_path).about.endswith('best by validation loss: ' + load(run).about.rpartition(' ')[2])
    with pytest.raises(UserError, match='is not in a labml project'):
        load('feed', folder=tmp_path)
    with pytest.raises(UserError, match='is neither a run nor a checkpoint'):
        load(tmp_path)


def test_a_class_that_happens_to_be_there_is_not_the_tokenizer(run):
    class Other(CharacterTokenizer):
        """Of the same kind, as it names no other."""

    assert Other.kind == CharacterTokenizer.kind
    assert type(load(run).tokenizer) is CharacterTokenizer
