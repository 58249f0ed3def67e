"""Runs with parts of the user's own, used without their script."""
import json
import re
import shlex
import sys

import pytest
from support.project import SMALL, Project

from labml_mlm import load
from labml_mlm.common.errors import UnknownPart, UserError
from labml_mlm.common.importing import import_file, stop_if_importing

OWN = '''
from labml.configs import option
from labml_nn.transformers.mha import MultiHeadAttention

import my_numbers
from labml_mlm import MLMConfigs, MLMTransformerConfigs, train
from labml_mlm.tokenization import CharacterTokenizer


class Configs(MLMConfigs):
    pass


class LowerCase(CharacterTokenizer):
    kind = 'own_lower_case'

    def encode(self, text):
        return super().encode(text.lower())


@option(Configs.tokenizer, 'own_lower_case')
def _tokenizer(c: Configs):
    return LowerCase.from_characters(c.corpus.characters.lower())


@option(MLMTransformerConfigs.encoder_attn, 'own_attention')
def _attention(c: MLMTransformerConfigs):
    return MultiHeadAttention(c.n_heads, c.d_model, dropout_prob=my_numbers.DROPOUT)


train(Configs(), name='own')
raise AssertionError('nothing after train is wanted')
'''


@pytest.fixture(scope='module')
def own(tmp_path_factory, fork_server) -> Project:
    """A project with the runs `feed`, with an attention of its own, and `beef`, with a tokenizer of its own."""
    project = Project(tmp_path_factory.mktemp('own'), fork_server)
    project.script = project.path / 'my own.py'
    # Without what an import alone is to see
    project.script.write_text(OWN.replace('import my_numbers\n', '').replace('my_numbers.DROPOUT', '0.')
                              .replace("raise AssertionError('nothing after train is wanted')", ''))
    for uuid, value in (('beef', 'tokenizer=own_lower_case'), ('feed', 'transformer.encoder_attn=own_attention')):
        result = project.run(f'text_path={project.text}', *SMALL, value, env={'RUN_UUID': uuid})
        assert result.returncode == 0, result.stderr
    project.script.write_text(OWN)
    (project.path / 'my_numbers.py').write_text('DROPOUT = 0.\n')
    (project.path / 'command.py').write_text('from labml_mlm.__main__ import main\nmain()\n')
    return project


@pytest.fixture
def python(own):
    """Runs a script in the project, in a process of its own, which imports what it likes."""
    def python(script, *arguments):
        before, own.script = own.script, own.path / script
        try:
            own.fork(*arguments)
            return own.wait()
        finally:
            own.script = before
    return python


@pytest.fixture
def command(python):
    def command(*arguments):
        result = python('command.py', *arguments)
        return result.returncode, result.stdout, result.stderr
    return command


def test_a_part_of_ones_own_is_named_with_the_whole_command(own, command):
    code, out, err = command('fill-mask', 'feed', 'the [MASK]uick')
    assert (code, out) == (2, '')
    expected = shlex.join(['labml-mlm', 'fill-mask', '--import', str(own.script), 'feed', 'the [MASK]uick'])
    assert err.strip().endswith(f': {expected}') and len(err.splitlines()) == 1
    assert 'transformer.encoder_attn=own_attention, which is unknown here' in err
    # And that command works
    assert command(*shlex.split(expected)[1:])[0] == 0
    # The text of the class is not ours, and the tokenizer is
    assert 'a tokenizer of the kind own_lower_case, which is unknown here' in command('evaluate', 'beef')[2]


def test_from_python_the_error_names_the_file(own):
    with pytest.raises(UnknownPart, match=f'import the file that registers it, {re.escape(str(own.script))}, first'):
        load(own.path / 'logs/own/feed')


def test_the_script_was_moved(own, command):
    own.script.rename(own.path / 'elsewhere.py')
    code, _, err = command('evaluate', 'feed')
    assert code == 2 and 'which is not there any more: give its present path' in err
    assert command('evaluate', 'feed', '--import', 'elsewhere.py')[0] == 0
    (own.path / 'elsewhere.py').rename(own.script)


def test_a_file_without_the_part_is_told(own, command):
    (own.path / 'nothing.py').write_text('x = 1\n')
    code, _, err = command('evaluate', 'feed', '--import', 'nothing.py')
    assert code == 2 and f'what --import names does not register it. The run was trained by {own.script}' in err


@pytest.mark.parametrize('name, text, message', [
    ('none.py', None, '--import .*none.py: there is no such file'), ('.', None, '--import .*: it is a folder'),
    ('notes.txt', 'x', '--import .*notes.txt: it must end in .py'),
    ('fails.py', 'x = 1\ny = x / 0\n', 'fails.py, line 2: ZeroDivisionError: division by zero'),
    ('wrong.py', 'x = 1\ndef f(:\n', 'wrong.py, line 2: SyntaxError'),
    ('needs.py', 'import not_there\n', "needs.py, line 1: ModuleNotFoundError: No module named 'not_there'"),
    ('ends.py', 'raise SystemExit(3)\n', 'ends.py: it exits when it is imported')])
def test_files_that_cannot_be_imported(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        import_file(tmp_path / name)
    # Later trainings train
    stop_if_importing()


def test_the_command_says_so_in_one_line(own, command):
    code, out, err = command('evaluate', 'feed', '--import', 'none.py')
    assert (code, out, err) == (2, '', '--import none.py: there is no such file\n')


def test_imported_files_see_no_arguments_of_the_command(tmp_path):
    path = tmp_path / 'looks.py'
    path.write_text('import sys\nARGUMENTS = sys.argv\nIS_MAIN = __name__ == "__main__"\n')
    before = sys.argv
    module = import_file(path)
    assert (module.ARGUMENTS, module.IS_MAIN, module.__name__) == ([str(path)], False, 'looks')
    assert sys.argv is before


def test_a_file_named_like_a_module_takes_its_place_from_nothing(tmp_path):
    (tmp_path / 'json.py').write_text('x = 1\n')
    assert import_file(tmp_path / 'json.py').x == 1
    assert sys.modules['json'] is json


def test_every_command_takes_import_and_trains_nothing(own, command):
    n = len(own.runs)
    code, out, err = command('fill-mask', 'feed', 'the [MASK]uick', '--import', 'my own.py')
    assert code == 0, err
    assert out.startswith('the ')
    line = OWN.splitlines().index("train(Configs(), name='own')") + 1
    assert f'my own.py is imported up to its train(…) in line {line}, which trains nothing here' in err
    code, out, err = command('evaluate', 'beef', '--import', 'my own.py', '--json')
    assert code == 0 and json.loads(out)['n_tokens'] > 0, err
    (own.path / 'lines.txt').write_text('the quick fox\nthe lazy dog\n')
    for arguments in (['score', 'feed', 'lines.txt'], ['inspect', 'feed', 'the fox'], ['embed', 'feed', 'lines.txt']):
        code, _, err = command(*arguments, '--import', 'my own.py')
        assert code == 0 and 'is imported up to its train(…)' in err, err
    assert len(own.runs) == n


def test_an_imported_class_and_tokenizer_are_used(own, python):
    (own.path / 'use.py').write_text('import sys\nfrom pathlib import Path\n'
                                     'from labml_mlm import FillMask, load\n'
                                     'from labml_mlm.common.importing import import_file\n'
                                     "import_file(Path('my own.py'))\nmodel = load('beef')\n"
                                     "print(type(model.configs).__qualname__, type(model.tokenizer).__qualname__)\n"
                                     "print(FillMask(model)('THE [MASK]UICK').filled)\n")
    result = python('use.py')
    assert result.returncode == 0, result.stderr
    kinds, filled = result.stdout.splitlines()
    assert kinds == 'Configs LowerCase'
    # `encode` of its own takes what the vocabulary lacks
    assert re.fullmatch('THE .UICK', filled)


def test_train_trains_nothing_where_it_is_under_main(tmp_path):
    (tmp_path / 'main.py').write_text('from labml_mlm import MLMConfigs, train\nif __name__ == "__main__":\n'
                                      '    train(MLMConfigs(), name="x")\nAFTER = True\n')
    assert import_file(tmp_path / 'main.py').AFTER
