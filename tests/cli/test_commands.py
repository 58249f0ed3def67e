"""`labml-mlm`: its options, and the commands that list runs and show their samples."""
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import outcome, values_of

from labml_mlm.runs.samples_log import SamplesLog

SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def command(project, monkeypatch, capsys):
    """`labml-mlm` in the project: exit code, output and errors."""
    monkeypatch.chdir(project.path)
    return functools.partial(outcome, capsys)


@pytest.fixture
def train(project):
    """Trains the run `feed`."""
    def train(*arguments):
        result = project.train(*arguments, env={'RUN_UUID': 'feed'})
        assert result.returncode == 0, result.stderr
        return project.path / 'logs/test/feed'
    return train


def assert_refused(result, message):
    code, out, err = result
    assert (code, out) == (2, '')
    assert message in err.splitlines()[-1]
    assert 'Traceback' not in err


def test_no_arguments_print_what_the_commands_do(command):
    code, out, err = command()
    assert (code, err) == (0, '')
    commands = {name for name, _ in re.findall(r'^    ([a-z-]+)( {2,}|$)', out, re.MULTILINE)}
    assert {'runs', 'fill-mask', 'info', 'diff', 'export-metrics', 'delete', 'completion'} <= commands


def test_version(command):
    code, out, err = command('--version')
    assert (code, err) == (0, '')
    assert re.fullmatch(r'labml_mlm \d\S+, labml 0\.5\.\S+, torch 2\.\S+\n', out)


@pytest.mark.parametrize('arguments, message', [
    (['fil-mask'], '`fil-mask` is not a command. Did you mean `fill-mask`?'),
    (['ls'], 'Did you mean `runs`?'), (['xyz'], '`xyz` is not a command. `labml-mlm` alone lists them all'),
    (['--verison'], 'labml-mlm: there is no option --verison. Did you mean `--version`?'),
    # argparse would complain that there is no RUN
    (['evaluate', '--txt', 'text.txt'], 'labml-mlm evaluate: there is no option --txt. Did you mean `--text`?'),
    (['fill-mask', 'last', 'x', '-t', '3'], 'there is no option -t.'),
    (['runs', 'feed'], 'labml-mlm runs: too many arguments: feed.'),
    (['plot'], 'labml-mlm plot: the following arguments are required: RUN. `labml-mlm plot --help` says'),
    (['fill-mask', 'last', '--top', '0'], 'labml-mlm fill-mask: argument --top: 0: it must be an integer, at least 1'),
])
def test_wrong_arguments_are_one_message(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out) == (2, '')
    assert message in err and len(err.splitlines()) == 1


def test_options_as_argparse_takes_them(command):
    """Beginnings of names, values after `=`, and what only looks like an option."""
    for arguments in (['runs', '--js'], ['runs', '--path=.'], ['runs', '--path', '.', '--json']):
        code, _, err = command(*arguments)
        assert (code, err) == (0, '')
    for arguments in (['fill-mask', 'abc', '- a [MASK]'], ['embed', 'abc', '-', '--layer', '-2'],
                      ['embed', 'abc', '-', '-ox.npy'], ['fill-mask', 'abc', '--', '-t']):
        assert 'there is no option' not in command(*arguments)[2]


def test_installed_command_starts_without_torch(project, train):
    train('n_prompts=0')
    result = subprocess.run([SCRIPTS / 'labml-mlm', 'runs'], cwd=project.path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, '')
    assert 'feed' in result.stdout
    # The import of torch takes seconds
    code = 'import sys, labml_mlm.__main__ as m; m.main(["runs"]); print("torch" in sys.modules)'
    result = subprocess.run([sys.executable, '-c', code], cwd=project.path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == 'False'


def test_closed_pipe_prints_no_error(project, train):
    train('n_prompts=0')
    command = f'{SCRIPTS}/labml-mlm runs | true; exit ${{PIPESTATUS[0]}}'
    result = subprocess.run(['bash', '-c', command], cwd=project.path, capture_output=True, text=True)
    assert result.stderr == '' and result.returncode in (0, 1)


def test_runs(command, train):
    run = train('epochs=4')
    code, out, _ = command('runs')
    header, *rows = (line.split() for line in out.splitlines())
    assert header == ['uuid', 'name', 'started', 'step', 'loss.valid', 'accuracy.valid', 'status', 'text']
    [row] = [row for row in rows if row[0] == 'feed']
    values = values_of(run / 'log.jsonl')
    assert row[1] == 'test' and row[-2:] == ['completed', 'text.txt']
    assert row[4] == f'{values["loss.train"][-1][0]:,}'
    best, step = min((loss, step) for step, loss in values['loss.valid'])
    assert row[5:7] == [f'{best:.4f}', f'{dict(values["accuracy.valid"])[step]:.4f}']
    [described] = [d for d in json.loads(command('runs', '--json')[1]) if d['uuid'] == 'feed']
    assert (described['loss.valid'], described['status'], described['text']) == (best, 'completed', 'text.txt')


def test_runs_of_another_folder(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp('elsewhere')
    assert_refused(command('runs', '--path', str(folder)),
                   f'{folder} is not in a labml project: there is no .labml.yaml in it or above it')
    # labml takes the folder of a script for the project then
    (folder / 'logs').mkdir()
    assert command('runs', '--path', str(folder)) == (0, f'There is no run in {folder}/logs yet\n', '')
    (folder / '.labml.yaml').write_text('')
    assert command('runs', '--path', str(folder)) == (0, f'There is no run in {folder}/logs yet\n', '')
    assert_refused(command('fill-mask', 'last', '[MASK]', '--path', str(folder)), 'there is no run in ')
    (folder / '.labml.yaml').write_text('experiments_paht: runs\n')
    assert_refused(command('runs', '--path', str(folder)), 'Unknown config parameter #experiments_paht')


def test_samples(command, train):
    run = train('epochs=3', 'prompt=the quick,lazy dog')
    saved = SamplesLog(run / 'samples.jsonl').read()
    assert len(saved) == 3
    code, out, err = command('samples', 'feed')
    assert (code, err) == (0, '')
    first, second = out.split('\n\n')
    lines = first.splitlines()
    assert lines[0].split() == ['step', 'loss.valid', 'right', 'masked', *lines[0].split()[4:]]
    assert [line.split()[0] for line in lines[1:4]] == [f'{validation.step:,}' for validation in saved]
    assert [line.split()[1] for line in lines[1:4]] == [f'{validation.loss:.4f}' for validation in saved]
    assert lines[4].split() == ['true', 'the', 'quick']
    assert second.splitlines()[4].split() == ['true', 'lazy', 'dog']
    # One below the other
    assert len({line.rstrip().find(word) for line, word in zip(lines, ['masked', *3 * ['filled'], 'true'],
                                                               strict=True)}) == 1

    code, out, err = command('samples', 'feed', '--json')
    assert [found['step'] for found in json.loads(out)] == [validation.step for validation in saved]
    assert json.loads(out)[0]['samples'][0]['tokens'] == list('the quick')


def test_samples_of_a_run_resumed_with_another_prompt(project, command, train):
    train('epochs=1', 'prompt=the quick')
    result = project.run('--resume', 'feed', 'epochs=2', 'prompt=lazy dog')
    assert result.returncode == 0, result.stderr
    _, out, _ = command('samples', 'feed')
    first, second = out.split('\n\n')
    assert 'the quick' in first and 'lazy dog' in second
    assert len(first.splitlines()) == len(second.splitlines()) == 3


def test_samples_of_a_prompt_with_a_mask(command, train):
    run = train('epochs=2', 'prompt=the qu[MASK]ck')
    [sample] = SamplesLog(run / 'samples.jsonl').read()[-1].samples
    assert (sample.tokens[6], sample.positions, sample.is_right) == ('[MASK]', [6], [None])
    _, out, _ = command('samples', 'feed')
    header, *rows = out.splitlines()
    assert len(rows) == 2 and [row.split()[2] for row in rows] == ['-', '-']
    assert json.loads(command('samples', 'feed', '--json')[1])[0]['samples'][0]['is_right'] == [None]


def test_samples_of_a_run_without_prompts(command, train):
    train('n_prompts=0')
    code, out, err = command('samples', 'feed')
    assert (code, out) == (2, '')
    assert 'the run feed has no samples' in err
    assert command('samples', 'feed', '--json')[:2] == (0, '[]\n')
    code, _, err = command('samples', 'fead')
    assert code == 2 and 'Did you mean feed?' in err


def test_damaged_lines_of_metrics_are_counted(project, train, command):
    train('epochs=1', 'n_prompts=0')
    with open(project.path / 'logs/test/feed/log.jsonl', 'a') as f:
        f.write('{"track": {"loss.valid": []}}\n{"track": 5, "a": "loss.valid"}\n')
    code, out, err = command('runs')
    assert code == 0 and 'feed' in out
    assert err == f'2 damaged lines skipped in {project.path / "logs/test/feed/log.jsonl"}\n'
