"""Curves of runs, as numbers and by `labml-mlm plot`."""
import functools
import json
import os
import sys

import pytest
from support.project import outcome

from labml_mlm.runs.metrics_log import read_curves
from labml_mlm.runs.plot import bin_means


def write(path, values):
    """Writes a log of metrics; `values` is `[(name, step, value)]`, one per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps({'track': {name: [[step, [value]]]}}) + '\n' for name, step, value in values))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A project with two runs, and one without metrics."""
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


def test_curves_are_sorted_by_step(tmp_path):
    write(tmp_path / 'log.jsonl', [('a', 2, 1.), ('a', 1, 3.), ('b', 1, 5.)])
    with open(tmp_path / 'log.jsonl', 'a') as f:
        f.write('{"track": \n{"track": {"a": [[3, [7')
    assert read_curves(tmp_path / 'log.jsonl', ['a', 'c']) == {'a': [(1, 3.), (2, 1.)], 'c': []}
    assert read_curves(tmp_path / 'nothing', ['a']) == {'a': []}


@pytest.mark.parametrize('n', [1, 3, 10, 11])
def test_bins_have_the_mean_of_their_points(n):
    curve = [(step, float(step ** 2)) for step in range(1, 11)]
    found = bin_means(curve, n=n)
    assert len(found) <= n
    assert found[-1][0] == 10
    start = 0
    for step, value in found:
        part = curve[start:step]
        assert value == pytest.approx(sum(value for _, value in part) / len(part))
        start = step
    assert bin_means([], n=n) == []


@pytest.mark.parametrize('name, header', [('curves.png', b'\x89PNG'), ('a.svg', b'<?xml'), ('b.pdf', b'%PDF')])
def test_suffix_chooses_the_format(plot, runs, name, header):
    pytest.importorskip('matplotlib')
    code, out, err = plot('feed', 'beef', 'feed', '-o', name)
    assert (code, err) == (0, '')
    assert out == f'{name} has the curves of feed, beef\n'
    assert (runs / name).read_bytes().startswith(header)
    assert sorted(os.listdir(runs)) == sorted(['.labml.yaml', 'logs', name])


def test_loss_and_accuracy_are_drawn(plot, runs, monkeypatch):
    pytest.importorskip('matplotlib')
    from matplotlib.figure import Figure
    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, path, **_: (drawn.append(figure), path.write(b'')))
    assert plot('feed', 'beef')[0] == 0
    loss, accuracy = drawn[0].axes
    feed, valid, beef, _ = loss.lines
    assert list(valid.get_xdata()) == [200] and list(valid.get_ydata()) == [2.]
    # Each point is the mean of three steps
    assert list(feed.get_xdata()[:2]) == [3, 6]
    assert feed.get_ydata()[:2] == pytest.approx([3.98, 3.95])
    assert beef.get_ydata()[0] == pytest.approx(2.98)
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ['test feed', 'test beef']
    assert list(accuracy.lines[1].get_ydata()) == [0.5]
    assert loss.get_legend().get_title().get_text() == '● validation, – training'


def test_validations_on_old_text_are_drawn(plot, runs, monkeypatch):
    pytest.importorskip('matplotlib')
    from matplotlib.figure import Figure
    with open(runs / 'logs/test/beef/log.jsonl', 'a') as f:
        f.write(json.dumps({'track': {'loss.old': [[100, [4.]], [200, [3.]]]}}) + '\n')
    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, path, **_: (drawn.append(figure), path.write(b'')))
    assert plot('feed', 'beef')[0] == 0
    loss, accuracy = drawn[0].axes
    assert len(loss.lines) == 5 and len(accuracy.lines) == 4
    assert list(loss.lines[-1].get_xdata()) == [100, 200] and list(loss.lines[-1].get_ydata()) == [4., 3.]
    assert [axes.get_legend().get_title().get_text()[26:] for axes in (loss, accuracy)] == ['■ old text', '']


def test_guesses_are_lines_with_their_names(plot, runs, monkeypatch):
    pytest.importorskip('matplotlib')
    from matplotlib.figure import Figure
    guesses = {'unigram': {'loss': 3.3, 'accuracy': 0.15}, 'bigram': {'loss': 2.4, 'accuracy': 0.25}}
    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, path, **_: (drawn.append(figure), path.write(b'')))
    # Of the same text, and of another one
    other = {**guesses, 'unigram': {'loss': 3., 'accuracy': 0.15}}
    for uuid, found in (('feed', json.dumps(guesses)), ('beef', json.dumps(other)), ('none', 'damaged')):
        (runs / f'logs/test/{uuid}/baselines.json').write_text(found)
    assert plot('feed', 'beef')[0] == 0
    loss, accuracy = drawn[0].axes
    assert [line.get_ydata()[0] for line in loss.lines[4:]] == [3.3, 2.4, 3.]
    assert [line.get_ydata()[0] for line in accuracy.lines[-2:]] == [0.15, 0.25]
    assert [text.get_text() for text in loss.texts] == ['unigram', 'bigram', 'unigram']
    # They have no part in the legend
    assert len(loss.get_legend().get_texts()) == 2


@pytest.mark.parametrize('arguments, message', [
    (['none'], 'the run none has neither loss nor accuracy'),
    (['feed', 'none'], 'the run none has neither loss nor accuracy'),
    (['feed', '-o', 'curves.pgn'], '.pgf, .png, .ps,'),
    (['feed', '-o', 'curves.pgn'], 'Did you mean `png`?'),
    (['feed', '-o', 'curves'], 'an image must end in .'),
    (['fed'], 'Did you mean feed?'),
])
def test_error_leaves_no_image(plot, runs, arguments, message):
    pytest.importorskip('matplotlib')
    code, out, err = plot(*arguments)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err
    assert sorted(os.listdir(runs)) == ['.labml.yaml', 'logs']


def test_missing_folder_is_reported(plot, runs):
    pytest.importorskip('matplotlib')
    code, _, err = plot('feed', '-o', 'nowhere/curves.png')
    assert (code, err) == (2, 'nowhere/curves.png: there is no folder nowhere\n')


def test_full_disk_keeps_the_earlier_image(plot, runs, monkeypatch):
    pytest.importorskip('matplotlib')
    (runs / 'curves.png').write_bytes(b'old')
    monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    code, _, err = plot('feed')
    monkeypatch.undo()
    assert code == 1 and 'No space left' in err
    assert (runs / 'curves.png').read_bytes() == b'old'
    assert sorted(os.listdir(runs)) == ['.labml.yaml', 'curves.png', 'logs']


def test_missing_matplotlib_is_reported(plot, runs, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    monkeypatch.setitem(sys.modules, 'matplotlib.backends.backend_agg', None)
    code, out, err = plot('feed')
    assert (code, out) == (2, '')
    assert "pip install 'labml_mlm[plot]'" in err
