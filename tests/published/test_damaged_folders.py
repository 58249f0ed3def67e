"""A published folder that is damaged, or made to harm: one line, no hang, and no memory beyond its files."""
import json
import os

import pytest
from support.damage import bounded
from support.published import VOCABULARY, edit_config, save, write_json

import labml_mlm
from labml_mlm.common.errors import UserError

HUGE, NAN, DEEP = 10 ** 12, float('nan'), '[' * 100_000
SIZES = {'bert': ['hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size', 'type_vocab_size',
                  'vocab_size', 'max_position_embeddings'],
         'roberta': ['num_hidden_layers', 'max_position_embeddings', 'pad_token_id'],
         'modernbert': ['hidden_size', 'num_hidden_layers', 'intermediate_size', 'vocab_size']}
CONTENTS = {'empty': '', 'cut': '{"a": [1', 'deep': DEEP, 'list': '[]', 'number': '5', 'null': 'null', 'nan': 'NaN',
            'bytes': bytes(range(256)).decode('latin-1')}
PLACES = {'pipe': os.mkfifo, 'endless': lambda path: path.symlink_to('/dev/zero'), 'folder': lambda path: path.mkdir()}
INDEX = 'model.safetensors.index.json'
# Files of a tokenizer by its vocabulary
WORD_PIECES = {'vocab.txt': '\n'.join(VOCABULARY), 'tokenizer_config.json': '{}', 'special_tokens_map.json': '{}',
               'added_tokens.json': '{}'}
BYTE_PAIRS = {'vocab.json': json.dumps({token: i for i, token in enumerate(
    ['<s>', '<pad>', '</s>', '<unk>', '<mask>', 'a', 'b', 'ab'])}), 'merges.txt': '#version: 0.2\na b\n',
    'tokenizer_config.json': '{}'}


def assert_refused(folder):
    """Returns the message."""
    with bounded(), pytest.raises(UserError) as error:
        labml_mlm.load(folder, device='cpu')
    message = str(error.value)
    assert len(message.splitlines()) == 1, message
    return message


def replace(path, place):
    path.unlink(missing_ok=True)
    PLACES[place](path) if place in PLACES else path.write_text(CONTENTS[place], encoding='latin-1')


@pytest.mark.parametrize('kind, name', [(kind, name) for kind, names in SIZES.items() for name in names])
@pytest.mark.parametrize('value', [HUGE, 0, NAN, []])
def test_sizes_that_the_weights_have_not_are_refused(tmp_path, kind, name, value):
    folder = save(tmp_path / 'encoder', model_type=kind)
    edit_config(folder, **{name: value})
    if (name, value) == ('pad_token_id', 0) or (kind == 'roberta' and value == HUGE and 'position' in name):
        pytest.skip('it may be so')
    assert_refused(folder)


@pytest.mark.parametrize('values', [{'layer_types': []}, {'layer_types': 5}, {'layer_types': [[]]},
                                    {'layer_types': ['full_attention'], 'num_hidden_layers': HUGE},
                                    {'global_attn_every_n_layers': HUGE, 'layer_types': None, 'num_hidden_layers': 0},
                                    {'rope_parameters': 5}, {'rope_parameters': {'full_attention': 5}},
                                    {'local_attention': 'x'}, {'hidden_activation': []}, {'model_type': []},
                                    {'model_type': {}}, {'model_type': 'gpt2'}, {'norm_eps': 'x'}], ids=str)
def test_lists_and_names_of_a_config_are_checked(tmp_path, values):
    folder = save(tmp_path / 'encoder', model_type='modernbert')
    edit_config(folder, **values)
    assert_refused(folder)


@pytest.mark.parametrize('place', [*CONTENTS, *PLACES])
@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', INDEX, 'pytorch_model.bin', 'tokenizer.json'])
def test_any_file_may_hold_anything(tmp_path, name, place):
    folder = save(tmp_path / 'encoder')
    if name in (INDEX, 'pytorch_model.bin'):
        (folder / 'model.safetensors').unlink()
    replace(folder / name, place)
    if name == 'config.json' and place in PLACES:
        # It is no published folder then
        with bounded(), pytest.raises(UserError):
            labml_mlm.load(folder)
        return
    assert str(folder) in assert_refused(folder)


@pytest.mark.parametrize('weights', [5, [], {}, {'a': 5}, {'a': '../../etc/passwd'}, {'a': '/dev/zero'}, {'a': 'pipe'},
                                     {'a': '.'}], ids=str)
def test_index_names_files_of_the_folder(tmp_path, weights):
    folder = save(tmp_path / 'encoder')
    (folder / 'model.safetensors').unlink()
    os.mkfifo(folder / 'pipe')
    write_json(folder / INDEX, {'weight_map': weights})
    assert_refused(folder)


@pytest.mark.parametrize('place', [*CONTENTS, *PLACES])
@pytest.mark.parametrize('files, name', [(files, name) for files in (WORD_PIECES, BYTE_PAIRS) for name in files],
                         ids=lambda value: value if isinstance(value, str) else list(value)[0])
def test_any_file_of_a_tokenizer_may_hold_anything(tmp_path, files, name, place):
    folder = save(tmp_path / 'encoder', is_tokenized=False)
    for file, content in files.items():
        (folder / file).write_text(content)
    replace(folder / name, place)
    if (name, place) == ('merges.txt', 'empty'):
        pytest.skip('there need be none')
    message = assert_refused(folder)
    assert str(folder) in message or name in message


@pytest.mark.parametrize('values', [{role: value} for role in ('mask_token', 'unk_token')
                                    for value in (5, [], {}, None, {'content': 5}, {'content': []}, 'x' * 100)]
                         + [{'tokenizer_class': value} for value in (5, [], {}, 'XLNetTokenizer')]
                         + [{'do_lower_case': 'x'}, {'strip_accents': []}, {'tokenize_chinese_chars': 5}], ids=str)
@pytest.mark.parametrize('name', ['tokenizer_config.json', 'special_tokens_map.json'])
def test_settings_of_a_tokenizer_are_checked(tmp_path, name, values):
    folder = save(tmp_path / 'encoder', is_tokenized=False)
    for file, content in WORD_PIECES.items():
        (folder / file).write_text(content)
    write_json(folder / name, values)
    assert str(folder) in assert_refused(folder)


def test_folder_that_is_whole_is_read(tmp_path):
    """With the files that the tests above damage."""
    for files in (None, WORD_PIECES):
        folder = save(tmp_path / str(files is None), is_tokenized=files is None)
        for file, content in (files or {}).items():
            (folder / file).write_text(content)
        with bounded():
            assert labml_mlm.load(folder, device='cpu').tokenizer.n_tokens == len(VOCABULARY)


@pytest.mark.parametrize('name', ['intermediate_size', 'vocab_size'])
def test_run_does_not_begin_from_such_a_folder(project, name):
    folder = save(project.path / 'encoder')
    edit_config(folder, **{name: HUGE})
    result = project.run(f'init_from={folder}', f'text_path={project.text}', 'epochs=1', 'seq_len=16', 'batch_size=8')
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    assert 'the configs are damaged, or not those of the weights' in result.stderr, result.stderr
    assert project.runs == []
