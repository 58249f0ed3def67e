"""Candidates for a mask."""
import math
import re

import pytest
import torch
from support.untrained import KINDS, log_probabilities, tokenizer_of, untrained

from labml_mlm import FillMask
from labml_mlm.common.errors import UserError

CANDIDATES = ['fox', 'dog', 'lazyover', 'brown dogs', 'jumper']


def slow(pretrained, ids, begin, end):
    """Slow twin: the log-probabilities of the tokens from `begin` to `end`, each with one forward pass."""
    log_p = []
    for position in range(begin, end):
        copy = ids.clone()
        copy[position:end] = pretrained.configs.mask_token
        log_p.append(log_probabilities(pretrained, copy, position)[ids[position]].item())
    return log_p


@pytest.mark.parametrize('kind', KINDS)
def test_scores_are_those_of_all_tokens_from_left_to_right(kind):
    trained = untrained(tokenizer_of(kind))
    encode = trained.tokenizer.encode
    before = 'the quick' if trained.tokenizer.is_spaced else 'the quick '
    ranked = FillMask(trained).candidates('the quick [MASK] over', CANDIDATES)
    assert sorted(found.candidate for found in ranked.candidates) == sorted(CANDIDATES)
    for found in ranked.candidates:
        ids = torch.from_numpy(encode(f'the quick {found.candidate} over')).long()
        begin, end = len(encode(before)), len(ids) - len(encode(' over'))
        assert found.tokens == [trained.tokenizer.tokens[i] for i in ids[begin:end]]
        assert ''.join(found.tokens).strip().replace(' ', '') == found.candidate.replace(' ', '')
        log_p = slow(trained, ids, begin, end)
        assert found.log_probability == pytest.approx(sum(log_p), rel=1e-4)
        assert found.per_token == pytest.approx(math.exp(sum(log_p) / len(log_p)), rel=1e-4)
    means = [found.per_token for found in ranked.candidates]
    assert means == sorted(means, reverse=True) and len(set(means)) == len(means)
    assert ranked.filled == f'the quick {ranked.candidates[0].candidate} over'


def test_a_single_token_has_the_probability_of_the_mask(fill_mask):
    predicted = dict(fill_mask('the qu[MASK]ck', top=100).masks[0])
    ranked = fill_mask.candidates('the qu[MASK]ck', ['i', 'a', ' '])
    assert ranked.filled == 'the quick'
    for found in ranked.candidates:
        assert found.per_token == pytest.approx(predicted[found.candidate], rel=1e-3)
        assert found.log_probability == pytest.approx(math.log(predicted[found.candidate]), rel=1e-3)


def test_words_that_begin_alike_differ(fill_mask):
    best, other = fill_mask.candidates('the quick [MASK] fox', ['bread', 'brown']).candidates
    assert (best.candidate, other.candidate) == ('brown', 'bread')
    assert best.tokens[:2] == other.tokens[:2] and best.per_token > 2 * other.per_token


def test_tokens_have_the_space_before_them():
    fill_mask = FillMask(untrained(tokenizer_of('bpe')))
    [spaced] = fill_mask.candidates('a [MASK] jumps', ['brown']).candidates
    [bare] = fill_mask.candidates('[MASK] jumps', ['brown']).candidates
    assert spaced.tokens == [' brown'] and bare.tokens[0] != ' brown' and ''.join(bare.tokens) == 'brown'


def test_where_a_token_crosses_its_end_the_same_text_is_scored_for_all():
    fill_mask = FillMask(untrained(tokenizer_of('pattern')))
    assert fill_mask.pretrained.tokenizer.encode('the dogs over').tolist() != []
    ranked = fill_mask.candidates('the [MASK]s over', ['dog', 'x'])
    assert {''.join(found.tokens) for found in ranked.candidates} == {'dogs', 'xs'}
    # Alone, `dog` is a token; `dogs` is another one
    assert [found.tokens for found in ranked.candidates if found.candidate == 'dog'] == [['dogs']]


def test_several_texts_have_the_scores_of_each(fill_mask, monkeypatch):
    texts = ['the [MASK] brown fox', 'over the [MASK]', '[MASK]', 'jumps [mask] the lazy dog'] * 2
    alone = [fill_mask.candidates(text, ['quick', 'over', 'dog']) for text in texts]
    for limit in (1, 1 << 20):
        monkeypatch.setattr('labml_mlm.inference.candidates._TOKENS', limit)
        for one, other in zip(fill_mask.candidates(texts, ['quick', 'over', 'dog']), alone, strict=True):
            assert (one.text, one.filled) == (other.text, other.filled)
            assert [found.log_probability for found in one.candidates] == \
                pytest.approx([found.log_probability for found in other.candidates], abs=1e-3)
    assert fill_mask.candidates([], ['dog']) == []


def test_sequences_that_are_the_same_are_computed_once(fill_mask, monkeypatch):
    seen = []
    compute = fill_mask.pretrained.batches
    monkeypatch.setattr(fill_mask.pretrained, 'batches', lambda sequences: seen.append(len(sequences)) or
                        compute(sequences))
    fill_mask.candidates('the qu[MASK]ck', list('abcdefghij'))
    # `do` and `dog` have three masks and two in common with none, and `dog` and `doe` two
    fill_mask.candidates('the qu[MASK]ck', ['dog', 'doe'])
    assert seen == [1, 3]


@pytest.mark.parametrize('text, candidates, message', [
    ('the fox', ['dog'], "there is no [MASK] in 'the fox'"),
    ('[MASK] and [MASK]', ['dog'], "candidates are for one mask, and there are 2 in '[MASK] and [MASK]'"),
    ('the [MASK]', [], 'candidates=[]: it must be a list of texts, at least one'),
    ('the [MASK]', 'dog', "candidates='dog': it must be a list of texts"),
    ('the [MASK]', ['dog', ''], 'a candidate is empty'),
    ('the [MASK]', ['dog', 'fox', 'dog'], "the candidate 'dog' is there twice"),
    ('the [MASK]', ['dog', 'a [mask]'], "the candidate 'a [mask]' has a mask in it"),
    ('the [MASK]', ['dog', 'É'], "the candidate 'É' is not in the vocabulary"),
    ('the [MASK]', ['dog', 'Ödog'], "the candidate 'Ödog' is not in the vocabulary: the model does not know 'Ö'"),
    ('the [MASK]', ['dog', '\ud800'], 'the text is not valid Unicode'),
])
def test_invalid_candidates_are_refused(fill_mask, text, candidates, message):
    with pytest.raises(UserError, match=re.escape(message)):
        fill_mask.candidates(text, candidates)


def test_candidates_without_tokens_are_refused():
    fill_mask = FillMask(untrained(tokenizer_of('wordpiece')))
    with pytest.raises(UserError, match='a candidate is empty'):
        fill_mask.candidates('the [MASK]', [' '])
    with pytest.raises(UserError, match=r"the candidate '\\n' has no tokens"):
        fill_mask.candidates('the [MASK]', ['\n'])
    with pytest.raises(UserError, match="the candidate '漢' is not in the vocabulary"):
        fill_mask.candidates('the [MASK]', ['fox', '漢'])
    never = fill_mask.pretrained.tokenizer.tokens.index(' fox')
    masked = FillMask(untrained(tokenizer_of('wordpiece'), no_mask_tokens=[never]))
    with pytest.raises(UserError, match="the candidate 'fox' has a token that the model never predicts"):
        masked.candidates('the [MASK]', ['dog', 'fox'])
