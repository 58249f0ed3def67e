"""Curves of runs, as numbers and by `labml-mlm plot`."""
import functools
import json
import os
import sys

import pytest
from support.project import outcome

from labml_mlm.cli import plot as curves
from labml_mlm.runs import metrics_log as log_file


def write(path, values):
    """A file of metrics; `values` is `[(name, step, value)]`, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps({'track': {name: [[step, [value]]]}}) + '\n' for name, step, value in values))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs, and one without metrics."""
    for i, uuid in enumerate(('feed', 'beef', 'none')):
        folder = tmp_path / 'logs/test' / uuid
        write(folder / 'log.jsonl', [] if uuid == 'none' else [
            *(('loss.train', step, 4 - step / 100 - i) for step in range(1, 250)),
            ('loss.valid', 200, 2. - i), ('accuracy.valid', 200, 0.5)])
        (folder / 'run.pid').write_text('4194305')
    (tmp_path / '.labml.yaml').write_text('')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plot(runs, capsys):
    """`labml-mlm plot`: exit code, output and errors."""
    return functools.partial(outcome, capsys, 'plot')


def test_values_by_step(tmp_path):
    write(tmp_path / 'log.jsonl', [('a', 2, 1.), ('a', 1, 3.), ('b', 1, 5.)])
    with open(tmp_path / 'log.jsonl', 'a') as f:
        f.write('{"track": \n{"track": {"a": [[3, [7')
    assert log_file.read_curves(tmp_path / 'log.jsonl', ['a', 'c']) == {'a': [(1, 3.), (2, 1.)], 'c': []}
    assert log_file.read_curves(tmp_path / 'nothing', ['a']) == {'a': []}


@pytest.mark.parametrize('n', [1, 3, 10, 11])
def test_means(n):
    curve = [(step, float(step ** 2)) for step in range(1, 11)]
    found = curves.bin_means(curve, n=n)
    assert len(found) <= n
    assert found[-1][0] == 10
    begin = 0
    for step, value in found:
        part = curve[begin:step]
        assert value == pytest.approx(sum(value for _, value in part) / len(part))
        begin = step
    assert curves.bin_means([], n=n) == []


@pytest.mark.parametrize('name, begin', [('curves.png', b'\x89PNG'), ('a.svg', b'<?xml'), ('b.pdf', b'%PDF')])
def test_an_image_of_the_kind_that_its_name_says(plot, runs, name, begin):
    pytest.importorskip('matplotlib')
    code, out, err = plot('feed', 'beef', 'feed', '-o', name)
    assert (code, err) == (0, '')
    assert out == f'{name} has the curves of feed, beef\n'
    assert (runs / name).read_bytes().startswith(begin)
    assert sorted(os.listdir(runs)) == sorted(['.labml.yaml', 'logs', name])


def test_what_is_drawn(plot, runs, monkeypatch):
    pytest.importorskip('matplotlib')
    from matplotlib.figure import Figure
    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, path, **_: (drawn.append(figure), path.write_bytes(b'')))
    assert plot('feed', 'beef')[0] == 0
    loss, accuracy = drawn[0].axes
    of_feed, valid, of_beef, _ = loss.lines
    assert list(valid.get_xdata()) == [200] and list(valid.get_ydata()) == [2.]
    # Means of three steps
    assert list(of_feed.get_xdata()[:2]) == [3, 6]
    assert of_feed.get_ydata()[:2] == pytest.approx([3.98, 3.95])
    assert of_beef.get_ydata()[0] == pytest.approx(2.98)
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ['test feed', 'test beef']
    assert list(accuracy.lines[1].get_ydata()) == [0.5]


@pytest.mark.parametrize('arguments, message', [
    (['none'], 'the run none has neither loss nor accuracy'),
    (['feed', 'none'], 'the run none has neither loss nor accuracy'),
    (['feed', '-o', 'curves.pgn'], '.pgf, .png, .ps,'),
    (['feed', '-o', 'curves.pgn'], 'Did you mean `png`?'),
    (['feed', '-o', 'curves'], 'an image can be'),
    (['fed'], 'Did you mean feed?'),
])
def test_what_cannot_be_drawn(plot, runs, arguments, message):
    pytest.importorskip('matplotlib')
    code, out, err = plot(*arguments)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err
    assert sorted(os.listdir(runs)) == ['.labml.yaml', 'logs']


def test_a_folder_that_is_not_there(plot, runs):
    pytest.importorskip('matplotlib')
    code, _, err = plot('feed', '-o', 'nowhere/curves.png')
    assert (code, err) == (2, 'nowhere/curves.png: there is no folder nowhere\n')


def test_an_image_that_was_there_stays_if_there_is_no_space(plot, runs, monkeypatch):
    pytest.importorskip('matplotlib')
    (runs / 'curves.png').write_bytes(b'old')
    monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    code, _, err = plot('feed')
    monkeypatch.undo()
    assert code == 1 and 'No space left' in err
    assert (runs / 'curves.png').read_bytes() == b'old'
    assert sorted(os.listdir(runs)) == ['.labml.yaml', 'curves.png', 'logs']


def test_without_matplotlib(plot, runs, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    monkeypatch.setitem(sys.modules, 'matplotlib.backends.backend_agg', None)
    code, out, err = plot('feed')
    assert (code, out) == (2, '')
    assert "pip install 'labml_mlm[plot]'" in err
