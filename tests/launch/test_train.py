"""Complete runs, as a user starts them: other processes, real files and signals."""
import os
import re
import resource
import shutil
import signal
import time

import pytest
import yaml
from support.project import SMALL, TRAIN, assert_clean_failure, values_of

LONG = ['epochs=100000', 'n_prompts=0']


def test_run_into_a_pipe(project):
    result = project.train('epochs=2')
    assert result.returncode == 0, result.stderr
    assert result.stderr == ''
    assert '\r' not in result.stdout
    assert '\x1b' not in result.stdout
    lines = result.stdout.splitlines()
    assert sum('loss.valid' in line for line in lines) == 2
    assert not any('Prepare' in line or 'git' in line or '[clean]' in line for line in lines)
    assert re.fullmatch(r'Validation loss \d\.\d{4}, masked accuracy \d\.\d{4} after [\d,]+ tokens in 0\.\d minutes '
                        r'\([\d,]+ tokens/s in training\)', lines[-5])
    [run] = project.runs
    assert lines[-4:-2] == ['Trained on text.txt, 8,800 characters', f'The run is in {run}']
    assert re.fullmatch(r"Next: labml-mlm fill-mask last '.*\[MASK\].*'", lines[-2])
    assert lines[-1].startswith('Not on the labml app at http://localhost:1: ')

    values = values_of(run / 'log.jsonl')
    names = {name for name in values if not name.startswith('baseline.')}
    assert names == {'loss.train', 'accuracy.train', 'lr', 'tokens_per_second', 'loss.valid', 'accuracy.valid',
                     'bits_per_char.valid'}
    assert len(values) == len(names) + 6
    # The lines of the chart are not printed
    assert 'baseline.' not in result.stdout and 'bits_per_char' not in result.stdout
    assert len([line for line in lines if line.startswith('guesses    unigram ')]) == 1
    n_windows = 8800 * 9 // 10 // 16
    steps = [step for step, _ in values['loss.train']]
    # Every optimizer step of two epochs; labml's step counts tokens
    assert len(steps) == 2 * -(-n_windows // 16)
    assert steps[-1] == 2 * n_windows * 16
    assert steps[0] == 16 * 16
    assert [step for step, _ in values['loss.valid']] == [n_windows * 16, 2 * n_windows * 16]
    assert values['loss.valid'][-1][1] < values['loss.train'][0][1]
    assert f'Validation loss {values["loss.valid"][-1][1]:.4f}' in result.stdout
    assert project.status() == 'completed'


def test_validations_within_an_epoch_and_overrides_in_labml_configs(project):
    result = project.train('inner_iterations=3', 'optimizer.optimizer=Noam', 'optimizer.learning_rate=0.5')
    assert result.returncode == 0, result.stderr
    assert len(values_of(project.runs[0] / 'log.jsonl')['loss.valid']) == 3
    configs = yaml.unsafe_load((project.runs[0] / 'configs.yaml').read_text())
    for name, computed in {'seq_len': 16, 'transformer.n_layers': 1, 'optimizer.learning_rate': 0.5}.items():
        assert configs[name]['computed'] == computed
        assert configs[name]['is_explicitly_specified'], name
    assert not configs['masking_prob']['is_explicitly_specified']
    assert configs['transformer.d_model']['computed'] == 16


def test_patience_ends_a_run_that_gets_no_better(project):
    # A rate at which it diverges
    arguments = ['epochs=20', 'patience=2', 'optimizer.learning_rate=0.5', 'lr_schedule=constant']
    result = project.train(*arguments)
    assert result.returncode == 0, result.stderr
    assert 'No better for 2 validations: patience=2' in result.stdout
    losses = [loss for _, loss in values_of(project.runs[0] / 'log.jsonl')['loss.valid']]
    assert 2 < len(losses) < 20
    assert losses.index(min(losses)) == len(losses) - 3
    assert project.status() == 'completed'
    # It is complete, until it gets more patience
    result = project.run('--resume', 'last')
    assert 'has become no better for 2 validations: give patience=4 to train longer' in result.stdout
    result = project.run('--resume', 'last', 'patience=3')
    assert result.returncode == 0, result.stderr
    longer = [loss for _, loss in values_of(project.runs[0] / 'log.jsonl')['loss.valid']]
    assert longer[:len(losses)] == losses
    assert len(longer) > len(losses)


def test_same_seed_gives_the_same_losses(project):
    for seed in (1, 1, 2):
        assert project.train(f'seed={seed}', 'transformer.dropout=0.1').returncode == 0
    runs = sorted(project.runs, key=lambda run: run.stat().st_ctime)
    first, second, other = (values_of(run / 'log.jsonl') for run in runs)
    for name in ('loss.train', 'accuracy.train', 'loss.valid', 'lr'):
        assert first[name] == second[name]
    assert first['loss.train'] != other['loss.train']


def is_training(project) -> bool:
    """Has it taken a step?"""
    return any('loss.train' in log.read_text() for log in project.path.glob('logs/*/*/log.jsonl'))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_signal_before_the_first_step_says_how_to_resume(project, number):
    project.script.write_text(f'import os\n\nfrom labml_mlm.launch import train as launch\n\n'
                              f'launch.log_about = lambda _: os.kill(os.getpid(), {number:d})\n{TRAIN}')
    result = project.train()
    assert_clean_failure(result, 128 + number, 'Interrupted after 0 tokens. There is no checkpoint yet. To resume: ')


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_run_after_the_present_step(project, number, code):
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG)
    project.until(lambda: is_training(project))
    os.kill(pid, number)
    sent = time.monotonic()
    result = project.wait()
    assert time.monotonic() - sent < 20
    assert result.returncode == code
    assert re.fullmatch(r'Interrupted after [\d,]+ tokens\. To resume: python train\.py --resume \w+\n', result.stderr)
    assert project.runs[0].name in result.stderr
    assert project.status() == 'interrupted'
    # The metrics have each step up to the last once
    tokens = int(re.search(r'after ([\d,]+)', result.stderr)[1].replace(',', ''))
    steps = [step for step, _ in values_of(project.runs[0] / 'log.jsonl')['loss.train']]
    assert steps[-1] == tokens
    assert steps == sorted(set(steps))


def test_second_ctrl_c_does_not_wait_for_a_checkpoint(project):
    project.script.write_text('import time\n\nfrom labml_mlm.runs.checkpoint_folder import CheckpointFolder\n\n'
                              'CheckpointFolder.write = lambda *_, **__: time.sleep(100)\n' + TRAIN)
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG)
    project.until(lambda: is_training(project))
    os.kill(pid, signal.SIGINT)
    time.sleep(0.5)
    assert os.path.exists(f'/proc/{pid}')
    os.kill(pid, signal.SIGINT)
    result = project.wait()
    assert result.returncode == 130
    assert re.fullmatch(r'Interrupted after [\d,]+ tokens\. There is no checkpoint yet\. To resume: python train\.py '
                        r'--resume \w+\n', result.stderr)
    assert project.status() == 'interrupted'


def test_ignored_ctrl_c_stays_ignored(project):
    """As in the background of a script."""
    project.script.write_text('import signal\n\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n' + TRAIN)
    pid = project.fork(f'text_path={project.text}', *SMALL, 'epochs=20', 'n_prompts=0')
    project.until(lambda: project.runs)
    os.kill(pid, signal.SIGINT)
    result = project.wait()
    assert result.returncode == 0, result.stderr
    assert project.status() == 'completed'


def limit_file_size():
    """No file may exceed 100 bytes, as on a disk that fills up in the middle of the first file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_full_disk_at_the_start_leaves_no_run(project):
    result = project.train(preexec_fn=limit_file_size)
    assert_clean_failure(result, 1, 'File too large')
    assert not (project.path / 'logs').exists()
    assert not [path for path in project.path.glob('data/tokens/*') if path.suffix in ('.tokens', '.new', '.json')]

    # Nor if the tokens were cached before
    assert project.train().returncode == 0
    shutil.rmtree(project.path / 'logs')
    result = project.train(preexec_fn=limit_file_size)
    assert_clean_failure(result, 1, f'cannot start the run in {project.path}/logs/test/')
    assert 'File too large' in result.stderr
    assert project.runs == []


def test_full_disk_below_the_metrics_is_reported(project):
    folder = project.path / 'logs/test/feed'
    project.script.write_text("""
import os

from labml_mlm.runs import metrics_log

metrics_log.opener_of_ordinary = lambda path, flags: os.open('/dev/full', flags)
""" + TRAIN)
    # Long enough to write before the end
    result = project.train('epochs=40', 'n_prompts=0', env={'RUN_UUID': 'feed'})
    assert_clean_failure(result, 1, 'some of the run could not be written to ')
    assert 'No space left on device' in result.stderr
    assert result.stdout.count(f'Cannot write {folder / "log.jsonl"}: [Errno 28] No space left on device') == 1
    # A checkpoint needs the metrics before it
    assert result.stdout.count('Cannot save a checkpoint: [Errno 28] No space left on device') == 1
    assert not list(folder.glob('checkpoints/*'))
    # Training was completed nevertheless
    assert 'Validation loss' in result.stdout


def test_full_disk_below_the_status_is_reported(project):
    folder = project.path / 'logs/test/feed'
    project.script.write_text(f"""
from pathlib import Path

from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    def sample(self):
        path = Path({str(folder / 'run_log.jsonl')!r})
        if not path.is_symlink():
            path.symlink_to('/dev/full')


train(Configs(), name='test')
""")
    result = project.train(env={'RUN_UUID': 'feed'})
    assert_clean_failure(result, 1, f'some of the run could not be written to {folder}: [Errno 28]')
    # Result and metrics are complete nevertheless
    assert 'Validation loss' in result.stdout
    assert f'The run is in {folder}' in result.stdout
    assert values_of(folder / 'log.jsonl')['loss.valid']


def test_disk_that_fills_up_does_not_stop_the_run(project):
    """Files that only labml reads, and printed output, may be lost."""
    project.script.write_text('''
import os

from labml import logger, tracker
from labml.internal.experiment import experiment_singleton

from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    late: int = 3

    def sample(self):
        for name in ('configs.yaml', 'indicators.yaml'):
            path = experiment_singleton().run.run_path / name
            path.unlink()
            path.symlink_to('/dev/full')
        os.dup2(os.open('/dev/full', os.O_WRONLY), 1)
        logger.log('lost')
        # labml rewrites both files
        assert self.late == 3
        tracker.add('new', 1.)


train(Configs(), name='test')
''')
    result = project.train('epochs=2')
    assert 'Traceback' not in result.stderr, result.stderr
    values = values_of(project.runs[0] / 'log.jsonl')
    assert len(values['loss.valid']) == 2 and values['new']
    assert project.status() == 'completed'
    assert len(list(project.runs[0].glob('checkpoints/*'))) == 2


def test_home_that_cannot_be_written_is_reported(project):
    """labml keeps its settings there."""
    result = project.train(env={'HOME': '/proc'})
    assert_clean_failure(result, 1, 'cannot start the run in ')
    assert '/proc/.labml' in result.stderr
    assert project.runs == []


def test_existing_run_is_not_overwritten(project):
    def files():
        return {path: path.read_bytes() for path in project.runs[0].rglob('*')
                if path.is_file() and path.name != 'run.lock'}

    assert project.train(env={'RUN_UUID': 'feed'}).returncode == 0
    before = files()
    assert_clean_failure(project.train(env={'RUN_UUID': 'feed'}), 2, 'there is a run with the uuid feed already')
    assert files() == before


def test_existing_folder_is_not_removed(project):
    folder = project.path / 'logs/test/feed'
    folder.mkdir(parents=True)
    (folder / 'note').write_text('mine')
    assert project.train(env={'RUN_UUID': 'feed', 'HOME': '/proc'}).returncode == 1
    assert (folder / 'note').read_text() == 'mine'


@pytest.mark.parametrize('body', ['raise ValueError("mine")', 'open("/nope")'])
def test_error_in_user_code_keeps_its_traceback(project, body):
    project.script.write_text(
        'from labml_mlm import MLMConfigs, train\n\n\nclass Configs(MLMConfigs):\n'
        f'    def sample(self):\n        {body}\n\n\ntrain(Configs(), name="test")\n')
    result = project.train()
    assert result.returncode == 1
    assert 'Traceback' in result.stderr
    assert body in result.stderr
    assert project.status() == 'crashed'


def test_patience_within_an_epoch_is_resumed_there(project):
    # So low that no validation differs from the first
    arguments = ['epochs=3', 'inner_iterations=4', 'patience=1', 'optimizer.learning_rate=1e-30', 'lr_warmup_steps=0']
    assert project.train(*arguments).returncode == 0
    [run] = project.runs
    assert len(values_of(run / 'log.jsonl')['loss.valid']) % 4
    assert project.run('--resume', 'last', 'patience=100').returncode == 0
    values = values_of(run / 'log.jsonl')
    # Nothing is left out
    steps = [step for step, _ in values['loss.train']]
    assert len(values['loss.valid']) == 12 and len(steps) == len(set(steps)) == 3 * -(-(8800 * 9 // 10 // 16) // 16)
