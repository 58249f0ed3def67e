import math
import re

import pytest
import torch
from support.project import SMALL_VALUES

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError


@pytest.mark.parametrize('name, shape', [('linear', lambda progress: 1 - progress),
                                         ('cosine', lambda progress: (1 + math.cos(math.pi * progress)) / 2)])
def test_masking_rate_follows_its_schedule(build, tracked, name, shape):
    conf = build(masking_schedule=name, masking_prob=0.1, masking_prob_start=0.5, epochs=1)
    twin, n_steps = build(), len(conf.train_loader)
    conf.run()
    # The last batch of 247 windows has 7
    assert tracked['masking_prob'] == pytest.approx([0.1 + 0.4 * shape(8 * i / 247) for i in range(n_steps)])
    # Validation has a constant masking rate
    for c in (conf, twin):
        c.valid_mlm.generator.manual_seed(0)
    assert all(torch.equal(conf.valid_mlm(x)[0], twin.valid_mlm(x)[0]) for x in conf.valid_loader)


def test_constant_masking_rate_and_sequence_length_are_not_tracked(build, tracked, train_steps):
    conf = build(masking_prob=0.4)
    train_steps(conf, 2)
    assert not {'masking_prob', 'seq_len'} & set(tracked)
    assert conf.mlm.masking_prob == 0.4


@pytest.mark.parametrize('masking', ['word', 'span'])
def test_whole_words_are_masked_in_training_only(build, tracked, masking, train_steps):
    conf = build(masking=masking, seq_len=64, masking_prob=0.3, randomize_prob=0., no_change_prob=0.)
    for x in conf.train_loader:
        is_masked = conf.mlm(x)[1] != 0
        # All letters of a word or none
        for tokens, selected in zip(x.T, is_masked.T, strict=True):
            letters = ''.join(conf.tokenizer.tokens[token] for token in tokens.tolist())
            for word in re.finditer(r'\w+', letters):
                assert len(set(selected[word.start():word.end()].tolist())) == 1
    assert conf.valid_mlm.units is None
    train_steps(conf, 2)
    assert all(math.isfinite(loss) for loss in tracked['loss.'])


class WordlessTokenizer:
    """A tokenizer with everything that is required, and without word boundaries."""

    def __init__(self, tokenizer):
        for name in ('n_tokens', 'special', 'tokens', 'encode', 'decode'):
            setattr(self, name, getattr(tokenizer, name))


@pytest.mark.parametrize('masking', ['word', 'span'])
def test_masking_of_words_requires_word_boundaries(build, masking):
    conf = MLMConfigs()
    conf._set_values({'text_path': build().text_path, **SMALL_VALUES, 'masking': masking})
    conf.tokenizer = WordlessTokenizer(build().tokenizer)
    with pytest.raises(UserError, match='need word boundaries: your tokenizer has no `words`'):
        _ = conf.mlm


@pytest.mark.parametrize('masking', ['word', 'span'])
def test_words_as_long_as_a_window_are_refused(build, masking):
    with pytest.raises(UserError, match='masking=word and masking=span need words, and in this text one has 2,048 '
                                        'tokens, where seq_len=32: use masking=token'):
        build(masking=masking, text='ACGTTGCATCAGGTCA' * 500, seq_len=32).mlm  # noqa: B018
