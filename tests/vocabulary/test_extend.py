import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from labml_mlm.common.errors import UserError
from labml_mlm.data.sources import python_topics
from labml_mlm.tokenization.base import SPECIAL_TOKENS
from labml_mlm.tokenization.subword import SubwordTokenizer
from labml_mlm.tokenization.train_tokenizer import basic_english, bpe, unigram, wordpiece
from labml_mlm.vocabulary import extend as extend_vocab
from labml_mlm.vocabulary.extend import extend_vocabulary

GENERAL = 'The cat sat on the mat, and it was happy. Other things are not said in so few words: 1, 2, 34.\n' * 20
DOMAIN = python_topics()[:40_000]


def metaspace(vocab_size=400):
    """A BPE as SentencePiece's: no words but what spaces begin, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>', fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace('▁', prepend_scheme='never')
    special = ['<unk>', '<s>', '</s>', '<pad>', '<mask>', *(f'<0x{byte:02X}>' for byte in range(256))]
    tokenizer.train_from_iterator([GENERAL], trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special,
                                                                 show_progress=False))
    about = json.loads(tokenizer.to_str())
    about['added_tokens'] = about['added_tokens'][:5]
    tokenizer = Tokenizer.from_str(json.dumps(about))
    # As in a Llama: the whole text is one word to it
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Replace(' ', '▁'), None
    tokenizer.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()])
    return SubwordTokenizer(tokenizer)


def with_suffix():
    """A BPE where the last token of a word says so."""
    tokenizer = Tokenizer(models.BPE(unk_token='[UNK]', end_of_word_suffix='</w>'))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder()
    tokenizer.train_from_iterator([GENERAL, DOMAIN[:200]], trainers.BpeTrainer(
        vocab_size=150, special_tokens=SPECIAL_TOKENS, end_of_word_suffix='</w>', show_progress=False))
    return SubwordTokenizer(tokenizer)


TOKENIZERS = {'bpe': bpe([GENERAL], vocab_size=330), 'wordpiece': wordpiece([GENERAL, DOMAIN[:3000]], vocab_size=300),
              'metaspace': metaspace(), 'suffix': with_suffix()}
CONTENTS = {kind: tokenizer.files['tokenizer.json'] for kind, tokenizer in TOKENIZERS.items()}
EXTENSIONS = {kind: extend_vocabulary(content, [DOMAIN], n=100) for kind, content in CONTENTS.items()}
EXTENDED = {kind: SubwordTokenizer.from_json(extension.content) for kind, extension in EXTENSIONS.items()}
every_kind = pytest.mark.parametrize('kind', TOKENIZERS)
# Words of both texts, and others
sentences = st.lists(st.sampled_from(['The', 'cat', 'object', 'isinstance', 'statement', 'ments', 'zebra', 'é', '你',
                                      ',', '.', '__init__', '\n', '\n    ', '  ', ' ', ' ', '[MASK]', '<mask>', '="'])
                     ).map(''.join)


def names_of(content):
    about = json.loads(content)
    return {i: name for name, i in about['model']['vocab'].items()}


@every_kind
def test_the_text_has_fewer_tokens_and_is_the_same(kind):
    old, new = TOKENIZERS[kind].encode(DOMAIN), EXTENDED[kind].encode(DOMAIN)
    assert len(new) < 0.9 * len(old)
    assert EXTENDED[kind].decode(new) == TOKENIZERS[kind].decode(old)
    if kind in ('bpe', 'metaspace'):
        assert EXTENDED[kind].decode(new) == DOMAIN


@every_kind
@given(sentences)
def test_text_without_new_tokens_has_the_same_ids(kind, text):
    old, new = TOKENIZERS[kind].encode(text).tolist(), EXTENDED[kind].encode(text).tolist()
    first_id, pieces = EXTENSIONS[kind].first_id, EXTENSIONS[kind].pieces
    if max(new, default=0) < first_id:
        assert new == old
    elif kind != 'wordpiece':
        # The others replace tokens, and no boundary moves
        assert [i for token in new for i in (pieces[token - first_id] if token >= first_id else [token])] == old
    assert EXTENDED[kind].decode(new) == TOKENIZERS[kind].decode(old)


@every_kind
def test_old_tokens_keep_their_ids_and_new_ones_are_entries_of_the_model(kind):
    extension, before, after = EXTENSIONS[kind], json.loads(CONTENTS[kind]), json.loads(EXTENSIONS[kind].content)
    n = TOKENIZERS[kind].n_tokens
    assert extension.first_id == n and len(extension.pieces) == 100
    assert {name: i for name, i in after['model']['vocab'].items() if i < n} == before['model']['vocab']
    assert sorted(after['model']['vocab'].values()) == list(range(n + 100))
    assert after['added_tokens'] == before['added_tokens']
    for part in before.keys() - {'model'}:
        assert after[part] == before[part]
    assert EXTENDED[kind].special == TOKENIZERS[kind].special
    assert EXTENDED[kind].tokens[:n] == TOKENIZERS[kind].tokens
    # The library itself reads it as well
    assert Tokenizer.from_str(extension.content).get_vocab_size() == n + 100


@every_kind
def test_pieces_spell_the_new_token(kind):
    names, old = names_of(EXTENSIONS[kind].content), TOKENIZERS[kind]
    for i, pieces in enumerate(EXTENSIONS[kind].pieces, EXTENSIONS[kind].first_id):
        assert len(pieces) > 1 and max(pieces) < old.n_tokens and not set(pieces) & set(old.special.all)
        first, *rest = (names[piece] for piece in pieces)
        assert first + ''.join(name.removeprefix('##') if kind == 'wordpiece' else name for name in rest) == names[i]


@every_kind
def test_figures_are_those_of_a_recount(kind):
    n_words = len(DOMAIN.split())
    found = EXTENSIONS[kind].tokens_per_word
    for per_word, tokenizer in zip(found, (TOKENIZERS[kind], EXTENDED[kind]), strict=True):
        assert math.isclose(per_word, len(tokenizer.encode(DOMAIN)) / n_words, rel_tol=1e-9)


@every_kind
def test_gains_are_those_of_the_words_alone(kind):
    gains = EXTENSIONS[kind].gains
    assert len({word for word, *_ in gains}) == 10
    saved = [count * (before - after) for _, count, before, after in gains]
    assert saved == sorted(saved, reverse=True) and saved[-1] > 0
    for word, count, before, after in gains:
        assert DOMAIN.lower().count(word.lower()) >= count
        # With the space before it or without, whichever gains more
        forms = [(len(TOKENIZERS[kind].encode(form)), len(EXTENDED[kind].encode(form))) for form in (word, f' {word}')]
        assert (before, after) in forms or kind == 'metaspace'


@every_kind
def test_pieces_of_a_text_are_counted_together(kind):
    lines = DOMAIN.splitlines(keepends=True)
    assert extend_vocabulary(CONTENTS[kind], iter([''.join(lines)]), n=100) == EXTENSIONS[kind]
    again = extend_vocabulary(CONTENTS[kind], (text for text in [*lines, *lines]), n=20)
    assert all(count % 2 == 0 for _, count, _, _ in again.gains)


def test_bpe_goes_on_as_if_it_had_never_stopped():
    text = ' '.join(word for word in DOMAIN.split() if word.isalpha())
    short, long = bpe([text], vocab_size=300), bpe([text], vocab_size=500)
    extended = extend_vocabulary(short.files['tokenizer.json'], [text], n=200)
    assert json.loads(extended.content)['model'] == json.loads(long.files['tokenizer.json'])['model']


def test_no_token_of_metaspace_spans_two_words():
    new = EXTENDED['metaspace'].tokens[EXTENSIONS['metaspace'].first_id:]
    assert any(token.startswith(' ') for token in new) and not any(' ' in token.strip() for token in new)


def test_words_that_are_too_long_for_wordpiece_stay_unknown():
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate([*SPECIAL_TOKENS, 'a', '##a'])},
                                           unk_token='[UNK]', max_input_chars_per_word=8))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    old = SubwordTokenizer(tokenizer)
    extension = extend_vocabulary(old.files['tokenizer.json'], ['aaaaaaaaa ' * 5 + 'aaa ' * 2], n=5)
    new = SubwordTokenizer.from_json(extension.content)
    assert new.tokens[old.n_tokens:] == [' aaa'] and extension.tokens_per_word == (11 / 7, 1)


@every_kind
def test_more_than_there_are(kind):
    extension = extend_vocabulary(CONTENTS[kind], ['catsat happily, catsat'], n=1000)
    names = names_of(extension.content)
    new = [names[i] for i in range(extension.first_id, len(names))]
    assert 0 < len(extension.pieces) == len(new) < 10 and len(set(names.values())) == len(names)
    # Nothing is added twice
    again = extend_vocabulary(extension.content, ['catsat happily, catsat'], n=1000)
    assert again.pieces == [] and again.tokens_per_word[0] == again.tokens_per_word[1] == extension.tokens_per_word[1]
    assert again.gains == [] and json.loads(again.content) == json.loads(extension.content)


def test_added_tokens_at_the_end_keep_their_ids():
    about = json.loads(CONTENTS['bpe'])
    for i, content in enumerate(['[EXTRA]', 'statement'], TOKENIZERS['bpe'].n_tokens):
        about['added_tokens'].append({**about['added_tokens'][0], 'id': i, 'content': content, 'special': i % 2 == 0})
    old = SubwordTokenizer.from_json(json.dumps(about))
    extension = extend_vocabulary(json.dumps(about), [DOMAIN], n=20)
    new = SubwordTokenizer.from_json(extension.content)
    assert extension.first_id == old.n_tokens == TOKENIZERS['bpe'].n_tokens + 2
    assert new.tokens[:old.n_tokens] == old.tokens and new.special == old.special
    added = set(Tokenizer.from_str(extension.content).get_added_tokens_decoder())
    assert added == set(Tokenizer.from_str(json.dumps(about)).get_added_tokens_decoder())
    # No new token has one of them inside
    assert not {*added} & {i for pieces in extension.pieces for i in pieces}
    assert math.isclose(extension.tokens_per_word[1], len(new.encode(DOMAIN)) / len(DOMAIN.split()))


def test_missing_special_tokens_come_before_new_ones():
    about = json.loads(CONTENTS['metaspace'])
    for name in '<pad>', '</s>':
        about['added_tokens'] = [token for token in about['added_tokens'] if token['content'] != name]
        about['model']['vocab'][f'{name}x'] = about['model']['vocab'].pop(name)
    old = SubwordTokenizer.from_json(json.dumps(about))
    new = SubwordTokenizer.from_json(extend_vocabulary(json.dumps(about), [DOMAIN], n=20).content)
    assert new.special == old.special and new.n_tokens == old.n_tokens + 20 and '[PAD]' in old.tokens[-2:]


def test_all_else_in_the_file_stays():
    tokenizer = Tokenizer.from_str(CONTENTS['bpe'])
    tokenizer.post_processor = processors.RobertaProcessing(('[SEP]', 3), ('[CLS]', 2))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=128)
    about = json.loads(tokenizer.to_str())
    # As older versions write them
    about['model']['merges'] = [' '.join(merge) for merge in about['model']['merges']]
    extension = extend_vocabulary(json.dumps(about), [DOMAIN], n=100)
    found = json.loads(extension.content)
    for part in about.keys() - {'model'}:
        assert found[part] == about[part]
    assert extension.pieces == EXTENSIONS['bpe'].pieces
    assert all(isinstance(merge, str) for merge in found['model']['merges'])
    ids = Tokenizer.from_str(extension.content).encode('isinstance').ids
    assert len(ids) == 128 and ids[0] == 2
    ids = SubwordTokenizer.from_json(extension.content).encode(DOMAIN)
    assert ids.tolist() == EXTENDED['bpe'].encode(DOMAIN).tolist()


def test_words_that_are_looked_up_whole():
    about = json.loads(CONTENTS['bpe'])
    about['model']['ignore_merges'] = True
    extension = extend_vocabulary(json.dumps(about), [DOMAIN], n=200)
    new = SubwordTokenizer.from_json(extension.content)
    assert math.isclose(extension.tokens_per_word[1], len(new.encode(DOMAIN)) / len(DOMAIN.split()))


@every_kind
def test_memory_is_bounded(kind, monkeypatch):
    monkeypatch.setattr(extend_vocab, '_N_OF_WORDS', 1000)
    monkeypatch.setattr(extend_vocab, '_BATCH', 5000)
    lines = DOMAIN.splitlines(keepends=True)
    texts = [''.join(lines[i:i + 50]) for i in range(0, len(lines), 50)]
    extension = extend_vocabulary(CONTENTS[kind], texts, n=30)
    new = SubwordTokenizer.from_json(extension.content)
    n_tokens, n_words = sum(len(new.encode(text)) for text in texts), len(DOMAIN.split())
    assert len(extension.pieces) == 30
    assert math.isclose(extension.tokens_per_word[1], n_tokens / n_words, rel_tol=0.15)


def test_text_without_spaces():
    text = 'ACGTTGCAAC' * 3000
    extension = extend_vocabulary(CONTENTS['bpe'], [text], n=10)
    new = SubwordTokenizer.from_json(extension.content)
    assert math.isclose(extension.tokens_per_word[1], len(new.encode(text)), rel_tol=0.05)
    assert extension.tokens_per_word[0] == len(TOKENIZERS['bpe'].encode(text))
    assert 5 * extension.tokens_per_word[1] < extension.tokens_per_word[0]


@pytest.mark.parametrize(('train', 'name'), [(unigram, 'Unigram'), (basic_english, 'WordLevel')])
def test_others_are_refused(train, name):
    content = train([GENERAL], vocab_size=400).files['tokenizer.json']
    with pytest.raises(UserError, match=f'BPE and WordPiece, and this is {name}: .* train another tokenizer'):
        extend_vocabulary(content, [DOMAIN], n=10)


@pytest.mark.parametrize('texts', [[], [''], [' \n', '\t']])
def test_text_without_words_is_refused(texts):
    with pytest.raises(UserError, match='the text has no words'):
        extend_vocabulary(CONTENTS['bpe'], texts, n=10)


def test_bad_input_is_refused():
    with pytest.raises(UserError, match='lone surrogate: U\\+D800'):
        extend_vocabulary(CONTENTS['bpe'], ['a \ud800'], n=10)
    with pytest.raises(UserError, match='not a tokenizer.json'):
        extend_vocabulary('{}', ['a'], n=10)
    with pytest.raises(UserError, match='must be at least 1'):
        extend_vocabulary(CONTENTS['bpe'], ['a'], n=0)
