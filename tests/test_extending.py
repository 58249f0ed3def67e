"""
Extensions of every kind, in a user's own project: they train, in every combination with compilation, packed documents,
ranks and a resume that can be, and the rest is refused by name.
"""
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from support.docs import BLOCKS
from support.project import SMALL, assert_clean_failure, values_of

EXTENSIONS = {
    'text': ['text=poems'],
    'tokenizer': ['tokenizer=lower_case'],
    'loader': ['train_loader=hugging_face'],
    'masked loader': ['train_loader=masked'],
    'masking': ['masking=pairs'],
    'valid masks': ['valid_mlm=global'],
    "labml_nn's valid masks": ['valid_mlm=labml_nn'],
    'attention': ['transformer.encoder_attn=torch'],
    'feed-forward': ['transformer.ffn.ffn=squared'],
    'layer': ['transformer.encoder_layer=post_norm'],
    'optimizer': ['optimizer=nadam'],
    'scheduler': ['scheduler=steps'],
    'sampler': ['sampler=lengths'],
    'steps': []}
# Runs of more than a second take several at once
PARTS = 'text', 'tokenizer', 'feed-forward', 'layer', 'optimizer', 'scheduler', 'sampler'
EXTENSIONS_AT_ONCE = {'parts': [argument for name in PARTS for argument in EXTENSIONS[name]],
                      **{name: arguments for name, arguments in EXTENSIONS.items() if name not in PARTS}}


def test_the_example_of_the_docs_overrides_no_option_of_ours(project):
    """labml warns if a script registers an option by a name that there is."""
    project.script.write_text(BLOCKS['extending.md'][0])
    result = project.run('--help')
    assert result.returncode == 0 and 'poems' in result.stdout
    assert 'Overriding option' not in result.stdout + result.stderr


@pytest.fixture
def extended(project):
    """Runs the project with an extension and further overrides."""
    shutil.copy(Path(__file__).parent / 'support/extensions.py', project.script)

    def arguments(extension, *more):
        text = [] if extension in ('text', 'parts') else [f'text_path={project.text}']
        return [*text, *SMALL, 'epochs=2', *(EXTENSIONS | EXTENSIONS_AT_ONCE)[extension], *more], \
            {'STEPS': '1' if extension == 'steps' else ''}
    project.extended = arguments
    return project


def losses(project, name='loss.train'):
    [folder] = project.runs
    return [value for _, value in values_of(folder / 'log.jsonl')[name]]


@pytest.mark.parametrize('extension', EXTENSIONS)
def test_extension_trains_and_resumes(extended, extension):
    given, env = extended.extended(extension)
    result = extended.run(*given, env={**env, 'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    assert 'Traceback' not in result.stderr
    trained = losses(extended)
    assert trained[-1] < trained[0]
    assert len(losses(extended, 'loss.valid')) == 2
    if extension == 'sampler':
        assert re.search(r'\d+ weights', result.stdout)
    if extension == 'steps':
        assert 'Epoch 2 is over' in result.stdout and 'norm' in values_of(extended.runs[0] / 'log.jsonl')
    # Stopped between two validations, and resumed
    whole = values_of(extended.runs[0] / 'log.jsonl')
    folder = extended.path / 'logs/test/feed'
    stopped = None
    # The signal may come too late
    for _ in range(3):
        shutil.rmtree(folder)
        extended.fork(*given, env={**env, 'RUN_UUID': 'feed'})
        extended.until(lambda: list(folder.glob('checkpoints/*')))
        os.kill(extended.pid, signal.SIGTERM)
        stopped = extended.wait()
        if stopped.returncode:
            break
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    resumed = extended.run('--resume', 'feed', env=env)
    assert resumed.returncode == 0, resumed.stderr
    values = values_of(folder / 'log.jsonl')
    for name in ('loss.train', 'loss.valid', 'lr'):
        assert values[name] == whole[name], name


@pytest.mark.parametrize('extension', EXTENSIONS)
def test_extension_with_packed_documents(extended, extension):
    documents = extended.path / 'documents.jsonl'
    documents.write_text('\n'.join(f'{{"text": "the quick brown fox {"jumps " * (i % 5)}"}}' for i in range(400)))
    given, env = extended.extended(extension, 'packing=documents', 'epochs=1')
    given = [f'text_path={documents}' if argument.startswith('text_path=') else argument for argument in given]
    result = extended.run(*given, env=env)
    assert result.returncode == 0, result.stderr
    trained = losses(extended)
    assert sum(trained[-5:]) < sum(trained[:5])


@pytest.mark.long(minutes=2.)
@pytest.mark.parametrize('extension', EXTENSIONS_AT_ONCE)
def test_extension_on_two_ranks(extended, extension):
    given, env = extended.extended(extension, 'epochs=1')
    results = extended.ranks(2, *given, env=env).wait()
    if extension == "labml_nn's valid masks":
        assert_clean_failure(results[0], 2, '`valid_mlm` is called with `(x, columns)`, like `MLM`')
        return
    assert [result.returncode for result in results] == [0, 0], results
    on_two = losses(extended), losses(extended, 'loss.valid')
    shutil.rmtree(extended.runs[0])
    assert extended.run(*given, env=env).returncode == 0
    for two, one in zip(on_two, (losses(extended), losses(extended, 'loss.valid')), strict=True):
        assert two == pytest.approx(one, abs=2e-4)


@pytest.mark.long(minutes=2.)
@pytest.mark.skipif(not shutil.which('g++'), reason='there is no compiler here')
@pytest.mark.parametrize('extension', [name for name in EXTENSIONS_AT_ONCE if 'valid' not in name])
def test_extension_is_compiled(extended, extension):
    given, env = extended.extended(extension, 'epochs=1')
    assert extended.run(*given, env=env).returncode == 0
    eager = losses(extended)
    shutil.rmtree(extended.runs[0])
    result = extended.run(*given, 'compile=true', env=env)
    assert result.returncode == 0, result.stderr
    assert losses(extended) == pytest.approx(eager, abs=1e-3)
