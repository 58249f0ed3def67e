"""Masks of a validation repeat, whatever they are drawn from; where they cannot, it is said."""
import random

import numpy as np
import pytest
import torch

from labml_mlm.training.valid_masking import RepeatedMasking

TOKENS = torch.arange(40).view(8, 5)


def masks_by(draw):
    """An `mlm` whose labels are the tokens where `draw`, of a number, is below a half."""
    def mlm(x):
        labels = x * torch.tensor([[draw() < 0.5 for _ in row] for row in x])
        return x - labels, labels
    return mlm


def validations(masking, n=3):
    """Labels of two batches, of each of `n` validations."""
    found = []
    for _ in range(n):
        masking.restart()
        found.append([])
        for _ in range(2):
            _, labels = masking(TOKENS)
            masking.check(TOKENS, labels)
            found[-1].append(labels)
    return found


@pytest.mark.parametrize('draw', [random.random, np.random.random, lambda: torch.rand(())])
def test_masks_of_global_generators_repeat(draw, capsys):
    state = torch.get_rng_state()
    first, *others = validations(RepeatedMasking(masks_by(draw)))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert 'masks' not in capsys.readouterr().out


def test_masks_that_do_not_repeat_are_said(capsys):
    """A generator that nothing can find."""
    generator = torch.Generator()
    validations(RepeatedMasking(masks_by(lambda: torch.rand((), generator=generator))), n=2)
    assert capsys.readouterr().out.count('The masks of this validation are not those of the last one') == 1


def test_other_tokens_may_have_other_labels(capsys):
    masking = RepeatedMasking(lambda x: (x, x))
    for tokens in (TOKENS, TOKENS + 1, TOKENS[:4]):
        masking.restart()
        masking.check(tokens, masking(tokens)[1])
    assert 'masks' not in capsys.readouterr().out
