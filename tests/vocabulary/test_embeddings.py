import pytest
import torch

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.base import SpecialTokens
from labml_mlm.tokenization.train_tokenizer import bpe, wordpiece
from labml_mlm.vocabulary.embeddings import extended_embeddings, transferred_embeddings
from labml_mlm.vocabulary.extend import extend_vocabulary

BERT = SpecialTokens(pad=0, unk=1, cls=2, sep=3, mask=4)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def transferred(embeddings, old_tokens, new_tokens, *, old_special=BERT, new_special=BERT, seed=0):
    return transferred_embeddings(embeddings, old_tokens, new_tokens, old_special=old_special, new_special=new_special,
                                  generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('shape', [(10, 4), (10,)])
def test_new_rows_are_means_of_the_old_pieces(shape):
    old = random(*shape)
    new = extended_embeddings(old, [[1, 2], [3], [4, 4, 5]], first_id=10)
    assert len(new) == 13 and new[:10].equal(old)
    for row, expected in zip(new[10:], [(old[1] + old[2]) / 2, old[3], (2 * old[4] + old[5]) / 3], strict=True):
        torch.testing.assert_close(row, expected)


def test_padding_is_used_first():
    old = random(128, 4)
    new = extended_embeddings(old, [[1, 2], [3]], first_id=100)
    assert new.shape == old.shape and new[:100].equal(old[:100]) and new[102:].equal(old[102:])
    torch.testing.assert_close(new[100], (old[1] + old[2]) / 2)
    assert new[101].equal(old[3])


@pytest.mark.parametrize(('n_rows', 'first_id', 'n_new', 'expected'), [
    (128, 100, 28, 128), (128, 100, 29, 192), (128, 128, 1, 192), (130, 130, 5, 135), (130, 128, 1, 130),
    (64, 64, 0, 64), (128, 90, 200, 320)])
def test_rows_stay_a_multiple_of_64_if_they_were_one(n_rows, first_id, n_new, expected):
    old = random(n_rows)
    new = extended_embeddings(old, [[i % first_id] for i in range(n_new)], first_id=first_id)
    assert len(new) == expected
    assert new[first_id:first_id + n_new].equal(old[[i % first_id for i in range(n_new)]])
    # A token that is none is never likely
    assert (new[max(n_rows, first_id + n_new):] == old.min()).all()


def test_rows_of_an_extended_tokenizer_belong_to_its_ids():
    text = 'the cat sat on the mat; the categories matter\n'
    tokenizer = bpe([text] * 20, vocab_size=270)
    extension = extend_vocabulary(tokenizer.files['tokenizer.json'], [text] * 20, n=8)
    old = random(tokenizer.n_tokens, 3)
    new = extended_embeddings(old, extension.pieces, first_id=extension.first_id)
    assert len(new) == tokenizer.n_tokens + 8
    for i, pieces in enumerate(extension.pieces, extension.first_id):
        torch.testing.assert_close(new[i], torch.stack([old[piece] for piece in pieces]).mean(0))


def test_extension_needs_a_row_for_each_old_token():
    with pytest.raises(UserError, match='has 11 tokens, and there are embeddings for 10 only'):
        extended_embeddings(random(10, 4), [[1]], first_id=11)
    with pytest.raises(UserError, match='has 6 tokens, and there are embeddings for 5 only'):
        transferred(random(5, 4), ['a'] * 6, ['a'] * 6)


def test_tokens_of_both_vocabularies_keep_their_rows():
    old_tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', ' cat', 's', ' dog']
    new_tokens = ['s', '<s>', '<pad>', '</s>', '<unk>', '<mask>', ' dog', 'dog', ' cat']
    special = SpecialTokens(cls=1, pad=2, sep=3, unk=4, mask=5)
    old = random(8, 4)
    new, n = transferred(old, old_tokens, new_tokens, new_special=special)
    assert n == 8 and new.shape == (9, 4)
    assert new[[0, 1, 2, 3, 4, 5, 6, 8]].equal(old[[6, 2, 0, 3, 1, 4, 7, 5]])
    assert not (new[7] == old).all(1).any()


def test_special_tokens_and_text_with_the_same_name_differ():
    old_tokens = ['p', 'u', 'c', 's', 'm', 'extra', '<x>', '<y>']
    new_tokens = ['p', 'u', 'c', 's', 'm', '<x>', 'm', '<y>']
    old_special, new_special = BERT._replace(others=(6,)), BERT._replace(unk=None, others=(1, 5))
    old = random(8, 2)
    new, n = transferred(old, old_tokens, new_tokens, old_special=old_special, new_special=new_special)
    # Not `u`, which is of text no more, and `m`, which is text
    assert n == 6 and new[[0, 2, 3, 4, 5, 7]].equal(old[[0, 2, 3, 4, 6, 7]])


def test_parts_of_characters_and_gaps_are_no_text_in_common():
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '\ufffd', '\ufffd', '', 'a']
    assert transferred(random(9, 2), tokens, tokens)[1] == 6


def test_other_rows_are_drawn_like_the_old_ones():
    scale, mean = torch.tensor([0.1, 2.]), torch.tensor([3., -1.])
    old = random(3000, 2) * scale + mean
    # Padding is no token
    old = torch.cat([old, torch.full((7, 2), 1e6)])
    old_tokens, new_tokens = ([f'{name}{i}' for i in range(3000)] for name in ('old', 'new'))
    new, n = transferred(old, old_tokens, new_tokens, seed=1)
    assert n == 5 and len(new) == 3000
    torch.testing.assert_close(new[5:].mean(0), mean, rtol=0, atol=0.15)
    torch.testing.assert_close(new[5:].std(0), scale, rtol=0.05, atol=0)
    assert transferred(old, old_tokens, new_tokens, seed=1)[0].equal(new)
    assert not transferred(old, old_tokens, new_tokens, seed=2)[0].equal(new)


def test_transferred_rows_are_padded_if_the_old_ones_are():
    assert transferred(random(64, 2), ['a'] * 60, ['a'] * 30)[0].shape == (64, 2)
    assert transferred(random(64), ['a'] * 60, ['a'] * 65)[0].shape == (128,)
    assert transferred(random(60, 2), ['a'] * 60, ['a'] * 30)[0].shape == (30, 2)


def test_two_kinds_of_tokenizers_have_words_in_common():
    text = 'the cat sat on the mat and the cat ran\n'
    old, new = wordpiece([text] * 20, vocab_size=60), bpe([text] * 20, vocab_size=290)
    rows = random(old.n_tokens, 3)
    found, n = transferred(rows, old.tokens, new.tokens, old_special=old.special, new_special=new.special)
    the = old.tokens.index(' the'), new.tokens.index(' the')
    assert found[the[1]].equal(rows[the[0]])
    assert n == 5 + len(set(old.tokens[5:]) & set(new.tokens[5:]))
