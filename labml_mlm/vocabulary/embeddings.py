"""
# Embeddings of another vocabulary

A run that goes on from a published encoder may have more tokens than that, or another tokenizer. What the embeddings
know is kept:

* a token that was added to the vocabulary begins as the mean of the tokens that it was cut into before
* of another tokenizer, the tokens that both have keep their rows; the others are drawn from the normal distribution
  with the mean and the standard deviation of the old rows, dimension by dimension
  ([Hewitt 2021](https://nlp.stanford.edu/~johnhew/vocab-expansion.html))

The row of a token is its id. A matrix may have more rows than there are tokens, up to a multiple of 64, which is
faster: where the old one has a multiple of that, so has the new one. All functions are for the decoder's bias as well.
"""
from collections.abc import Sequence

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.base import SpecialTokens

_PADDED_TO = 64


@torch.no_grad()
def extended_embeddings(embeddings: Tensor, pieces: Sequence[Sequence[int]], *, first_id: int) -> Tensor:
    """
    The embeddings of a vocabulary that was extended.

    * `embeddings` are the old ones, `[n_rows, d_model]`, or a bias, `[n_rows]`
    * `pieces` are, for each new token, the ids of the tokens that it was cut into before
    * `first_id` is the id of the first new token; rows from there on are padding, which new tokens replace

    Raises `UserError` if there are fewer rows than old tokens.
    """
    _refuse_missing_rows(embeddings, first_id)
    means = [embeddings[list(of_token)].mean(dim=0, keepdim=True) for of_token in pieces]
    rows = torch.cat([embeddings[:first_id], *means, embeddings[first_id + len(means):]])
    return _with_padding(rows, embeddings)


@torch.no_grad()
def transferred_embeddings(embeddings: Tensor, old_tokens: Sequence[str], new_tokens: Sequence[str], *,
                           old_special: SpecialTokens, new_special: SpecialTokens,
                           generator: torch.Generator) -> tuple[Tensor, int]:
    """
    The embeddings of another tokenizer, and how many tokens have kept their rows.

    * `embeddings` are the old ones, `[n_rows, d_model]`, or a bias, `[n_rows]`
    * `old_tokens` and `new_tokens` are the texts of tokens by id, with the space before them, as `Tokenizer.tokens`
    * `old_special` and `new_special` are the special ones, which are the same by their roles, whatever their names
    * `generator` draws the other rows

    Raises `UserError` if there are fewer rows than old tokens.
    """
    _refuse_missing_rows(embeddings, len(old_tokens))
    old = embeddings[:len(old_tokens)]
    drawn = torch.randn(len(new_tokens), *old.shape[1:], generator=generator, device=generator.device).to(old)
    tokens = old.mean(dim=0) + old.std(dim=0) * drawn
    same = _same_tokens(old_tokens, new_tokens, old_special=old_special, new_special=new_special)
    tokens[list(same)] = old[list(same.values())]
    return _with_padding(tokens, embeddings), len(same)


def _same_tokens(old_tokens: Sequence[str], new_tokens: Sequence[str], *, old_special: SpecialTokens,
                 new_special: SpecialTokens) -> dict[int, int]:
    """Old ids by new ids, of the tokens that are in both vocabularies."""
    same = {new: old for new, old in zip(new_special[:5], old_special[:5], strict=True) if None not in (new, old)}
    # Other special tokens have names, and are no text
    for old_ids, new_ids in ((old_special.others, new_special.others),
                             (_ordinary(old_tokens, old_special), _ordinary(new_tokens, new_special))):
        known: dict[str, int] = {}
        for i in old_ids:
            known.setdefault(old_tokens[i], i)
        for i in new_ids:
            # U+FFFD stands for bytes that are no character: many tokens have the same text
            if new_tokens[i] in known and new_tokens[i] and '\ufffd' not in new_tokens[i]:
                same.setdefault(i, known[new_tokens[i]])
    return same


def _ordinary(tokens: Sequence[str], special: SpecialTokens) -> list[int]:
    is_special = set(special.all)
    return [i for i in range(len(tokens)) if i not in is_special]


def _refuse_missing_rows(embeddings: Tensor, n_tokens: int):
    if len(embeddings) < n_tokens:
        raise UserError(f'the tokenizer has {n_tokens:,} tokens, and there are embeddings for {len(embeddings):,} only')


def _with_padding(rows: Tensor, old: Tensor) -> Tensor:
    """With more rows, up to a multiple of 64, if the old ones have one: zeros or, for a bias, the least one."""
    n_more = -len(rows) % _PADDED_TO if len(old) % _PADDED_TO == 0 else 0
    more = old.new_full((n_more, *old.shape[1:]), old.min().item() if old.ndim == 1 else 0.)
    return torch.cat([rows, more])
