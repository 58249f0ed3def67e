"""Tokenizers as Hugging Face's files: the same ids of the same text."""
import json

import pytest
from support.exports import DOCUMENTS, FAMILIES, NO_PYTHON
from tokenizers import Tokenizer, processors

import labml_mlm
from labml_mlm.common.errors import UserError
from labml_mlm.export.folder import export_folder
from labml_mlm.export.tokenizer_files import tokenizer_files
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.subword import SubwordTokenizer

# Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, Devanagari, Thai, Georgian, Ethiopic, Hangul, Chinese
SCRIPTS = 'Latin Ελληνικά Кириллица Հայերեն עברית العربية हिन्दी ไทย ქართული አማርኛ 한국어 漢字'
TEXTS = [*DOCUMENTS, 'the quick\nfox\r\njumps\rover\n\n\nthe dog', 'the   quick \t  fox ', '  the', SCRIPTS,
         'th\u0000e e\u0301 \U0001f98a \u2028 fox', 'unknown: §¶†', '']
MASKED = ['a [MASK] fox', 'the quick [MASK] fox', '[MASK] fox', 'the fox [MASK]', 'the [MASK] [MASK] fox',
          'over,[MASK] fox', 'fox [MASK]!']


def tokenizer_of(trained) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_files(trained.configs, max_length=512, has_segments=False)['tokenizer.json'])


def expected(trained, text: str) -> list[int]:
    """What the model gets here, and if there is something that it does not know."""
    template = trained.configs._template
    return [*template.before, *trained.tokenizer.encode(text).tolist(), *template.after]


@pytest.fixture(scope='module')
def all_kinds(make, models):
    """Of every kind of tokenizer."""
    return {**{name: models[name] for name in FAMILIES}, 'pattern': make(tokenizer='pattern', token_pattern='code'),
            'characters with special tokens': make(add_special_tokens=True)}


NAMES = [*FAMILIES, 'pattern', 'characters with special tokens']


@pytest.mark.parametrize('name', NAMES)
def test_texts_have_the_same_ids(all_kinds, name):
    trained = all_kinds[name]
    written = tokenizer_of(trained)
    assert written.get_vocab_size() == trained.tokenizer.n_tokens
    for text in TEXTS:
        assert written.encode(text).ids == expected(trained, text), text


@pytest.mark.parametrize('name', NAMES)
def test_masked_texts_have_the_same_ids(all_kinds, name):
    """Where tokens include the space before them, the mask does, too."""
    trained = all_kinds[name]
    written = tokenizer_of(trained)
    for text in MASKED:
        assert written.encode(text).ids == trained.masked_ids(text.split('[MASK]')).tolist(), text


@pytest.mark.parametrize('name', ['esm', 'esm with special tokens', 'bert', 'roberta', NAMES[-1]])
def test_a_mask_in_a_word(all_kinds, name):
    trained = all_kinds[name]
    text = 'th[MASK] qu[MASK]ck' if name == 'bert' else 'th[MASK]t  fo[MASK][MASK]\nd[MASK]g'
    assert tokenizer_of(trained).encode(text).ids == trained.masked_ids(text.split('[MASK]')).tolist()


def test_words_in_lower_case_without_quotation_marks(models):
    trained = models['esm with words']
    text = 'The QUICK fox;  "over" the dog!\r\n\n It\'s a <br />fox (zebra) th[MASK]t: [MASK] dog'
    written = tokenizer_of(trained)
    unk, mask = trained.tokenizer.special.unk, trained.tokenizer.special.mask
    pieces = text.split('[MASK]')
    ids = [i for piece in pieces for i in (mask, *trained.tokenizer.encode(piece).tolist())][1:]
    assert written.encode(text).ids == ids
    assert ids.count(unk) == 5 and ids.count(mask) == 2


@pytest.mark.parametrize('name', NAMES)
def test_decoding_gives_the_text_of_tokens(all_kinds, name):
    trained, text = all_kinds[name], 'the quick fox over the dog'
    written = tokenizer_of(trained)
    assert written.decode(written.encode(text).ids, skip_special_tokens=True) == text


def with_processor(make, processor, **values):
    """A model whose tokenizer.json has a post-processor of its own."""
    built = make(tokenizer='bpe', vocab_size=300).tokenizer
    tokenizer = Tokenizer.from_str(built.files['tokenizer.json'])
    tokenizer.post_processor = processor
    return make(tokenizer=SubwordTokenizer(tokenizer), **values)


PROCESSORS = {
    'template': processors.TemplateProcessing(single='[SEP] $A [CLS]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]),
    'roberta': processors.RobertaProcessing(('[SEP]', 3), ('[CLS]', 2), add_prefix_space=False),
    'offsets': processors.ByteLevel(trim_offsets=True), 'none': None}


@pytest.mark.parametrize('processor', PROCESSORS)
@pytest.mark.parametrize('add_special_tokens', [True, False, 'auto'])
def test_around_a_text_is_what_was_there_in_training(make, tmp_path, processor, add_special_tokens):
    """With `auto`, the default encoder has nothing there, whatever the tokenizer says."""
    trained = with_processor(make, PROCESSORS[processor], add_special_tokens=add_special_tokens)
    ids = tokenizer_of(trained).encode('the fox').ids
    assert ids == trained.ids('the fox').tolist()
    assert (ids[0] in (2, 3)) == (ids[-1] in (2, 3)) == (add_special_tokens is True)
    # And so it is for whoever reads the folder
    export_folder(trained, tmp_path / 'out', python=NO_PYTHON)
    assert labml_mlm.load(tmp_path / 'out').ids('the fox').tolist() == ids


def test_a_pair_has_the_types_of_berts(models):
    encoded = tokenizer_of(models['bert']).encode('the fox', 'the dog')
    assert [encoded.ids[0], encoded.ids[-1]] == [2, 3]
    assert encoded.type_ids == [0, 0, 0, 0, 1, 1, 1] and encoded.ids[3] == 3


def test_settings_name_special_tokens(models, folders):
    about = json.loads((folders['bert'] / 'tokenizer_config.json').read_text())
    assert about['tokenizer_class'] == 'PreTrainedTokenizerFast'
    assert (about['pad_token'], about['mask_token'], about['cls_token']) == ('[PAD]', '[MASK]', '[CLS]')
    assert about['model_max_length'] == models['bert'].model.max_seq_len == 512
    assert 'token_type_ids' in about['model_input_names']
    assert 'token_type_ids' not in json.loads(
        (folders['roberta'] / 'tokenizer_config.json').read_text())['model_input_names']
    special = json.loads((folders['esm'] / 'special_tokens_map.json').read_text())
    assert special.items() <= json.loads((folders['esm'] / 'tokenizer_config.json').read_text()).items()
    for token in json.loads((folders['esm'] / 'tokenizer.json').read_text())['added_tokens']:
        assert token['special']


class OwnTokenizer(CharacterTokenizer):
    """Nothing says what it does."""


def test_a_tokenizer_of_ones_own_is_refused(make):
    trained = make(tokenizer=OwnTokenizer('abcdefghijklmnopqrstuvwxyz \n'))
    with pytest.raises(UserError, match='a tokenizer of the class OwnTokenizer cannot be written as tokenizer.json'):
        tokenizer_of(trained)


def test_another_mask_than_the_tokenizers_is_refused(make):
    with pytest.raises(UserError, match=r'mask_token=1 and padding_token=0 are not those of the tokenizer, 4 and 0'):
        tokenizer_of(make(mask_token=1))
