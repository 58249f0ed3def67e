"""The model card."""
import re
import shutil

import pytest
import yaml
from support.exports import NO_PYTHON

import labml_mlm
from labml_mlm.common.errors import UserError
from labml_mlm.export import card
from labml_mlm.export.card import Note, model_card
from labml_mlm.export.folder import export_folder

CONFIG = {'model_type': 'esm', 'architectures': ['EsmForMaskedLM'], 'labml_mlm': '0.1.0'}
NOTES = [Note('one'), Note('two', 'of /home/anna/two')]


@pytest.fixture(scope='module')
def text(run):
    return model_card(run, CONFIG, NOTES)[0]


def rows(text: str) -> dict[str, str]:
    """The table of what the model is."""
    return dict(re.findall(r'^\| ([^|]+) \| (.*) \|$', text, re.MULTILINE))


def test_front_matter_is_yaml_without_a_licence(text):
    _, front, rest = text.split('---\n', 2)
    assert yaml.safe_load(front) == {'library_name': 'transformers', 'pipeline_tag': 'fill-mask',
                                     'tags': ['esm', 'labml', 'labml_mlm']}
    assert rest.startswith('\n# test feed\n')


def test_text_is_named_measured_and_identified(text, run, texts):
    table, saved = rows(text), run.checkpoint.metadata['configs']['text']
    assert table['Text'] == 'some texts' == texts.name
    assert table['Size of the text'] == f'{saved["characters"]:,} characters'
    assert table['SHA-256 of the text'] == saved['sha256'] and len(saved['sha256']) == 64


def test_what_the_model_is(text, run):
    table = rows(text)
    assert table['Architecture'] == 'EsmForMaskedLM'
    assert table['Parameters'] == f'{sum(p.numel() for p in run.model.parameters()):,}'
    assert (table['Hidden size'], table['Layers']) == ('32', '2')
    assert table['Training'] == f'{run.checkpoint.step:,} tokens'
    assert 'labml_mlm 0.1.0, python 3' in table['Versions'] and 'torch 2' in table['Versions']


def test_figures_have_their_definition(text, run):
    assert 'On the validation text, over the tokens to be predicted, 15% of all: of those 80% are `[MASK]`' in text
    valid = run.checkpoint.valid
    assert f'| {valid["loss"]:.4f} | {valid["accuracy"]:.4f} |' in text


def test_configs_are_what_was_given(text):
    configs = text.split('```\n')[-2].splitlines()
    assert {'d_model=32', 'epochs=4', 'transformer.n_heads=4', 'text_path=some texts'} <= set(configs)


def test_there_is_no_path_of_this_machine(text, exports, texts, tmp_path):
    assert '* one\n* two\n' in text
    for path in (exports.path, texts.parent, tmp_path.parent, '/home'):
        assert str(path) not in text
    assert not re.search(r'(?<![\w`.])/\w', text)


@pytest.mark.parametrize('is_custom', [False, True])
def test_how_to_use_it(run, tmp_path, is_custom):
    export_folder(run, tmp_path / 'out', is_custom=is_custom, python=NO_PYTHON)
    text = (tmp_path / 'out/README.md').read_text()
    assert ("pipeline('fill-mask', 'path/to/this/folder', trust_remote_code=True)" in text) == is_custom
    assert 'Not compared with transformers\n' in text and NO_PYTHON not in text


def test_a_picture_of_the_curves(run, tmp_path):
    pytest.importorskip('matplotlib')
    export_folder(run, tmp_path / 'out', python=NO_PYTHON)
    assert (tmp_path / 'out/curves.png').read_bytes().startswith(b'\x89PNG')
    assert '![Loss and masked accuracy over training](curves.png)' in (tmp_path / 'out/README.md').read_text()


def test_without_matplotlib_it_says_why(run, monkeypatch):
    def draw(*_):
        raise UserError('labml-mlm plot needs matplotlib')

    monkeypatch.setattr(card, 'draw', draw)
    text, picture = model_card(run, CONFIG, [])
    assert picture is None
    assert 'There is no picture of the curves: labml-mlm plot needs matplotlib\n' in text and 'curves.png' not in text


def test_a_run_without_a_log_has_no_picture(own_run):
    (own_run.checkpoint.path.parents[1] / 'log.jsonl').unlink()
    text, picture = model_card(own_run, CONFIG, [])
    assert picture is None and 'There is no picture of the curves: the run has no log\n' in text


def test_a_published_encoder_has_neither_text_nor_figures(models, tmp_path):
    export_folder(models['bert'], tmp_path / 'bert of mine', python=NO_PYTHON)
    trained = labml_mlm.load(tmp_path / 'bert of mine')
    text, picture = model_card(trained, CONFIG, [])
    assert picture is None and '# bert of mine\n' in text
    assert not {'Text', 'Training', 'Versions'} & rows(text).keys()
    assert '## Figures' not in text and str(tmp_path) not in text


def test_a_bar_in_a_name_does_not_break_the_table(run, tmp_path):
    copied = shutil.copytree(run.checkpoint.path, tmp_path / 'copied')
    trained = labml_mlm.load(copied)
    trained.checkpoint.metadata['configs']['given'] |= {'text_path': '/a/b|c.txt', 'init_from': '/x/y'}
    text, _ = model_card(trained, CONFIG, [])
    assert '| Text | b\\|c.txt |' in text
    assert rows(text)['Went on from'] == 'y'
