"""
# Look at a text token by token

    from labml_mlm.evaluation import inspect_text

    inspect_text(labml_mlm.load('8c5e022e'), 'To be, or not to be')

Each token is masked in turn, as by `score_texts`: how probable is it, and what else could stand there? In a notebook
the result shows itself; `page` is a file for any browser.
"""
from typing import NamedTuple

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.evaluation.inspect_page import ShownToken, fragment, page
from labml_mlm.evaluation.score import TextScore, perplexity, predictions, text_window, windows
from labml_mlm.inference.fill_mask import Prediction
from labml_mlm.inference.pretrained import Pretrained


class Inspection(NamedTuple):
    """A text, token by token."""
    score: TextScore
    tokens: list[ShownToken]
    # Where the model comes from
    about: str

    @property
    def page(self) -> str:
        """A page of HTML that needs nothing else."""
        return page(self.score.text, self.about, self._figures, self.tokens)

    def _repr_html_(self) -> str:
        return fragment(self.score.text, self.about, self._figures, self.tokens)

    @property
    def _figures(self) -> dict[str, str]:
        """For people, by name."""
        scored = self.score
        best = [token.rank == 1 for token in self.tokens if token.rank is not None]
        figures = {'tokens': f'{scored.n_tokens:,}', 'characters': f'{scored.n_characters:,}',
                   'log-likelihood': f'{scored.pll:,.2f} nats', 'nats per token': f'{scored.nats_per_token:.3f}',
                   'pseudo-perplexity': f'{perplexity(scored.nats_per_token):,.2f}',
                   'bits per character': f'{scored.bits_per_character:.3f}',
                   'first choice': f'{sum(best) / len(best):.0%} of tokens'}
        return figures | {'windows': f'{scored.n_windows:,}'} if scored.n_windows > 1 else figures


def inspect_text(pretrained: Pretrained, text: str, *, top: int = 5, within_word: bool = False,
                 window: int | None = None) -> Inspection:
    """
    * `top` is the number of tokens that could stand at each place
    * the other arguments are those of `score_texts`

    Probabilities are over the whole vocabulary; special tokens are not among what could stand there. Raises what
    `score_texts` does, and `UserError` for a text without tokens.
    """
    if top < 1:
        raise UserError(f'top={top}: it must be at least 1')
    length = text_window(pretrained, window)
    ids = pretrained.text_ids(text)
    sequences, _ = windows([ids], pretrained, length)
    allowed = pretrained.configs._is_maskable.clone()
    allowed[len(pretrained.tokenizer.tokens):] = False
    n_before = len(pretrained.configs._template.before)
    found: dict[int, tuple[float, int, list[Prediction]]] = {}
    for indices, x, padding_mask in pretrained.batches(sequences):
        for position, column, log_p in predictions(pretrained, x, padding_mask, within_word=within_word):
            at = torch.tensor(indices)[column.cpu()] * length + position.cpu() - n_before
            of_tokens = _choices(pretrained, log_p, x[position, column], allowed.to(x.device), top)
            found.update(zip(at.tolist(), of_tokens, strict=True))
    if not found:
        raise UserError('the text has no token that can be masked')
    names = [pretrained.tokenizer.tokens[i] for i in ids.tolist()]
    if not text.startswith(' '):
        names[0] = names[0].removeprefix(' ')
    tokens = [ShownToken(name, *found.get(i, (None, None, []))) for i, name in enumerate(names)]
    scored = TextScore(text, sum(log_p for log_p, *_ in found.values()), len(found), len(text.split()), len(text),
                       len(sequences))
    return Inspection(scored, tokens, pretrained.about)


def _choices(pretrained: Pretrained, log_p: Tensor, right: Tensor, allowed: Tensor,
             top: int) -> list[tuple[float, int, list[Prediction]]]:
    """
    For each of some tokens `right`, `[n]`: its log-probability, its rank, and the best choices.

    `log_p` is `[n, n_tokens]`, and `allowed` says what may be chosen, `[n_tokens]`.
    """
    # `[n, 1]`
    own = log_p.gather(1, right[:, None])
    log_p = log_p.masked_fill(~allowed, -torch.inf)
    ranks = 1 + (log_p > own).sum(dim=1)
    best, tokens = log_p.topk(min(top, int(allowed.sum())))
    names = pretrained.tokenizer.tokens
    choices = [[Prediction(names[i], p) for i, p in zip(some, ps, strict=True)]
               for some, ps in zip(tokens.tolist(), best.exp().tolist(), strict=True)]
    return list(zip(own[:, 0].tolist(), ranks.tolist(), choices, strict=True))
