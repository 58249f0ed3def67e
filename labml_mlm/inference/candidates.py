r"""
# Which of some words stands at a mask?

A word of several tokens cannot be looked up in the predictions of one mask, and its first token says little: `pizza`
may be ` pi` and `zza`, and ` pi` begins other words. So each candidate $w_1 … w_n$ gets as many masks as it has tokens,
and is filled in from left to right:

$$\log p(w \mid \text{text}) = \sum_{t=1}^{n} \log p(w_t \mid \text{text}, w_{<t})$$

where $w_t$ and the tokens after it are masked. That is how
[Kauf and Ivanova 2023](https://arxiv.org/abs/2305.10588) score a word (`PLL-word-l2r`), and `score_texts` with
`within_word`. If later tokens were seen as well ([Salazar et al. 2020](https://arxiv.org/abs/1910.14659)), `zza` would
give ` pi` away, and rare words would look too probable.

Longer words have more factors, so candidates are ordered by the mean over their tokens, as a probability

$$\Big(\prod_{t} p(w_t \mid \text{text}, w_{<t})\Big)^{1/n}$$

which for a single token is that of the mask. The number of masks tells the model how long the word is: candidates of
different lengths can be compared only so far.

**Tokens are those of running text.** The text is tokenized with each candidate in place of the mask, so that a
candidate has the space before it, if tokens have that. Where a token holds a part of the candidate and of the text
beside it, as in `[MASK]s`, all of that token is scored, for all candidates the same part of the text.

**Work.** A sequence for each token of each candidate; those that are the same are computed once, so that any number of
candidates of one token takes one.
"""
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.inference.masks import MaskedText, Masks

# Tokens of sequences that are in memory at once
_TOKENS = 1 << 20


class Candidate(NamedTuple):
    """How well a candidate stands at the mask."""
    candidate: str
    # The geometric mean of the probabilities of its tokens, by which candidates are ordered
    per_token: float
    # The logarithm of the product of them, in nats
    log_probability: float
    # What was scored: its tokens, each with the space before it if it includes that
    tokens: list[str]


class Ranked(NamedTuple):
    """A text, and what may stand at its mask."""
    text: str
    # With the best candidate
    filled: str
    # The best first
    candidates: list[Candidate]
    # The parts of the text that are the unknown token for the model
    unknown: tuple[str, ...] = ()


class _Encoded(NamedTuple):
    """A text with each of the candidates in place of the mask."""
    masked: MaskedText
    # Token ids, `[seq_len]` each
    ids: list[Tensor]
    # How many tokens there are before and after what is scored, in all of them
    n_before: int
    n_after: int


class Candidates:
    """
    ## Compares candidates for a mask

    * `candidates` are texts that may stand there, as they are

    Raises `UserError` if there is none, if one is empty, is there twice, or has a mask in it.
    """

    def __init__(self, masks: Masks, candidates: Sequence[str]):
        if isinstance(candidates, str) or not candidates:
            raise UserError(f'candidates={candidates!r}: it must be a list of texts, at least one')
        seen = set()
        for candidate in candidates:
            if not candidate.strip(' ') and (not candidate or masks.pretrained.tokenizer.is_spaced):
                raise UserError('a candidate is empty')
            if candidate in seen:
                raise UserError(f'the candidate {candidate!r} is there twice')
            if len(masks.split(candidate)) > 1:
                raise UserError(f'the candidate {candidate!r} has a mask in it: it must be a text that may stand there')
            seen.add(candidate)
        self.masks = masks
        self.candidates = list(candidates)

    def prepare(self, masked: MaskedText) -> _Encoded:
        """
        Raises `UserError` if the text has more than one mask, or is too long with a candidate, and for a candidate that
        the tokenizer does not know.
        """
        if masked.n_masks > 1:
            raise UserError(f'candidates are for one mask, and there are {masked.n_masks} in {masked.text!r}')
        masks, (before, after) = self.masks, masked.pieces
        trained = masks.pretrained
        ids = [trained.masked_ids([before + candidate + after], is_unknown_allowed=True)
               for candidate in self.candidates]
        at = int((masked.ids == trained.configs.mask_token).nonzero())
        n_before = min(_common(masked.ids[:at], of_text) for of_text in ids)
        # No token is on both sides
        n_after = min(_common(masked.ids[at + 1:].flip(0), of_text[n_before:].flip(0)) for of_text in ids)
        for candidate, of_text in zip(self.candidates, ids, strict=True):
            scored = of_text[n_before:len(of_text) - n_after]
            if trained.tokenizer.special.unk in scored.tolist():
                known = trained.unknown_parts([candidate], scored)
                raise UserError(f'the candidate {candidate!r} is not in the vocabulary'
                                + f': the model does not know {", ".join(map(repr, known))}' * (known != (candidate,)))
            if not len(scored) or not len(trained.tokenizer.encode(candidate)):
                raise UserError(f'the candidate {candidate!r} has no tokens')
            if not masks.allowed[scored].all():
                raise UserError(f'the candidate {candidate!r} has a token that the model never predicts')
        return _Encoded(masked, ids, n_before, n_after)

    def fill(self, texts: Sequence[_Encoded]) -> list[Ranked]:
        """The texts, in their order."""
        sums = torch.zeros(len(texts), len(self.candidates), dtype=torch.double)
        for sequences, asked in self._copies(texts):
            for numbers, _, log_p in self.masks.log_probabilities(sequences, first_only=True):
                rows = [(row, *place) for row, number in enumerate(numbers) for place in asked[number]]
                row, text, candidate, token = torch.tensor(rows).T
                of_tokens = log_p[row.to(log_p.device), token.to(log_p.device)].cpu().double()
                sums.index_put_((text, candidate), of_tokens, accumulate=True)
        return [self._ranked(encoded, of_text) for encoded, of_text in zip(texts, sums.tolist(), strict=True)]

    def _copies(self, texts: Sequence[_Encoded]) -> Iterator[tuple[list[Tensor], list[list[tuple[int, int, int]]]]]:
        """
        Some sequences at a time, `[seq_len]` each, and what is asked of the first mask of each: the numbers of text and
        candidate, and a token.
        """
        sequences: list[Tensor] = []
        asked: list[list[tuple[int, int, int]]] = []
        known: dict[bytes, int] = {}
        n_tokens = 0
        for number, encoded in enumerate(texts):
            for candidate, ids in enumerate(encoded.ids):
                end = len(ids) - encoded.n_after
                for position in range(encoded.n_before, end):
                    copy = ids.clone()
                    copy[position:end] = self.masks.pretrained.configs.mask_token
                    i = known.setdefault(copy.numpy().tobytes(), len(sequences))
                    if i == len(sequences):
                        sequences.append(copy)
                        asked.append([])
                        n_tokens += len(copy)
                    asked[i].append((number, candidate, int(ids[position])))
            if n_tokens >= _TOKENS or number == len(texts) - 1:
                yield sequences, asked
                sequences, asked, known, n_tokens = [], [], {}, 0

    def _ranked(self, encoded: _Encoded, sums: list[float]) -> Ranked:
        masked, names = encoded.masked, self.masks.pretrained.tokenizer.tokens
        scored = []
        for candidate, ids, log_p in zip(self.candidates, encoded.ids, sums, strict=True):
            tokens = [names[i] for i in ids[encoded.n_before:len(ids) - encoded.n_after].tolist()]
            mean = torch.tensor(log_p / len(tokens), dtype=torch.double)
            scored.append(Candidate(candidate, mean.exp().item(), log_p, tokens))
        scored.sort(key=lambda candidate: candidate.log_probability / len(candidate.tokens), reverse=True)
        return Ranked(masked.text, scored[0].candidate.join(masked.pieces), scored, masked.unknown)


def _common(one: Tensor, other: Tensor) -> int:
    """How many tokens are the same at the beginning of two sequences."""
    n = min(len(one), len(other))
    return int((one[:n] == other[:n]).long().cumprod(dim=0).sum())
