"""What is given and has no effect, or is wrong in Python, as a user meets it."""
import json

import pytest
from support.project import SMALL, assert_clean_failure

UNREAD = '`lr_decay_fraction` is given, but nothing reads it: it belongs to lr_schedule=wsd'


@pytest.mark.parametrize('arguments, message', [
    (['lr_decay_share=0.9'], UNREAD),
    (['optimizer=muon', 'optimizer.total_steps=5'], '`optimizer.total_steps` is given, but nothing reads it'),
    (['vocab_size=20', 'tokenizer=character'], 'vocab_size=20 is for tokenizer=grapheme'),
    (['tokenizer=bpe', 'tokenizer_path=x'], 'tokenizer_path=x is for tokenizer=file, and this is bpe'),
    (['transformer.d_model=16'], '`d_model` is given, but nothing reads it: it belongs to runs without a'),
    (['text_glob=*.md'], '`text_glob` is given, but nothing reads it: it belongs to a folder'),
    (['text_field=body'], '`text_field` is given, but nothing reads it: it belongs to JSON lines, tables and Parquet'),
    (['text=python_topics'], '`text_path` is given, but nothing reads it: it belongs to text=auto, file and folder'),
])
def test_what_has_no_effect_is_refused_before_a_run_exists(project, arguments, message):
    assert_clean_failure(project.train(*arguments), 2, message)
    assert project.runs == []


def script(project, body='', more=''):
    project.script.write_text('from labml_mlm import MLMConfigs, train\n\n\nclass Configs(MLMConfigs):\n'
                              f'    """Of a user."""\n{body}\n\nconf = Configs()\n{more}\ntrain(conf, name="test")\n')


@pytest.mark.parametrize('body, more, message', [
    ("    optimizer = 'adam'\n", '', 'Did you mean `optimizer.optimizer=Adam`?'),
    ('    epochs = 1\n    max_steps = 3\n', '', 'epochs=1 and max_steps=3: only one of epochs, max_steps'),
    ('    n_layers = 2\n', '', 'Did you mean `transformer.n_layers`?'),
    ("    transformer = {'n_layers': 2}\n", '', "In Python: `conf.set_values({'transformer.n_layers': 2})`"),
    ('    seq_len = -3\n', '', '`seq_len = -3` in the class Configs: it must be at least 1'),
    ("    d_model = 'two'\n", '', '`d_model = \'two\'` in the class Configs: it must be an integer'),
    ('', "conf.set_values({'transformer.n_layrs': 2})", 'Did you mean `transformer.n_layers`?'),
    ('', 'conf.d_model = 1', '`d_model = 1`: it must be at least 2'),
    ('', 'conf.lr_decay_fraction = 0.5', UNREAD), ('', "conf.set_values({'lr_decay_fraction': 0.5})", UNREAD),
])
def test_what_is_wrong_in_python_is_refused_before_a_run_exists(project, body, more, message):
    script(project, body, more)
    assert_clean_failure(project.run(f'text_path={project.text}'), 2, message)
    assert project.runs == []


def test_nested_items_that_are_set_in_python_are_used(project):
    values = {name: json.loads(value) for name, value in (argument.split('=') for argument in SMALL)}
    script(project, more=f'conf.set_values({ {**values, "optimizer.optimizer": "Adam", "epochs": 3}!r})')
    result = project.run(f'text_path={project.text}', 'epochs=1')
    assert result.returncode == 0, result.stderr
    given = json.loads((project.runs[0] / 'configs.json').read_text())['given']
    assert {**values, 'optimizer.optimizer': 'Adam', 'epochs': 1}.items() <= given.items()


def test_own_items_that_nothing_reads_are_told_at_the_end(project):
    body = """    late: int = 1
    never: int = 1
    lr_decay_fraction = 0.5

    def step(self, batch, batch_idx):
        super().step(batch, batch_idx)
        assert self.late
"""
    script(project, body)
    result = project.train('late=2', 'never=2')
    assert result.returncode == 0, result.stderr
    assert 'Given, but nothing has read it: lr_decay_fraction, never\n' in result.stdout


def test_all_ranks_refuse_alike(project):
    results = project.ranks(2, f'text_path={project.text}', *SMALL, 'lr_decay_share=0.9').wait()
    assert [result.returncode for result in results] == [2, 2]
    assert_clean_failure(results[0], 2, UNREAD)
    assert results[1].stderr == ''
    assert project.runs == []


def test_a_resumed_run_is_given_what_changes_alone(project):
    assert project.train().returncode == 0
    [run] = project.runs
    path = run / 'configs.json'
    snapshot = json.loads(path.read_text())
    # As runs of earlier versions may be
    snapshot['given'] |= {'lr_decay_fraction': 0.9, 'vocab_size': 20, 'tokenizer_path': '/none.json'}
    path.write_text(json.dumps(snapshot))
    result = project.run('--resume', 'last', 'epochs=2', 'lr_decay_fraction=0.9')
    assert result.returncode == 0, result.stderr
    assert_clean_failure(project.run('--resume', 'last', 'epochs=3', 'lr_decay_fraction=0.8'), 2, UNREAD)
