"""Probes during training: they change nothing, and are the same in a resumed run and on several ranks."""
import json
import shutil

import pytest
from support.project import SMALL, assert_clean_failure, values_of

from labml_mlm.distributed.process_group import SINGLE_PROCESS
from labml_mlm.probing.prober import Prober

pytest.importorskip('sklearn')
PROBES = 'probe.accuracy.middle', 'probe.accuracy.last'
# Dropout draws random numbers
RUN = ['transformer.n_layers=2', 'transformer.dropout=0.1', 'epochs=4', 'n_prompts=0']


def train(project, name, *arguments):
    result = project.train(*RUN, *arguments, env={'RUN_UUID': name})
    assert result.returncode == 0, result.stderr
    return values_of(project.path / f'logs/test/{name}/log.jsonl'), result.stdout


def test_training_is_the_same_with_a_probe(project, labelled):
    without, _ = train(project, 'without')
    probed, out = train(project, 'with', f'probe_path={labelled}', 'probe_every=2')
    assert not set(PROBES) & set(without)
    for name in set(without) - {'tokens_per_second'}:
        assert probed[name] == without[name]
    validations = [step for step, _ in probed['loss.valid']]
    for name in PROBES:
        assert [step for step, _ in probed[name]] == validations[1::2]
        assert all(0 <= accuracy <= 1 for _, accuracy in probed[name])
    assert f'Probe: {labelled}, 96 texts to learn from, 24 held out, 2 labels; the most frequent one is right' in out


def test_resumed_run_tracks_the_same(project, labelled, tmp_path):
    probe = f'probe_path={labelled}'
    whole, _ = train(project, 'whole', probe, 'keep_checkpoints=9')
    folder = project.path / 'logs/test/whole'
    # As after the second epoch
    steps = sorted(int(path.name) for path in folder.glob('checkpoints/*') if path.name.isdigit())
    end = whole['loss.valid'][1][0]
    for step in steps:
        if step > end:
            shutil.rmtree(folder / 'checkpoints' / str(step))
    result = project.run('--resume', 'whole')
    assert result.returncode == 0, result.stderr
    resumed = values_of(folder / 'log.jsonl')
    for name in (*PROBES, 'loss.train', 'loss.valid'):
        assert resumed[name] == whole[name]


def contents(folder):
    """All files of a run but its lock."""
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file() and path.name != 'run.lock'}


def test_resumed_run_has_the_probe_of_the_run(project, labelled, tmp_path):
    first, second = tmp_path / 'first.jsonl', tmp_path / 'second.jsonl'
    first.write_text(labelled.read_text())
    train(project, 'feed', f'probe_path={first}', 'epochs=1')
    folder = project.path / 'logs/test/feed'
    # The same texts, one of them with another label
    second.write_text(first.read_text().replace('"none"', '"fox"', 1))
    first.rename(tmp_path / 'kept.jsonl')
    first.write_text(second.read_text())
    before = contents(folder)
    result = project.run('--resume', 'feed', 'epochs=2')
    assert_clean_failure(result, 2, 'the labelled texts of probe_path are not those of the run, ')
    assert result.stderr.endswith('give the file another name, and that as probe_path. Since the run began: changed '
                                  'first.jsonl\n')
    assert contents(folder) == before
    # Where it was moved to, and others that are named
    for epochs, name in (2, 'kept.jsonl'), (3, 'second.jsonl'):
        result = project.run('--resume', 'feed', f'epochs={epochs}', f'probe_path={tmp_path / name}')
        assert result.returncode == 0, result.stderr
        assert f'→ {tmp_path / name}' in result.stdout
    # From here on it has those
    assert project.run('--resume', 'feed', 'epochs=4').returncode == 0
    second.write_text((tmp_path / 'kept.jsonl').read_text())
    assert_clean_failure(project.run('--resume', 'feed', 'epochs=5'), 2, 'changed second.jsonl')


def test_run_of_an_earlier_version_is_resumed_with_its_probe(project, labelled):
    train(project, 'feed', f'probe_path={labelled}', 'epochs=1')
    folder = project.path / 'logs/test/feed'
    snapshot = json.loads((folder / 'configs.json').read_text())
    del snapshot['text']['probe_sha256']
    (folder / 'configs.json').write_text(json.dumps(snapshot))
    result = project.run('--resume', 'feed', 'epochs=2')
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / 'configs.json').read_text())['text']['probe_sha256']


@pytest.mark.parametrize('parallel', ['ddp', 'fsdp'])
def test_ranks_track_what_a_single_process_does(project, labelled, parallel):
    run = [f'text_path={project.text}', *SMALL, 'transformer.n_layers=2', 'n_prompts=0', f'probe_path={labelled}']
    assert project.run(*run, env={'RUN_UUID': 'one'}).returncode == 0
    job = project.ranks(2, *run, f'parallel={parallel}', env={'RUN_UUID': 'two'})
    for result in job.wait():
        assert result.returncode == 0, result.stderr
    one, two = (values_of(project.path / f'logs/test/{name}/log.jsonl') for name in ('one', 'two'))
    for name in PROBES:
        assert [step for step, _ in one[name]] == [step for step, _ in two[name]]
        # A text or two, as sums differ in the last bits
        for (_, a), (_, b) in zip(one[name], two[name], strict=True):
            assert abs(a - b) < 0.1


def test_other_ranks_have_no_probe_unless_the_model_is_sharded():
    class Other:
        is_main = False

    assert Prober(None, sha256='', every=1, ranks=Other(), is_sharded=False)(None, n_validations=1) == {}
    assert Prober(None, sha256='', every=3, ranks=SINGLE_PROCESS, is_sharded=False)(None, n_validations=4) == {}


@pytest.mark.parametrize('arguments, message', [
    (['probe_path=missing.jsonl'], 'probe_path=missing.jsonl: cannot read missing.jsonl: No such file'),
    (['probe_path={labelled}', 'probe_text_field=txet'], 'has no field `txet` (probe_text_field): its fields are'),
    (['probe_path={labelled}', 'probe_label_field=lable'], 'has no field `lable` (probe_label_field): its fields are'),
    (['probe_every=2'], 'probe_every=2 is for a probe_path, and there is none'),
    (['probe_path={text}'], 'a file with labels ends in')])
def test_what_is_wrong_is_refused_before_training(project, labelled, arguments, message):
    result = project.train(*(argument.format(labelled=labelled, text=project.text) for argument in arguments))
    assert result.returncode == 2
    assert message in result.stderr and 'Traceback' not in result.stderr
    assert project.runs == []


def test_missing_scikit_learn_is_refused_before_training(project, labelled):
    project.script.write_text('import sys\n\nsys.modules["sklearn"] = None\n' + project.script.read_text())
    result = project.train(f'probe_path={labelled}')
    assert result.returncode == 2 and project.runs == []
    assert "probe_path needs scikit-learn, which is not installed" in result.stderr
