"""Where an export may be written, and what stays there if it fails."""
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from support.exports import NO_PYTHON

import labml_mlm
from labml_mlm.common.errors import UserError
from labml_mlm.export import target as target_module
from labml_mlm.export.folder import export_folder
from labml_mlm.export.target import new_folder
from labml_mlm.inference.pretrained import Pretrained


def export(trained: Pretrained, path: Path, **options):
    export_folder(trained, path, python=NO_PYTHON, **options)


def config_of(folder: Path) -> dict:
    return json.loads((folder / 'config.json').read_text())


def interrupt(*_, **__):
    raise KeyboardInterrupt


def fill_disk(*_, **__):
    raise OSError(28, 'No space left on device')


def test_an_export_is_replaced_by_force_alone(run, tmp_path):
    out = tmp_path / 'out'
    export(run, out, is_custom=True)
    with pytest.raises(UserError, match='out exists: --force replaces it'):
        export(run, out)
    assert config_of(out)['model_type'] == 'labml_mlm'
    export(run, out, is_forced=True)
    assert config_of(out)['model_type'] == 'esm'
    assert not (out / 'modeling_labml_mlm.py').exists()
    assert os.listdir(tmp_path) == ['out']


@pytest.mark.parametrize('is_forced', [False, True])
def test_what_no_export_has_written_is_not_replaced(run, tmp_path, is_forced):
    own, file = tmp_path / 'own', tmp_path / 'file'
    own.mkdir()
    (own / 'thesis.txt').write_text('mine')
    (own / 'config.json').write_text('{"model_type": "bert"}')
    file.write_text('mine')
    for path in (own, file):
        with pytest.raises(UserError, match='exists, and labml-mlm export has not written it: give another folder'):
            export(run, path, is_forced=is_forced)
    assert (own / 'thesis.txt').read_text() == file.read_text() == 'mine'


def test_what_was_put_into_an_export_is_not_removed(run, tmp_path):
    export(run, tmp_path / 'out')
    (tmp_path / 'out/.git').mkdir()
    with pytest.raises(UserError, match='has .git in it, which labml-mlm export has not written'):
        export(run, tmp_path / 'out', is_forced=True)
    assert (tmp_path / 'out/.git').exists()


def test_an_empty_folder_takes_force(run, tmp_path):
    (tmp_path / 'out').mkdir()
    with pytest.raises(UserError, match='--force replaces it'):
        export(run, tmp_path / 'out')
    export(run, tmp_path / 'out', is_forced=True)
    assert config_of(tmp_path / 'out')['model_type'] == 'esm'


@pytest.mark.parametrize('where, message', [
    ('logs/test/feed', r'feed is /.*feed, from where'), ('logs/test', r'test has in it /.*feed, from where'),
    ('logs/test/feed/out', r'out is in /.*feed, from where'), ('logs/test/feed/checkpoints/out', r'out is in ')])
def test_the_own_run_is_never_written_to(own_run, tmp_path, where, message):
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(UserError, match=message):
        export(own_run, tmp_path / where, is_forced=True)
    assert sorted(tmp_path.rglob('*')) == before


def test_a_link_to_the_own_run_is_that_run(own_run, tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'logs/test/feed')
    with pytest.raises(UserError, match='from where the model comes'):
        export(own_run, tmp_path / 'link', is_forced=True)


def test_the_source_is_never_replaced(run, own_run, tmp_path):
    """Neither a folder that a run went on from, nor a run."""
    source = tmp_path / 'source'
    export(run, source)
    for went_on in (labml_mlm.load(source), own_run):
        went_on.source = source
        with pytest.raises(UserError, match='source is /.*source, from where'):
            export(went_on, source, is_forced=True)
    own_run.source, own_run.checkpoint = own_run.checkpoint.path, run.checkpoint
    for path in ('feed', 'feed/out'):
        with pytest.raises(UserError, match='from where the model comes'):
            export(own_run, tmp_path / 'logs/test' / path, is_forced=True)
    export(labml_mlm.load(source), source / 'another')


def test_a_checkpoint_alone_protects_only_itself(own_run, tmp_path):
    copied = tmp_path / 'copied'
    shutil.copytree(own_run.checkpoint.path, copied)
    alone = labml_mlm.load(copied)
    export(alone, tmp_path / 'out')
    assert '# test\n' in (tmp_path / 'out/README.md').read_text()
    with pytest.raises(UserError, match='copied is /.*copied, from where'):
        export(alone, copied, is_forced=True)


def test_a_folder_that_is_not_there(run, tmp_path):
    with pytest.raises(UserError, match=r'out: there is no folder .*nowhere'):
        export(run, tmp_path / 'nowhere/out')


def test_the_home_folder_is_known(run, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    export(run, Path('~/out'))
    assert os.listdir(tmp_path) == ['out']


@pytest.mark.parametrize('fail, error', [(interrupt, KeyboardInterrupt), (fill_disk, OSError)])
def test_what_was_there_stays_if_an_export_fails(run, tmp_path, monkeypatch, fail, error):
    out = tmp_path / 'out'
    export(run, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(target_module, '_sync', fail)
    with pytest.raises(error):
        export(run, out, is_custom=True, is_forced=True)
    monkeypatch.undo()
    rename = Path.rename

    def fail_once(self, target):
        # The new folder, not the old one
        return fail() if target == out and not self.name.endswith('.old') else rename(self, target)

    monkeypatch.setattr(Path, 'rename', fail_once)
    with pytest.raises(error):
        export(run, out, is_custom=True, is_forced=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path) == ['out']


@pytest.mark.parametrize('is_forced', [False, True])
def test_two_exports_at_once_leave_one_whole_folder(tmp_path, is_forced):
    out, errors, written = tmp_path / 'out', [], threading.Barrier(4)

    def work(i: int):
        try:
            with new_folder(out, is_forced=is_forced) as folder:
                for name in ('a', 'b'):
                    (folder / name).write_text(str(i))
                written.wait()
        except UserError as e:
            errors.append(str(e))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ['out']
    assert (out / 'a').read_text() == (out / 'b').read_text()
    assert len(errors) < 4 and all('written meanwhile' in error for error in errors)
    assert is_forced or len(errors) == 3


def test_a_folder_that_appears_meanwhile_is_not_replaced(run, tmp_path, monkeypatch):
    def appear(*_):
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out/mine').write_text('mine')

    monkeypatch.setattr(target_module, '_sync', appear)
    with pytest.raises(UserError, match='out has been written meanwhile, by another process'):
        export(run, tmp_path / 'out')
    assert os.listdir(tmp_path) == ['out'] and os.listdir(tmp_path / 'out') == ['mine']
