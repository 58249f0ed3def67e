"""The file of a run with its samples."""
import os

import pytest

from labml_mlm.runs.samples_log import Sample, SamplesLog, ValidationSamples


def validation(step, filled='ab', loss=1.5):
    return ValidationSamples(step, loss, 0.5, [Sample(['a', 'b', 'ก', '\n'], [1, 3], list(filled), [False, True])])


@pytest.fixture
def log(tmp_path):
    return SamplesLog(tmp_path / 'samples.jsonl')


def test_read_returns_what_was_added(log):
    assert log.read() == []
    validations = [validation(10), validation(20, loss=None)]
    for added in validations:
        log.add(added)
    assert log.read() == validations


def test_add_replaces_its_step_and_later_ones(log):
    for step in (10, 20, 30):
        log.add(validation(step))
    log.add(validation(20, 'xy'))
    assert log.read() == [validation(10), validation(20, 'xy')]


@pytest.mark.parametrize('step, kept', [(5, []), (10, [10]), (29, [10, 20]), (30, [10, 20, 30]), (99, [10, 20, 30])])
def test_truncate(log, step, kept):
    for added in (10, 20, 30):
        log.add(validation(added))
    os.utime(log.path, (1, 1))
    log.truncate(step)
    assert [found.step for found in log.read()] == kept
    # A file that loses nothing is not rewritten
    assert (log.path.stat().st_mtime == 1) == (len(kept) == 3)


def test_truncate_removes_leftovers_of_a_kill(log):
    log.add(validation(10))
    leftover = log.path.with_name('.samples.jsonl.4711')
    leftover.write_text('{')
    log.truncate(10)
    assert not leftover.exists() and len(log.read()) == 1


def test_damaged_lines_are_left_out(log):
    log.add(validation(10))
    with open(log.path, 'a') as f:
        f.write('{"step": 20}\nnot JSON\n[]\n{"step": 30, "loss')
    assert log.read() == [validation(10)]
    log.add(validation(40))
    assert [found.step for found in log.read()] == [10, 40]


def test_lone_surrogates_are_written(log):
    """A byte-level vocabulary has tokens that are not text by themselves."""
    log.add(ValidationSamples(1, None, None, [Sample(['\udcc3'], [0], ['é'], [False])]))
    assert log.read()[0].samples[0].filled == ['é']


def test_nan_loss_is_written_as_none(log):
    log.add(validation(10, loss=float('nan')))
    assert 'NaN' not in log.path.read_text()
    assert log.read() == [validation(10, loss=None)]


def test_failed_write_leaves_the_file_unchanged(log, monkeypatch):
    log.add(validation(10))
    monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError):
        log.add(validation(20))
    monkeypatch.undo()
    assert [found.step for found in log.read()] == [10]
    assert os.listdir(log.path.parent) == ['samples.jsonl']
