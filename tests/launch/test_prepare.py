"""Before a run starts: arguments, texts and the project. A run that cannot work leaves no folder behind."""
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.project import ROOT, SMALL, TRAIN, assert_clean_failure, values_of


@pytest.mark.parametrize('argument, message', [
    ('n_layers=3', 'Did you mean `transformer.n_layers`?'),
    ('seq_len=x', 'it must be an integer'),
    ('batch_size=0', 'at least 1'),
    ('text=fil', 'Did you mean `file`?'),
    ('optimizer.optimizer=Sophia', 'Hessian'),
    ('transformer.ffn.glu_variant=Swi', 'SwiGLU'),
    ('d_model=33', 'd_model=33 is not divisible by n_heads=2'),
    ('seq_len=100000', 'the text is too short'),
    ('text_path=missing.txt', 'missing.txt cannot be read: No such file'),
    ('--resum', 'is neither an override nor an option'),
])
def test_wrong_argument_is_reported(project, argument, message):
    assert_clean_failure(project.train(argument), 2, message)
    assert not (project.path / 'logs').exists()


@pytest.mark.parametrize('uuid', ['../../../escaped', '..', 'a/b', 'a\nb', 'last', 'x' * 256])
def test_uuid_that_cannot_be_that_of_a_run_is_refused(project, uuid):
    before = sorted(os.listdir(project.path.parent))
    assert_clean_failure(project.train(env={'RUN_UUID': uuid}), 2, 'RUN_UUID of the environment: ')
    assert not (project.path / 'logs').exists() and not (project.path / 'data').exists()
    assert sorted(os.listdir(project.path.parent)) == before


def test_text_file_needs_a_path(project):
    assert_clean_failure(project.run('text=file'), 2, 'text=file needs a file: text_path=PATH')
    assert not (project.path / 'logs').exists()


@pytest.mark.parametrize('data, message', [
    (b'', 'is empty'), (b'a' * 10_000, '1 distinct characters'), (b'ab' * 50, 'the text is too short'),
    (b'good \xff bad' * 1000, 'not UTF-8'),
])
def test_text_that_cannot_be_trained_on_is_reported(project, data, message):
    project.text.write_bytes(data)
    assert_clean_failure(project.train(), 2, message)
    assert not (project.path / 'logs').exists()


def test_text_without_read_permission_is_reported(project):
    if os.geteuid() == 0:
        pytest.skip('root can read every file')
    project.text.chmod(0)
    assert_clean_failure(project.train(), 2, 'Permission denied')


def test_invalid_app_url_is_reported(project):
    project.configure('localhost:5005')
    assert_clean_failure(project.train(), 2, '.labml.yaml: app_url should be a valid URL: localhost:5005')


def test_item_without_a_value_is_reported(project):
    project.script.write_text(
        'from labml_mlm import MLMConfigs, train\n\n\nclass Configs(MLMConfigs):\n    size: int\n\n'
        '    def init(self):\n        super().init()\n        _ = self.size\n\n\ntrain(Configs(), name="test")\n')
    assert_clean_failure(project.train(), 2, '`size` has no value: give size=VALUE')
    assert project.train('size=3').returncode == 0


def test_help_starts_no_run(project):
    result = project.run('--help')
    assert result.returncode == 0
    assert 'usage: python train.py [name=value ...]' in result.stdout
    assert 'transformer.n_layers = 6' in result.stdout
    assert not (project.path / 'logs').exists()
    # Also on a terminal that cannot show all of its characters
    assert project.run('--help', env={'PYTHONIOENCODING': 'ascii'}).returncode == 0


def test_ctrl_c_before_training_leaves_no_run(project):
    # A FIFO without a writer: reading the text takes forever
    fifo = project.path / 'fifo.txt'
    os.mkfifo(fifo)
    pid = project.fork(f'text_path={fifo}', *SMALL)
    project.until(lambda: 'labml app' in project.outputs[0].read_text())
    time.sleep(0.5)
    os.kill(pid, signal.SIGINT)
    sent = time.monotonic()
    result = project.wait()
    assert time.monotonic() - sent < 20
    assert result.returncode == 130
    assert result.stderr == 'Interrupted before training began\n'
    assert not (project.path / 'logs').exists()


def test_auto_text_falls_back_to_python_topics(project):
    result = project.run('tiny_shakespeare_url=http://localhost:1/', *SMALL, 'seq_len=256', 'batch_size=64')
    assert result.returncode == 0, result.stderr
    [line] = [line for line in result.stdout.splitlines() if line.startswith('text ')]
    assert re.match(r"text +Python's help topics, [\d,]+ characters \(built in: Tiny Shakespeare could not be "
                    r'downloaded: http://localhost:1/: ', line)
    assert "Trained on Python's help topics, " in result.stdout
    assert not (project.path / 'data/tiny_shakespeare.txt').exists()


def test_tiny_shakespeare_that_cannot_be_downloaded_is_reported(project):
    result = project.run('text=tiny_shakespeare', 'tiny_shakespeare_url=http://localhost:1/', *SMALL)
    assert_clean_failure(result, 1, 'http://localhost:1/: ')
    assert not (project.path / 'logs').exists()
    assert not list(project.path.glob('data/*'))


@pytest.mark.long
def test_tiny_shakespeare_is_downloaded_once(project, shakespeare):
    server = subprocess.Popen([sys.executable, '-u', '-m', 'http.server', '0', '--bind', '127.0.0.1', '--directory',
                               shakespeare.parent], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = re.search(r'port (\d+)', server.stdout.readline())[1]
        arguments = [f'tiny_shakespeare_url=http://127.0.0.1:{port}/{shakespeare.name}', *SMALL, 'seq_len=256',
                     'batch_size=64']
        first = project.run(*arguments)
        assert first.returncode == 0, first.stderr
        assert 'Tiny Shakespeare, 1,115,394 characters (the default); ' in first.stdout
    finally:
        server.terminate()
    assert (project.path / 'data/tiny_shakespeare.txt').read_bytes() == shakespeare.read_bytes()
    second = project.run(*arguments)
    assert second.returncode == 0, second.stderr
    assert 'Download' not in second.stdout
    first, second = (values_of(run / 'log.jsonl')['loss.valid'] for run in project.runs)
    assert first == second


def test_python_topics_need_no_data_folder(project):
    result = project.run('text=python_topics', *SMALL, 'seq_len=256', 'batch_size=64')
    assert result.returncode == 0, result.stderr
    assert not (project.path / 'data').exists()


@pytest.fixture
def texts(project):
    """A folder with files of several kinds."""
    folder = project.path / 'texts'
    (folder / 'deep').mkdir(parents=True)
    for i in range(12):
        (folder / f'{i}.txt').write_text(f'the quick brown fox number {i} jumps over the lazy dog\n' * 20)
    (folder / 'deep/more.jsonl.gz').write_bytes(gzip.compress(b''.join(
        json.dumps({'body': f'a line about {i} foxes and dogs '}).encode() + b'\n' for i in range(60))))
    (folder / 'code.py').write_text('no text')
    return folder


def test_folder_of_texts_is_tokenized_once(project, texts):
    arguments = [f'text_path={texts}', 'text_field=body', *SMALL]
    for uuid in ('a', 'b'):
        result = project.run(*arguments, env={'RUN_UUID': uuid})
        assert result.returncode == 0, result.stderr
        assert ('Using the tokens in' in result.stdout) == (uuid == 'b')
    first, second = (values_of(project.path / f'logs/test/{uuid}/log.jsonl') for uuid in ('a', 'b'))
    assert first['loss.train'] == second['loss.train'] and first['loss.valid'] == second['loss.valid']
    assert len(list((project.path / 'data/tokens').glob('*.tokens'))) == 1

    # A resume needs the same files
    assert project.run('--resume', 'b', 'epochs=2').returncode == 0
    (texts / 'new.txt').write_text('one more\n')
    assert_clean_failure(project.run('--resume', 'b', 'epochs=3'), 2, 'this is not the text of the run: ')


def test_files_that_are_not_text_are_refused_or_skipped(project, texts):
    (texts / 'binary.txt').write_bytes(b'\0\1\2')
    arguments = [f'text_path={texts}', 'text_field=body', *SMALL]
    assert_clean_failure(project.run(*arguments), 2,
                         'binary.txt is binary: it contains NUL characters. text_errors=skip')
    assert not (project.path / 'logs').exists()
    assert project.run(*arguments, 'text_errors=skip').returncode == 0
    assert_clean_failure(project.run(*arguments[1:], f'text_path={texts}', 'text_glob=*.rst'), 2, 'there is no text in')
    assert_clean_failure(project.run(*arguments, 'text_errors=ignore'), 2,
                         'text_errors=ignore: it must be one of strict, skip')


def test_custom_documents_are_trained_on(project):
    project.script.write_text('''
from labml.configs import option

from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    n_documents: int = 300


@option(Configs.text, 'numbered')
def _numbered(c: Configs):
    return (f'document number {i} of the quick brown fox' for i in range(c.n_documents))


train(Configs(), name='test')
''')
    result = project.run('text=numbered', *SMALL)
    assert result.returncode == 0, result.stderr
    snapshot = json.loads((project.runs[0] / 'configs.json').read_text())
    assert snapshot['text']['characters'] == sum(len(f'document number {i} of the quick brown fox') for i in range(300))


def test_installed_package_uses_the_project_of_the_script(project):
    """With a regular install the package is in another folder, outside of any project."""
    target, source = project.path / 'site', project.path / 'source'
    # From a copy, as the build writes files beside the source
    shutil.copytree(ROOT / 'labml_mlm', source / 'labml_mlm')
    for name in ('setup.py', 'README.md'):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', '--target',
                    target, source], check=True, capture_output=True)
    project.script.write_text('''
import sys
from typing import Annotated

from labml.configs import option

import labml_mlm
from labml_mlm import Item, MLMConfigs, train


class Configs(MLMConfigs):
    repeats: Annotated[int, Item('How often the text is repeated')] = 100


@option(Configs.text, 'abc')
def _abc(c: Configs):
    return 'abc, and so on.' * c.repeats


print(labml_mlm.__file__)
if 'HELP' in sys.argv:
    train(Configs(), name='own', arguments=['--help'])
    train(Configs(), name='own', arguments=['repeets=300'])
train(Configs(), name='own')
''')
    result = project.run('text=abc', 'repeats=300', *SMALL, env={'PYTHONPATH': str(target)})
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(target))
    [run] = project.runs
    assert run.parent == project.path / 'logs/own'
    configs = yaml.unsafe_load((run / 'configs.yaml').read_text())
    assert configs['repeats']['computed'] == 300
    assert configs['repeats']['is_explicitly_specified']
    assert not list(target.glob('*/logs'))
    result = project.run('HELP', env={'PYTHONPATH': str(target)})
    assert 'How often the text is repeated' in result.stdout
    assert_clean_failure(result, 2, 'Did you mean `repeats`?')


def test_project_is_found_above_the_script(project):
    """It is the folder with `.labml.yaml`, whatever the current folder is."""
    folder = project.path / 'experiments'
    folder.mkdir()
    (folder / 'deep.py').write_text(TRAIN)
    out, err = project.path / 'out', project.path / 'err'
    project.server.start([str(folder / 'deep.py'), f'text_path={project.text}', *SMALL], cwd=Path('/'),
                         env=project.environment(), out=out, err=err)
    assert project.server.wait() == 0, err.read_text()
    assert len(project.runs) == 1
