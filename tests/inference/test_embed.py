"""Features of texts as a stream, and the nearest ones."""
import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from labml_mlm.common.errors import UserError
from labml_mlm.inference import embed
from labml_mlm.inference.embed import Embedder
from labml_mlm.inference.texts import Text

WORDS = ['the quick', 'lazy dog', 'o', 'jumps over the lazy dog', 'fox', 'the quick', 'brown', 'dog the over']


def numbered(texts):
    return (Text(line, text) for line, text in enumerate(texts, start=1))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(embed, '_TEXTS', 3)


@pytest.mark.parametrize('name', ['esm', 'bert', 'modernbert', 'relative'])
def test_rows_are_the_features_of_their_lines(models, name, small_blocks):
    trained = models[name]
    has_cls = bool(trained.configs._template.before)
    for pooling, layer, normalize in itertools.product(['mean', 'cls'] if has_cls else ['mean'], (-1, 0, 1, -2),
                                                       (False, True)):
        options = {'pooling': pooling, 'layer': layer, 'normalize': normalize}
        blocks = list(Embedder(trained, **options)(numbered(WORDS)))
        assert [len(block.texts) for block in blocks] == [3, 3, 2]
        assert [text for block in blocks for _, text in block.texts] == WORDS
        vectors = torch.from_numpy(np.concatenate([block.vectors for block in blocks]))
        alone = torch.cat([trained.encode(text, **options) for text in WORDS])
        torch.testing.assert_close(vectors, alone, atol=2e-6, rtol=2e-5)
        if normalize:
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(WORDS)))


def test_encode_at_a_layer(models):
    trained = models['bert']
    states = trained.encode('lazy dog', pooling='none', layer=1)[0]
    assert torch.equal(trained.encode('lazy dog', pooling='cls', layer=1)[0], states[0])
    torch.testing.assert_close(trained.encode('lazy dog', layer=-2)[0], states.mean(0))
    assert not torch.allclose(states, trained.encode('lazy dog', pooling='none')[0], atol=0.1)


def test_texts_are_read_as_they_are_needed(models, small_blocks):
    """An endless stream, of which no more than a block is read ahead."""
    n_read = 0

    def endless():
        nonlocal n_read
        for n_read in itertools.count(1):
            yield Text(n_read, 'lazy dog')

    blocks = Embedder(models['esm'])(endless())
    for i in range(1, 5):
        assert len(next(blocks).vectors) == 3
        assert n_read == 3 * i


def test_empty_text_is_refused_by_its_line_or_has_zeros(models, small_blocks):
    texts = ['fox', 'dog', 'the', 'quick', '', 'brown']
    with pytest.raises(UserError, match='line 5 is empty, and has no features: leave it out, or use --zeros-for-empty'):
        list(Embedder(models['bert'])(numbered(texts)))
    embedder = Embedder(models['bert'], zeros_for_empty=True, normalize=True)
    vectors = np.concatenate([block.vectors for block in embedder(numbered(texts))])
    assert (vectors.any(axis=1) == [True] * 4 + [False, True]).all() and np.isfinite(vectors).all()
    assert embedder.notes == ['1 text is empty, and without features: first in line 5']
    # A block of nothing else
    assert not next(embedder(numbered(['', '']))).vectors.any()


def test_long_text_is_cut_and_counted(models):
    trained = models['bert']
    longest = trained.model.max_seq_len
    ids = trained.ids('fox')
    long = 'fox ' * longest
    embedder = Embedder(trained)
    [block] = embedder(numbered(['fox', long, long]))
    text_ids = torch.from_numpy(trained.tokenizer.encode(long).astype(np.int64))
    cut = torch.cat([ids[:1], text_ids[:longest - 2], ids[-1:]])
    torch.testing.assert_close(torch.from_numpy(block.vectors[1:2]), trained.features([cut]))
    assert embedder.notes[0] == f'2 texts are longer than {longest} tokens, and cut: first in line 2'
    # To what was asked for
    [block] = Embedder(trained, max_tokens=len(ids))(numbered(['fox fox fox']))
    torch.testing.assert_close(torch.from_numpy(block.vectors), trained.encode('fox'))
    for max_tokens, message in ((longest + 1, 'the model takes at most 512'), (2, 'leaves no room for text')):
        with pytest.raises(UserError, match=message):
            Embedder(trained, max_tokens=max_tokens)


def test_unknown_parts_are_named_with_their_line(models):
    embedder = Embedder(models['esm'])
    [block] = embedder(numbered(['fox', 'f\u043ex ☃', 'a ☃']))
    assert np.isfinite(block.vectors).all()
    assert embedder.notes == ['2 texts have parts that are not in the vocabulary, and are [UNK] for the model: first '
                              "in line 2, '\u043e', '☃'"]


@pytest.mark.parametrize('top', [1, 3, 100])
def test_nearest_are_those_of_all_cosines(models, small_blocks, top):
    trained = models['bert']
    texts = [*WORDS, '', *WORDS]
    found = Embedder(trained, zeros_for_empty=True).nearest(numbered(texts), 'the lazy fox', top=top)
    cosines = functional.cosine_similarity(trained.encode([text or 'o' for text in texts]),
                                           trained.encode('the lazy fox')).tolist()
    expected = sorted((-round(cosine, 5), line) for line, text, cosine in zip(itertools.count(1), texts, cosines,
                                                                              strict=False) if text)[:top]
    assert [(-round(n.cosine, 5), n.line) for n in found] == expected
    assert all(texts[n.line - 1] == n.text for n in found)
    with pytest.raises(UserError, match='empty'):
        Embedder(trained).nearest(numbered(WORDS), '', top=1)
