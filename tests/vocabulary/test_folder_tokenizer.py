"""Tokenizers of folders, beside those of transformers."""
import json

import pytest
from support.hugging_face import run_hugging_face
from support.published import VOCABULARY, word_pieces, write_json
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from labml_mlm.common.errors import UserError
from labml_mlm.vocabulary.folder_tokenizer import folder_tokenizer

# Latin, Greek, Cyrillic, Hebrew, Arabic, Devanagari, Sinhala, Thai, Georgian, Han, Kana and Hangul
SCRIPTS = [
    'The quick brown fox, 3.14 times; it’s naïve — Ærøskøbing!', 'Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.',
    'Съешь же ещё этих мягких французских булок, да выпей чаю.', 'דג סקרן שט בים מאוכזב', 'نص حكيم له سر قاطع',
    'ऋषियों को सताने वाले दुष्ट राक्षसों', 'ක්\u200dෂණික ශ්\u200dරී ලංකාව', 'เป็นมนุษย์สุดประเสริฐ',
    'გთხოვთ ახლავე გაიაროთ რეგისტრაცია', '我能吞下玻璃而不伤身体。', 'いろはにほへと チリヌルヲ',
    '키스의 고유조건은 입술끼리 만나야']
TEXT = '  ' + '\n'.join(SCRIPTS) + '\n\tSpaces   and\r\nlines 🦊 e\u0301 \u00a0 \u200b end '
ROBERTA = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']

HUGGING_FACE = """
import json, sys
from pathlib import Path
from transformers import AutoTokenizer

text = Path(sys.argv[1]).read_text(encoding='utf-8')
ids = {folder: AutoTokenizer.from_pretrained(folder)(text).input_ids for folder in sys.argv[3:]}
Path(sys.argv[2]).write_text(json.dumps(ids))
"""


def train_word_pieces(path, **how):
    """`vocab.txt`, of about half the words as a whole."""
    tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(**how), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator([TEXT] * 3, trainers.WordPieceTrainer(
        vocab_size=700, special_tokens=VOCABULARY[:5], initial_alphabet=list('abcdefgh'), show_progress=False))
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda token_and_id: token_and_id[1])
    path.write_text(''.join(f'{token}\n' for token, _ in vocabulary), encoding='utf-8')


def train_byte_pairs(folder):
    """`vocab.json` and `merges.txt`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=500, special_tokens=ROBERTA, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer.model.save(str(folder))


def unigram():
    """As that of XLM-R."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator([TEXT] * 5, trainers.UnigramTrainer(
        vocab_size=400, special_tokens=ROBERTA, unk_token='<unk>', show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing('<s> $A </s>', '<s> $A </s> </s> $B </s>',
                                                             [('<s>', 0), ('</s>', 2)])
    return tokenizer


# What `tokenizer_config.json` and `BertNormalizer` have in common
WORD_PIECES = {'default': {}, 'cased': {'do_lower_case': False}, 'uncased with accents': {'strip_accents': False},
               'cased without accents': {'do_lower_case': False, 'strip_accents': True},
               'whole Chinese words': {'tokenize_chinese_chars': False}}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Folders with a tokenizer, by name."""
    made = {name: tmp_path_factory.mktemp('tokenizer') for name in [
        *WORD_PIECES, 'byte pairs', 'byte pairs with a space', 'tokenizer.json of word pieces', 'tokenizer.json of BPE',
        'tokenizer.json of unigram']}
    for name, folder in made.items():
        is_bert = name in WORD_PIECES or name.endswith('word pieces')
        write_json(folder / 'config.json', {'model_type': 'bert' if is_bert else 'roberta'})
        if name in WORD_PIECES:
            about = WORD_PIECES[name]
            train_word_pieces(folder / 'vocab.txt', handle_chinese_chars=about.get('tokenize_chinese_chars', True),
                              strip_accents=about.get('strip_accents'), lowercase=about.get('do_lower_case', True))
            if about:
                write_json(folder / 'tokenizer_config.json', {'tokenizer_class': 'BertTokenizer', **about})
        elif name.startswith('byte pairs'):
            train_byte_pairs(folder)
            if name.endswith('space'):
                write_json(folder / 'tokenizer_config.json', {'add_prefix_space': True,
                                                              'tokenizer_class': 'RobertaTokenizer'})
        else:
            write_json(folder / 'tokenizer_config.json', {'tokenizer_class': 'PreTrainedTokenizerFast'})
    word_pieces().save(str(made['tokenizer.json of word pieces'] / 'tokenizer.json'))
    folder_of_pairs = made['byte pairs']
    pairs = Tokenizer(models.BPE.from_file(str(folder_of_pairs / 'vocab.json'), str(folder_of_pairs / 'merges.txt')))
    pairs.pre_tokenizer, pairs.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    pairs.add_special_tokens(ROBERTA)
    pairs.post_processor = processors.RobertaProcessing(('</s>', 2), ('<s>', 0))
    pairs.save(str(made['tokenizer.json of BPE'] / 'tokenizer.json'))
    unigram().save(str(made['tokenizer.json of unigram'] / 'tokenizer.json'))
    return made


@pytest.mark.usefixtures('needs_transformers')
def test_tokens_are_those_of_transformers(folders, tmp_path):
    (tmp_path / 'text').write_bytes(TEXT.encode())
    text = (tmp_path / 'text').read_text(encoding='utf-8')
    run_hugging_face(HUGGING_FACE, tmp_path / 'text', tmp_path / 'ids', *folders.values())
    theirs = json.loads((tmp_path / 'ids').read_text())
    for name, folder in folders.items():
        tokenizer = folder_tokenizer(folder)
        around = tokenizer.template
        ids = [*around.before, *tokenizer.encode(text).tolist(), *around.after]
        assert ids == theirs[str(folder)], name
        assert len(set(ids)) > 20 and (len(around.before), len(around.after)) == (1, 1)


def test_special_tokens_have_their_roles(folders):
    tokenizer = folder_tokenizer(folders['cased'])
    assert tokenizer.special[:5] == (0, 1, 2, 3, 4)
    tokenizer = folder_tokenizer(folders['byte pairs'])
    assert tokenizer.special[:5] == (1, 3, 0, 2, 4)


def test_names_of_special_tokens_come_from_the_folder(tmp_path):
    (tmp_path / 'vocab.txt').write_text('\n'.join([*ROBERTA, *VOCABULARY[5:]]))
    mask = {'content': '<mask>', 'lstrip': False, 'normalized': False, 'rstrip': False, 'single_word': False}
    write_json(tmp_path / 'special_tokens_map.json', {'pad_token': '<pad>', 'unk_token': '<unk>', 'mask_token': mask})
    write_json(tmp_path / 'tokenizer_config.json', {'cls_token': '<s>', 'sep_token': '</s>'})
    tokenizer = folder_tokenizer(tmp_path)
    assert tokenizer.special[:5] == (1, 3, 0, 2, 4)
    assert tokenizer.template == ((0,), (2,))


def test_tokenizer_json_comes_first(folders, tmp_path):
    (tmp_path / 'tokenizer.json').write_bytes((folders['tokenizer.json of BPE'] / 'tokenizer.json').read_bytes())
    (tmp_path / 'vocab.txt').write_text('\n'.join(VOCABULARY))
    assert folder_tokenizer(tmp_path).n_tokens == 500


def test_lines_of_vocab_txt_may_end_as_on_windows(tmp_path):
    (tmp_path / 'vocab.txt').write_bytes('\r\n'.join(VOCABULARY).encode())
    tokenizer = folder_tokenizer(tmp_path)
    assert tokenizer.encode('the fox jumpsb').tolist() == [VOCABULARY.index(token)
                                                           for token in ('the', 'fox', 'jumps', '##b')]


REACTION = 'CC(=O)Cl.Nc1ccccc1>>CC(=O)N[C@@H]1%12Br'
ATOMS = ['C', 'C', '(', '=', 'O', ')', 'Cl', '.', 'N', 'c', '1', 'c', 'c', 'c', 'c', 'c', '1', '>>', 'C', 'C', '(', '=',
         'O', ')', 'N', '[C@@H]', '1', '%12', 'Br']


def test_whole_tokens_are_cut_as_those_of_reactions(tmp_path):
    (tmp_path / 'vocab.txt').write_text('\n'.join([*VOCABULARY[:5], '[unused1]', *dict.fromkeys(ATOMS)]) + '\n')
    tokenizer = folder_tokenizer(tmp_path)
    assert [tokenizer.tokens[i] for i in tokenizer.encode(REACTION)] == ATOMS
    assert tokenizer.decode(tokenizer.encode(REACTION)) == REACTION


def test_added_tokens_are_tokens(tmp_path):
    """In folders without a `tokenizer.json` they stand beside the vocabulary."""
    (tmp_path / 'vocab.txt').write_text('\n'.join(VOCABULARY))
    n = len(VOCABULARY)
    write_json(tmp_path / 'added_tokens.json', {'covid': n + 1, 'xyz-1': n, '[CLS]': 2})
    tokenizer = folder_tokenizer(tmp_path)
    assert tokenizer.n_tokens == n + 2
    assert tokenizer.encode('the covid xyz-1 fox').tolist() == [5, n + 1, n, 8]


def no_tokenizer(folder):
    pass


def sentence_piece(folder):
    (folder / 'sentencepiece.bpe.model').write_bytes(b'\n\x0e')


def words_alone(folder):
    (folder / 'vocab.txt').write_text('\n'.join([*VOCABULARY[:5], 'fox', 'dog', 'C']))


def without_special(folder):
    (folder / 'vocab.txt').write_text('\n'.join(VOCABULARY[2:]))


def not_utf8(folder):
    (folder / 'vocab.txt').write_bytes(b'\xff\xfe[PAD]')


def of_another_class(folder):
    (folder / 'vocab.txt').write_text('\n'.join(VOCABULARY))
    write_json(folder / 'tokenizer_config.json', {'tokenizer_class': 'BertJapaneseTokenizer'})


def broken_merges(folder):
    train_byte_pairs(folder)
    (folder / 'merges.txt').write_text('#version: 0.2\nq qq\n')


def broken_vocabulary(folder):
    train_byte_pairs(folder)
    (folder / 'vocab.json').write_text('{"a": 0,')


def broken_json(folder):
    (folder / 'tokenizer.json').write_text('{"version": "1.0"')


def without_mask(folder):
    tokenizer = Tokenizer(models.WordLevel({'[PAD]': 0, '[UNK]': 1, 'fox': 2}, unk_token='[UNK]'))
    tokenizer.save(str(folder / 'tokenizer.json'))


def gap_in_added_tokens(folder):
    (folder / 'vocab.txt').write_text('\n'.join(VOCABULARY))
    write_json(folder / 'added_tokens.json', {'covid': len(VOCABULARY) + 3})


@pytest.mark.parametrize('make, message', [
    (sentence_piece, 'has its tokenizer in sentencepiece.bpe.model alone: save it once more with transformers'),
    (words_alone, 'vocab.txt has no pieces of words (##…), and 2 of its tokens are no SMILES'),
    (without_special, 'vocab.txt has no [UNK], [PAD], of the special tokens'),
    (not_utf8, 'vocab.txt: it is not UTF-8'),
    (of_another_class, 'BertJapaneseTokenizer'),
    (broken_merges, 'cannot read vocab.json and merges.txt'),
    (broken_vocabulary, 'vocab.json'),
    (broken_json, 'tokenizer.json is not a tokenizer.json'),
    (without_mask, '[MASK]'),
    (gap_in_added_tokens, 'added_tokens.json'),
])
def test_what_cannot_be_read_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UserError) as e:
        folder_tokenizer(tmp_path)
    assert message in str(e.value)
    assert '\n' not in str(e.value)


def test_folder_without_a_tokenizer_has_none(tmp_path):
    assert folder_tokenizer(tmp_path) is None
