"""`labml-mlm sweep`, with real runs and with a script that takes no time."""
import json
import os
import signal
import subprocess
import sys

import pytest
from support.project import ROOT, SMALL, outcome


def test_sweep_of_real_runs(project):
    """Checked, trained with seeds and a tag, and not trained again."""
    project.script = project.path / 'labml-mlm'
    project.script.write_text('from labml_mlm.__main__ import main\n\nmain()\n')
    arguments = ['sweep', 'text.txt', *SMALL, 'optimizer.learning_rate=1e-4,1e-2', '--json', 'n_prompts=0']
    result = project.run(*arguments, env={'PYTHONPATH': str(ROOT)})
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row['values'] for row in found['combinations']] == [{'optimizer.learning_rate': '1e-2'},
                                                                {'optimizer.learning_rate': '1e-4'}]
    for row in found['combinations']:
        assert row['completed'] == 1 and row['seconds']['mean'] > 0 and 0 <= row['accuracy.valid']['mean'] <= 1
    folders = {run.name: run for run in project.runs}
    assert set(folders) == {run['uuid'] for run in found['runs']}
    for run in found['runs']:
        given = json.loads((folders[run['uuid']] / 'configs.json').read_text())['given']
        assert given['optimizer.learning_rate'] == float(run['values']['optimizer.learning_rate'])
        assert found['tag'] in (folders[run['uuid']] / 'run.yaml').read_text()
    logs = {path: path.stat().st_mtime_ns for path in project.path.glob('logs/*/*/log.jsonl')}
    again = project.run(*arguments, env={'PYTHONPATH': str(ROOT)})
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    assert json.loads(again.stdout)['combinations'] == found['combinations']


@pytest.fixture
def command(folder, capsys):
    return lambda *arguments: outcome(capsys, 'sweep', '--script', 'fast.py', *arguments)


def test_table_has_what_varies(command, unchecked):
    code, out, err = command('x=2,1', '--seeds', '2', 'y=a')
    assert (code, err) == (0, '')
    table = [line.split() for line in out.splitlines()[-3:]]
    assert table[0] == ['x', 'runs', 'loss.valid', 'accuracy.valid', 'time']
    assert table[1][:5] == ['1', '2', '1.1500', '±', '0.0707'] and table[2][0] == '2'
    assert '4 runs of the sweep sweep-' in out


def test_failures_are_named_at_the_end(command, unchecked, folder, monkeypatch):
    (folder / 'mode-1').write_text('fail')
    monkeypatch.setattr(sys, 'argv', ['labml-mlm', 'sweep', '--script', 'fast.py', 'x=1,2'])
    code, out, err = command('x=1,2')
    [uuid] = [run['uuid'] for run in json.loads(next(folder.glob('sweeps/*.json')).read_text())['runs']
              if run['values']['x'] == '1']
    assert code == 1
    assert err == f'1 of 2 runs have failed: {uuid}. The same command goes on: labml-mlm sweep --script fast.py x=1,2\n'
    assert out.splitlines()[-2].split() == ['2', '1', '2.1000', '0.5000', '-']


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--seeds', 'two'], 'invalid int value'),
    (['--seeds', '0'], '--seeds 0: it must be at least 1'),
    (['x=1,,2'], '`x=1,,2`: between two commas there must be a value'),
    (['--sedes', '2'], 'there is no option --sedes. Did you mean `--seeds`?'),
    (['--tag', 'a/b'], '--tag a/b: it must be letters, digits'),
])
def test_wrong_arguments_are_refused(command, unchecked, folder, arguments, message):
    code, _, err = command('x=1,2', *arguments)
    assert code == 2 and message in err and not (folder / 'calls').exists()


def test_ctrl_c_saves_the_run_and_says_how_to_go_on(folder):
    """In a process of its own, with a plan that was made before."""
    (folder / 'mode-2').write_text('wait')
    script = folder / 'labml-mlm'
    script.write_text('import sys\n\nfrom labml_mlm.__main__ import main\nfrom labml_mlm.sweep import plan\n\n'
                      'plan.combinations = lambda _: [{"x": "1"}, {"x": "2"}, {"x": "3"}]\nmain()\n')
    command = [sys.executable, 'labml-mlm', 'sweep', 'x=1,2,3', '--script', 'fast.py']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    for line in process.stdout:
        if line == 'waiting\n':
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err == ('Interrupted: 1 of 3 runs are complete. The same command goes on: labml-mlm sweep x=1,2,3 --script '
                   'fast.py\n')
    assert [line.split()[:3] for line in out.splitlines()[-3:]] == [['1', '1', '1.1000'], ['2', '0', 'of'],
                                                                    ['3', '0', 'of']]
    (folder / 'mode-2').unlink()
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert '3 runs of the sweep' in result.stdout and 'of which 1 are complete' in result.stdout
    calls = [json.loads(line)[1] for line in (folder / 'calls').read_text().splitlines()]
    assert len(calls) == 4 and calls[2][0] == '--resume' and calls[3][0] == 'x=3'
