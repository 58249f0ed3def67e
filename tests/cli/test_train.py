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
    assert any(re.fullmatch(r'Prepare model\.\.\.\[DONE\]\t[\d.,]+ms', line) for line in lines)
    assert re.fullmatch(r'Validation loss \d\.\d{4}, masked accuracy \d\.\d{4} after [\d,]+ tokens in 0\.\d minutes '
                        r'\([\d,]+ tokens/s in training\)', lines[-3])
    [run] = project.runs
    assert lines[-2] == f'The run is in {run}'
    assert lines[-1].startswith('Not on the labml app at http://localhost:1: ')

    values = values_of(run / 'log.jsonl')
    assert set(values) == {'loss.train', 'accuracy.train', 'lr', 'tokens_per_second', 'loss.valid', 'accuracy.valid'}
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


def test_same_seed_gives_the_same_losses(project):
    for seed in (1, 1, 2):
        assert project.train(f'seed={seed}', 'transformer.dropout=0.1').returncode == 0
    runs = sorted(project.runs, key=lambda run: run.stat().st_ctime)
    first, second, other = (values_of(run / 'log.jsonl') for run in runs)
    for name in ('loss.train', 'accuracy.train', 'loss.valid', 'lr'):
        assert first[name] == second[name]
    assert first['loss.train'] != other['loss.train']


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_run_after_the_present_step(project, number, code):
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG)
    project.until(lambda: project.runs and (project.runs[0] / 'log.jsonl').exists())
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
    project.until(lambda: project.runs and (project.runs[0] / 'log.jsonl').exists())
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
    folder.mkdir(parents=True)
    (folder / 'log.jsonl').symlink_to('/dev/full')
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
    folder.mkdir(parents=True)
    (folder / 'run_log.jsonl').symlink_to('/dev/full')
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
