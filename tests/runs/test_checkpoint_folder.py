"""The checkpoints of a run survive kills, full disks and damage."""
import contextlib
import errno
import os
import shutil

import pytest
import torch

from labml_mlm.common.errors import UserError
from labml_mlm.runs import checkpoint, checkpoint_folder
from labml_mlm.runs.checkpoint import Damaged
from labml_mlm.runs.checkpoint_folder import CheckpointFolder, remove


def names(folder):
    return sorted(os.listdir(folder.path))


def test_second_write_of_a_step_replaces_the_first(folder, write):
    write(folder, 5)
    write(folder, 5, loss=1.)
    assert checkpoint.read(folder.path / '5').valid == {'loss': 1.}
    assert names(folder) == ['5']


class Killed(BaseException):
    """Stands for a kill: no change of the disk comes after it."""


def kill_before_change(monkeypatch, n):
    """
    Raises `Killed` before the n-th change of the disk and before all later ones; a change is a call of one of the
    functions of `os` and `shutil` that a save uses. Returns the list of changes so far.
    """
    changes = []
    killed = []

    def wrap(module, name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            if killed or len(changes) == n:
                killed.append(True)
                raise Killed
            changes.append(f'{name} {args[0]}')
            return original(*args, **kwargs)
        monkeypatch.setattr(module, name, call)

    for module, name in ((os, 'rename'), (os, 'fsync'), (shutil, 'rmtree'), (os, 'mkdir')):
        wrap(module, name)
    return changes


@pytest.mark.parametrize('is_same_step', [False, True])
def test_kill_at_any_change_of_the_disk_leaves_a_complete_checkpoint(tmp_path, write, monkeypatch, is_same_step):
    n_changes = []
    for n in range(100):
        folder = CheckpointFolder(tmp_path / str(n) / 'checkpoints')
        write(folder, 1, value=1.)
        with monkeypatch.context() as patch:
            changes = kill_before_change(patch, n)
            try:
                write(folder, 1 if is_same_step else 2, value=2.)
                n_changes.append(len(changes))
            except Killed:
                pass
        # As a reader finds it
        found, wrong = folder.last()
        assert wrong == []
        model, optimizer = found.load_tensors('model'), found.load_tensors('optimizer')
        assert model['w'][0, 0] == (2. if found.step == 2 else optimizer['m'][0])
        before = found.step, model['w'][0, 0].item()
        # As the next start of the run leaves it
        folder.recover()
        found, wrong = folder.last()
        assert wrong == [] and (found.step, found.load_tensors('model')['w'][0, 0].item()) == before
        assert all(name.isdecimal() for name in names(folder))
        write(folder, 3)
        assert folder.last()[0].step == 3
        if n_changes:
            break
    assert n > 5
    assert before == ((1, 2.) if is_same_step else (2, 2.))


@pytest.mark.parametrize('name', ['model.safetensors', 'optimizer.safetensors', 'checkpoint.json'])
@pytest.mark.parametrize('damage', ['truncated', 'altered', 'empty', 'missing'])
def test_damaged_checkpoint_is_detected_and_the_one_before_is_used(folder, write, name, damage):
    write(folder, 1)
    write(folder, 2)
    path = folder.path / '2' / name
    data = bytearray(path.read_bytes())
    if damage == 'missing':
        path.unlink()
    else:
        # The 0 of a step or the last bits of a number
        data[-2] ^= 1
        path.write_bytes({'truncated': data[:-1], 'altered': data, 'empty': b''}[damage])
    with pytest.raises(Damaged, match=str(path)):
        checkpoint.read(folder.path / '2').verify()
    found, wrong = folder.last()
    assert found.step == 1
    assert len(wrong) == 1 and str(path) in wrong[0]


def test_unreadable_checkpoint_is_not_damaged(folder, write, monkeypatch):
    """It may be intact, so it must be neither skipped nor removed."""
    write(folder, 1)
    write(folder, 2)
    path = folder.path / '2/model.safetensors'

    def refuse(path):
        raise PermissionError(errno.EACCES, 'Permission denied', str(path))

    monkeypatch.setattr(checkpoint, 'open_ordinary', refuse)
    with pytest.raises(UserError, match=f'cannot read {path}: Permission denied') as caught:
        folder.last()
    assert not isinstance(caught.value, Damaged)


def test_checkpoint_removed_while_it_is_read_is_not_damaged(folder, write, monkeypatch):
    for step in (1, 2):
        write(folder, step)
    read = checkpoint.read

    def remove_and_read(path):
        if path.name == '2':
            write(folder, 3)
            remove(path)
        return read(path)

    monkeypatch.setattr(checkpoint_folder, 'read', remove_and_read)
    found, wrong = folder.last()
    assert (found.step, wrong) == (3, [])


def test_files_are_synced_before_the_rename_and_the_rename_before_anything_is_removed(folder, write, monkeypatch):
    write(folder, 1)
    events = []
    fsync, rename, rmtree = os.fsync, os.rename, shutil.rmtree

    def record_fsync(handle):
        events.append(('fsync', os.readlink(f'/proc/self/fd/{handle}')))
        fsync(handle)

    def record_rename(source, target):
        events.append(('rename', str(source)))
        rename(source, target)

    def record_rmtree(path, **options):
        events.append(('rmtree', str(path)))
        rmtree(path, **options)

    monkeypatch.setattr(os, 'fsync', record_fsync)
    monkeypatch.setattr(os, 'rename', record_rename)
    monkeypatch.setattr(shutil, 'rmtree', record_rmtree)
    write(folder, 1)
    temporary = str(folder.path / '.1.tmp')
    renamed = events.index(('rename', temporary))
    for name in ('', '/model.safetensors', '/optimizer.safetensors', '/checkpoint.json'):
        assert events.index(('fsync', temporary + name)) < renamed, name
    # The folder after its files
    assert events.index(('fsync', temporary)) > events.index(('fsync', f'{temporary}/checkpoint.json'))
    removed = events.index(('rmtree', str(folder.path / '.1.old')), renamed)
    for path in (folder.path, folder.path.parent):
        assert renamed < events.index(('fsync', str(path)), renamed) < removed


def test_folder_without_checkpoints(folder):
    assert folder.last() == (None, [])
    assert folder.best() is None
    assert folder.steps() == {}
    folder.recover()


def test_checkpoints_are_ordered_by_number(folder, write):
    for step in (9, 10, 100):
        write(folder, step)
    (folder.path / 'notes').mkdir()
    assert list(folder.steps()) == [9, 10, 100]
    assert folder.last()[0].step == 100


def test_prune_keeps_the_last_and_the_best(folder, write):
    for step, loss in enumerate([3., 1., None, 2., float('nan'), None, 1.5]):
        write(folder, step, loss=loss)
        folder.prune(keep=2)
    assert names(folder) == ['1', '5', '6']
    assert folder.best().step == 1
    folder.prune(keep=1)
    assert names(folder) == ['1', '6']


@pytest.mark.parametrize('is_best_highest, best', [(True, 2), (False, 1)])
def test_best_goes_by_the_figure_that_the_run_goes_by(folder, is_best_highest, best):
    for step, score in enumerate([0.5, 0.2, 0.9, float('nan')]):
        folder.write(step, tensors={}, metadata={'valid': {
            'loss': 1. + step, 'score': score, 'best_by': 'score', 'is_best_highest': is_best_highest}})
    assert folder.best().step == best
    assert folder.best().about_valid == f'score in validation: {0.9 if best == 2 else 0.2:.4f}'


def test_best_of_equal_losses_is_the_later_one(folder, write):
    for step in (1, 2):
        write(folder, step, loss=1.)
    assert folder.best().step == 2


@pytest.mark.parametrize('n', range(4))
def test_kill_during_prune_leaves_complete_checkpoints(folder, write, monkeypatch, n):
    for step in (1, 2, 3, 4):
        write(folder, step)
    with monkeypatch.context() as patch:
        kill_before_change(patch, n)
        with contextlib.suppress(Killed):
            folder.prune(keep=1)
    assert folder.last()[1] == []
    folder.recover()
    for name in names(folder):
        checkpoint.read(folder.path / name).verify()
    assert '4' in names(folder)


def test_full_disk_leaves_older_checkpoints_unchanged(small_disk, write):
    folder = CheckpointFolder(small_disk / 'checkpoints')
    write(folder, 1)
    large = {'model': {'w': torch.zeros(100_000)}, 'optimizer': {'m': torch.zeros(100_000)}}
    with pytest.raises(OSError, match='No space left'):
        folder.write(2, tensors=large, metadata={})
    assert names(folder) == ['1']
    checkpoint.read(folder.path / '1').verify()
    # And once there is space again
    write(folder, 2)
    assert names(folder) == ['1', '2']


def test_read_only_disk_leaves_older_checkpoints_readable(small_disk, write):
    folder = CheckpointFolder(small_disk / 'checkpoints')
    write(folder, 1)
    os.system(f'mount -o remount,ro {small_disk}')
    with pytest.raises(OSError, match='Read-only'):
        write(folder, 2)
    assert folder.last()[0].step == 1


def test_prune_keeps_the_last_checkpoint_before_a_decay(folder, write):
    for step in range(1, 8):
        write(folder, step)
        if step in (2, 4):
            checkpoint.mark_before_decay(folder.path / str(step))
        folder.prune(keep=1)
        assert names(folder) == sorted({str(step), *(['2'] if 2 <= step < 4 else ['4'] * (step >= 4))})
    assert folder.before_decay().step == 4


def test_last_intact_checkpoint_before_a_decay(folder, write):
    assert folder.before_decay() is None
    for step in (1, 2, 3, 4):
        write(folder, step)
    assert folder.before_decay() is None
    for step in (1, 2, 3):
        checkpoint.mark_before_decay(folder.path / str(step))
        # All of it is as it was
        checkpoint.read(folder.path / str(step)).verify()
        assert checkpoint.read(folder.path / str(step)).metadata['note'] == [step, None, 0.1]
    assert folder.before_decay().step == 3
    (folder.path / '3/model.safetensors').write_bytes(b'')
    (folder.path / '2/checkpoint.json').write_text('{}')
    assert folder.before_decay().step == 1
