"""`--name`, `--comment`, `--tags` of a run."""
import pytest
import yaml
from launch.conftest import stop_run

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.launch.options import Options, default_tags, given_comment, split_arguments
from labml_mlm.runs.run import Run


@pytest.mark.parametrize('arguments, options', [
    ([], Options()),
    (['--resume', 'last'], Options(resume='last')),
    (['--name', 'mine', '--comment=two words', '--tags=a, b'],
     Options(name='mine', comment='two words', tags=('a', 'b'))),
    (['--comment='], Options(comment='')),
    (['--comment=-1'], Options(comment='-1')),
    # A sweep adds its own tag to those of a person
    (['--tags', 'a,b', '--tags', 'b,c'], Options(tags=('a', 'b', 'c'))),
])
def test_options_are_told_from_overrides(arguments, options):
    overrides, found = split_arguments(['seq_len=64', *arguments, 'epochs=1'])
    assert (overrides, found) == (['seq_len=64', 'epochs=1'], options)
    assert split_arguments(found.arguments) == ([], options)


@pytest.mark.parametrize('arguments, message', [
    (['--resume'], '--resume needs a run: its uuid, its folder, or last'),
    (['--resume='], '--resume needs a run'),
    (['--name'], '--name needs a name for the experiment'),
    (['--name', '--tags', 'a'], '--name needs a name'),
    (['--name=a/b'], "'a/b' cannot be the name of an experiment"),
    (['--name', '..'], "'..' cannot be the name of an experiment"),
    (['--comment', 'two\nlines'], '--comment must be one line of up to 300 characters'),
    (['--comment', 'x' * 301], '--comment must be one line of up to 300 characters'),
    (['--tags', 'a,,b'], '`--tags a,,b`: it must be words, separated by commas'),
    (['--tags='], '--tags needs words, separated by commas'),
    (['--tags', 'x' * 61], 'each of up to 60 characters'),
    (['--resume', 'last', '--name', 'x'], 'a resumed run keeps its name, comment and tags: leave out --name'),
    (['--resume', 'last', '--tags', 'x'], 'leave out --tags'),
])
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(UserError) as caught:
        split_arguments(arguments)
    assert message in str(caught.value)


def test_comment_is_what_was_given_as_it_is_written(build, text_path):
    conf = build(masking_prob=0.2, compile=False)
    arguments = {'seq_len': 16, 'betas': (0.9, 0.5), 'text_path': ['/a/b c/', '/a/d.txt'], 'patience': None,
                 'recipe': 'char'}
    comment = given_comment(conf, given=['masking_prob', 'compile', 'seq_len'], arguments=arguments)
    assert comment == "seq_len=16 betas=0.9,0.5 text_path='b c,d.txt' patience=none compile=false masking_prob=0.2"


def test_comment_has_no_objects_and_is_short(build):
    conf = MLMConfigs()
    conf.tokenizer = object()
    assert given_comment(conf, given=['tokenizer'], arguments={}) == 'tokenizer=object'
    text = 'a text that is much longer than a comment ' * 20
    [name, value] = given_comment(conf, given=[], arguments={'prompt': [text]}).split('=')
    assert name == 'prompt' and len(value) < 50
    assert len(given_comment(conf, given=[], arguments={f'item{i}': 'value' for i in range(100)})) == 301


def test_tags_are_recipe_text_tokenizer_and_device(build):
    assert default_tags(build()) == ['mlm', 'text.txt', 'character', 'cpu']
    assert default_tags(build(text='python_topics', text_path=[])) == ['mlm', 'python_topics', 'character', 'cpu']


def described(folder):
    info = yaml.safe_load((folder / 'run.yaml').read_bytes())
    return info['name'], info['comment'], info['tags']


def test_run_has_a_comment_and_tags(project):
    assert project.train('masking_prob=0.2', '--tags', 'sweep-1').returncode == 0
    [run] = project.runs
    assert described(run) == ('test', 'text_path=text.txt transformer.n_layers=1 d_model=16 transformer.n_heads=2 '
                                      'epochs=1 batch_size=16 seq_len=16 masking_prob=0.2', ['sweep-1'])
    assert Run(run).tags == ['sweep-1']


def test_name_comment_and_tags_stay_on_resume(project):
    stop_run(project, '--name', 'mine', '--comment', 'my words', experiment='mine')
    [folder] = project.runs
    assert folder == project.path / 'logs/mine/feed'
    before = described(folder)
    assert before == ('mine', 'my words', ['mlm', 'text.txt', 'character', 'cpu'])
    # By the script, whose experiment is another, by uuid and by the last of its runs
    result = project.run('--resume', 'feed', 'epochs=5')
    assert result.returncode == 0, result.stderr
    result = project.run('--resume', 'last', 'epochs=6')
    assert result.returncode == 0, result.stderr
    assert described(folder) == before
    assert project.runs == [folder] and project.status() == 'completed'


def test_run_of_another_script_is_refused_by_its_name(project):
    stop_run(project, '--name', 'mine', experiment='mine')
    project.script.write_text(project.script.read_text().replace('"test"', '"other"'))
    result = project.run('--resume', 'feed')
    assert result.returncode == 2
    assert 'the run feed belongs to the experiment mine, and this script is other' in result.stderr
