import numpy as np
import pytest
import torch

from labml_mlm.baselines import masked as module
from labml_mlm.baselines.masked import Masked, MaskedTokens, every, is_neighbour

N_TOKENS = 20


@pytest.fixture
def batch():
    torch.manual_seed(1)
    tokens = torch.randint(1, N_TOKENS, (12, 5))
    # Padding at the end of a column
    tokens[9:, 2] = 0
    labels = torch.where((torch.rand(12, 5) < 0.4) & (tokens > 3), tokens, 0)
    return tokens, labels


def slow(tokens, labels, *, excluded, document_ids=None):
    found = []
    for row in range(len(tokens)):
        for column in range(tokens.shape[1]):
            if not labels[row, column]:
                continue

            def seen(other, row=row, column=column):
                if not 0 <= other < len(tokens) or labels[other, column] or int(tokens[other, column]) in excluded:
                    return -1
                if document_ids is not None and document_ids[other, column] != document_ids[row, column]:
                    return -1
                return int(tokens[other, column])
            found.append((int(labels[row, column]), seen(row - 1), seen(row + 1)))
    return found


@pytest.mark.parametrize('has_documents', [False, True])
def test_masked_neighbours_and_others_that_are_no_text_are_not_seen(batch, has_documents):
    document_ids = torch.arange(12)[:, None].expand(12, 5) // 4 if has_documents else None
    found = Masked.of_batch(*batch, padding_token=0, is_neighbour=is_neighbour(N_TOKENS, {0, 3}),
                            document_ids=document_ids)
    expected = slow(*batch, excluded={0, 3}, document_ids=document_ids)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == expected
    assert {-1} < set(found.left.tolist()) and 3 not in found.left and 3 in batch[0]


def test_first_masked_tokens_are_enough(batch, monkeypatch):
    found = Masked.of_batch(*batch, padding_token=0, is_neighbour=is_neighbour(N_TOKENS, {0}))
    n = len(found.tokens)
    monkeypatch.setattr(module, '_MAX_MASKED', 2 * n)
    tokens = MaskedTokens()
    assert len(tokens.all.tokens) == 0
    for i in range(4):
        assert tokens.is_enough == (i >= 2)
        tokens.add(found)
    assert tokens.all.right.tolist() == found.right.tolist() * 2


def test_some_are_from_all_over_them():
    found = every(Masked(*(np.arange(1000),) * 3), 11)
    assert found.left.tolist() == np.linspace(0, 999, 11).astype(int).tolist()
    assert len(every(found, 11).tokens) == 11
