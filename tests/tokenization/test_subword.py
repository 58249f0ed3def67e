import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization import subword as subwords
from labml_mlm.tokenization import train_tokenizer
from labml_mlm.tokenization.chunks import split_chunks
from labml_mlm.tokenization.subword import SubwordTokenizer

SENTENCE = "The quick brown fox's jumps, over \"the\" lazy dog. Ünïcode 你好 it isn't [MASK]!\n"
KINDS = {'bpe': train_tokenizer.bpe([SENTENCE] * 50, vocab_size=330),
         'wordpiece': train_tokenizer.wordpiece([SENTENCE] * 50, vocab_size=90),
         'basic_english': train_tokenizer.basic_english([SENTENCE] * 50, vocab_size=50)}
texts = st.text(alphabet=st.characters(exclude_categories=['Cs']))
# Words that the tokenizers know, and white space, and what they do not know
sentences = st.lists(st.sampled_from(['The', 'quick', "fox's", "isn't", ' ', '  ', '\n', '\n\n', ' \n ', '\t', '你',
                                      '.', ',', 'zebra', '<br />', '\u3000', 'é'])).map(''.join)


@given(texts)
def test_bpe_gives_back_any_text(text):
    bpe = KINDS['bpe']
    assert bpe.decode(bpe.encode(text)) == text


@given(st.binary(max_size=60))
def test_any_bytes_as_text(data):
    text = data.decode('utf-8', 'replace')
    for tokenizer in KINDS.values():
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32 and ((ids >= 5) | (ids == tokenizer.special.unk)).all()
        assert tokenizer.encode(tokenizer.decode(ids)).tolist() == ids.tolist() or tokenizer.special.unk in ids


@given(sentences)
def test_wordpiece_gives_back_what_it_knows(text):
    wordpiece = KINDS['wordpiece']
    ids = wordpiece.encode(text)
    if wordpiece.special.unk not in ids:
        assert ''.join(wordpiece.decode(ids).split()) == ''.join(text.split())


def slow_basic_english(text):
    """The rules one by one; of Python's white space without the separators of files and records."""
    text = ''.join(c.lower() for c in text)
    for old, new in [("'", " '  "), ('"', ''), ('.', ' . '), ('<br />', ' '), (',', ' , '), ('(', ' ( '), (')', ' ) '),
                     ('!', ' ! '), ('?', ' ? '), (';', ' '), (':', ' ')]:
        text = text.replace(old, new)
    return re.findall(r'(?:\S|[\x1c-\x1f])+', text)


@given(st.one_of(texts, sentences))
def test_basic_english_equals_the_rules(text):
    tokenizer = KINDS['basic_english']
    expected = [tokenizer.tokens.index(f' {word}') if f' {word}' in tokenizer.tokens else tokenizer.special.unk
                for word in slow_basic_english(text)]
    assert tokenizer.encode(text).tolist() == expected


@pytest.mark.parametrize('kind', KINDS)
@given(st.lists(st.lists(sentences, min_size=1, max_size=4), max_size=4), st.integers(1, 20))
def test_documents_in_pieces_have_the_tokens_of_the_whole(kind, docs, size):
    tokenizer = KINDS[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subwords, 'SEGMENT', size)
        patch.setattr(subwords, '_BATCH', 3 * size)
        pieces = [(piece, i == len(doc) - 1) for doc in docs for i, piece in enumerate(doc)]
        found, one = [], []
        for tokens, is_last in tokenizer.encode_documents(pieces):
            one += tokens.tolist()
            if is_last:
                found, one = [*found, one], []
    assert not one
    assert found == [tokenizer.encode(''.join(doc)).tolist() for doc in docs]


@given(st.lists(st.lists(sentences, min_size=1, max_size=4), max_size=4), st.integers(1, 20))
def test_segments_are_the_text(docs, size):
    pieces = [(piece, i == len(doc) - 1) for doc in docs for i, piece in enumerate(doc)]
    found, one = [], ''
    for segment, is_last in split_chunks(pieces, size):
        one += segment
        if is_last:
            found, one = [*found, one], ''
    assert found == [''.join(doc) for doc in docs]


def test_lines_are_cut_into_segments():
    pieces = [('some words\n' * 100, False), ('and more\n' * 100, True)]
    lengths = [len(segment) for segment, _ in split_chunks(pieces, 50)]
    assert max(lengths) <= 50 and len(lengths) < 60


@pytest.mark.parametrize('kind, vocab_size', [('bpe', 330), ('wordpiece', 90), ('basic_english', 50)])
def test_training_is_deterministic(kind, vocab_size):
    again = getattr(train_tokenizer, kind)([SENTENCE] * 50, vocab_size=vocab_size)
    assert again.to_dict() == KINDS[kind].to_dict() and again.files == KINDS[kind].files
    assert again.n_tokens <= vocab_size


def test_wordpiece_has_but_five_special_tokens():
    assert KINDS['wordpiece'].special.all == [0, 1, 2, 3, 4]
    added = json.loads(KINDS['wordpiece'].files['tokenizer.json'])['added_tokens']
    assert [token['content'] for token in added] == KINDS['wordpiece'].tokens[:5]


@pytest.mark.parametrize('kind', KINDS)
def test_the_file_is_the_tokenizer(kind, tmp_path):
    tokenizer = KINDS[kind]
    (tmp_path / 'tokenizer.json').write_text(tokenizer.files['tokenizer.json'], encoding='utf-8')
    again = subwords.SubwordTokenizer.from_file(tmp_path / 'tokenizer.json')
    assert again.to_dict() == tokenizer.to_dict() and again.special == tokenizer.special
    assert again.tokens == tokenizer.tokens and again.encode(SENTENCE).tolist() == tokenizer.encode(SENTENCE).tolist()
    # And one for the library that it is of
    theirs = Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
    assert theirs.encode('The quick').ids == tokenizer.encode('The quick').tolist()


@pytest.mark.parametrize('kind', KINDS)
def test_special_tokens_in_a_text_are_text(kind):
    tokenizer = KINDS[kind]
    assert tokenizer.special[:5] == (0, 1, 2, 3, 4)
    assert tokenizer.tokens[:5] == ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    assert not {0, 2, 3, 4} & set(tokenizer.encode('[MASK] the [PAD] [SEP][CLS]').tolist())


def test_tokens_as_they_are_shown():
    assert [KINDS['bpe'].tokens[i] for i in KINDS['bpe'].encode('The quick')] == ['The', ' quick']
    wordpiece = KINDS['wordpiece']
    assert ''.join(wordpiece.tokens[i] for i in wordpiece.encode('lazy dog')) == ' lazy dog'
    assert all(tokenizer.is_spaced for tokenizer in KINDS.values())
    assert KINDS['basic_english'].unknown('the zebra Quick ß') == ['zebra', 'ß']


def of_others(mask='<mask>', names=('<s>', '<pad>', '</s>', '<unk>')):
    """As somebody else may have made it: RoBERTa's names, padding, truncation and a template."""
    vocabulary = {name: i for i, name in enumerate([*names, 'some', 'words', *([mask] if mask else [])])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token='<unk>' if '<unk>' in names else None))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([*names, *([mask] if mask else [])])
    tokenizer.enable_padding(length=10)
    tokenizer.enable_truncation(3)
    if '<s>' in names:
        tokenizer.post_processor = processors.TemplateProcessing('<s> $A </s>', None, [('<s>', 0), ('</s>', 2)])
    return tokenizer.to_str()


def test_special_tokens_by_role():
    tokenizer = SubwordTokenizer.from_json(of_others())
    assert tokenizer.special == (1, 3, 0, 2, 6, ())
    # No padding, no truncation, no template
    assert tokenizer.encode('some words words some other').tolist() == [4, 5, 5, 4, 3]


def test_what_has_to_be_there_is_added():
    tokenizer = SubwordTokenizer.from_json(of_others(mask='[MASK]', names=('<unk>', '<extra>')))
    assert tokenizer.tokens == ['<unk>', '<extra>', ' some', ' words', '[MASK]', '[PAD]', '[SEP]']
    assert tokenizer.special == (5, 0, None, 6, 4, (1,))
    assert tokenizer.special.all == [0, 1, 4, 5, 6]
    again = SubwordTokenizer.from_json(tokenizer.files['tokenizer.json'])
    assert again.to_dict() == tokenizer.to_dict() and again.n_tokens == 7


@pytest.mark.parametrize('content, message', [
    (of_others(mask=None), 'has no [MASK], which a masked language model cannot do without: its special tokens are <s'),
    ('{}', 'is no tokenizer.json: '), ('', 'is no tokenizer.json: '), (json.dumps({'model': 5}), 'no tokenizer.json: '),
    (b'\xff', 'it is no UTF-8 text'), (None, 'No such file or directory')])
def test_files_that_are_no_tokenizer(tmp_path, content, message):
    path = tmp_path / 'tokenizer.json'
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        subwords.SubwordTokenizer.from_file(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_vocabularies_that_are_too_small():
    with pytest.raises(UserError, match='vocab_size=260: byte-level BPE has 256 tokens for single bytes.*at least 261'):
        train_tokenizer.bpe([SENTENCE], vocab_size=260)
    with pytest.raises(UserError, match='the text has 1 distinct tokens: there is nothing to predict'):
        train_tokenizer.basic_english(['one one one'], vocab_size=100)


def test_half_of_a_character():
    for tokenizer in KINDS.values():
        with pytest.raises(UserError, match=r'half of a character: U\+D83D'):
            tokenizer.encode('x\ud83d')
        with pytest.raises(UserError, match=r'half of a character: U\+D83D'):
            list(tokenizer.encode_documents([('fine', True), ('x\ud83d', True)]))


def test_one_that_puts_something_in_front_of_a_text_has_whole_documents():
    """As those do that come from SentencePiece: cut into segments, each of them would begin with a space."""
    tokenizer = Tokenizer.from_str(KINDS['bpe'].files['tokenizer.json'])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = SubwordTokenizer(tokenizer)
    text = 'The quick\nfox\n' * 3000
    [(tokens, is_last)] = tokenizer.encode_documents([(text, True)])
    assert is_last and tokens.tolist() == tokenizer.encode(text).tolist()


def test_blank_lines_without_end_take_no_time():
    """Their number must not come in squared: this would take hours."""
    text = 'one\n' + '\n' * 3_000_000 + 'two\n' + ' \n' * 100_000
    found = [segment for segment, _ in split_chunks([(text, True)], 1000)]
    assert ''.join(found) == text


def test_a_word_without_end_is_learnt_from_in_time():
    letters = ''.join(chr(97 + i * i % 23 % 19) for i in range(400_000))
    assert train_tokenizer.bpe([f'the quick {letters} fox'], vocab_size=300).n_tokens == 300


def test_ids_with_gaps():
    def with_gaps(*special):
        tokenizer = Tokenizer(models.WordLevel({'a': 0, 'b': 5, '[MASK]': 3, '[UNK]': 2, 'c': 4,
                                                **{name: 7 + i for i, name in enumerate(special)}}, unk_token='[UNK]'))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.add_special_tokens(['[MASK]', '[UNK]', *special])
        return tokenizer.to_str()

    with pytest.raises(UserError, match=r'has no \[PAD\], and none can be added, as its ids have gaps'):
        SubwordTokenizer.from_json(with_gaps())
    tokenizer = SubwordTokenizer.from_json(with_gaps('[PAD]', '[SEP]'))
    assert tokenizer.special == (7, 2, None, 8, 3, (1, 6)) and tokenizer.n_tokens == 9


def test_one_that_has_no_token_for_what_it_does_not_know():
    tokenizer = Tokenizer(models.WordLevel({'a': 0, '[MASK]': 1, '[PAD]': 2, '[SEP]': 3}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match='the tokenizer cannot encode the text: '):
        SubwordTokenizer(tokenizer).encode('a b')


def test_wordpiece_has_room_for_all_letters_or_says_so():
    with pytest.raises(UserError, match=r'vocab_size=60: WordPiece has a token for each letter.* at least \d\d\.'):
        train_tokenizer.wordpiece([SENTENCE], vocab_size=60)


def test_what_is_masked_is_between_pieces():
    for tokenizer in KINDS.values():
        mask, encode = tokenizer.special.mask, tokenizer.encode
        for pieces in (['The', ' fox'], ['', ' fox', ''], ['[SEP] the', ' it'], ['it']):
            ids = tokenizer.encode_masked(pieces).tolist()
            expected = [i for piece in pieces for i in (mask, *encode(piece).tolist())][1:]
            assert ids == expected


def test_a_masked_text_is_one_text_to_those_that_put_something_in_front():
    """Where a space is put before a text, none is put before what comes after `[MASK]`."""
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(['[MASK]', '[PAD]', '[SEP]', '▁', 'a', ','])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='first')
    tokenizer.add_special_tokens(['[MASK]', '[PAD]', '[SEP]'])
    tokenizer = SubwordTokenizer(tokenizer)
    assert tokenizer.encode('a,').tolist() == [3, 4, 5]
    assert tokenizer.encode_masked(['a', ', a']).tolist() == [3, 4, 0, 5, 3, 4]
