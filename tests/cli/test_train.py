"""Whole runs, as a user starts them: other processes, real files and signals."""
import gzip
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from support.project import ROOT, SMALL, TRAIN, assert_clean_failure, values_of

LONG = ['epochs=100000', 'n_prompts=0']


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_into_a_pipe(project):
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
    # The step counts tokens; two epochs, every step
    assert len(steps) == 2 * -(-n_windows // 16)
    assert steps[-1] == 2 * n_windows * 16
    assert steps[0] == 16 * 16
    assert [step for step, _ in values['loss.valid']] == [n_windows * 16, 2 * n_windows * 16]
    assert values['loss.valid'][-1][1] < values['loss.train'][0][1]
    assert f'Validation loss {values["loss.valid"][-1][1]:.4f}' in result.stdout
    assert project.status() == 'completed'


def test_validations_within_an_epoch(project):
    assert project.train('inner_iterations=3').returncode == 0
    assert len(values_of(project.runs[0] / 'log.jsonl')['loss.valid']) == 3


def test_overrides_are_in_labmls_configs(project):
    assert project.train('optimizer.optimizer=Noam', 'optimizer.learning_rate=0.5').returncode == 0
    configs = yaml.unsafe_load((project.runs[0] / 'configs.yaml').read_text())
    for name, computed in {'seq_len': 16, 'transformer.n_layers': 1, 'optimizer.learning_rate': 0.5}.items():
        assert configs[name]['computed'] == computed
        assert configs[name]['is_explicitly_specified'], name
    assert not configs['masking_prob']['is_explicitly_specified']
    assert configs['transformer.d_model']['computed'] == 16


def test_the_same_seed_gives_the_same_losses(project):
    for seed in (1, 1, 2):
        assert project.train(f'seed={seed}', 'transformer.dropout=0.1').returncode == 0
    runs = sorted(project.runs, key=lambda run: run.stat().st_ctime)
    first, second, other = (values_of(run / 'log.jsonl') for run in runs)
    for name in ('loss.train', 'accuracy.train', 'loss.valid', 'lr'):
        assert first[name] == second[name]
    assert first['loss.train'] != other['loss.train']


@pytest.mark.parametrize('argument, message', [
    ('n_layers=3', 'Did you mean `transformer.n_layers`?'),
    ('seq_len=x', 'it has to be an integer'),
    ('batch_size=0', 'at least 1'),
    ('text=fil', 'Did you mean `file`?'),
    ('optimizer.optimizer=Sophia', 'Hessian'),
    ('transformer.ffn.glu_variant=Swi', 'SwiGLU'),
    ('d_model=33', 'd_model=33 is not divisible by n_heads=2'),
    ('seq_len=100000', 'the text is too short'),
    ('text_path=missing.txt', 'missing.txt cannot be read: No such file'),
    ('--resum', 'not an override'),
])
def test_wrong_arguments(project, argument, message):
    assert_clean_failure(project.train(argument), 2, message)
    assert not (project.path / 'logs').exists()


def test_text_file_without_a_path(project):
    assert_clean_failure(project.run('text=file'), 2, 'text=file needs a file: text_path=PATH')
    assert not (project.path / 'logs').exists()


@pytest.mark.parametrize('data, message', [
    (b'', 'is empty'), (b'a' * 10_000, '1 distinct characters'), (b'ab' * 50, 'the text is too short'),
    (b'good \xff bad' * 1000, 'not UTF-8'),
])
def test_texts_that_cannot_be_trained_on(project, data, message):
    project.text.write_bytes(data)
    assert_clean_failure(project.train(), 2, message)
    assert not (project.path / 'logs').exists()


def test_an_unreadable_text(project):
    if os.geteuid() == 0:
        pytest.skip('root can read every file')
    project.text.chmod(0)
    assert_clean_failure(project.train(), 2, 'Permission denied')


def test_a_required_item_without_a_value(project):
    project.script.write_text(
        'from labml_mlm import MLMConfigs, train\n\n\nclass Own(MLMConfigs):\n    size: int\n\n'
        '    def init(self):\n        super().init()\n        _ = self.size\n\n\ntrain(Own(), name="test")\n')
    assert_clean_failure(project.train(), 2, '`size` has no value: give size=VALUE')
    assert project.train('size=3').returncode == 0


def test_help(project):
    result = project.run('--help')
    assert result.returncode == 0
    assert result.stdout.startswith('usage: python train.py [name=value ...]')
    assert 'transformer.ffn.glu_variant = none' in result.stdout
    assert not (project.path / 'logs').exists()
    # It has a `×`
    assert project.run('--help', env={'PYTHONIOENCODING': 'ascii'}).returncode == 0


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt(project, number, code):
    process = project.start(f'text_path={project.text}', *SMALL, *LONG)
    wait_for(lambda: project.runs and (project.runs[0] / 'log.jsonl').exists(), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert re.fullmatch(r'Interrupted after [\d,]+ tokens\. To go on: python train\.py --resume \w+\n', err)
    assert project.runs[0].name in err
    assert project.status() == 'interrupted'
    # All steps up to the last are in the file, each once
    tokens = int(re.search(r'after ([\d,]+)', err)[1].replace(',', ''))
    steps = [step for step, _ in values_of(project.runs[0] / 'log.jsonl')['loss.train']]
    assert steps[-1] == tokens
    assert steps == sorted(set(steps))


def test_a_second_ctrl_c_waits_for_nothing(project):
    project.script.write_text('import time\n\nfrom labml_mlm.runs import checkpoint\n\n'
                              'checkpoint.write = lambda *_, **__: time.sleep(100)\n' + TRAIN)
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG)
    project.until(lambda: project.runs and (project.runs[0] / 'log.jsonl').exists())
    os.kill(pid, signal.SIGINT)
    time.sleep(0.5)
    assert os.path.exists(f'/proc/{pid}')
    os.kill(pid, signal.SIGINT)
    result = project.wait()
    assert result.returncode == 130
    assert re.fullmatch(r'Interrupted after [\d,]+ tokens\. There is no checkpoint yet\. To go on: python train\.py '
                        r'--resume \w+\n', result.stderr)
    assert project.status() == 'interrupted'


def test_two_starts_of_one_uuid(project):
    pid = project.fork(f'text_path={project.text}', *SMALL, *LONG, env={'RUN_UUID': 'feed'})
    project.until(lambda: project.runs and (project.runs[0] / 'log.jsonl').exists())
    process = project.start(f'text_path={project.text}', *SMALL, env={'RUN_UUID': 'feed'})
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, f'the run feed is running, in process {pid}\n')
    os.kill(pid, signal.SIGTERM)
    assert project.wait().returncode == 143


def test_interrupt_before_training(project):
    fifo = project.path / 'fifo.txt'
    os.mkfifo(fifo)
    process = project.start(f'text_path={fifo}', *SMALL)
    out = ''
    while 'labml app' not in out:
        out += process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == 'Interrupted before training began\n'
    assert not (project.path / 'logs').exists()


def test_ctrl_c_is_ignored_under_nohup(project):
    process = project.start(f'text_path={project.text}', *SMALL, 'epochs=20', 'n_prompts=0',
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    wait_for(lambda: project.runs, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert project.status() == 'completed'


def no_space():
    # No file beyond 100 bytes: a disk that is full in the middle of the first file
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_no_space_at_the_start(project):
    # The tokens are there already
    assert project.train().returncode == 0
    shutil.rmtree(project.path / 'logs')
    result = project.train(preexec_fn=no_space)
    assert_clean_failure(result, 1, f'cannot start the run in {project.path}/logs/test/')
    assert 'File too large' in result.stderr
    assert project.runs == []


def test_no_space_for_metrics(project):
    folder = project.path / 'logs/test/feed'
    folder.mkdir(parents=True)
    (folder / 'log.jsonl').symlink_to('/dev/full')
    # Long enough for a first attempt before the end
    result = project.train('epochs=40', 'n_prompts=0', env={'RUN_UUID': 'feed'})
    assert_clean_failure(result, 1, 'some of the run could not be written to ')
    assert 'No space left on device' in result.stderr
    assert result.stdout.count(f'Cannot write {folder / "log.jsonl"}: [Errno 28] No space left on device') == 1
    # A checkpoint is not complete without the metrics up to it
    assert result.stdout.count('Cannot save a checkpoint: [Errno 28] No space left on device') == 1
    assert not list(folder.glob('checkpoints/*'))
    # It was trained to the end all the same
    assert 'Validation loss' in result.stdout


def test_no_space_for_the_status(project):
    folder = project.path / 'logs/test/feed'
    folder.mkdir(parents=True)
    (folder / 'run_log.jsonl').symlink_to('/dev/full')
    result = project.train(env={'RUN_UUID': 'feed'})
    assert_clean_failure(result, 1, f'some of the run could not be written to {folder}: [Errno 28]')
    # The result is there all the same, and so are the metrics
    assert 'Validation loss' in result.stdout
    assert f'The run is in {folder}' in result.stdout
    assert values_of(folder / 'log.jsonl')['loss.valid']


def test_no_space_for_tokens(project):
    result = project.train(preexec_fn=no_space)
    assert_clean_failure(result, 1, 'File too large')
    assert not (project.path / 'logs').exists()
    assert not [path for path in project.path.glob('data/tokens/*') if path.suffix in ('.tokens', '.new', '.json')]


def test_a_disk_that_fills_up_while_it_trains(project):
    """What labml writes of its own, and what is printed, is worth less than the run."""
    project.script.write_text('''
import os

from labml import logger, tracker
from labml.internal.experiment import experiment_singleton

from labml_mlm import MLMConfigs, train


class Own(MLMConfigs):
    late: int = 3

    def sample(self):
        for name in ('configs.yaml', 'indicators.yaml'):
            path = experiment_singleton().run.run_path / name
            path.unlink()
            path.symlink_to('/dev/full')
        os.dup2(os.open('/dev/full', os.O_WRONLY), 1)
        logger.log('lost')
        # Both files are written anew
        assert self.late == 3
        tracker.add('new', 1.)


train(Own(), name='test')
''')
    result = project.train('epochs=2')
    assert 'Traceback' not in result.stderr, result.stderr
    values = values_of(project.runs[0] / 'log.jsonl')
    assert len(values['loss.valid']) == 2 and values['new']
    assert project.status() == 'completed'
    assert len(list(project.runs[0].glob('checkpoints/*'))) == 2


def test_a_home_that_cannot_be_written(project):
    """labml notes its projects there."""
    result = project.train(env={'HOME': '/proc'})
    assert_clean_failure(result, 1, 'cannot start the run in ')
    assert '/proc/.labml' in result.stderr
    assert project.runs == []


def test_a_run_of_the_same_uuid_stays_as_it_is(project):
    assert project.train(env={'RUN_UUID': 'feed'}).returncode == 0
    def files():
        return {path: path.read_bytes() for path in project.runs[0].rglob('*')
                if path.is_file() and path.name != 'run.lock'}

    before = files()
    assert_clean_failure(project.train(env={'RUN_UUID': 'feed'}), 2, 'there is a run with the uuid feed already')
    assert files() == before


def test_a_folder_that_was_there_stays(project):
    folder = project.path / 'logs/test/feed'
    folder.mkdir(parents=True)
    (folder / 'note').write_text('mine')
    assert project.train(env={'RUN_UUID': 'feed', 'HOME': '/proc'}).returncode == 1
    assert (folder / 'note').read_text() == 'mine'


def test_an_app_url_that_is_none(project):
    project.configure('localhost:5005')
    assert_clean_failure(project.train(), 2, '.labml.yaml: app_url should be a valid URL: localhost:5005')


@pytest.mark.parametrize('arguments', [['--help'], SMALL])
def test_the_reader_of_the_output_goes(project, arguments):
    result = subprocess.run(['bash', '-c', 'set -o pipefail; "$@" | head -n 1', '-', sys.executable, project.script,
                             f'text_path={project.text}', *arguments],
                            cwd=project.path, env=project.environment(), capture_output=True, text=True)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ''
    # `--help` may have been through before `head` ended
    assert result.returncode == 1 or arguments == ['--help']


def test_the_reader_goes_while_it_trains(project):
    process = project.start(f'text_path={project.text}', *SMALL, *LONG)
    while 'loss.valid' not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert re.fullmatch(r'Interrupted after [\d,]+ tokens\. To go on: python train\.py --resume \w+\n', err)
    assert project.status() == 'interrupted'


def test_a_terminal_that_is_gone_ends_no_run(project):
    """Without a signal, as after `setsid`."""
    parent, child = pty.openpty()
    process = subprocess.Popen([sys.executable, project.script, f'text_path={project.text}', *SMALL, 'epochs=8'],
                               cwd=project.path, stdout=child, stderr=child, env=project.environment(),
                               start_new_session=True)
    os.close(child)
    out = b''
    while b'loss.train' not in out:
        assert select.select([parent], [], [], 60)[0]
        out += os.read(parent, 1 << 16)
    os.close(parent)
    assert process.wait(60) == 0
    assert project.status() == 'completed'
    assert len(values_of(project.runs[0] / 'log.jsonl')['loss.valid']) == 8


def in_terminal(project, *arguments, **env):
    """The output and exit code of a run on a terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen([sys.executable, project.script, f'text_path={project.text}', *SMALL, *arguments],
                               cwd=project.path, stdout=child, stderr=child, env=project.environment(**env))
    os.close(child)
    out = b''
    while select.select([parent], [], [], 60)[0]:
        try:
            out += os.read(parent, 1 << 16)
        except OSError:  # the other end is closed
            break
    os.close(parent)
    return out.decode(), process.wait()


def test_a_terminal_has_labmls_live_line_in_colour(project):
    out, code = in_terminal(project)
    assert code == 0, out
    live = [part for part in out.split('\r') if 'loss.train' in part and 'Train:' in part]
    assert len(live) > 10
    assert '\x1b[' in out


def test_no_color(project):
    out, code = in_terminal(project, NO_COLOR='1')
    assert code == 0, out
    assert 'Train:' in out
    assert '\x1b' not in out
    assert re.search(r'\n?filled .*\n[^\n]*[+x]', out.replace('\r', ''))


def test_auto_falls_back_in_one_line(project):
    result = project.run('tiny_shakespeare_url=http://localhost:1/', *SMALL, 'seq_len=256', 'batch_size=64')
    assert result.returncode == 0, result.stderr
    [line] = [line for line in result.stdout.splitlines() if 'Tiny Shakespeare cannot be had' in line]
    assert 'http://localhost:1/: ' in line
    assert "Python's own help topics" in line
    assert not (project.path / 'data/tiny_shakespeare.txt').exists()


def test_tiny_shakespeare_that_cannot_be_fetched(project):
    result = project.run('text=tiny_shakespeare', 'tiny_shakespeare_url=http://localhost:1/', *SMALL)
    assert_clean_failure(result, 1, 'http://localhost:1/: ')
    assert not (project.path / 'logs').exists()
    assert not list(project.path.glob('data/*'))


@pytest.mark.long
def test_tiny_shakespeare_is_fetched_and_cached(project, shakespeare):
    server = subprocess.Popen([sys.executable, '-u', '-m', 'http.server', '0', '--bind', '127.0.0.1', '--directory',
                               shakespeare.parent], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = re.search(r'port (\d+)', server.stdout.readline())[1]
        arguments = [f'tiny_shakespeare_url=http://127.0.0.1:{port}/{shakespeare.name}', *SMALL, 'seq_len=256',
                     'batch_size=64']
        first = project.run(*arguments)
        assert first.returncode == 0, first.stderr
        assert 'Download Tiny Shakespeare...[DONE]' in first.stdout
    finally:
        server.terminate()
    assert (project.path / 'data/tiny_shakespeare.txt').read_bytes() == shakespeare.read_bytes()
    second = project.run(*arguments)
    assert second.returncode == 0, second.stderr
    assert 'Download' not in second.stdout
    first, second = (values_of(run / 'log.jsonl')['loss.valid'] for run in project.runs)
    assert first == second


def test_python_topics(project):
    result = project.run('text=python_topics', *SMALL, 'seq_len=256', 'batch_size=64')
    assert result.returncode == 0, result.stderr
    assert not (project.path / 'data').exists()


@pytest.fixture
def texts(project):
    """A folder of texts of all kinds."""
    folder = project.path / 'texts'
    (folder / 'deep').mkdir(parents=True)
    for i in range(12):
        (folder / f'{i}.txt').write_text(f'the quick brown fox number {i} jumps over the lazy dog\n' * 20)
    (folder / 'deep/more.jsonl.gz').write_bytes(gzip.compress(b''.join(
        json.dumps({'body': f'a line about {i} foxes and dogs '}).encode() + b'\n' for i in range(60))))
    (folder / 'code.py').write_text('no text')
    return folder


def test_a_folder_of_texts(project, texts):
    arguments = [f'text_path={texts}', 'text_field=body', *SMALL]
    for uuid in ('a', 'b'):
        result = project.run(*arguments, env={'RUN_UUID': uuid})
        assert result.returncode == 0, result.stderr
        # The second one reads no text
        assert ('Using the tokens in' in result.stdout) == (uuid == 'b')
    first, second = (values_of(project.path / f'logs/test/{uuid}/log.jsonl') for uuid in ('a', 'b'))
    assert first['loss.train'] == second['loss.train'] and first['loss.valid'] == second['loss.valid']
    assert len(list((project.path / 'data/tokens').glob('*.tokens'))) == 1

    # The same text on a resume, and another one
    assert project.run('--resume', 'b', 'epochs=2').returncode == 0
    (texts / 'new.txt').write_text('one more\n')
    assert_clean_failure(project.run('--resume', 'b', 'epochs=3'), 2, 'this is another text than the run has: ')


def test_texts_of_a_folder_that_are_none(project, texts):
    (texts / 'binary.txt').write_bytes(b'\0\1\2')
    arguments = [f'text_path={texts}', 'text_field=body', *SMALL]
    assert_clean_failure(project.run(*arguments), 2, 'binary.txt is binary: it has the character NUL. text_errors=skip')
    assert not (project.path / 'logs').exists()
    assert project.run(*arguments, 'text_errors=skip').returncode == 0
    assert_clean_failure(project.run(*arguments[1:], f'text_path={texts}', 'text_glob=*.rst'), 2, 'there is no text in')
    assert_clean_failure(project.run(*arguments, 'text_errors=ignore'), 2, 'text_errors=ignore: it can be strict, skip')


def test_documents_of_ones_own(project):
    project.script.write_text('''
from labml.configs import option

from labml_mlm import MLMConfigs, train


class Own(MLMConfigs):
    n_documents: int = 300


@option(Own.text, 'numbered')
def _numbered(c: Own):
    return (f'document number {i} of the quick brown fox' for i in range(c.n_documents))


train(Own(), name='test')
''')
    result = project.run('text=numbered', *SMALL)
    assert result.returncode == 0, result.stderr
    record = json.loads((project.runs[0] / 'configs.json').read_text())
    assert record['text']['characters'] == sum(len(f'document number {i} of the quick brown fox') for i in range(300))


def test_a_project_of_ones_own_with_the_package_installed_normally(project):
    """Not editable: nothing of the package lies in a project of its own then."""
    target, source = project.path / 'site', project.path / 'source'
    # From a copy, as the build leaves its files beside the source
    shutil.copytree(ROOT / 'labml_mlm', source / 'labml_mlm')
    for name in ('setup.py', 'README.md'):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', '--target',
                    target, source], check=True, capture_output=True)
    project.script.write_text('''
from labml.configs import option

import labml_mlm
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    # How often the text is repeated
    repeats: int = 100


@option(Configs.text, 'abc')
def _abc(c: Configs):
    return 'abc, and so on.' * c.repeats


print(labml_mlm.__file__)
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
    result = project.run('repeets=300', env={'PYTHONPATH': str(target)})
    assert_clean_failure(result, 2, 'Did you mean `repeats`?')
    assert 'How often the text is repeated' in project.run('--help', env={'PYTHONPATH': str(target)}).stdout


def test_a_script_elsewhere_in_the_project(project):
    """The project is the folder with `.labml.yaml`, wherever in it the script is, and wherever it is started."""
    folder = project.path / 'experiments'
    folder.mkdir()
    (folder / 'deep.py').write_text(TRAIN)
    result = subprocess.run([sys.executable, folder / 'deep.py', f'text_path={project.text}', *SMALL], cwd='/',
                            env=project.environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(project.runs) == 1


@pytest.mark.parametrize('body', ['raise ValueError("mine")', 'open("/nope")'])
def test_an_error_of_the_users_own_has_its_traceback(project, body):
    project.script.write_text(
        'from labml_mlm import MLMConfigs, train\n\n\nclass Own(MLMConfigs):\n'
        f'    def sample(self):\n        {body}\n\n\ntrain(Own(), name="test")\n')
    result = project.train()
    assert result.returncode == 1
    assert 'Traceback' in result.stderr
    assert body in result.stderr
    assert project.status() == 'crashed'
