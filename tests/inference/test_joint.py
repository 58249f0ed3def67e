"""Several masks filled in together."""
import itertools
import math

import pytest
import torch
from support.untrained import log_probabilities, untrained

from labml_mlm import FillMask
from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.character import CharacterTokenizer

LETTERS = 'abcd'


@pytest.fixture(scope='module')
def tiny():
    return FillMask(untrained(CharacterTokenizer(LETTERS)))


def most_certain(at):
    """Of equally certain places, the first."""
    return max(at, key=lambda place: (round(at[place].max().item(), 4), -place))


def slow(fill_mask, text):
    """Slow twin: the probabilities of all fillings, most certain place first, each with forward passes of its own."""
    trained = fill_mask.pretrained
    ids = fill_mask.ids(text)
    places = (ids == trained.configs.mask_token).nonzero()[:, 0].tolist()
    found = {}
    for tokens in itertools.product(range(5, 5 + len(LETTERS)), repeat=len(places)):
        partial, left, log_p = ids.clone(), dict(zip(places, tokens, strict=True)), 0.
        while left:
            at = {place: log_probabilities(trained, partial, place) for place in left}
            place = most_certain(at)
            log_p += at[place][left[place]].item()
            partial[place] = left.pop(place)
        found[''.join(trained.tokenizer.tokens[i] for i in partial.tolist())] = math.exp(log_p)
    return found


@pytest.mark.parametrize('text, beam', [('a[MASK]b[MASK]c', 4), ('[MASK][MASK]', 4), ('d[MASK]a[MASK][MASK]b', 16)])
def test_a_wide_beam_finds_the_fillings_of_an_exhaustive_search(tiny, text, beam):
    every = slow(tiny, text)
    assert sum(every.values()) == pytest.approx(1)
    found = tiny.joint(text, top=1000, beam=beam)
    assert len(found.fillings) == len(every) == len(LETTERS) ** text.count('[MASK]')
    assert {filling.filled: filling.probability for filling in found.fillings} == pytest.approx(every, rel=1e-4)
    best = sorted(every, key=every.get, reverse=True)
    assert [filling.filled for filling in tiny.joint(text, top=5, beam=beam).fillings] == best[:5]
    assert found.filled == best[0]


def test_tokens_are_in_the_order_of_the_text(tiny):
    for filling in tiny.joint('a[MASK]b[MASK]c').fillings:
        assert filling.filled == 'a{}b{}c'.format(*filling.tokens)


def test_a_pair_is_more_than_its_best_tokens():
    """A model that knows these texts: `b` is the best first letter, and `c` the best second one, but not of `b`."""
    known = {'ac': 0.4, 'bd': 0.3, 'ba': 0.3}
    fill_mask = FillMask(untrained(CharacterTokenizer(LETTERS)))
    tokenizer, mask = fill_mask.pretrained.tokenizer, fill_mask.pretrained.configs.mask_token

    def encode(x, padding_mask):
        logits = torch.full((*x.shape, tokenizer.n_tokens), -50.)
        for column in range(x.shape[1]):
            for text, p in known.items():
                ids = torch.from_numpy(tokenizer.encode(text)).long()
                if ((x[:, column] == ids) | (x[:, column] == mask)).all():
                    for place, token in enumerate(ids.tolist()):
                        logits[place, column, token] = math.log(logits[place, column, token].exp() + p)
        return logits

    fill_mask.pretrained.model.encode, fill_mask.pretrained.model.generator = encode, torch.nn.Identity()
    assert fill_mask('[MASK][MASK]').filled == 'bc'
    found = fill_mask.joint('[MASK][MASK]', top=3)
    assert found.filled == 'ac'
    assert {filling.filled: filling.probability for filling in found.fillings} == pytest.approx(known)
    # The first place is more certain, and its best letter leads away from the best pair
    assert fill_mask.joint('[MASK][MASK]', beam=1).filled in ('bd', 'ba')


def test_the_narrowest_beam_takes_the_most_certain_place_first(tiny):
    text = 'a[MASK]bd[MASK]'
    ids = tiny.ids(text)
    for _ in range(2):
        at = {place: log_probabilities(tiny.pretrained, ids, place) for place in (ids == 4).nonzero()[:, 0].tolist()}
        place = most_certain(at)
        ids[place] = at[place].argmax()
    [filling] = tiny.joint(text, top=1, beam=1).fillings
    assert filling.filled == tiny.pretrained.tokenizer.decode(ids.tolist())


def test_a_single_mask_is_filled_in_as_alone(fill_mask):
    alone, together = fill_mask('qu[MASK]ck', top=4), fill_mask.joint('qu[MASK]ck', top=4)
    assert [filling.tokens for filling in together.fillings] == [[token] for token, _ in alone.masks[0]]
    assert [filling.probability for filling in together.fillings] == \
        pytest.approx([p for _, p in alone.masks[0]], rel=1e-4)


def test_several_texts_are_filled_in_as_each(fill_mask):
    texts = ['the [MASK][MASK]ick brown fox', 'over th[MASK] laz[MASK] [MASK]og', 'the quick br[MASK]wn fox']
    together = fill_mask.joint(texts, top=3, beam=4)
    assert [filled.filled for filled in together] == ['the quick brown fox', 'over the lazy dog',
                                                      'the quick brown fox']
    for text, filled in zip(texts, together, strict=True):
        alone = fill_mask.joint(text, top=3, beam=4)
        assert [filling.tokens for filling in alone.fillings] == [filling.tokens for filling in filled.fillings]
        assert [filling.probability for filling in alone.fillings] == \
            pytest.approx([filling.probability for filling in filled.fillings], rel=1e-3)
    assert fill_mask.joint([]) == []


def test_special_tokens_are_never_filled_in(tiny):
    tokens = {token for filling in tiny.joint('[MASK]a[MASK]', top=1000, beam=100).fillings for token in filling.tokens}
    assert tokens == set(LETTERS)


def test_a_step_is_one_batch(tiny, monkeypatch):
    n = []
    encode = tiny.pretrained.model.encode
    monkeypatch.setattr(tiny.pretrained.model, 'encode', lambda x, *rest: n.append(x.shape[1]) or encode(x, *rest))
    tiny.joint(['a[MASK]b[MASK]', '[MASK]cc[MASK]'], beam=3)
    assert n == [2, 6]


@pytest.mark.parametrize('text, options, message', [
    ('ab', {}, r"there is no \[MASK\] in 'ab'"), ('[MASK]', {'top': 0}, 'top=0: it must be at least 1'),
    ('[MASK]', {'beam': 0}, 'beam=0: it must be at least 1')])
def test_invalid_arguments_are_refused(tiny, text, options, message):
    with pytest.raises(UserError, match=message):
        tiny.joint(text, **options)
