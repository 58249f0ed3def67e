"""Whatever stands in the files of a run, a command says so in a line or goes on without it: no traceback, no hang."""
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import pytest
from support.project import outcome

from labml_mlm import metrics
from labml_mlm.runs import log_lines

DEEP = b'[' * 100_000
# What may stand in place of any file
CONTENTS = {'empty': b'', 'cut': b'{"a": [1', 'deep': DEEP, 'list': b'[]', 'number': b'5', 'null': b'null',
            'utf-16': '{"a": 1}'.encode('utf-16'), 'bytes': bytes(range(256)), 'long_number': b'9' * 5000,
            'nan': b'{"step": NaN, "track": {"loss.valid": [[NaN, [Infinity]]]}, "status": NaN}'}
PLACES = {'folder': Path.mkdir, 'pipe': os.mkfifo, 'device': lambda path: path.symlink_to('/dev/zero')}
FILES = ('configs.json', 'log.jsonl', 'samples.jsonl', 'run_log.jsonl', 'run.yaml', 'run.pid',
         'baselines.json', 'configs.yaml', 'run.lock',
         'checkpoints/8192/checkpoint.json', 'checkpoints')
COMMANDS = {'runs': (), 'info': ('feed',), 'samples': ('feed',), 'report': ('feed', '-o', 'r.html'),
            'sync': ('--all',), 'diff': ('feed', 'good'),
            'export-metrics': ('feed', '-o', 'm.csv')}
# What fits no schema, where the rest of the file does
LINES = {
    'samples.jsonl': [{'samples': [{'tokens': 5, 'places': [0], 'filled': ['a'], 'is_right': [True]}]},
                      {'samples': [{'tokens': ['a'], 'places': [7], 'filled': ['a'], 'is_right': [True]}]},
                      {'samples': [{'tokens': ['a'], 'places': [-1], 'filled': ['a'], 'is_right': [True]}]},
                      {'samples': [{'tokens': ['a'], 'places': [0], 'filled': [], 'is_right': [True]}]},
                      {'samples': [{'tokens': ['a'], 'places': [0], 'filled': ['a'], 'is_right': [5]}]},
                      {'samples': [5]}, {'samples': {}}, {'step': 'x'}, {'step': 10 ** 400}, {'loss': []}],
    'log.jsonl': [{'track': {'loss.valid': []}}, {'track': 5}, {'track': {'loss.valid': [['x', [1]]]}},
                  {'track': {'loss.valid': [[10 ** 300, [1]]]}}, {'track': {'loss.valid': [[1, [10 ** 400]]]}}],
    'configs.json': [{'resumed': 5}, {'resumed': [5]}, {'given': []}, {'text': 5}, {'versions': {'ranks': 'x'}},
                     {'tokenizer': 5}, {'given': {'text_path': 5}}, {'script': 5}, {'objective': 5},
                     {'defaults': {'epochs': {}}}, {'text': {'characters': 'x'}}],
    'run_log.jsonl': [{'status': 5}, {'time': 1e300}, {'time': 'x'}, {'details': [[]]}, {'rank': 'x'}],
}


@pytest.fixture
def project(trained, tmp_path, monkeypatch):
    """Two runs, of which one is to be damaged, in a project whose app takes everything."""
    for uuid in ('feed', 'good'):
        shutil.copytree(trained.path / 'logs/test/feed', tmp_path / 'logs/test' / uuid)
    (tmp_path / '.labml.yaml').write_text('app_url: http://localhost:1/api/v1/default\n')
    monkeypatch.chdir(tmp_path)

    def post(url, updates, **_):
        json.dumps(updates)
        return {'received': {name: series['step'][-1] for name, series in updates[0].get('track', {}).items()}
                | updates[0]['received']}

    monkeypatch.setattr('labml_mlm.tracking.sync.post_updates', post)
    return tmp_path


def run_all(capsys, commands=COMMANDS):
    """All commands: each ends with a code of its own and no traceback; lists and other runs are whole."""
    results = {}
    for name, arguments in commands.items():
        code, out, err = results[name] = outcome(capsys, name, *arguments)
        assert code in (0, 1, 2), (name, err)
        assert 'Traceback' not in err and 'Error:' not in err, (name, err)
        assert bool(err) or code == 0, name
    return results


def assert_others_go_on(results):
    assert results['runs'][0] == 0 and 'good' in results['runs'][1], results['runs']
    assert 'good  test  ' in results['sync'][1], results['sync']


@pytest.mark.parametrize('kind', [*CONTENTS, *PLACES])
@pytest.mark.parametrize('file', FILES)
def test_any_file_may_hold_anything(project, capsys, file, kind):
    [step] = [path.name for path in (project / 'logs/test/feed/checkpoints').iterdir()][-1:]
    path = project / 'logs/test/feed' / file.replace('8192', step)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if kind in PLACES:
        PLACES[kind](path)
    else:
        path.write_bytes(CONTENTS[kind] + b'\n')
    assert_others_go_on(run_all(capsys))


@pytest.mark.parametrize('file, change', [(file, change) for file, changes in LINES.items() for change in changes])
def test_values_that_no_run_writes(project, capsys, file, change):
    path = project / 'logs/test/feed' / file
    if file == 'configs.json':
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        whole = {'step': 1, 'loss': 1., 'accuracy': 0., 'samples': [], 'status': 'completed', 'time': 1.}
        with path.open('a') as f:
            f.write(json.dumps(whole | change) + '\n')
    results = run_all(capsys)
    assert_others_go_on(results)
    if file == 'log.jsonl':
        code, _, err = run_all(capsys, {'plot': ('feed', '-o', 'p.png')})['plot']
        assert code == 2 and 'labml-mlm plot needs matplotlib' in err or f'1 damaged line skipped in {path}' in err
        assert results['sync'][0] == 1
        for command in ('runs', 'info', 'report', 'sync', 'diff', 'export-metrics'):
            assert f'1 damaged line skipped in {path}' in results[command][2], command
    if file == 'samples.jsonl':
        for command in ('samples', 'report'):
            assert f'1 damaged line skipped in {path}' in results[command][2], command
    if file == 'configs.json':
        assert results['sync'][0] == 1 and 'configs.json is damaged' in results['sync'][2]


@pytest.mark.parametrize('file', ['log.jsonl', 'samples.jsonl', 'run_log.jsonl'])
def test_a_line_without_an_end_is_not_held_in_memory(project, capsys, monkeypatch, file):
    """The file has a hole of 256 MB, which takes no place on the disk."""
    monkeypatch.setattr(log_lines, 'MAX_LINE', 2 ** 20)
    path = project / 'logs/test/feed' / file
    with path.open('ab') as f:
        f.truncate(path.stat().st_size + 2 ** 28)
    # What they import is no part of it
    run_all(capsys)
    tracemalloc.start()
    try:
        results = run_all(capsys)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 ** 27
    assert_others_go_on(results)
    for command in {'log.jsonl': ('runs', 'info', 'report', 'sync', 'diff', 'export-metrics'),
                    'samples.jsonl': ('samples', 'report')}.get(file, ()):
        assert f'1 damaged line skipped in {path}' in results[command][2], command


def test_what_comes_after_a_long_line_is_read(project, capsys, monkeypatch):
    path = project / 'logs/test/feed/log.jsonl'
    whole = path.read_bytes()
    commands = {'export-metrics': ('feed', '-o', '-'), 'sync': ('feed',)}
    before = run_all(capsys, commands)
    monkeypatch.setattr(log_lines, 'MAX_LINE', max(map(len, whole.splitlines(keepends=True))))
    path.write_bytes(b'x' * 3 * log_lines.MAX_LINE + b'\n' + whole)
    for name, (_, out, err) in run_all(capsys, commands).items():
        assert 'feed' in out and out == before[name][1] and f'1 damaged line skipped in {path}' in err, name


def test_nothing_but_damaged_lines(project, capsys):
    path = project / 'logs/test/feed/log.jsonl'
    path.write_text('5\n[]\n')
    code, _, err = outcome(capsys, 'export-metrics', 'feed', '-o', 'm.csv')
    assert code == 2 and err == f'the run feed has no metrics in {path}: 2 damaged lines skipped in {path}\n'


def test_metrics_in_python_warn_of_damaged_lines(project):
    path = project / 'logs/test/feed/log.jsonl'
    whole = metrics('feed')
    path.write_bytes(b'5\n' + path.read_bytes())
    with pytest.warns(UserWarning, match=f'1 damaged line skipped in {path}'):
        assert len(metrics('feed')['value']) == len(whole['value'])
