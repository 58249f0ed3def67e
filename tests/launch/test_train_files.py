"""`labml-mlm train`: without a script, in the current folder."""
import json
import os
import shutil
import subprocess
import sys
import venv

import pytest
from support.labelled import write_texts
from support.project import ROOT, SMALL, assert_clean_failure, values_of

from labml_mlm.launch.train import help_topic

MAIN = 'from labml_mlm.__main__ import main\n\nmain()\n'
SCRIPT = 'from labml_mlm import MLMConfigs, train\n\n\nclass Configs(MLMConfigs):\n    recipe = "char"\n{0}\n\n' \
         'train(Configs(), name="char_mlm")\n'


class Command:
    """`labml-mlm train` in the folder of a project."""

    def __init__(self, project):
        self.project = project
        self.command = project.path / 'labml-mlm'
        self.command.write_text(MAIN)
        self.use(self.command)

    def use(self, script):
        self.project.script = script

    def write_script(self, more=''):
        script = self.project.path / 'char.py'
        script.write_text(SCRIPT.format(more))
        self.use(script)

    def __call__(self, *arguments, env=None):
        self.use(self.command)
        return self.project.run('train', *arguments, env=env)

    @property
    def snapshot(self):
        [run] = self.project.runs
        return json.loads((run / 'configs.json').read_text())


@pytest.fixture
def train(project):
    return Command(project)


def test_no_argument_asks_for_no_help():
    assert help_topic([]) is None and help_topic(['--help']) == '' and help_topic(['-h', 'all']) == 'all'


def test_a_file_is_all_it_needs(train):
    project = train.project
    (project.path / '.labml.yaml').unlink()
    before = set(os.listdir(project.path))
    result = train('text.txt', *SMALL)
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    assert f'Runs go to {project.path}/logs: there is no .labml.yaml' in result.stdout
    assert 'recipe=char: a token per character. Others: recipe=subword' in result.stdout
    assert 'config file could not be found' not in result.stdout
    # labml notes its projects at home, which is this folder, too
    written = {name for name in set(os.listdir(project.path)) - before if not name.startswith(('out-', 'err-'))}
    assert written <= {'logs', 'data', '.labml'}
    assert [run.parent.name for run in project.runs] == ['char_mlm']
    assert f'The run is in {project.runs[0]}' in result.stdout
    snapshot = train.snapshot
    assert snapshot['given']['recipe'] == 'char' and snapshot['given']['text_path'] == str(project.text)
    assert snapshot['defaults']['optimizer'] == 'muon' and snapshot['own_code'] == []


def test_it_trains_as_the_script_does(train):
    project = train.project
    assert train('text.txt', *SMALL).returncode == 0
    train.write_script()
    assert project.train().returncode == 0
    one, other = (values_of(run / 'log.jsonl') for run in project.runs)
    assert one['loss.train'] == other['loss.train'] and len(one['loss.train']) > 3


def test_project_is_that_of_the_folder_above(train):
    project = train.project
    (project.path / 'inner').mkdir()
    result = subprocess.run([sys.executable, train.command, 'train', '../text.txt', *SMALL], cwd=project.path / 'inner',
                            env=project.environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(project.runs) == 1 and not (project.path / 'inner/logs').exists()
    assert 'Runs go to' not in result.stdout


@pytest.mark.parametrize(('arguments', 'message'), [
    (['tex.txt'], 'there is no file or folder tex.txt. Did you mean text.txt?'),
    (['https://example.com/a.txt'], 'https://example.com/a.txt: text is read from files, so download it first'),
    (['epochs', '2', 'text.txt'], 'there is no file or folder epochs; an item is given as epochs=2'),
    (['text.txt', '--max-steps', '3'], '`--max-steps 3`: write `max_steps=3`'),
    (['text.txt', 'optimizer'], 'there is no file or folder optimizer; an item is given as optimizer=VALUE'),
    (['char', 'text.txt'], 'there is no file or folder char; the recipe is recipe=char'),
    (['text.txt', 'text_path=text.txt'], 'give either text.txt or text_path=text.txt, not both'),
    (['text.txt', 'recipe=subwrd'], '`recipe=subwrd`: it must be one of char, subword, domain, char_labml_nn_size, '
                                    'classify, tag, none. Did you mean `subword`?'),
    (['text.txt', 'recipe=domain'], 'recipe=domain needs something to go on from: init_from=FOLDER'),
    (['recipe=classify'], 'fine-tuning needs labelled texts: text_path=FILE'),
    (['text.txt', 'text.txt', 'recipe=classify'], 'fine-tuning reads one file of labelled texts, and these are 2'),
    (['text.txt', 'n_layers=2'], '`n_layers`: there is no such item. Did you mean `transformer.n_layers`?'),
    (['--resume', 'last'], 'there is no run in'),
    (['--resume'], '--resume needs a run'),
])
def test_wrong_argument_is_refused(train, arguments, message):
    assert_clean_failure(train(*arguments), 2, message)
    assert not train.project.runs


def test_file_with_an_equals_sign(train):
    shutil.copy(train.project.text, train.project.path / 'a=b.txt')
    assert_clean_failure(train('a=b.txt', *SMALL), 2, '`a`: there is no such item')
    assert train('./a=b.txt', *SMALL).returncode == 0
    assert train.snapshot['given']['text_path'] == str(train.project.path / 'a=b.txt')


@pytest.mark.parametrize(('arguments', 'experiment', 'values'), [
    (['recipe=subword', 'vocab_size=300'], 'subword_mlm', {'tokenizer': 'bpe', 'optimizer': 'mlm'}),
    (['recipe=none'], 'mlm', {'tokenizer': 'character', 'optimizer': 'mlm'}),
    (['recipe=char', 'optimizer=mlm'], 'char_mlm', {'masking_schedule': 'linear', 'optimizer': 'mlm'}),
])
def test_recipe_is_chosen(train, arguments, experiment, values):
    result = train('text.txt', *SMALL, *arguments)
    assert result.returncode == 0, result.stderr
    assert [run.parent.name for run in train.project.runs] == [experiment]
    snapshot = train.snapshot
    found = snapshot['defaults'] | snapshot['given']
    assert {name: found[name] for name in values} == values
    assert 'Others: recipe=' not in result.stdout


def test_recipes_of_fine_tuning_and_of_going_on(train):
    """With a class of their own, from a run: its recipe is `domain` by default."""
    path = train.project.path
    write_texts(path / 'rows.jsonl', 60)
    assert train('text.txt', *SMALL, env={'RUN_UUID': 'feed'}).returncode == 0
    result = train('rows.jsonl', 'recipe=classify', 'init_from=feed', 'epochs=1', env={'RUN_UUID': 'beef'})
    assert result.returncode == 0, result.stderr
    snapshot = json.loads((path / 'logs/classify/beef/configs.json').read_text())
    assert snapshot['objective'] == 'classification' and snapshot['given']['recipe'] == 'classify'
    result = train('text.txt', 'init_from=feed', 'epochs=1', 'seq_len=16', 'batch_size=8', env={'RUN_UUID': 'cafe'})
    assert result.returncode == 0, result.stderr
    assert 'recipe=domain: going on from init_from' in result.stdout
    assert (path / 'logs/domain_mlm/cafe').exists()
    # And each is resumed with its class
    result = train('--resume', 'beef', 'epochs=2')
    assert result.returncode == 0 and 'epochs: 1 → 2' in result.stdout, result.stderr
    result = train('--resume', 'beef')
    assert 'give epochs=3 to train longer, with labml-mlm train --resume beef' in result.stdout


@pytest.mark.parametrize('by_script_first', [True, False])
@pytest.mark.parametrize('is_old', [True, False])
def test_script_and_command_resume_each_others_runs_exactly(train, by_script_first, is_old):
    project = train.project
    whole = [*SMALL, 'text_path=text.txt', 'n_prompts=0', 'checkpoint_interval=3', 'keep_checkpoints=5']
    train.write_script()
    script = project.script
    first, second = (script, train.command) if by_script_first else (train.command, script)

    def run(by, *arguments, **options):
        train.use(by)
        result = project.run(*['train'] * (by == train.command), *arguments, **options)
        assert result.returncode == 0, result.stderr
        return result

    run(first, *whole, env={'RUN_UUID': 'feed'})
    folder = project.path / 'logs/char_mlm/feed'
    uninterrupted = values_of(folder / 'log.jsonl')
    if is_old:
        # As before there were recipes
        snapshot = json.loads((folder / 'configs.json').read_text())
        del snapshot['own_code'], snapshot['defaults']['recipe']
        snapshot['given'].pop('recipe', None)
        (folder / 'configs.json').write_text(json.dumps(snapshot))
    middle = sorted(folder.glob('checkpoints/*'), key=lambda path: int(path.name))[0]
    result = run(second, '--resume', str(middle))
    assert 'Resuming feed from' in result.stdout
    resumed = values_of(folder / 'log.jsonl')
    for name in ('loss.train', 'lr', 'masking_prob', 'loss.valid'):
        assert resumed[name] == uninterrupted[name]


def test_stopped_run_says_how_to_resume_it(train):
    pid = train.project.fork('train', 'text.txt', *SMALL, 'epochs=1000', env={'RUN_UUID': 'feed'})
    folder = train.project.path / 'logs/char_mlm/feed/checkpoints'
    train.project.until(lambda: list(folder.glob('*')))
    os.kill(pid, 2)
    result = train.project.wait()
    assert result.returncode == 130
    assert result.stderr.strip().endswith('To resume: labml-mlm train --resume feed')


def test_run_of_a_script_with_code_of_its_own_is_refused(train):
    train.write_script('\n    def step(self, batch, batch_idx):\n        super().step(batch, batch_idx)\n')
    assert train.project.train(env={'RUN_UUID': 'feed'}).returncode == 0
    result = train('--resume', 'last', 'epochs=2')
    assert_clean_failure(result, 2, 'the run feed was started by a script with code of its own (step): resume it with '
                                    'that script: python')


def test_run_of_an_earlier_version_is_refused_if_its_script_is_unknown(train):
    assert train('text.txt', *SMALL, env={'RUN_UUID': 'feed'}).returncode == 0
    path = train.project.path / 'logs'
    (path / 'char_mlm').rename(path / 'mine')
    snapshot = json.loads((path / 'mine/feed/configs.json').read_text())
    del snapshot['own_code']
    (path / 'mine/feed/configs.json').write_text(json.dumps(snapshot))
    assert_clean_failure(train('--resume', 'feed'), 2, 'the run feed was started by a script of its own, with an '
                                                       'earlier version')


def test_recipe_of_a_run_cannot_change(train):
    assert train('text.txt', *SMALL).returncode == 0
    result = train('--resume', 'last', 'recipe=subword')
    assert_clean_failure(result, 2, '`recipe=subword`: in this run it is char, and cannot change')


def test_help(train):
    result = train('--help')
    assert result.returncode == 0
    assert 'usage: labml-mlm train [FILE ...] [recipe=NAME] [name=value ...] [--resume RUN]' in result.stdout
    assert '  optimizer = muon' in result.stdout and '  recipe = char' in result.stdout
    tuned = train('--help', 'recipe=classify').stdout
    assert '  label_field = label' in tuned and '  masking_prob' not in tuned
    assert not train.project.runs


def test_two_ranks(train):
    job = train.project.ranks(2, 'train', 'text.txt', *SMALL)
    main, other = job.wait()
    assert (main.returncode, other.returncode) == (0, 0), main.stderr
    assert main.stdout.count('recipe=char: a token per character') == 1 and other.stdout == ''
    [run] = train.project.runs
    job = train.project.ranks(2, 'train', '--resume', 'last', 'epochs=2')
    main, other = job.wait()
    assert (main.returncode, other.returncode) == (0, 0), main.stderr
    assert train.project.runs == [run] and 'epochs: 1 → 2' in main.stdout


def test_wrong_argument_of_two_ranks_is_said_once(train):
    main, other = train.project.ranks(2, 'train', 'missing').wait()
    assert_clean_failure(main, 2, 'there is no file or folder missing')
    assert (other.returncode, other.stderr) == (2, '')


@pytest.mark.long(minutes=1)
def test_wheel_alone_trains(tmp_path):
    """The wheel in an environment of its own, which has this one's packages but not this checkout."""
    copy, work, other = tmp_path / 'checkout', tmp_path / 'work', tmp_path / 'venv'
    # pip builds beside the sources
    shutil.copytree(ROOT / 'labml_mlm', copy / 'labml_mlm')
    for name in ('setup.py', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', tmp_path, '.'], cwd=copy,
                   check=True)
    [wheel] = tmp_path.glob('labml_mlm-*.whl')
    venv.create(other, symlinks=True)
    subprocess.run([*pip, '--python', other / 'bin/python', 'install', '--no-deps', wheel], check=True)
    [packages] = other.glob('lib/python*/site-packages')
    (packages / 'others.pth').write_text('\n'.join(path for path in sys.path if path.endswith('-packages')))
    work.mkdir()
    (work / 'my.txt').write_text('the quick brown fox jumps over the lazy dog\n' * 200)
    environment = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'RUN_UUID')}
    environment |= {'HOME': str(work), 'OMP_NUM_THREADS': '1'}

    def run(*arguments):
        return subprocess.run([other / 'bin' / arguments[0], *arguments[1:]], cwd=work, env=environment,
                              capture_output=True, text=True)

    assert run('python', '-c', 'import labml_mlm; print(labml_mlm.__file__)').stdout.startswith(str(packages))
    result = run('labml-mlm', 'train', 'my.txt', *SMALL)
    assert result.returncode == 0, result.stderr
    assert f'The run is in {work}/logs/char_mlm/' in result.stdout
    assert 'with labml-mlm train --resume' in run('labml-mlm', 'train', '--resume', 'last').stdout
