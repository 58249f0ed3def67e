"""What a resumed run may change, what it may not, and what it keeps."""
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from support.project import SMALL, values_of

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.configs.snapshot import take_snapshot
from labml_mlm.items.declarations import Item
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.launch.resume import Resumption
from labml_mlm.runs import checkpoint
from labml_mlm.runs.checkpoint_folder import CheckpointFolder
from labml_mlm.runs.run import Run


def test_present_values_are_not_changes(project, stopped):
    stopped()
    result = project.run('--resume', 'feed', f'text_path={project.text.name}', *SMALL[:-3], 'epochs=4', 'n_prompts=0',
                         'transformer.d_model=16', 'transformer.ffn.d_ff=32', 'optimizer.betas=0.9,0.999',
                         'transformer.encoder_attn=sdpa_rotary', 'device=cpu', 'mask_token=4')
    assert result.returncode == 0, result.stderr
    assert '→' not in result.stdout


def test_changes_are_reported(project, stopped):
    folder = stopped()
    configs = (folder / 'configs.yaml').read_bytes()
    result = project.run('--resume', 'feed', 'epochs=5', 'batch_size=5', 'optimizer.learning_rate=0.001',
                         'keep_checkpoints=1')
    assert result.returncode == 0, result.stderr
    inexact = 'from here on, steps differ from those of an uninterrupted run'
    for line in ('epochs: 4 → 5 (the learning rate decays to the new end)', f'batch_size: 16 → 5 ({inexact})',
                 f'optimizer.learning_rate: 0.002 → 0.001 ({inexact})', 'keep_checkpoints: 2 → 1'):
        assert line in result.stdout.splitlines()
    values = values_of(folder / 'log.jsonl')
    assert values['loss.train'][-1][0] == 5 * 495 * 16
    assert values['lr'][-1][1] < 1e-4
    # labml's configs of the start are kept beside those of the resumed run
    assert (folder / 'configs.yaml').read_bytes() == configs
    resumed = yaml.unsafe_load((folder / 'configs.resumed.yaml').read_text())
    assert resumed['epochs']['computed'] == 5
    assert json.loads((folder / 'run_log.jsonl').read_text().splitlines()[1])['details'][3] == 'keep_checkpoints: 2 → 1'
    # The run has the new values from here on
    result = project.run('--resume', 'feed')
    assert 'has completed all of its epochs (5): give epochs=6 to train longer' in result.stdout



def test_changed_text_is_refused(project, stopped, assert_refused):
    stopped()
    moved = project.text.rename(project.path / 'moved.txt')
    assert_refused(project.run('--resume', 'feed'),
                   f'text_path={project.text} of the run is not there any more. If it was moved, say where it is now: '
                   'text_path=PATH')
    # The same text may be in another file
    assert project.run('--resume', 'feed', 'text_path=moved.txt').returncode == 0
    with open(moved, 'a') as f:
        f.write('.')
    assert_refused(project.run('--resume', 'feed', 'epochs=5', 'text_path=moved.txt'),
                   'this is not the text of the run: 8,801 characters with the SHA-256 ')


@pytest.mark.long
def test_auto_text_stays_the_same(project, shakespeare, assert_refused):
    """Tiny Shakespeare could not be downloaded when the run was started, but is available now."""
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
    # Also the next time, by either name
    for i, text in enumerate(['auto', 'python_topics']):
        result = project.run('--resume', 'feed', f'text={text}', f'epochs={2 + i}')
        assert result.returncode == 0, result.stderr
    assert_refused(project.run('--resume', 'feed', 'text=tiny_shakespeare', 'epochs=9'),
                   'this is not the text of the run')


def test_changed_defaults_of_the_script_are_ignored(project, stopped):
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


def test_features_of_later_versions_are_off(project, stopped):
    """An item that did not exist when the run was started has no effect, even if the script sets it."""
    folder = stopped()
    path = folder / 'configs.json'
    snapshot = json.loads(path.read_text())
    del snapshot['defaults']['masking_schedule'], snapshot['computed']['masking_schedule']
    path.write_text(json.dumps(snapshot))
    project.script.write_text('from labml_mlm import MLMConfigs, train\n\n\nclass Configs(MLMConfigs):\n'
                              '    masking_schedule = "linear"\n\n\ntrain(Configs(), name="test")\n')
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    assert 'masking_prob' not in values_of(folder / 'log.jsonl')


def test_learning_rate_of_another_optimizer_can_change(project, stopped):
    folder = stopped('optimizer=muon', 'lr_schedule=constant')
    result = project.run('--resume', 'feed', 'optimizer.learning_rate=0.002')
    assert result.returncode == 0, result.stderr
    assert 'optimizer.learning_rate: 0.01 → 0.002' in result.stdout
    rates = [rate for _, rate in values_of(folder / 'log.jsonl')['lr']]
    assert (rates[0], rates[-1]) == (0.01, 0.002)


def test_changed_number_of_threads_is_reported(project, stopped):
    stopped()
    # Threads that wait do not spin, which would be slow on a busy machine
    process = project.start('--resume', 'feed', env={'OMP_NUM_THREADS': '2', 'OMP_WAIT_POLICY': 'passive'})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert 'Changed since the run was started: threads 1 → 2. Losses may differ in their last bits' in out


def test_snapshot_restores_custom_items(build):
    class Configs(MLMConfigs):
        size: Annotated[tuple[int, int], Item('Size', may_change='it grows')] = (1, 2)

    class ResumptionOf(Resumption):
        """Of a snapshot, without a run."""
        def __init__(self, snapshot):
            self.snapshot, self.changes, self.changed, self.fitted = snapshot, [], set(), None
            self.run = Run(Path('nowhere'))

    def values(conf, snapshot, *arguments):
        resumption = ResumptionOf(snapshot)
        return resumption.values(conf, parse_overrides(conf, arguments)), resumption.changes

    snapshot = json.loads(json.dumps(take_snapshot(build(Configs), experiment='own')))
    assert snapshot['defaults']['size'] == [1, 2]
    given, changes = values(Configs(), snapshot, 'size=1,2')
    assert 'size' not in given and changes == []
    given, changes = values(Configs(), snapshot, 'size=3,4', 'epochs=9')
    assert given['size'] == (3, 4)
    assert changes == ['size: [1, 2] → (3, 4) (it grows)',
                       'epochs: 4 → 9 (the learning rate decays to the new end)']
    with pytest.raises(UserError, match='the run was given `size`, which the configs of this script do not have'):
        values(MLMConfigs(), {**snapshot, 'given': {'size': [3, 4]}})


WSD = ['lr_schedule=wsd', 'lr_warmup_steps=5', 'keep_checkpoints=1', 'checkpoint_interval=none']


def before_decay(folder):
    """Optimizer steps of the checkpoints that are marked as before a decay."""
    found = [checkpoint.read(path) for path in CheckpointFolder(folder / 'checkpoints').steps().values()]
    return [one.metadata['progress']['steps'] for one in found if one.is_before_decay]


def test_longer_run_keeps_the_checkpoint_before_its_last_decay(project):
    result = project.train('epochs=2', *WSD, 'lr_decay_fraction=0.4', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    [folder] = project.runs
    # 31 steps an epoch
    assert before_decay(folder) == [37]
    assert project.run('--resume', 'feed', 'epochs=3').returncode == 0
    # It had decayed when it was resumed, after what would have been the beginning
    assert before_decay(folder) == [37]
    assert project.run('--resume', 'feed', 'epochs=6').returncode == 0
    assert before_decay(folder) == [112]


def test_run_that_decays_from_where_it_is_resumed_keeps_that_checkpoint(project):
    result = project.train('epochs=1', *WSD[2:], 'lr_schedule=constant', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    [folder] = project.runs
    assert before_decay(folder) == []
    # Half of the decay has been missed
    result = project.run('--resume', 'feed', 'epochs=3', 'lr_schedule=wsd', 'lr_decay_fraction=0.9',
                         'lr_warmup_steps=5')
    assert result.returncode == 0, result.stderr
    assert before_decay(folder) == [31]
