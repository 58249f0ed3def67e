"""Resuming runs from the command line."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support.project import SMALL, values_of

from labml_mlm.runs.checkpoint_folder import CheckpointFolder

# 31 steps an epoch
LONG = ['epochs=100000', 'n_prompts=0', 'checkpoint_interval=10']


def checkpoints(folder):
    """The checkpoints of a run by step."""
    return CheckpointFolder(folder / 'checkpoints').steps()


def last_step(folder):
    return list(checkpoints(folder))[-1]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_stopped_run_resumes_with_the_same_losses(project, stop, uninterrupted, number):
    folder = stop(number=number)
    assert project.status() == 'interrupted'
    before = {name: (folder / name).read_bytes() for name in ('run.yaml', 'configs.yaml', 'source.diff')}
    snapshot = json.loads((folder / 'configs.json').read_text())
    values = values_of(folder / 'log.jsonl')
    # The checkpoint is of the last step
    assert last_step(folder) == values['loss.train'][-1][0]

    result = project.run('--resume', 'feed')
    assert (result.returncode, result.stderr) == (0, '')
    assert f'Resuming feed from {folder}/checkpoints/{values["loss.train"][-1][0]}' in result.stdout
    assert project.status() == 'completed'
    # It is the same run, and how it was started is unchanged
    assert project.runs == [folder]
    assert {name: (folder / name).read_bytes() for name in before} == before
    after = json.loads((folder / 'configs.json').read_text())
    assert {name: after[name] for name in ('time', 'versions', 'given', 'text')} == \
        {**{name: snapshot[name] for name in ('time', 'versions', 'text')},
         'given': {**snapshot['given'], 'text': 'file'}}
    assert len(after['resumed']) == 1
    log = [json.loads(line)['status'] for line in (folder / 'run_log.jsonl').read_text().splitlines()]
    assert log == ['interrupted', 'resumed', 'completed']

    resumed = values_of(folder / 'log.jsonl')
    for name in set(uninterrupted) - {'tokens_per_second'}:
        assert uninterrupted[name] == resumed[name]


def test_several_signals_stop_the_run_once(project):
    """The end of a login session sends several."""
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG, env={'RUN_UUID': 'feed'})
    folder = project.path / 'logs/test/feed'
    project.until(lambda: list(folder.glob('checkpoints/*')))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        os.kill(pid, number)
    result = project.wait()
    # Signals that arrive together may be handled in any order
    assert result.returncode in (128 + signal.SIGTERM, 128 + signal.SIGHUP), result
    assert last_step(folder) == values_of(folder / 'log.jsonl')['loss.train'][-1][0]


def test_custom_run_step_has_a_checkpoint_at_each_epoch(project):
    """Even if it runs no validation."""
    project.script.write_text('''
from labml import tracker

from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    def run_step(self):
        with self.mode.update(is_train=True), tracker.namespace('train'):
            self.trainer()
        tracker.save()


train(Configs(), name='test')
''')
    arguments = [f'text_path={project.text}', *SMALL, 'epochs=2', 'transformer.dropout=0.1']
    whole = project.run(*arguments, env={'RUN_UUID': 'whole'})
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.splitlines()[-5].startswith('Training is complete after 15,840 tokens in ')
    folder = project.path / 'logs/test/feed'
    assert project.run(*arguments, 'epochs=1', 'lr_schedule=constant', env={'RUN_UUID': 'feed'}).returncode == 0
    assert list(checkpoints(folder)) == [495 * 16]
    result = project.run('--resume', 'feed', 'epochs=2')
    assert result.returncode == 0, result.stderr
    resumed, whole = (values_of(folder.parent / name / 'log.jsonl') for name in ('feed', 'whole'))
    assert [step for step, _ in resumed['loss.train']] == [step for step, _ in whole['loss.train']]


def test_printed_command_resumes_the_run(project):
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG)
    project.until(lambda: list(project.path.glob('logs/test/*/checkpoints/*')))
    os.kill(pid, signal.SIGINT)
    command = re.search(r'To resume: (python train\.py --resume \w+)\n', project.wait().stderr)[1].split()
    assert project.run(*command[2:], 'epochs=1').returncode == 0


def test_run_under_nohup_saves_on_sigterm(project):
    """Where labml's own training loop does not: nohup ignores SIGHUP, and a background job SIGINT."""
    log = project.path / 'nohup.txt'
    arguments = ' '.join([f'text_path={project.text}', *SMALL, *LONG])
    command = f'nohup {sys.executable} {project.script} {arguments} > {log} 2>&1 & echo $!'
    pid = int(subprocess.run(['bash', '-c', command], cwd=project.path, env=project.environment(), check=True,
                             capture_output=True, text=True).stdout)
    deadline = time.monotonic() + 120

    def until(condition):
        while not condition():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)

    until(lambda: list(project.path.glob('logs/test/*/checkpoints/*')))
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGHUP)
    time.sleep(0.3)
    os.kill(pid, signal.SIGTERM)
    until(lambda: 'To resume' in log.read_text())
    assert project.status() == 'interrupted'
    [folder] = project.runs
    assert last_step(folder) == values_of(folder / 'log.jsonl')['loss.train'][-1][0]


def test_run_without_a_checkpoint_restarts_from_the_beginning(project, uninterrupted):
    pid = project.fork(f'text_path={project.text}', *SMALL, 'epochs=4', 'n_prompts=0', 'checkpoint_interval=1000',
                       'text=file', env={'RUN_UUID': 'feed'})
    folder = project.path / 'logs/test/feed'
    project.until(lambda: (folder / 'configs.yaml').exists())
    os.kill(pid, signal.SIGKILL)
    assert project.wait().returncode == -signal.SIGKILL
    assert not (folder / 'checkpoints').exists()
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    assert 'Resuming feed from the beginning: it has no checkpoint yet' in result.stdout
    assert values_of(folder / 'log.jsonl')['loss.train'] == uninterrupted['loss.train']


def test_running_run_is_neither_resumed_nor_started_again(project):
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG, env={'RUN_UUID': 'feed'})
    folder = project.path / 'logs/test/feed'
    project.until(lambda: list(folder.glob('checkpoints/*')))
    # It keeps its lock, and leaves the processor to the others
    os.kill(pid, signal.SIGSTOP)
    for arguments in (['--resume', 'feed'], [f'text_path={project.text}', *SMALL]):
        # As a single rank, which has a fork server of its own
        [other] = project.ranks(1, *arguments, env={'RUN_UUID': 'feed'}).wait()
        assert (other.returncode, other.stderr) == (2, f'the run feed is running, in process {pid}\n')
    os.kill(pid, signal.SIGKILL)
    assert project.wait().returncode == -signal.SIGKILL
    assert project.run('--resume', 'feed', 'epochs=1').returncode == 0


def test_run_can_be_named_in_several_ways(project, stopped):
    def set_date(uuid, date):
        """Of the start, which labml writes in seconds."""
        path = project.path / f'logs/test/{uuid}/run.yaml'
        path = path if path.exists() else project.path / f'logs/other/{uuid}/run.yaml'
        changed = re.sub(r"trial_date: .*", f"trial_date: '{date}'", path.read_text())
        assert date in changed
        path.write_text(changed)

    # An older run, and a newer one of another experiment
    assert project.train(env={'RUN_UUID': 'abcd'}).returncode == 0
    set_date('abcd', '2001-01-01')
    folder = stopped()
    script = project.script.read_text()
    project.script.write_text(script.replace('test', 'other'))
    assert project.train(env={'RUN_UUID': 'cafe'}).returncode == 0
    set_date('cafe', '2101-01-01')
    project.script.write_text(script)

    first = list(checkpoints(folder).values())[0]
    for n_epochs, name in enumerate(['last', 'fee', 'logs/test/feed', folder, first], start=5):
        first = list(checkpoints(folder).values())[0]
        name = first if n_epochs == 9 else name
        result = project.run('--resume', str(name), f'epochs={n_epochs}')
        assert result.returncode == 0, result.stderr
        assert 'Resuming feed from' in result.stdout
        # Only the folder of a checkpoint goes back to an earlier one
        assert (f'from {first}\n' in result.stdout) == (name == first)
        values = values_of(folder / 'log.jsonl')['loss.train']
        assert len(values) == len({step for step, _ in values}) == n_epochs * 31


@pytest.mark.parametrize('arguments, message', [
    (['--resume'], '--resume needs a run: its uuid, its folder, or last'),
    (['--resume='], '--resume needs a run'),
    (['--resume', '--help-me'], '--resume needs a run'),
    (['--resum', 'feed'], 'Did you mean `--resume`?'),
])
def test_wrong_option_is_refused(project, assert_refused, arguments, message):
    assert_refused(project.run(*arguments), message)


def test_refused_resume_changes_nothing(project, stopped):
    folder = stopped()
    logs = folder.parent.parent
    cases = [
        (['faed'], f'there is no run faed in {logs}. Did you mean feed? The newest: feed (test, '),
        (['zzzz'], f'there is no run zzzz in {logs}. The newest: feed (test, '),
        (['logs/test'], 'test is neither a run nor a checkpoint'),
        (['logs/test/none'], 'logs/test/none: there is no such folder'),
        (['feed', 'd_model=32'], '`d_model=32`: in this run it is 16, and cannot change. These can change: epochs'),
        (['feed', 'transformer.n_layers=2'], 'in this run it is 1, and cannot change'),
        (['feed', 'seed=2'], 'in this run it is 1, and cannot change'),
        (['feed', 'optimizer.optimizer=SGD'], 'in this run it is FusedAdamW, and cannot change'),
        (['feed', 'text=python_topics'], 'this is not the text of the run: '),
        (['feed', 'epoch=5'], 'Did you mean `epochs`?'),
    ]
    project.script.write_text('''
import json
import sys
from pathlib import Path

from labml_mlm import MLMConfigs, train


def files():
    return {path: path.read_bytes() for path in Path('logs').rglob('*')
            if path.is_file() and path.name not in ('run.pid', 'run.lock')}


before = files()
for arguments in json.loads(sys.argv[1]):
    try:
        train(MLMConfigs(), name='test', arguments=['--resume', *arguments])
        code = 0
    except SystemExit as e:
        code = e.code
    assert code == 2
    assert files() == before
sys.exit(code)
''')
    result = project.run(json.dumps([arguments for arguments, _ in cases]))
    assert result.returncode == 2, result.stderr
    for error, (_, message) in zip(result.stderr.splitlines(), cases, strict=True):
        assert message in error
    assert project.runs == [folder]


def test_resume_without_runs_is_refused(project, assert_refused):
    assert_refused(project.run('--resume', 'last'), f'there is no run in {project.path}/logs/test yet')
    assert_refused(project.run('--resume', 'feed'), f'there is no run feed: {project.path}/logs is empty')


def test_completed_run_can_be_extended(project):
    assert project.train(env={'RUN_UUID': 'feed'}).returncode == 0
    [folder] = project.runs
    before = (folder / 'log.jsonl').read_bytes()
    result = project.run('--resume', 'feed')
    assert (result.returncode, result.stderr) == (0, '')
    assert 'The run feed has completed all of its epochs (1): give epochs=2 to train longer' in result.stdout
    assert (folder / 'log.jsonl').read_bytes() == before
    assert project.run('--resume', 'feed', 'epochs=2').returncode == 0
    assert (folder / 'log.jsonl').read_bytes().startswith(before)
    assert len(values_of(folder / 'log.jsonl')['loss.valid']) == 2


@pytest.mark.parametrize('name', ['model.safetensors', 'checkpoint.json'])
def test_damaged_checkpoint_is_skipped(project, stopped, name):
    folder = stopped('checkpoint_interval=5')
    before, last = list(checkpoints(folder).values())[-2:]
    data = (last / name).read_bytes()
    (last / name).write_bytes(data[:-1])
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    assert f'{last / name}' in result.stdout and 'The checkpoint before it is used' in result.stdout
    assert f'Resuming feed from {before}' in result.stdout
    values = values_of(folder / 'log.jsonl')['loss.train']
    assert len(values) == len({step for step, _ in values}) == 4 * 31


def test_run_whose_checkpoints_are_all_damaged_is_refused(project, stopped, assert_refused):
    folder = stopped()
    for path in folder.glob('checkpoints/*/model.safetensors'):
        path.unlink()
    before = (folder / 'log.jsonl').read_bytes()
    assert_refused(project.run('--resume', 'feed'), 'no checkpoint of the run feed can be used: ')
    assert (folder / 'log.jsonl').read_bytes() == before


def test_run_whose_checkpoints_were_removed_is_refused(project, assert_refused):
    assert project.train(env={'RUN_UUID': 'feed'}).returncode == 0
    [folder] = project.runs
    shutil.rmtree(folder / 'checkpoints')
    before = (folder / 'log.jsonl').read_bytes()
    assert_refused(project.run('--resume', 'feed'),
                   'the run feed has metrics of a validation, but no checkpoint to resume from: ')
    assert (folder / 'log.jsonl').read_bytes() == before


def test_resume_from_an_earlier_checkpoint_removes_later_ones(project):
    assert project.train('epochs=3', env={'RUN_UUID': 'feed'}).returncode == 0
    [folder] = project.runs
    whole = values_of(folder / 'log.jsonl')
    first, second = checkpoints(folder).values()
    result = project.run('--resume', str(first))
    assert result.returncode == 0, result.stderr
    assert f'Later checkpoints are removed: {int(second.name):,}' in result.stdout.splitlines()
    assert values_of(folder / 'log.jsonl')['loss.train'] == whole['loss.train']


def test_run_of_another_project_is_refused(project, stopped, assert_refused, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('elsewhere') / 'logs/test/feed'
    shutil.copytree(stopped(), elsewhere)
    assert_refused(project.run('--resume', str(elsewhere)),
                   f'the run in {elsewhere} is not in this project, whose runs are in {project.path}/logs')


def test_refused_resume_releases_the_run(project, stopped):
    """In a notebook, the same process tries again."""
    stopped()
    project.script.write_text('''
from labml_mlm import MLMConfigs, train

try:
    train(MLMConfigs(), name='test', arguments=['--resume', 'feed', 'd_model=32'])
except SystemExit as e:
    assert e.code == 2
train(MLMConfigs(), name='test', arguments=['--resume', 'feed'])
''')
    result = project.run()
    assert result.returncode == 0, result.stderr
    assert '`d_model=32`: in this run it is 16' in result.stderr
    assert project.status() == 'completed'


def test_missing_metrics_are_reported(project, stopped):
    folder = stopped()
    data = (folder / 'log.jsonl').read_bytes()
    (folder / 'log.jsonl').write_bytes(data[:len(data) // 2])
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    assert re.search(r'log\.jsonl lacks [\d,]+ bytes that it had at the checkpoint: its metrics are incomplete',
                     result.stdout)
    assert values_of(folder / 'log.jsonl')['loss.train'][-1][0] == 4 * 495 * 16


def test_run_of_another_experiment_is_refused(project, stopped, assert_refused):
    stopped()
    project.script.write_text(project.script.read_text().replace('"test"', '"other"'))
    assert_refused(project.run('--resume', 'feed'),
                   'the run feed belongs to the experiment test, and this script is other')


def test_run_of_another_program_is_refused(project, assert_refused):
    folder = project.path / 'logs/test/feed'
    folder.mkdir(parents=True)
    (folder / 'run.pid').write_text('1')
    assert_refused(project.run('--resume', 'feed'), 'the run feed cannot be resumed: it has no configs.json')


def test_full_disk_does_not_stop_the_run(project, small_disk):
    """Half a megabyte is enough to start, but not for a checkpoint of this model; later there is more space."""
    (project.path / 'logs').symlink_to(small_disk)
    folder = small_disk / 'test/feed'
    pid = project.fork(f'text_path={project.text}', *SMALL, 'd_model=64', *LONG, env={'RUN_UUID': 'feed'})
    project.until(lambda: 'Cannot save a checkpoint' in project.outputs[0].read_text())
    # Without names that begin with a dot: it may be trying again
    assert not list(folder.glob('checkpoints/[0-9]*'))
    os.system(f'mount -o remount,size=16m {small_disk}')
    project.until(lambda: list(folder.glob('checkpoints/[0-9]*')))
    os.kill(pid, signal.SIGTERM)
    result = project.wait()
    assert result.returncode == 143
    assert result.stdout.count('Cannot save a checkpoint') == 1
    values = values_of(folder / 'log.jsonl')['loss.train']
    assert last_step(folder) == values[-1][0]
    # Each step once
    assert len({step for step, _ in values}) == len(values)
    assert {b - a for (a, _), (b, _) in zip(values, values[1:], strict=False)} <= {16 * 16, 15 * 16}


def test_resume_follows_no_link_of_the_run(project):
    """Whatever a resumed run writes is in its folder. What it adds to is refused, before anything is written."""
    assert project.train('n_prompts=1', env={'RUN_UUID': 'feed'}).returncode == 0
    folder, outside = project.path / 'logs/test/feed', project.path / 'outside'
    outside.mkdir()
    names = sorted({path.name for path in folder.iterdir() if path.is_file()} - {'configs.json'})
    assert {'indicators.yaml', 'configs.yaml', 'run.yaml', 'text.json', 'samples.jsonl'} <= set(names)
    shutil.copytree(folder, project.path / 'whole')
    contents = {}
    for name in names:
        contents[name] = (folder / name).read_bytes()
        (folder / name).rename(outside / name)
        (folder / name).symlink_to(outside / name)
    refused = set()
    while (result := project.run('--resume', 'feed', 'epochs=2')).returncode == 2 and len(refused) < len(names):
        assert 'it is no ordinary file' in result.stderr
        name = result.stderr.partition(': it is no')[0].rpartition('/')[2]
        refused.add(name)
        (folder / name).unlink()
        shutil.copy(project.path / 'whole' / name, folder / name)
    assert result.returncode == 0, result.stderr
    assert {'log.jsonl', 'samples.jsonl', 'run_log.jsonl', 'indicators.yaml', 'run.pid', 'run.lock'} <= refused
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == contents
