import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization import subword
from labml_mlm.tokenization.patterns import grapheme, pattern, token_pattern
from labml_mlm.tokenization.subword import SubwordTokenizer
from labml_mlm.tokenization.train_tokenizer import basic_english, bpe, unigram, wordpiece

SENTENCE = "The quick brown fox's jumps, over \"the\" lazy dog. Ünïcode 你好 it isn't [MASK]!\n"
TOKENIZERS = {'bpe': bpe([SENTENCE] * 50, vocab_size=330), 'wordpiece': wordpiece([SENTENCE] * 50, vocab_size=90),
              'basic_english': basic_english([SENTENCE] * 50, vocab_size=50),
              'unigram': unigram([SENTENCE] * 50, vocab_size=330), 'grapheme': grapheme([SENTENCE] * 50, vocab_size=60),
              'code': pattern([SENTENCE] * 50, vocab_size=80, token_pattern=token_pattern('code'))}
# Words and white space that the tokenizers know, and some that they do not know
sentences = st.lists(st.sampled_from(['The', 'quick', "fox's", "isn't", ' ', '  ', '\n', '\n\n', ' \n ', '\t', '你',
                                      '.', ',', 'zebra', '<br />', '\u3000', 'é'])).map(''.join)


@given(st.binary(max_size=60))
def test_any_text_is_encoded_without_special_tokens(data):
    text = data.decode('utf-8', 'replace')
    for tokenizer in TOKENIZERS.values():
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32 and ((ids >= 5) | (ids == tokenizer.special.unk)).all()
        assert tokenizer.encode(tokenizer.decode(ids)).tolist() == ids.tolist() or tokenizer.special.unk in ids


@pytest.mark.parametrize('kind', TOKENIZERS)
@given(st.lists(st.lists(sentences, min_size=1, max_size=4), max_size=4), st.integers(1, 20))
def test_documents_in_pieces_have_the_tokens_of_whole_documents(kind, documents, size):
    tokenizer = TOKENIZERS[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subword, 'CHUNK', size)
        patch.setattr(subword, '_BATCH', 3 * size)
        pieces = [(piece, i == len(document) - 1) for document in documents for i, piece in enumerate(document)]
        found, ids = [], []
        for tokens, is_last in tokenizer.encode_documents(pieces):
            ids += tokens.tolist()
            if is_last:
                found, ids = [*found, ids], []
    assert not ids
    assert found == [tokenizer.encode(''.join(document)).tolist() for document in documents]


@pytest.mark.parametrize('kind', TOKENIZERS)
def test_file_restores_the_tokenizer(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]
    (tmp_path / 'tokenizer.json').write_text(tokenizer.files['tokenizer.json'], encoding='utf-8')
    again = SubwordTokenizer.from_file(tmp_path / 'tokenizer.json')
    assert again.to_dict() == tokenizer.to_dict() and again.special == tokenizer.special
    assert again.tokens == tokenizer.tokens and again.encode(SENTENCE).tolist() == tokenizer.encode(SENTENCE).tolist()
    # The library itself reads it as well
    plain = Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
    assert plain.encode('The quick').ids == tokenizer.encode('The quick').tolist()


@pytest.mark.parametrize('kind', TOKENIZERS)
def test_special_tokens_in_a_text_are_encoded_as_text(kind):
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.special[:5] == (0, 1, 2, 3, 4)
    assert tokenizer.tokens[:5] == ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    assert not {0, 2, 3, 4} & set(tokenizer.encode('[MASK] the [PAD] [SEP][CLS]').tolist())


def test_special_pieces_of_unigram_are_not_found_in_a_text():
    """Their scores are 0 in published ones, the best there is."""
    letters = ((letter, -5.1234567890123456 / 3) for letter in '▁<>maskun/spd')
    pieces = [('<s>', 0.), ('<pad>', 0.), ('</s>', 0.), ('<unk>', 0.), *letters, ('▁the', -3.), ('<mask>', 0.)]
    plain = Tokenizer(models.Unigram(pieces, 3))
    plain.pre_tokenizer = pre_tokenizers.Metaspace()
    plain.add_special_tokens(['<s>', '<pad>', '</s>', '<unk>', '<mask>'])
    text = 'the <mask> dump <s>'
    assert plain.encode(text).tokens.count('<mask>') == 1
    tokenizer = SubwordTokenizer(plain)
    assert SubwordTokenizer.from_json(tokenizer.files['tokenizer.json']).to_dict() == tokenizer.to_dict()
    tokens = [tokenizer.tokens[i] for i in tokenizer.encode(text)]
    assert tokens == [' the', ' ', *'<mask>', ' ', *'dump', ' ', *'<s>']
    # In the file they are as they were
    assert '"<mask>",\n        0.0' in tokenizer.files['tokenizer.json']


def test_tokens_include_the_space_before_them():
    tokens = {kind: [tokenizer.tokens[i] for i in tokenizer.encode(text)] for (kind, tokenizer), text in
              zip(TOKENIZERS.items(), ['The quick', 'lazy dog', 'the quick'], strict=False)}
    assert tokens['bpe'] == ['The', ' quick'] and ''.join(tokens['wordpiece']) == ' lazy dog'
    assert {kind for kind, tokenizer in TOKENIZERS.items() if not tokenizer.is_spaced} == {'grapheme', 'code'}
    assert TOKENIZERS['basic_english'].unknown('the zebra Quick ß') == ['zebra', 'ß']


def published(mask='<mask>', names=('<s>', '<pad>', '</s>', '<unk>')):
    """A `tokenizer.json` like RoBERTa's, with its names, padding, truncation and a template."""
    vocabulary = {name: i for i, name in enumerate([*names, 'some', 'words', *([mask] if mask else [])])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token='<unk>' if '<unk>' in names else None))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([*names, *([mask] if mask else [])])
    tokenizer.enable_padding(length=10)
    tokenizer.enable_truncation(3)
    if '<s>' in names:
        tokenizer.post_processor = processors.TemplateProcessing('<s> $A </s>', None, [('<s>', 0), ('</s>', 2)])
    return tokenizer.to_str()


def test_special_tokens_are_found_by_role():
    tokenizer = SubwordTokenizer.from_json(published())
    assert tokenizer.special == (1, 3, 0, 2, 6, ())
    # No padding, no truncation, no template
    assert tokenizer.encode('some words words some other').tolist() == [4, 5, 5, 4, 3]


@pytest.mark.parametrize('processor, template', [
    (None, ((0,), (2,))), (processors.ByteLevel(trim_offsets=True), ((0,), (2,))),
    (processors.TemplateProcessing('<s> $A </s>', None, [('<s>', 0), ('</s>', 2)]), ((0,), (2,))),
    (processors.TemplateProcessing('<s> </s> $A', None, [('<s>', 0), ('</s>', 2)]), ((0, 2), ())),
    (processors.TemplateProcessing('$A </s>', None, [('</s>', 2)]), ((), (2,))),
    (processors.TemplateProcessing('$A', None, []), ((), ())),
    (processors.RobertaProcessing(('</s>', 2), ('<s>', 0)), ((0,), (2,))),
    (processors.BertProcessing(('</s>', 2), ('<s>', 0)), ((0,), (2,))),
    (processors.Sequence([processors.ByteLevel(), processors.RobertaProcessing(('</s>', 2), ('<s>', 0))]),
     ((0,), (2,)))])
def test_template_is_that_of_the_post_processor(processor, template):
    plain = Tokenizer.from_str(published())
    plain.post_processor = processor or processors.ByteLevel()
    about = json.loads(plain.to_str())
    if processor is None:
        about['post_processor'] = None
    tokenizer = SubwordTokenizer.from_json(json.dumps(about))
    assert tokenizer.template == template
    assert SubwordTokenizer.from_json(tokenizer.files['tokenizer.json']).template == template
    # Texts are encoded without
    assert tokenizer.encode('some words').tolist() == [4, 5]


@pytest.mark.parametrize('processor, template', [
    (processors.BertProcessing(('</s>', 2), ('<s>', 0)), ((0,), (2,), (2,), 1)),
    (processors.RobertaProcessing(('</s>', 2), ('<s>', 0)), ((0,), (2, 2), (2,), 0)),
    (processors.TemplateProcessing(single='<s> $A </s>', pair='<s> $A </s> $B:1 </s>:1',
                                   special_tokens=[('<s>', 0), ('</s>', 2)]), ((0,), (2,), (2,), 1)),
    # Not made for pairs
    (processors.TemplateProcessing(single='<s> $A', special_tokens=[('<s>', 0)]), None),
    (processors.TemplateProcessing(single='<s> $A', pair='$B </s> $A', special_tokens=[('<s>', 0), ('</s>', 2)]), None),
    (None, ((0,), (2,), (2,), 1)),
])
def test_template_of_pairs_is_that_of_the_post_processor(processor, template):
    built = Tokenizer.from_str(published())
    built.post_processor = processor
    assert SubwordTokenizer(built).pair_template == template


def test_tokenizer_without_cls_has_no_template():
    assert SubwordTokenizer.from_json(published(mask='[MASK]', names=('<unk>', '<extra>'))).template == ((), ())


def test_words_end_at_tokens_of_the_template_that_have_no_role():
    plain = Tokenizer.from_str(published())
    plain.post_processor = processors.TemplateProcessing('some $A', None, [('some', 4)])
    tokenizer = SubwordTokenizer(plain)
    assert tokenizer.template == ((4,), ()) and 4 not in tokenizer.special.all
    assert tokenizer.words.opens[4] == tokenizer.words.opens[tokenizer.special.sep]
    assert tokenizer.words.continues[4] == 0


@pytest.mark.parametrize('kind', TOKENIZERS)
def test_pickled_tokenizer_encodes_special_tokens_in_a_text_as_text(kind):
    tokenizer = TOKENIZERS[kind]
    again = pickle.loads(pickle.dumps(tokenizer))
    text = f'{SENTENCE} [SEP] the [CLS]'
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert tokenizer.special.sep not in again.encode(text)
    assert again.to_dict() == tokenizer.to_dict() and again.tokens == tokenizer.tokens
    assert again.template == tokenizer.template


def test_missing_pad_and_sep_are_added():
    tokenizer = SubwordTokenizer.from_json(published(mask='[MASK]', names=('<unk>', '<extra>')))
    assert tokenizer.tokens == ['<unk>', '<extra>', ' some', ' words', '[MASK]', '[PAD]', '[SEP]']
    assert tokenizer.special == (5, 0, None, 6, 4, (1,))
    assert tokenizer.special.all == [0, 1, 4, 5, 6]
    again = SubwordTokenizer.from_json(tokenizer.files['tokenizer.json'])
    assert again.to_dict() == tokenizer.to_dict() and again.n_tokens == 7


@pytest.mark.parametrize('content, message', [
    (published(mask=None), 'has no [MASK], which a masked language model needs: its special tokens are <s'),
    ('{}', 'is not a tokenizer.json: '), ('', 'is not a tokenizer.json: '),
    (json.dumps({'model': 5}), 'is not a tokenizer.json: '), (b'\xff', 'it is not UTF-8'),
    (None, 'No such file or directory')])
def test_invalid_tokenizer_files_are_refused(tmp_path, content, message):
    path = tmp_path / 'tokenizer.json'
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        SubwordTokenizer.from_file(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_lone_surrogates_are_refused():
    for tokenizer in TOKENIZERS.values():
        with pytest.raises(UserError, match=r'the text has a lone surrogate: U\+D83D'):
            tokenizer.encode('x\ud83d')
        with pytest.raises(UserError, match=r'the text has a lone surrogate: U\+D83D'):
            list(tokenizer.encode_documents([('fine', True), ('x\ud83d', True)]))


def test_tokenizer_that_prepends_a_space_encodes_whole_documents():
    """Like those of SentencePiece, it would prepend a space to each chunk."""
    tokenizer = Tokenizer.from_str(TOKENIZERS['bpe'].files['tokenizer.json'])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = SubwordTokenizer(tokenizer)
    text = 'The quick\nfox\n' * 3000
    [(tokens, is_last)] = tokenizer.encode_documents([(text, True)])
    assert is_last and tokens.tolist() == tokenizer.encode(text).tolist()


def test_vocabulary_whose_ids_have_gaps():
    def with_gaps(*special):
        tokenizer = Tokenizer(models.WordLevel({'a': 0, 'b': 5, '[MASK]': 3, '[UNK]': 2, 'c': 4,
                                                **{name: 7 + i for i, name in enumerate(special)}}, unk_token='[UNK]'))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.add_special_tokens(['[MASK]', '[UNK]', *special])
        return tokenizer.to_str()

    with pytest.raises(UserError, match=r'has no \[PAD\], and none can be added, because its ids have gaps'):
        SubwordTokenizer.from_json(with_gaps())
    tokenizer = SubwordTokenizer.from_json(with_gaps('[PAD]', '[SEP]'))
    assert tokenizer.special == (7, 2, None, 8, 3, (1, 6)) and tokenizer.n_tokens == 9


def test_tokenizer_without_unk_refuses_unknown_text():
    tokenizer = Tokenizer(models.WordLevel({'a': 0, '[MASK]': 1, '[PAD]': 2, '[SEP]': 3}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match='the tokenizer cannot encode the text: '):
        SubwordTokenizer(tokenizer).encode('a b')


def test_encode_masked_joins_pieces_with_mask():
    for tokenizer in TOKENIZERS.values():
        mask, encode = tokenizer.special.mask, tokenizer.encode
        for pieces in (['The', ' fox'], ['', ' fox', ''], ['[SEP] the', ' it'], ['it']):
            ids = tokenizer.encode_masked(pieces).tolist()
            expected = [i for piece in pieces for i in (mask, *encode(piece).tolist())][1:]
            assert ids == expected


def test_encode_masked_prepends_a_space_to_the_first_piece_only():
    """With a tokenizer that prepends a space to a text."""
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(['[MASK]', '[PAD]', '[SEP]', '▁', 'a', ','])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='first')
    tokenizer.add_special_tokens(['[MASK]', '[PAD]', '[SEP]'])
    tokenizer = SubwordTokenizer(tokenizer)
    assert tokenizer.encode('a,').tolist() == [3, 4, 5]
    assert tokenizer.encode_masked(['a', ', a']).tolist() == [3, 4, 0, 5, 3, 4]


def made(pre_tokenizer, *, normalizer=None, model=None, post_processor=None):
    """A tokenizer of any kind, trained on a text."""
    text = 'The quick brown fox jumps over, well-known dogs. (1990s)\n'
    tokenizer = Tokenizer(model or models.BPE(unk_token='[UNK]'))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    kind = {models.BPE: trainers.BpeTrainer, models.WordPiece: trainers.WordPieceTrainer,
            models.Unigram: trainers.UnigramTrainer, models.WordLevel: trainers.WordLevelTrainer}[type(tokenizer.model)]
    more = {'unk_token': '[UNK]'} if kind is trainers.UnigramTrainer else {}
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    if isinstance(pre_tokenizer, pre_tokenizers.ByteLevel):
        more['initial_alphabet'] = pre_tokenizers.ByteLevel.alphabet()
    trainer = kind(vocab_size=330, special_tokens=special, show_progress=False, **more)
    tokenizer.train_from_iterator([text] * 30, trainer)
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return SubwordTokenizer(tokenizer)


Metaspace, ByteLevel = pre_tokenizers.Metaspace, pre_tokenizers.ByteLevel
KINDS = {
    **{f'metaspace {scheme} {split}': lambda scheme=scheme, split=split: made(Metaspace('▁', scheme, split))
       for scheme in ('always', 'first', 'never') for split in (True, False)},
    **{f'byte-level {prefix}': lambda prefix=prefix: made(ByteLevel(add_prefix_space=prefix))
       for prefix in (True, False)},
    **{f'RoBERTa {prefix}': lambda prefix=prefix: made(
        ByteLevel(add_prefix_space=prefix), post_processor=processors.RobertaProcessing(
            ('[SEP]', 3), ('[CLS]', 2), trim_offsets=True, add_prefix_space=prefix)) for prefix in (True, False)},
    'byte-level trimmed': lambda: made(ByteLevel(add_prefix_space=False),
                                       post_processor=processors.ByteLevel(trim_offsets=True)),
    'unigram always': lambda: made(Metaspace('▁', 'always'), model=models.Unigram()),
    'wordpiece': lambda: made(pre_tokenizers.BertPreTokenizer(), model=models.WordPiece(unk_token='[UNK]')),
    'word level': lambda: made(pre_tokenizers.Whitespace(), model=models.WordLevel(unk_token='[UNK]')),
    'prepend': lambda: made(Metaspace('▁', 'never'), normalizer=normalizers.Prepend('▁')),
    'strip': lambda: made(Metaspace('▁', 'always'), normalizer=normalizers.Strip()),
    'lower case': lambda: made(pre_tokenizers.BertPreTokenizer(), normalizer=normalizers.BertNormalizer(),
                               model=models.WordPiece(unk_token='[UNK]')),
    'white space': lambda: made(Metaspace('▁', 'always'), normalizer=normalizers.Replace(Regex(r'\s+'), ' ')),
    'suffix': lambda: made(pre_tokenizers.Whitespace(), model=models.BPE(unk_token='[UNK]', end_of_word_suffix='</w>'))}


@pytest.mark.parametrize('kind', KINDS)
def test_neighbours_of_a_mask_have_the_tokens_of_training(kind):
    """
    Every word that has no masked characters has its tokens of the training text; so have the pieces of a word left and
    right of the mask, if they are cut the same without it. With and without the space before the mask.
    """
    tokenizer = KINDS[kind]()
    text = 'The quick brown fox jumps over, well-known dogs. (1990s) The fox'
    encoded = tokenizer.tokenizer.encode(text, add_special_tokens=False)
    ids, offsets, words = encoded.ids, encoded.offsets, encoded.word_ids
    mask, n_checked = tokenizer.special.mask, 0

    def is_cut_alike(of_word):
        """Does a piece of a word have these ids by itself, too?"""
        piece = ''.join(tokenizer.tokenizer.id_to_token(i) for i in of_word).removeprefix('##').removesuffix('</w>')
        return not of_word or [token.id for token in tokenizer.tokenizer.model.tokenize(piece)] == of_word

    for at, (begin, end) in enumerate(offsets):
        if offsets.count((begin, end)) > 1:
            # A space that is not in the text is a token, too
            continue
        if tokenizer.is_spaced and text[:begin].endswith(' ') and any(b < begin <= e for b, e in offsets):
            # A space before a mask is taken for a part of the masked token, and here it is one of another
            continue
        # The space may be written before the mask, if it is part of the token
        for first in {begin, begin + (text[begin] == ' ' and end - begin > 1)}:
            found = tokenizer.encode_masked([text[:first], text[end:]]).tolist()
            assert found.count(mask) == 1
            left, right = found[:found.index(mask)], found[found.index(mask) + 1:]
            before, within, after, within_after = ([i for n, (i, word) in enumerate(zip(ids, words, strict=True))
                                                    if side(n) and is_same == (word == words[at])]
                                                   for side, is_same in ((at.__gt__, False), (at.__gt__, True),
                                                                         (at.__lt__, False), (at.__lt__, True)))
            where = text[begin:end], first, encoded.tokens
            assert left[:len(before)] == before, where
            assert right[len(right) - len(after):] == after, where
            if is_cut_alike(within):
                n_checked += 1
                assert left == before + within, where
            if is_cut_alike(within_after):
                n_checked += 1
                assert right == within_after + after, where
    assert n_checked > len(ids)


def test_patterns_over_several_lines_see_whole_documents():
    text = 'x = 1\n"""Some text\n\nof several lines"""\n' * 40
    tokenizer = pattern([text], vocab_size=200, token_pattern=r'"""(?m:.*?)"""|\w+|(?m:.)')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subword, 'CHUNK', 50)
        found = [i for ids, _ in tokenizer.encode_documents([(text, True)]) for i in ids.tolist()]
    assert found == tokenizer.encode(text).tolist()
