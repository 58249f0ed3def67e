"""The metrics of a run in its folder."""
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from labml.internal.tracker.indicators.numeric import Scalar
from labml.internal.tracker.writers import file
from support.project import values_of

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import NotOrdinary
from labml_mlm.runs import metrics_log
from labml_mlm.runs.metrics_log import MetricsWriter, parse_line, read_curves, summarize, truncate


def write(writer, step, **values):
    indicators = {}
    for name, value in values.items():
        indicators[name] = Scalar(name, is_print=True)
        indicators[name].collect_value(value)
    writer.write(global_step=step, indicators=indicators)


def test_format_is_that_of_labml(tmp_path):
    ours, labmls = MetricsWriter(tmp_path / 'ours'), file.Writer(tmp_path / 'labmls')
    for step in range(5):
        for writer in (ours, labmls):
            write(writer, step, loss=step / 2, lr=0.1)
    for writer in (ours, labmls):
        writer.finish()
    labmls.thread.join()
    lines = [[json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ('ours', 'labmls')]
    assert [line['track'] for line in lines[0]] == [line['track'] for line in lines[1]]
    assert lines[0][0].keys() == lines[1][0].keys()


def test_values_after_finish_are_written(tmp_path):
    writer = MetricsWriter(tmp_path / 'log')
    write(writer, 1, loss=1.)
    writer.finish()
    assert values_of(tmp_path / 'log') == {'loss': [(1, 1.)]}
    write(writer, 2, loss=2.)
    writer.finish()
    writer.finish()
    assert values_of(tmp_path / 'log') == {'loss': [(1, 1.), (2, 2.)]}
    assert len((tmp_path / 'log').read_text().splitlines()) == 2
    assert writer.error is None


def test_unexpected_error_does_not_block_finish(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path / 'log')

    def fail(_):
        raise RuntimeError('no idea')

    monkeypatch.setattr(writer.thread, '_append', fail)
    write(writer, 1, loss=1.)
    writer.finish()
    assert str(writer.error) == 'no idea'


def test_values_are_written_once_a_full_disk_has_space(tmp_path, capsys, monkeypatch):
    path = tmp_path / 'log'
    writer = MetricsWriter(path)
    write(writer, 1, loss=1.)
    writer.finish()
    before = path.read_bytes()

    class FullDisk:
        """A file that takes ten bytes of a line."""

        def __init__(self, f):
            self.f = f

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.f.close()

        def __getattr__(self, name):
            return getattr(self.f, name)

        def write(self, data):
            if self.f.tell() >= len(before) + 10:
                raise OSError(28, 'No space left on device')
            return self.f.write(data[:10])

    def open_full(*args, **kwargs):
        return FullDisk(open(*args, **kwargs))  # noqa: SIM115  FullDisk closes it

    monkeypatch.setattr('labml_mlm.runs.metrics_log.open', open_full, raising=False)
    write(writer, 2, loss=2.)
    writer.finish()
    write(writer, 3, loss=3.)
    write(writer, 3, lr=3.)
    writer.finish()
    assert path.read_bytes() == before
    assert writer.error.errno == 28
    assert capsys.readouterr().out.count('No space left on device') == 1

    monkeypatch.undo()
    writer.finish()
    assert values_of(path) == {'loss': [(1, 1.), (2, 2.), (3, 3.)], 'lr': [(3, 3.)]}
    assert writer.error is None


def test_sync_returns_the_size_with_all_values_so_far(tmp_path):
    path = tmp_path / 'log'
    writer = MetricsWriter(path)
    for step in range(3):
        write(writer, step, loss=step)
    first = writer.sync()
    write(writer, 3, loss=3)
    second = writer.sync()
    assert writer.sync().result() == second.result() == path.stat().st_size
    assert truncate(path, first.result()) == 0
    assert values_of(path) == {'loss': [(0, 0), (1, 1), (2, 2)]}


def test_sync_flushes_to_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, 'fsync', lambda handle: synced.append(os.fstat(handle).st_size))
    writer = MetricsWriter(tmp_path / 'log')
    write(writer, 1, loss=1.)
    assert writer.sync().result() == (tmp_path / 'log').stat().st_size == synced[0]


def test_finish_returns_after_its_patience(tmp_path, monkeypatch):
    go = threading.Event()
    writer = MetricsWriter(tmp_path / 'log')
    monkeypatch.setattr(writer.thread, '_append', lambda _: go.wait(60))
    write(writer, 1, loss=1.)
    writer.patience = 0.1
    writer.finish()
    go.set()


def test_values_tracked_after_the_run_are_written(tmp_path):
    """After the end of labml's experiment, until the process exits."""
    code = f'''
from pathlib import Path
from labml import tracker
from labml.internal.tracker import tracker_singleton
from labml_mlm.common.files import NotOrdinary
from labml_mlm.runs import metrics_log
from labml_mlm.runs.metrics_log import MetricsWriter
tracker_singleton().reset_writers()
tracker_singleton().add_writer(MetricsWriter(Path({str(tmp_path / "log")!r})))
tracker.save(1, {{"loss": 1.}})
tracker_singleton().finish_loop()
tracker.save(2, {{"late": 2.}})
'''
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path, capture_output=True)
    assert values_of(tmp_path / 'log') == {'loss': [(1, 1.)], 'late': [(2, 2.)]}


def test_sync_without_values(tmp_path):
    assert MetricsWriter(tmp_path / 'log').sync().result() == 0


def test_sync_raises_if_values_are_not_on_the_disk(tmp_path, monkeypatch):
    opener = metrics_log.opener_of_ordinary
    monkeypatch.setattr(metrics_log, 'opener_of_ordinary', lambda _, flags: opener('/dev/full', flags))
    writer = MetricsWriter(tmp_path / 'log')
    write(writer, 1, loss=1.)
    with pytest.raises(OSError, match='No space left'):
        writer.sync().result()
    # The values are kept
    monkeypatch.undo()
    writer.sync().result()
    assert values_of(tmp_path / 'log') == {'loss': [(1, 1.)]}


@pytest.mark.parametrize('block', [1, 4, 10, 1000])
@pytest.mark.parametrize('n_bytes, kept, missing', [(0, 0, 0), (10, 10, 0), (20, 20, 0), (30, 20, 10), (24, 20, 4),
                                                    (9, 0, 9)])
def test_truncate(tmp_path, monkeypatch, n_bytes, kept, missing, block):
    """Two lines of ten bytes, and a third one that a kill has truncated."""
    monkeypatch.setattr(metrics_log, '_BLOCK', block)
    (tmp_path / 'log').write_bytes(b'{"a": 10}\n{"b": 20}\n{"c"')
    assert truncate(tmp_path / 'log', n_bytes) == missing
    assert (tmp_path / 'log').stat().st_size == kept


def test_a_link_is_neither_cut_nor_added_to(tmp_path):
    (tmp_path / 'precious').write_bytes(b'precious\nand more')
    (tmp_path / 'log').symlink_to(tmp_path / 'precious')
    with pytest.raises(NotOrdinary):
        truncate(tmp_path / 'log', 9)
    writer = MetricsWriter(tmp_path / 'log')
    write(writer, 1, loss=1.)
    with pytest.raises(NotOrdinary):
        writer.sync().result()
    assert (tmp_path / 'precious').read_bytes() == b'precious\nand more'
    # The values are kept
    (tmp_path / 'log').unlink()
    writer.sync().result()
    assert values_of(tmp_path / 'log') == {'loss': [(1, 1.)]}


def test_truncate_of_a_missing_file(tmp_path):
    assert truncate(tmp_path / 'log', 0) == 0
    assert truncate(tmp_path / 'log', 7) == 7
    assert not (tmp_path / 'log').exists()


def test_summarize(tmp_path):
    path = tmp_path / 'log'
    assert summarize(path) == (None, None, None, 0)
    writer = MetricsWriter(path)
    write(writer, 8, **{'loss.train': 3.})
    writer.sync().result()
    assert summarize(path) == (8, None, None, 0)
    for step, loss in ((16, 2.), (24, float('nan')), (32, 1.), (40, 1.5)):
        write(writer, step, **{'loss.train': 0.1, 'loss.valid': loss, 'accuracy.valid': step / 100})
        if step == 24:
            writer.sync().result()
    write(writer, 48, **{'loss.train': 0.1})
    writer.sync().result()
    assert summarize(path) == (48, 1., 0.32, 0)
    # A damaged line
    with open(path, 'a') as f:
        f.write('{"track": {"loss.valid"}\n')
        f.write('{"track": {"loss.train": [[48, [0.1]]]}, "time": 0}\n')
    # A line that is being written
    with open(path, 'a') as f:
        f.write('{"track": {"loss.valid": [[56, [0.')
    assert summarize(path) == (48, 1., 0.32, 1)


def test_metrics_reach_the_disk_sooner_while_an_app_answers(tmp_path, monkeypatch):
    clock = [1000.]
    monkeypatch.setattr('time.time', lambda: clock[0])
    writer = MetricsWriter(tmp_path / 'log.jsonl')
    # Late in training, when labml writes once a minute
    writer.commits_count = 99

    def write(step):
        scalar = Scalar('loss', is_print=True)
        scalar.collect_value(1.)
        writer.write(global_step=step, indicators={'loss': scalar})

    clock[0] += 5
    write(1)
    assert writer.indicators
    writer.interval = 1.
    write(2)
    assert not writer.indicators
    clock[0] += 0.5
    write(3)
    assert writer.indicators
    writer.finish()
    assert [step for step, _ in values_of(tmp_path / 'log.jsonl')['loss']] == [1, 2, 3]


@pytest.mark.parametrize('line', [
    '[]', '5', 'null', '{"track": 5}', '{"track": []}', '{"time": 0}', '{"track": {"loss.valid": []}}',
    '{"track": {"loss.valid": 5}}', '{"track": {"loss.valid": [5]}}', '{"track": {"loss.valid": [[1, []]]}}',
    '{"track": {"loss.valid": [[1, [2], 3]]}}', '{"track": {"loss.valid": [["x", [1]]]}}',
    '{"track": {"loss.valid": [[null, [1]]]}}', '{"track": {"loss.valid": [[NaN, [1]]]}}',
    '{"track": {"loss.valid": [[1, ["x"]]]}}', '{"track": {"loss.valid": [[1, [[]]]]}}',
    '{"track": {"loss.valid": [[1, [true]]]}}', '[' * 100_000 + '"loss.valid"' + '{}',
    '{"track": {"loss.valid": "ab"}}'])
def test_damaged_lines_are_skipped_and_counted(tmp_path, line):
    path = tmp_path / 'log.jsonl'
    good = '{"track": {"loss.valid": [[8, [0.5]]], "accuracy.valid": [[8, [0.25]]]}, "time": 0}\n'
    assert parse_line(line) is None
    whole = line if line.endswith('}') else f'{line} "loss.valid"}}'
    path.write_text(good + whole + '\n')
    assert summarize(path) == (8, 0.5, 0.25, 1)
    assert read_curves(path, ['loss.valid', 'loss.train']) == {'loss.valid': [(8, 0.5)], 'loss.train': []}


@pytest.mark.parametrize('put', [Path.mkdir, os.mkfifo, lambda path: path.symlink_to('/dev/zero')])
def test_log_that_is_no_file_is_empty(tmp_path, put):
    put(tmp_path / 'log.jsonl')
    assert summarize(tmp_path / 'log.jsonl') == (None, None, None, 0)


def test_numbers_that_json_does_not_have(tmp_path):
    """The file is JSON, and is read as before."""
    path = tmp_path / 'log.jsonl'
    writer = MetricsWriter(path)
    for step, value in ((1, math.nan), (2, math.inf), (3, -math.inf), (4, 0.5)):
        write(writer, step, **{'loss.train': value})
    writer.sync().result()

    def refuse(name):
        raise AssertionError(name)

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    curve = read_curves(path, ['loss.train'])['loss.train']
    assert [step for step, _ in curve] == [1, 2, 3, 4]
    assert math.isnan(curve[0][1]) and [value for _, value in curve[1:]] == [math.inf, -math.inf, 0.5]
    # As they were written before
    path.write_text('{"track": {"loss.train": [[1, [NaN]], [2, [-Infinity]]]}, "time": 0}\n')
    assert [value for _, value in read_curves(path, ['loss.train'])['loss.train']][1:] == [-math.inf]


@pytest.mark.parametrize('name', ['a\nb', 'loss\x1b[2J', 'a\0', '\u2028'])
def test_metrics_with_control_characters_in_their_names_are_refused(tmp_path, name):
    writer = MetricsWriter(tmp_path / 'log')
    with pytest.raises(UserError, match='cannot be the name of a metric: it has control characters') as e:
        write(writer, 1, **{name: 1.})
    assert str(e.value).isprintable()
    write(writer, 2, **{'mon métrique (%)': 1.})
    writer.finish()
    assert values_of(tmp_path / 'log') == {'mon métrique (%)': [(2, 1.)]}
