"""Sentences of documents, as texts and as tokens."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data.documents import TextIterable
from labml_mlm.sentences import boundaries
from labml_mlm.sentences.boundaries import SentenceRule
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.subword import SubwordTokenizer
from labml_mlm.tokenization.token_cache import TokenCache
from labml_mlm.tokenization.train_tokenizer import TRAINERS

DOCUMENT = 'He paid 3.50 for it. "Why?" she asked,\nand left. 日本語です。これは文。\n\n* * *\n\nThe end  '
SENTENCES = ['He paid 3.50 for it.', ' "Why?"', ' she asked,', '\nand left.', ' 日本語です。', 'これは文。\n\n* * *',
             '\n\nThe end  ']
PIECES = st.lists(st.text(st.sampled_from('ab A. ?!。"\n1 é\u3000…'), max_size=12), min_size=1, max_size=6)


def split(rule, pieces):
    """Sentences of a document in pieces, and whether they end it."""
    sentences, sentence = [], ''
    for text, is_last, is_end in rule.split_documents((piece, i == len(pieces) - 1) for i, piece in enumerate(pieces)):
        sentence += text
        if is_last:
            sentences.append((sentence, is_end))
            sentence = ''
    assert not sentence
    return sentences


def test_boundaries_are_those_of_unicode():
    assert SentenceRule('unicode').split(DOCUMENT) == SENTENCES


def test_lines_are_sentences_where_a_text_has_one_a_line():
    assert SentenceRule('line').split('One. Two.\n\n  three\nfour\n') == ['One. Two.', '\n\n  three', '\nfour\n']


@pytest.mark.parametrize('name', ['unicode', 'line'])
@given(pieces=PIECES)
@settings(max_examples=200, deadline=None)
def test_sentences_are_the_document_however_it_comes(name, pieces):
    rule, text = SentenceRule(name), ''.join(pieces)
    sentences = split(rule, pieces)
    assert [sentence for sentence, _ in sentences] == rule.split(text)
    assert ''.join(rule.split(text)) == text
    assert [is_end for _, is_end in sentences] == [False] * (len(sentences) - 1) + [True]


def test_sentence_without_an_end_comes_in_pieces(monkeypatch):
    monkeypatch.setattr(boundaries, '_LONGEST', 10)
    pieces = ['abc' * 5, 'def' * 5, '', '']
    found = list(SentenceRule('unicode').split_documents((piece, i == 3) for i, piece in enumerate(pieces)))
    assert found == [('abc' * 5, False, False), ('def' * 5, False, False), ('', True, True)]


def test_unknown_rule_is_refused():
    with pytest.raises(UserError, match='sentence_rule=unicod: it must be unicode or line. Did you mean'):
        SentenceRule('unicod')


def tokens(folder, documents, tokenizer, rule=None, valid_fraction=None):
    cache = TokenCache(folder, TextIterable(documents), valid_fraction=valid_fraction)
    return cache.tokens(cache.corpus(), tokenizer, rule)


@pytest.mark.parametrize('kind', ['character', 'bpe', 'wordpiece', 'unigram'])
def test_tokens_of_sentences_are_those_of_the_document(tmp_path, kind):
    tokenizer = CharacterTokenizer.from_characters(''.join(sorted(set(DOCUMENT)))) if kind == 'character' else \
        SubwordTokenizer.from_json(TRAINERS[kind]([DOCUMENT.replace('\n', ' ')] * 20, vocab_size=400)
                                   .files['tokenizer.json'])
    # Unigram puts a space before each text
    document = DOCUMENT.replace('これは文。', ' x.') if kind == 'unigram' else DOCUMENT
    whole = tokens(tmp_path, [document], tokenizer)
    of_sentences = tokens(tmp_path, [document], tokenizer, SentenceRule('unicode'))
    assert of_sentences.train.tolist() == whole.train.tolist()
    ends = of_sentences.train_ends
    assert len(ends) == len(SentenceRule('unicode').split(document)) + 1 and ends[-1] == ends[-2] == len(whole.train)


def test_documents_stay_on_their_side_and_have_an_empty_sentence_behind_them(tmp_path):
    documents = [f'{word} one. {word} two.' for word in ('Red', 'Blue', 'Green', 'Black', 'White', 'Grey')]
    tokenizer = CharacterTokenizer.from_characters(''.join(sorted(set(''.join(documents)))))
    whole = tokens(tmp_path, documents, tokenizer, valid_fraction=0.3)
    found = tokens(tmp_path, documents, tokenizer, SentenceRule('unicode'), valid_fraction=0.3)
    for part in ('train', 'valid'):
        kept, ends = getattr(whole, part), getattr(found, f'{part}_ends')
        assert getattr(found, part).tolist() == kept[kept != tokenizer.special.sep].tolist()
        # Two sentences, the second with the space before it, and an empty one
        lengths = np.diff(ends, prepend=0).reshape(-1, 3)
        assert len(lengths) == len(getattr(whole, f'{part}_ends')) > 0
        assert (lengths[:, 2] == 0).all() and (lengths[:, 0] + 1 == lengths[:, 1]).all()


def test_sentences_without_tokens_are_left_out(tmp_path):
    trained = TRAINERS['wordpiece'](['one two'] * 9, vocab_size=40)
    tokenizer = SubwordTokenizer.from_json(trained.files['tokenizer.json'])
    found = tokens(tmp_path, ['one.\u0007\n\u0000 two', '\n'], tokenizer, SentenceRule('line'))
    assert np.diff(found.train_ends, prepend=0).tolist()[-2:] == [0, 0]
    assert (np.diff(found.train_ends, prepend=0)[:-2] > 0).all()
