"""`labml-mlm export`."""
import functools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.project import SMALL, outcome

import labml_mlm
from labml_mlm.export.self_check import PYTHON
from labml_mlm.runs.checkpoint_folder import CheckpointFolder

FIXTURES = Path(__file__).parent.parent / 'fixtures/c0efacb'


@pytest.fixture
def command(exports, monkeypatch, capsys):
    """`labml-mlm export` in the project with the runs: exit code, output and errors."""
    monkeypatch.chdir(exports.path)
    # Hugging Face's half is not wanted
    monkeypatch.setenv(PYTHON, 'no-python')
    return functools.partial(outcome, capsys, 'export')


def assert_refused(result, message):
    code, out, err = result
    assert (code, out) == (2, '')
    assert message in err.splitlines()[-1]
    assert 'Traceback' not in err


def architecture(folder: Path) -> str:
    return json.loads((folder / 'config.json').read_text())['architectures'][0]


@pytest.mark.parametrize('run, name', [('feed', 'EsmForMaskedLM'), ('beef', 'BertForMaskedLM'),
                                       ('cafe', 'RobertaForMaskedLM')])
def test_a_run_becomes_a_folder(command, tmp_path, run, name):
    code, out, err = command(run, str(tmp_path / 'out'))
    assert code == 0
    assert err.startswith('Using ') and err.count('\n') == 1
    lines = out.splitlines()
    assert lines[0].startswith(f'{name}, ') and lines[-1] == f'{tmp_path / "out"} is written'
    assert any(line.startswith('Read back with equal logits: 1, 2, 17, 127, 512 tokens, padding') for line in lines)
    assert all(len(line) <= 80 for line in lines[:-1]), out
    assert architecture(tmp_path / 'out') == name


@pytest.mark.parametrize('which', ['last', 'step', 'best'])
def test_a_checkpoint_is_chosen(command, exports, tmp_path, which):
    run = exports.path / 'logs/test/feed'
    steps = CheckpointFolder(run / 'checkpoints').steps()
    step = {'last': max(steps), 'step': min(steps)}.get(which, CheckpointFolder(run / 'checkpoints').best().step)
    code, _, err = command('feed', str(tmp_path / 'out'), '--checkpoint', str(step) if which == 'step' else which)
    assert code == 0 and f'checkpoints/{step}' in err
    expected, found = labml_mlm.load(steps[step]).model, labml_mlm.load(tmp_path / 'out').model
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


def test_force_replaces_an_export(command, tmp_path):
    out = str(tmp_path / 'out')
    assert command('feed', out)[0] == 0
    assert_refused(command('beef', out), 'out exists: --force replaces it')
    assert command('beef', out, '--force')[0] == 0
    assert architecture(tmp_path / 'out') == 'BertForMaskedLM'
    assert_refused(command('beef', 'logs/test/beef', '--force'), 'from where the model comes: export to another folder')


def test_custom_code(command, tmp_path):
    code, out, _ = command('feed', str(tmp_path / 'out'), '--custom-code')
    assert code == 0 and 'To be loaded with trust_remote_code=True\n' in out and 'bf16' not in out
    assert (tmp_path / 'out/modeling_labml_mlm.py').exists()
    assert_refused(command('beef', str(tmp_path / 'other'), '--custom-code'), 'modeling_labml_mlm.py cannot represent')


def test_sentence_transformers(command, tmp_path):
    code, out, _ = command('beef', str(tmp_path / 'out'), '--sentence-transformers')
    assert code == 0 and 'random texts have a mean cosine of' in out
    assert (tmp_path / 'out/modules.json').exists()


@pytest.mark.parametrize('options, message', [
    (['out.onnx', '--custom-code'], '--custom-code is for a folder, and out.onnx is a file in ONNX'),
    (['out.onnx', '--sentence-transformers'], '--sentence-transformers is for a folder'),
    (['out', '--encoder'], '--encoder is for a file in ONNX, and out is a folder, which has both'),
    (['nowhere/out'], 'nowhere/out: there is no folder '),
    (['out', '--checkpoint', '7'], 'the run feed has no checkpoint 7: it has '),
    (['data'], 'data exists, and labml-mlm export has not written it'),
    (['text.txt', '--force'], 'text.txt exists, and labml-mlm export has not written it')])
def test_what_does_not_go_together_is_refused(command, exports, options, message):
    before = sorted(os.listdir(exports.path))
    assert_refused(command('feed', *options), message)
    assert sorted(os.listdir(exports.path)) == before


def test_what_is_exported_can_be_a_run(command, tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    assert command('cafe', str(first))[0] == 0
    code, out, err = command(str(first), str(second))
    assert code == 0 and f'Using {first}, roberta' in err
    assert 'No sentence of the validation text was compared: ' in out
    assert (first / 'model.safetensors').read_bytes() == (second / 'model.safetensors').read_bytes()
    assert_refused(command(str(first), str(first), '--force'), 'from where the model comes')
    assert_refused(command(str(first), str(tmp_path / 'third'), '--checkpoint', 'last'), 'has no checkpoint last')


def test_an_encoder_without_a_head_is_refused(command, tmp_path):
    assert command('beef', str(tmp_path / 'bert'))[0] == 0
    weights = load_file(tmp_path / 'bert/model.safetensors')
    save_file({name.removeprefix('bert.'): tensor for name, tensor in weights.items() if not name.startswith('cls.')},
              tmp_path / 'bert/model.safetensors')
    assert_refused(command(str(tmp_path / 'bert'), str(tmp_path / 'out')), 'has no head for masked language modelling')
    assert not (tmp_path / 'out').exists()


def test_the_project_may_be_elsewhere(command, exports, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command('feed', 'out', '--path', str(exports.path))[0] == 0
    assert architecture(tmp_path / 'out') == 'EsmForMaskedLM'


def test_a_run_whose_text_is_gone(command, exports, tmp_path, monkeypatch):
    """And one whose text was changed."""
    run = shutil.copytree(exports.path / 'logs', tmp_path / 'logs') / 'test/feed'
    (tmp_path / '.labml.yaml').write_text('')
    given = labml_mlm.load(run).checkpoint.metadata['configs']['given']['text_path']
    hidden = shutil.move(given, tmp_path / 'hidden')
    try:
        code, out, err = command(str(run), str(tmp_path / 'out'), '--sentence-transformers')
        (Path(given)).mkdir()
        (Path(given) / '0.txt').write_text('another text, and no other\n' * 50)
        changed = command(str(run), str(tmp_path / 'changed'))
    finally:
        shutil.rmtree(given, ignore_errors=True)
        shutil.move(hidden, given)
    assert code == 0, err
    assert 'No sentence of the validation text was compared: ' in out
    assert 'How far apart random texts are was not measured: ' in out
    assert 'Read back with equal logits: 1, 2, 17, 127, 512 tokens, padding\n' in out
    assert changed[0] == 0 and 'No sentence of the validation text was compared: this is not the text of' in changed[1]


@pytest.mark.parametrize('uuid', ['c0efacb0c0efacb0c0efacb000000001', 'c0efacb0c0efacb0c0efacb000000002'])
def test_old_runs_are_exported(command, tmp_path, uuid):
    shutil.copytree(FIXTURES / 'logs', tmp_path / 'logs')
    run = tmp_path / 'logs/test' / uuid
    code, out, err = command(str(run), str(tmp_path / 'out'), '--checkpoint', 'last')
    assert code == 0 and out.startswith('EsmForMaskedLM, '), err
    expected, found = (labml_mlm.load(path, which=which).encode('the quick fox')
                       for path, which in ((run, 'last'), (tmp_path / 'out', 'best')))
    assert torch.equal(found, expected)


def test_a_run_of_two_ranks_with_fsdp(exports, project, command, tmp_path):
    """Its checkpoints are those of one process."""
    job = project.ranks(2, f'text_path={project.text}', *SMALL, 'n_prompts=0', 'parallel=fsdp',
                        env={'RUN_UUID': 'fade'})
    assert {result.returncode for result in job.wait()} == {0}
    code, _, err = command(str(project.path / 'logs/test/fade'), str(tmp_path / 'out'))
    assert code == 0, err
    assert architecture(tmp_path / 'out') == 'EsmForMaskedLM'


def test_going_on_from_an_export(command, exports, project, tmp_path):
    """The new run is exported in its turn, and never to where it comes from."""
    assert command('beef', str(tmp_path / 'bert'))[0] == 0
    result = project.run(f'init_from={tmp_path / "bert"}', f'text_path={project.text}', 'seq_len=16', 'epochs=1',
                         'batch_size=16', 'n_prompts=0', env={'RUN_UUID': 'deed'})
    assert result.returncode == 0, result.stderr
    run = project.path / 'logs/test/deed'
    assert_refused(command(str(run), str(tmp_path / 'bert'), '--force'), 'from where the model comes')
    assert command(str(run), str(tmp_path / 'out'))[0] == 0
    assert '| Went on from | bert |' in (tmp_path / 'out/README.md').read_text()
    names = [set(json.loads(header(tmp_path / name / 'model.safetensors'))) for name in ('bert', 'out')]
    assert names[0] == names[1]


def header(path: Path) -> bytes:
    """The names and shapes of safetensors."""
    data = path.read_bytes()
    return data[8:8 + int.from_bytes(data[:8], 'little')]
