"""Going on with runs, as a user does."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from support.project import SMALL, values_of

from labml_mlm import MLMConfigs
from labml_mlm.cli.resume import Resumption
from labml_mlm.common.errors import UserError
from labml_mlm.configs.overrides import parse_overrides
from labml_mlm.configs.snapshot import take_snapshot
from labml_mlm.runs.checkpoint_folder import CheckpointFolder

# 31 steps an epoch
LONG = ['epochs=100000', 'n_prompts=0', 'checkpoint_interval=10']


def assert_refused(result, message):
    assert (result.returncode, result.stderr.count('\n')) == (2, 1), result.stderr
    assert message in result.stderr


@pytest.fixture
def stopped(project):
    """A run that a signal has ended, in its third epoch of four."""
    def stop(*arguments, number=signal.SIGTERM, uuid='feed', is_forked=True):
        pid = project.fork(f'text_path={project.text}', *SMALL, 'epochs=4', 'n_prompts=0', *arguments,
                           env={'RUN_UUID': uuid})
        folder = project.path / 'logs/test' / uuid
        project.until(lambda: len(list(folder.glob('checkpoints/*'))) > 1)
        os.kill(pid, number)
        result = project.wait()
        assert result.returncode == 128 + number, result
        return folder
    return stop


def last_step(folder):
    return list(CheckpointFolder(folder / 'checkpoints').steps())[-1]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_the_run_goes_on(project, stopped, number):
    folder = stopped(number=number)
    assert project.status() == 'interrupted'
    before = {name: (folder / name).read_bytes() for name in ('run.yaml', 'configs.yaml', 'source.diff')}
    record = json.loads((folder / 'configs.json').read_text())
    values = values_of(folder / 'log.jsonl')
    # It has saved the step that it was in
    assert last_step(folder) == values['loss.train'][-1][0]

    result = project.run('--resume', 'feed')
    assert (result.returncode, result.stderr) == (0, '')
    assert f'Going on with feed from {folder}/checkpoints/{values["loss.train"][-1][0]}' in result.stdout
    assert project.status() == 'completed'
    # The same run, with its start and its configs as they were
    assert project.runs == [folder]
    assert {name: (folder / name).read_bytes() for name in before} == before
    after = json.loads((folder / 'configs.json').read_text())
    assert {name: after[name] for name in ('time', 'versions', 'given', 'text')} == \
        {**{name: record[name] for name in ('time', 'versions', 'text')},
         'given': {**record['given'], 'text': 'file'}}
    assert len(after['resumed']) == 1
    log = [json.loads(line)['status'] for line in (folder / 'run_log.jsonl').read_text().splitlines()]
    assert log == ['interrupted', 'resumed', 'completed']

    assert project.train('epochs=4', 'n_prompts=0', env={'RUN_UUID': 'whole'}).returncode == 0
    whole, parts = values_of(folder.parent / 'whole/log.jsonl'), values_of(folder / 'log.jsonl')
    for name in set(whole) - {'tokens_per_second'}:
        assert whole[name] == parts[name]


def test_several_signals_of_one_end_of_a_session(project):
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG, env={'RUN_UUID': 'feed'})
    folder = project.path / 'logs/test/feed'
    project.until(lambda: list(folder.glob('checkpoints/*')))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        os.kill(pid, number)
    result = project.wait()
    # Of signals at one instant, the first is any
    assert result.returncode in (128 + signal.SIGTERM, 128 + signal.SIGHUP), result
    assert last_step(folder) == values_of(folder / 'log.jsonl')['loss.train'][-1][0]


def test_a_step_of_a_run_of_ones_own(project):
    """Without validations: a checkpoint at each epoch's end all the same."""
    project.script.write_text('''
from labml import tracker

from labml_mlm import MLMConfigs, train


class Own(MLMConfigs):
    def run_step(self):
        with self.mode.update(is_train=True), tracker.namespace('train'):
            self.trainer()
        tracker.save()


train(Own(), name='test')
''')
    arguments = [f'text_path={project.text}', *SMALL, 'epochs=2', 'transformer.dropout=0.1']
    whole = project.run(*arguments, env={'RUN_UUID': 'whole'})
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.splitlines()[-3].startswith('Training is over after 15,840 tokens in ')
    folder = project.path / 'logs/test/feed'
    assert project.run(*arguments, 'epochs=1', 'lr_schedule=constant', env={'RUN_UUID': 'feed'}).returncode == 0
    assert list(CheckpointFolder(folder / 'checkpoints').steps()) == [495 * 16]
    result = project.run('--resume', 'feed', 'epochs=2')
    assert result.returncode == 0, result.stderr
    parts, whole = (values_of(folder.parent / name / 'log.jsonl') for name in ('feed', 'whole'))
    assert [step for step, _ in parts['loss.train']] == [step for step, _ in whole['loss.train']]


def test_the_command_that_is_printed_goes_on(project):
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG)
    project.until(lambda: list(project.path.glob('logs/test/*/checkpoints/*')))
    os.kill(pid, signal.SIGINT)
    command = re.search(r'To go on: (python train\.py --resume \w+)\n', project.wait().stderr)[1].split()
    assert project.run(*command[2:], 'epochs=1').returncode == 0


def test_under_nohup(project):
    """labml's own training loop is not for this: SIGINT is ignored there, and SIGTERM has to save."""
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
    until(lambda: 'To go on' in log.read_text())
    assert project.status() == 'interrupted'
    [folder] = project.runs
    assert last_step(folder) == values_of(folder / 'log.jsonl')['loss.train'][-1][0]


def test_a_run_that_was_killed_before_its_first_checkpoint(project):
    pid = project.fork(f'text_path={project.text}', *SMALL, 'epochs=2', 'checkpoint_interval=1000',
                       'text=file', env={'RUN_UUID': 'feed'})
    folder = project.path / 'logs/test/feed'
    project.until(lambda: (folder / 'configs.yaml').exists())
    os.kill(pid, signal.SIGKILL)
    assert project.wait().returncode == -signal.SIGKILL
    assert not (folder / 'checkpoints').exists()
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    assert 'Going on with feed from the beginning: it has no checkpoint yet' in result.stdout
    assert project.train('epochs=2', env={'RUN_UUID': 'whole'}).returncode == 0
    assert values_of(folder / 'log.jsonl')['loss.train'] == \
        values_of(folder.parent / 'whole/log.jsonl')['loss.train']


def test_a_run_that_lives_is_not_resumed(project):
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG, env={'RUN_UUID': 'feed'})
    folder = project.path / 'logs/test/feed'
    project.until(lambda: list(folder.glob('checkpoints/*')))
    process = project.start('--resume', 'feed')
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, f'the run feed is running, in process {pid}\n')
    os.kill(pid, signal.SIGKILL)
    project.wait()
    assert project.run('--resume', 'feed', 'epochs=1').returncode == 0


def test_ways_to_name_a_run(project, stopped):
    # An older one, and one of another experiment that is newer
    assert project.train(env={'RUN_UUID': 'abcd'}).returncode == 0
    time.sleep(1.1)  # labml notes the start in seconds
    folder = stopped()
    time.sleep(1.1)
    script = project.script.read_text()
    project.script.write_text(script.replace('test', 'other'))
    assert project.train(env={'RUN_UUID': 'cafe'}).returncode == 0
    project.script.write_text(script)

    first = list(CheckpointFolder(folder / 'checkpoints').steps().values())[0]
    for n_epochs, name in enumerate(['last', 'fee', 'logs/test/feed', folder, first], start=5):
        first = list(CheckpointFolder(folder / 'checkpoints').steps().values())[0]
        name = first if n_epochs == 9 else name
        result = project.run('--resume', str(name), f'epochs={n_epochs}')
        assert result.returncode == 0, result.stderr
        assert 'Going on with feed from' in result.stdout
        # A checkpoint is gone back to
        assert (f'from {first}\n' in result.stdout) == (name == first)
        values = values_of(folder / 'log.jsonl')['loss.train']
        assert len(values) == len({step for step, _ in values}) == n_epochs * 31


@pytest.mark.parametrize('arguments, message', [
    (['--resume'], '--resume needs a run: its uuid, its folder, or last'),
    (['--resume='], '--resume needs a run'),
    (['--resume', '--help-me'], '--resume needs a run'),
    (['--resum', 'feed'], 'Did you mean `--resume`?'),
])
def test_wrong_options(project, arguments, message):
    assert_refused(project.run(*arguments), message)


def test_what_is_refused_changes_nothing(project, stopped):
    folder = stopped()
    before = {path: path.read_bytes() for path in folder.rglob('*')
              if path.is_file() and path.name not in ('run.pid', 'run.lock')}
    logs = folder.parent.parent
    for arguments, message in [
        (['faed'], f'there is no run faed in {logs}. Did you mean feed? The newest: feed (test)'),
        (['zzzz'], f'there is no run zzzz in {logs}. The newest: feed (test)'),
        (['logs/test'], 'test is no run and no checkpoint'),
        (['logs/test/none'], 'logs/test/none: there is no such folder'),
        (['feed', 'd_model=32'], '`d_model=32`: in this run it is 16, and a run cannot change it. It can change epo'),
        (['feed', 'transformer.n_layers=2'], 'in this run it is 1, and a run cannot change it'),
        (['feed', 'seed=2'], 'in this run it is 1, and a run cannot change it'),
        (['feed', 'optimizer.optimizer=SGD'], 'in this run it is FusedAdamW, and a run cannot'),
        (['feed', 'text=python_topics'], 'this is another text than the run has: '),
        (['feed', 'epoch=5'], 'Did you mean `epochs`?'),
    ]:
        assert_refused(project.run('--resume', *arguments), message)
        assert {path: path.read_bytes() for path in before} == before
        assert project.runs == [folder]


def test_no_runs_yet(project):
    assert_refused(project.run('--resume', 'last'), f'there is no run in {project.path}/logs/test yet')
    assert_refused(project.run('--resume', 'feed'), f'there is no run feed: {project.path}/logs has none')


def test_what_is_the_same_is_no_difference(project, stopped):
    stopped()
    result = project.run('--resume', 'feed', f'text_path={project.text.name}', *SMALL[:-3], 'epochs=4', 'n_prompts=0',
                         'transformer.d_model=16', 'transformer.ffn.d_ff=32', 'optimizer.betas=0.9,0.999',
                         'transformer.encoder_attn=sdpa_rotary', 'device=cpu', 'mask_token=4')
    assert result.returncode == 0, result.stderr
    assert '→' not in result.stdout


def test_what_may_change_is_said(project, stopped):
    folder = stopped()
    configs = (folder / 'configs.yaml').read_bytes()
    result = project.run('--resume', 'feed', 'epochs=5', 'batch_size=5', 'optimizer.learning_rate=0.001',
                         'keep_checkpoints=1')
    assert result.returncode == 0, result.stderr
    ends = 'steps from here on are not those of a run that never stopped'
    for line in ('epochs: 4 → 5 (the learning rate falls until the new end)', f'batch_size: 16 → 5 ({ends})',
                 f'optimizer.learning_rate: 0.002 → 0.001 ({ends})', 'keep_checkpoints: 2 → 1'):
        assert line in result.stdout.splitlines()
    values = values_of(folder / 'log.jsonl')
    assert values['loss.train'][-1][0] == 5 * 495 * 16
    assert values['lr'][-1][1] < 1e-4
    # labml's configs are those of the start; the others are there, too
    assert (folder / 'configs.yaml').read_bytes() == configs
    resumed = yaml.unsafe_load((folder / 'configs.resumed.yaml').read_text())
    assert resumed['epochs']['computed'] == 5
    assert json.loads((folder / 'run_log.jsonl').read_text().splitlines()[1])['details'][3] == 'keep_checkpoints: 2 → 1'
    # And they are the run's now
    assert 'has had all of its epochs (5): epochs=6 would go on' in project.run('--resume', 'feed').stdout


def test_a_completed_run_can_be_made_longer(project):
    assert project.train(env={'RUN_UUID': 'feed'}).returncode == 0
    [folder] = project.runs
    before = (folder / 'log.jsonl').read_bytes()
    result = project.run('--resume', 'feed')
    assert (result.returncode, result.stderr) == (0, '')
    assert 'The run feed has had all of its epochs (1): epochs=2 would go on' in result.stdout
    assert (folder / 'log.jsonl').read_bytes() == before
    assert project.run('--resume', 'feed', 'epochs=2').returncode == 0
    assert (folder / 'log.jsonl').read_bytes().startswith(before)
    assert len(values_of(folder / 'log.jsonl')['loss.valid']) == 2


@pytest.mark.parametrize('name', ['model.safetensors', 'checkpoint.json'])
def test_a_damaged_checkpoint_is_passed_over(project, stopped, name):
    folder = stopped('checkpoint_interval=5')
    before, last = list(CheckpointFolder(folder / 'checkpoints').steps().values())[-2:]
    data = (last / name).read_bytes()
    (last / name).write_bytes(data[:-1])
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    assert f'{last / name}' in result.stdout and 'The checkpoint before it is used' in result.stdout
    assert f'Going on with feed from {before}' in result.stdout
    values = values_of(folder / 'log.jsonl')['loss.train']
    assert len(values) == len({step for step, _ in values}) == 4 * 31


def test_all_checkpoints_are_damaged(project, stopped):
    folder = stopped()
    for path in folder.glob('checkpoints/*/model.safetensors'):
        path.unlink()
    before = (folder / 'log.jsonl').read_bytes()
    assert_refused(project.run('--resume', 'feed'), 'no checkpoint of the run feed can be used: ')
    assert (folder / 'log.jsonl').read_bytes() == before


def test_no_checkpoint_where_there_was_one(project):
    assert project.train(env={'RUN_UUID': 'feed'}).returncode == 0
    [folder] = project.runs
    shutil.rmtree(folder / 'checkpoints')
    before = (folder / 'log.jsonl').read_bytes()
    assert_refused(project.run('--resume', 'feed'),
                   'the run feed has metrics of a validation, and no checkpoint to go on from: ')
    assert (folder / 'log.jsonl').read_bytes() == before


def test_back_to_an_earlier_checkpoint(project):
    assert project.train('epochs=3', env={'RUN_UUID': 'feed'}).returncode == 0
    [folder] = project.runs
    whole = values_of(folder / 'log.jsonl')
    first, second = CheckpointFolder(folder / 'checkpoints').steps().values()
    result = project.run('--resume', str(first))
    assert result.returncode == 0, result.stderr
    assert f'Later checkpoints are removed: {int(second.name):,}' in result.stdout.splitlines()
    assert values_of(folder / 'log.jsonl')['loss.train'] == whole['loss.train']


def test_a_run_of_another_project(project, stopped, tmp_path_factory):
    folder = stopped()
    elsewhere = tmp_path_factory.mktemp('elsewhere') / 'logs/test/feed'
    shutil.copytree(folder, elsewhere)
    assert_refused(project.run('--resume', str(elsewhere)),
                   f'the run in {elsewhere} is none of this project, whose runs are in {project.path}/logs')


def test_a_refused_resume_holds_no_run(project, stopped):
    """As in a notebook: the same process tries again."""
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


def test_metrics_that_are_missing(project, stopped):
    folder = stopped()
    data = (folder / 'log.jsonl').read_bytes()
    (folder / 'log.jsonl').write_bytes(data[:len(data) // 2])
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    assert re.search(r'log\.jsonl lacks [\d,]+ bytes that it had at the checkpoint: its metrics are not complete',
                     result.stdout)
    assert values_of(folder / 'log.jsonl')['loss.train'][-1][0] == 4 * 495 * 16


def test_a_text_that_has_changed(project, stopped):
    stopped()
    moved = project.text.rename(project.path / 'moved.txt')
    assert_refused(project.run('--resume', 'feed'), f'{project.text} cannot be read: No such file')
    # The same text elsewhere is the same text
    assert project.run('--resume', 'feed', 'text_path=moved.txt').returncode == 0
    with open(moved, 'a') as f:
        f.write('.')
    assert_refused(project.run('--resume', 'feed', 'epochs=5', 'text_path=moved.txt'),
                   'this is another text than the run has: 8,801 characters, and not the 8,800 with the SHA-256 ')


@pytest.mark.long
def test_auto_is_what_it_was(project, shakespeare):
    """Tiny Shakespeare could not be had at the start, and can be now."""
    arguments = ['tiny_shakespeare_url=http://localhost:1/', *SMALL, 'seq_len=256', 'batch_size=64',
                 'checkpoint_interval=1']
    pid = project.fork(*arguments, env={'RUN_UUID': 'feed'})
    project.until(lambda: list(project.path.glob('logs/test/feed/checkpoints/*')))
    os.kill(pid, signal.SIGTERM)
    assert project.wait().returncode == 143
    (project.path / 'data').mkdir(exist_ok=True)
    shutil.copy(shakespeare, project.path / 'data/tiny_shakespeare.txt')
    result = project.run('--resume', 'feed', 'text=auto')
    assert result.returncode == 0, result.stderr
    assert project.status() == 'completed'
    [run] = project.runs
    assert json.loads((run / 'configs.json').read_text())['given']['text'] == 'python_topics'
    # Also the next time, in whichever way it is said
    for i, text in enumerate(['auto', 'python_topics']):
        result = project.run('--resume', 'feed', f'text={text}', f'epochs={2 + i}')
        assert result.returncode == 0, result.stderr
    assert_refused(project.run('--resume', 'feed', 'text=tiny_shakespeare', 'epochs=9'), 'this is another text')


def test_another_script(project, stopped):
    stopped()
    project.script.write_text(project.script.read_text().replace('"test"', '"other"'))
    assert_refused(project.run('--resume', 'feed'),
                   'the run feed is one of the experiment test, and this script is other')


def test_a_run_of_something_else(project):
    folder = project.path / 'logs/test/feed'
    folder.mkdir(parents=True)
    (folder / 'run.pid').write_text('1')
    assert_refused(project.run('--resume', 'feed'), 'the run feed cannot go on: it has no configs.json')


def test_defaults_of_the_script_that_have_changed(project, stopped):
    """A run keeps the defaults that it was started with."""
    folder = stopped()
    project.script.write_text('from labml_mlm import MLMConfigs, train\n\n\nclass Configs(MLMConfigs):\n'
                              '    masking_prob: float = 0.5\n    valid_batch_size: int = 7\n\n\n'
                              'train(Configs(), name="test")\n')
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    assert '→' not in result.stdout
    resumed = yaml.unsafe_load((folder / 'configs.resumed.yaml').read_text())
    assert resumed['masking_prob']['computed'] == 0.15
    assert resumed['valid_batch_size']['computed'] == 64


def test_defaults_that_came_with_a_later_version(project, stopped):
    """What was not there yet when the run was started is off, whatever the script has by now."""
    folder = stopped()
    path = folder / 'configs.json'
    record = json.loads(path.read_text())
    del record['defaults']['masking_schedule'], record['computed']['masking_schedule']
    path.write_text(json.dumps(record))
    project.script.write_text('from labml_mlm import MLMConfigs, train\n\n\nclass Configs(MLMConfigs):\n'
                              '    masking_schedule = "linear"\n\n\ntrain(Configs(), name="test")\n')
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    assert 'masking_prob' not in values_of(folder / 'log.jsonl')


def test_the_rate_of_an_option_changes(project, stopped):
    folder = stopped('optimizer=muon', 'lr_schedule=constant')
    result = project.run('--resume', 'feed', 'optimizer.learning_rate=0.002')
    assert result.returncode == 0, result.stderr
    assert 'optimizer.learning_rate: 0.01 → 0.002' in result.stdout
    rates = [rate for _, rate in values_of(folder / 'log.jsonl')['lr']]
    assert (rates[0], rates[-1]) == (0.01, 0.002)


def test_another_number_of_threads_is_said(project, stopped):
    stopped()
    process = project.start('--resume', 'feed', env={'OMP_NUM_THREADS': '2'})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert 'Not as when the run was started: threads 1 → 2. Losses may differ in their last bits' in out


def test_a_full_disk_ends_no_run(project, small_disk):
    """Half a megabyte holds the start and no checkpoint of this model; more space comes later."""
    (project.path / 'logs').symlink_to(small_disk)
    folder = small_disk / 'test/feed'
    pid = project.fork(f'text_path={project.text}', *SMALL, 'd_model=64', *LONG, env={'RUN_UUID': 'feed'})
    project.until(lambda: 'Cannot save a checkpoint' in project.outputs[0].read_text())
    # It may be at it again
    assert not list(folder.glob('checkpoints/[0-9]*'))
    os.system(f'mount -o remount,size=16m {small_disk}')
    project.until(lambda: list(folder.glob('checkpoints/[0-9]*')))
    os.kill(pid, signal.SIGTERM)
    result = project.wait()
    assert result.returncode == 143
    assert result.stdout.count('Cannot save a checkpoint') == 1
    values = values_of(folder / 'log.jsonl')['loss.train']
    assert last_step(folder) == values[-1][0]
    # Every step, each once
    assert len({step for step, _ in values}) == len(values)
    assert {b - a for (a, _), (b, _) in zip(values, values[1:], strict=False)} <= {16 * 16, 15 * 16}


def test_record_of_items_of_ones_own(build):
    class Own(MLMConfigs):
        # Mine
        size: tuple[int, int] = (1, 2)
        _may_change = {'size': 'it grows'}

    class Noted(Resumption):
        def __init__(self, record):
            self.record, self.changes = record, []

    def values(conf, record, *arguments):
        noted = Noted(record)
        return noted.values(conf, parse_overrides(conf, arguments)), noted.changes

    record = json.loads(json.dumps(take_snapshot(build(Own), experiment='own')))
    assert record['defaults']['size'] == [1, 2]
    given, changes = values(Own(), record, 'size=1,2')
    assert 'size' not in given and changes == []
    given, changes = values(Own(), record, 'size=3,4', 'epochs=9')
    assert given['size'] == (3, 4)
    assert changes == ['size: [1, 2] → (3, 4) (it grows)', 'epochs: 4 → 9 (the learning rate falls until the new end)']
    with pytest.raises(UserError, match='the run was given `size`, which the configs of this script do not have'):
        values(MLMConfigs(), {**record, 'given': {'size': [3, 4]}})
