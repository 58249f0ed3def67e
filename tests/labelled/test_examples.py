from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Template
from labml_mlm.data.loader import ValidLoader
from labml_mlm.labelled.examples import Examples
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.labelled.rows import Row, Rows
from labml_mlm.labelled.tagged import Tagged, TaggedRow
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.subword import SubwordTokenizer
from labml_mlm.tokenization.train_tokenizer import basic_english

PATH = Path('a.csv')
CHARACTERS = CharacterTokenizer.from_characters('abc ')
CLS, SEP, PAD = CHARACTERS.special.cls, CHARACTERS.special.sep, CHARACTERS.special.pad
A, B, C = CHARACTERS.encode('abc').tolist()


def rows(*texts_and_labels):
    return Rows([Row(*of_row, line=i + 1) if len(of_row) == 3 else Row(*of_row, None, i + 1)
                 for i, of_row in enumerate(texts_and_labels)], 0, PATH)


def examples(found, kind=None, tokenizer=CHARACTERS, **how):
    labels = LabelSet.from_rows(found, kind) if kind else None
    return Examples.of_rows(found, tokenizer, **({'max_len': 8, 'template': tokenizer.template,
                                                  'pair_template': tokenizer.pair_template, 'labels': labels} | how))


def test_a_batch_is_padded_to_the_longest_of_its_own():
    found = examples(rows(('a', 'x'), ('abc', 'y'), ('ab', 'x'), ('abcabcabc', 'x')), 'single')
    batch = found.batch(np.array([2, 0, 1]))
    assert batch.tokens.T.tolist() == [[CLS, A, B, SEP, PAD], [CLS, A, SEP, PAD, PAD], [CLS, A, B, C, SEP]]
    assert batch.tokens.dtype == torch.int64
    assert torch.equal(batch.padding_mask, batch.tokens == PAD)
    assert batch.labels.tolist() == [[0, 0, 1]] and batch.labels.dtype == torch.int64
    assert batch.segment_ids is None and batch.n_special_tokens == 6 and batch.n_tokens == 6
    assert found.lengths(np.array([2, 0, 1])).tolist() == [2, 1, 3] and found.longest(np.array([2, 0])) == 4
    assert found.batch(np.array([0]), length=6).tokens.shape == (6, 1)
    # The last one fills all of `max_len`
    assert found.batch(np.array([3])).key_padding is None and found.batch(np.array([3, 1])).key_padding is not None
    assert found.batch(np.array([3])).tokens[:, 0].tolist() == [CLS, A, B, C, A, B, C, SEP]
    assert found.counts.n_cut == 1
    assert found.counts.messages() == ['1 of 4 texts are longer than 8 tokens, and are cut at their end']


@given(st.lists(st.text('abc ', min_size=1, max_size=12), min_size=1, max_size=9))
def test_every_text_comes_back(texts):
    found = examples(rows(*((text, None) for text in texts)))
    batches = list(ValidLoader(found, batch_size=2))
    columns = [CHARACTERS.decode(column[~mask].tolist()) for batch in batches
               for column, mask in zip(batch.tokens.T, batch.padding_mask.T, strict=True)]
    assert columns == [f'[CLS]{text[:6]}[SEP]' for text in texts]
    assert found.counts.n_cut == sum(len(text) > 6 for text in texts)
    assert all(batch.labels is None for batch in batches)
    assert sum(batch.n_tokens for batch in batches) == found.counts.n_tokens == sum(len(text[:6]) for text in texts)


def test_labels_of_all_kinds():
    batch = examples(rows(('a', ['x']), ('b', ['x', 'z', 'y']), ('c', [])), 'multiple').batch(np.arange(3))
    assert batch.labels.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]] and batch.labels.dtype == torch.float32
    batch = examples(rows(('a', 1.5), ('b', -2)), 'number').batch(np.array([1, 0]))
    assert batch.labels.tolist() == [[-2, 1.5]] and batch.labels.dtype == torch.float32


def test_pairs_have_segments():
    batch = examples(rows(('a', 'x', 'bc'), ('abcabc', 'y', 'c')), 'single').batch(np.arange(2))
    assert batch.tokens.T.tolist() == [[CLS, A, SEP, B, C, SEP, PAD, PAD], [CLS, A, B, C, A, SEP, C, SEP]]
    assert batch.segment_ids.T.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0], [0] * 6 + [1, 1]]
    assert batch.n_special_tokens == 6 and batch.n_tokens == 8


def test_texts_without_tokens_are_left_out():
    tokenizer = basic_english(['a b c .'] * 3, vocab_size=20)
    found = examples(rows((';', 'x'), ('a', 'y'), (';;', 'x'), ('zz b', 'x')), 'single', tokenizer=tokenizer)
    assert found.rows.tolist() == [1, 3] and len(found) == 2
    assert found.batch(np.arange(2)).labels.tolist() == [[1, 0]]
    assert found.counts.n_unknown == 1 and found.counts.n_tokens == 3
    assert [message.split(':')[0] for message in found.counts.messages()] == \
        ['2 of 4 texts are left out', '1 of 3 tokens are unknown to the tokenizer']
    with pytest.raises(UserError, match='no token in any of 1 texts'):
        examples(rows((';', 'x')), tokenizer=tokenizer)


def test_what_a_tokenizer_drops_is_no_token():
    built = Tokenizer(models.BPE({'a': 0, 'b': 1}, []))
    built.add_special_tokens(['[MASK]'])
    tokenizer = SubwordTokenizer(built)
    assert tokenizer.special.unk is None
    found = examples(rows(('azb', None), ('zz', None)), tokenizer=tokenizer)
    assert found.batch(np.array([0])).tokens[:, 0].tolist() == [0, 1] and found.rows.tolist() == [0]
    assert (found.counts.n_tokens, found.counts.n_unknown, found.counts.n_without_tokens) == (2, 0, 1)


@given(st.lists(st.text('abc', min_size=1, max_size=6), min_size=1, max_size=9))
def test_by_length_is_the_same_in_another_order(texts):
    found = examples(rows(('b', 'n'), *((text, text[0]) for text in texts), ('c', 'm')), 'single')
    ordered = found.by_length()
    lengths = ordered.lengths(np.arange(len(ordered)))
    assert (np.diff(lengths) <= 0).all() and sorted(ordered.rows) == found.rows.tolist()
    one, other = ordered.batch(np.arange(len(found))), found.batch(ordered.rows)
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ('tokens', 'labels', 'padding_mask'))


TAGGED = Tagged([TaggedRow(['ab', 'c'], ['X', 'O'], 1), TaggedRow(['c', 'abc', 'b', 'b'], ['O', 'Y', 'X', 'Y'], 4)],
                0, PATH)


def tagged_examples(**how):
    labels = LabelSet.from_tagged(TAGGED)
    return Examples.of_tagged(TAGGED, CHARACTERS, **({'max_len': 9, 'template': CHARACTERS.template,
                                                      'labels': labels} | how))


def test_words_have_labels_at_their_first_token_alone():
    found = tagged_examples()
    batch = found.batch(np.arange(2))
    # O, X, Y
    assert batch.labels.T.tolist() == [[-100, 1, -100, -100, 0] + [-100] * 4,
                                       [-100, 0, -100, 2, -100, -100, -100, 1, -100]]
    assert found.first_tokens(0) == {0: 1, 1: 4} and found.first_tokens(1) == {0: 1, 1: 3, 2: 7}
    assert found.counts.messages() == ['1 of 2 texts are longer than 9 tokens, and are cut at their end',
                                       '1 of 6 words are cut off, or have no token: their labels are not used']
    assert torch.equal(found.by_length().batch(np.arange(2)).labels, batch.labels.flip(1))


def test_words_without_labels():
    found = tagged_examples(labels=None, template=Template(), separator='')
    assert found.batch(np.arange(2)).labels is None and found.first_tokens(1) == {0: 0, 1: 1, 2: 4, 3: 5}
