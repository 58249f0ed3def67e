"""`labml-mlm embed` and `labml-mlm probe`."""
import functools
import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.project import outcome

import labml_mlm

TEXTS = ['the quick brown fox', 'lazy dog', 'over the lazy dog']


@pytest.fixture
def command(exports, monkeypatch, capsys):
    """`labml-mlm` in a project with the runs `feed`, of characters, and `beef`, of BERT's kind."""
    monkeypatch.chdir(exports.path)
    return functools.partial(outcome, capsys)


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / 'texts.txt'
    path.write_text('\n'.join(TEXTS) + '\n')
    return str(path)


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / 'labelled.csv'
    path.write_text('note,class\n' + ''.join(f'{"the fox" if i % 2 else "a lazy dog"} {"over " * (i % 7)}{i},{i % 2}\n'
                                             for i in range(100)))
    return str(path)


def test_embed_writes_the_features_of_encode(command, lines, tmp_path):
    code, out, err = command('embed', 'beef', lines, '-o', str(tmp_path / 'v.npy'), '--pooling', 'cls', '--layer', '-2')
    assert (code, out) == (0, f'{tmp_path}/v.npy has the features of 3 texts, 32 numbers each\n')
    assert len(err.splitlines()) == 1
    expected = labml_mlm.load('beef').encode(TEXTS, pooling='cls', layer=-2)
    np.testing.assert_allclose(np.load(tmp_path / 'v.npy'), expected, atol=1e-6)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_half_written_file(exports, tmp_path, number):
    # Texts are waited for, as from a pipe that is still open
    command = subprocess.Popen([sys.executable, '-m', 'labml_mlm', 'embed', 'feed', '-', '-o', tmp_path / 'v.npy'],
                               cwd=exports.path, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(tmp_path.iterdir()) and command.poll() is None:
        time.sleep(0.05)
    command.send_signal(number)
    _, err = command.communicate()
    assert command.returncode == -number and not list(tmp_path.iterdir())
    assert b'Traceback' not in err


def test_embed_prints_json_lines_of_standard_input(command, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'fox\n\ndog\n')))
    code, out, err = command('embed', 'feed', '-', '--zeros-for-empty', '--normalize')
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [(row['line'], row['text']) for row in rows] == [(1, 'fox'), (2, ''), (3, 'dog')]
    assert [round(float(np.linalg.norm(row['vector'])), 5) for row in rows] == [1, 0, 1]
    assert 'Note: 1 text is empty, and without features: first in line 2' in err


def test_embed_near_prints_the_nearest_texts(command, lines, tmp_path):
    code, out, _ = command('embed', 'feed', lines, '--near', 'lazy dog', '--top', '2')
    first, second = out.splitlines()
    assert code == 0 and first == ' 1.0000  2  lazy dog' and second.endswith('  3  over the lazy dog')
    found = json.loads(command('embed', 'feed', lines, '--near', 'lazy dog', '--json')[1])
    assert [neighbour['line'] for neighbour in found][:2] == [2, 3] and len(found) == 3
    assert found[0] == {'line': 2, 'text': 'lazy dog', 'cosine': 1.0}


@pytest.mark.parametrize('arguments, message', [
    (['feed', '{}', '--pooling', 'cls'], 'pooling=cls takes the vector of [CLS], and this model has no special token'),
    (['feed', '{}', '--layer', '3'], 'layer=3: it must be from 0, the embeddings, to 2'),
    (['feed', '{}', '-o', 'v.txt'], '-o v.txt: it must end in .npy or .parquet'),
    (['feed', '{}', '--top', '3'], '--top is for --near TEXT'),
    (['feed', '{}', '--near', 'fox', '-o', 'v.npy'], '-o is for features, and --near prints texts'),
    (['feed', 'missing.txt'], 'cannot read missing.txt'),
    (['feed', '{}', '--near', 'föx'], "the model does not know 'ö'")])
def test_embed_refuses(command, lines, arguments, message):
    code, out, err = command('embed', *(argument.format(lines) for argument in arguments))
    assert (code, out) == (2, '')
    assert message in err.splitlines()[-1] and 'Traceback' not in err


def test_empty_line_leaves_no_file(command, lines, tmp_path):
    with open(lines, 'a') as f:
        f.write('\nfox\n')
    code, _, err = command('embed', 'feed', lines, '-o', str(tmp_path / 'v.npy'))
    assert code == 2 and 'line 4 is empty' in err
    assert [path.name for path in tmp_path.iterdir()] == ['texts.txt']


def test_probe_prints_a_table(command, labelled):
    pytest.importorskip('sklearn')
    arguments = 'probe', 'beef', '--text', labelled, '--text-field', 'note', '--label-field', 'class'
    code, out, _ = command(*arguments)
    lines = out.splitlines()
    assert code == 0 and lines[0] == '80 texts to learn from, 20 held out, 2 labels'
    assert lines[2].split() == ['majority', '0.5000']
    assert [tuple(line.split()[:2]) for line in lines[3:]] == [
        (layer, pooling) for layer in ('embed', '1', '2') for pooling in ('mean', 'cls')]
    assert sum(line.endswith(' *') for line in lines) == 1
    assert max(map(len, lines[1:])) <= 40
    found = json.loads(command(*arguments, '--json')[1])
    assert found['best'] == max(found['places'], key=lambda probed: probed['accuracy'])
    assert found['best']['accuracy'] >= 0.9 and found['majority'] == 0.5
    # No [CLS]
    found = json.loads(command('probe', 'feed', *arguments[2:], '--json')[1])
    assert {probed['pooling'] for probed in found['places']} == {'mean'}


@pytest.mark.parametrize('arguments, message', [
    (['--label-field', 'clas'], "has no field `clas` (label_field): its fields are 'note', 'class'. Did you m"),
    (['--label-field', 'note'], 'has 100 different labels in 100 rows'),
    (['--label-field', 'class', '--valid', 'missing.csv'], 'cannot read missing.csv')])
def test_probe_refuses(command, labelled, arguments, message):
    pytest.importorskip('sklearn')
    code, out, err = command('probe', 'feed', '--text', labelled, '--text-field', 'note', *arguments)
    assert (code, out) == (2, '')
    assert message in err and 'Traceback' not in err
