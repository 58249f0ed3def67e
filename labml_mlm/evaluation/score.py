r"""
# Pseudo-log-likelihood: how well does a model know a text?

A masked language model gives no probability of a whole text. [Salazar et al. 2020](https://arxiv.org/abs/1910.14659),
section 2.2, mask each token in turn, alone, and add what the model says of it, with $W_{\setminus t}$ all other tokens:

$$\mathrm{PLL}(W) = \sum_{t=1}^{|W|} \log p(w_t \mid W_{\setminus t})$$

in nats, over the whole vocabulary. It compares texts for one model. Where a word has several tokens, each is told by
the others, and rare words look too probable: with `within_word`
([Kauf and Ivanova 2023](https://arxiv.org/abs/2305.10588), `PLL-word-l2r`) the later tokens of the same word are masked
as well. Words are those of whole word masking.

Models with different tokenizers can be compared by what a text costs, not by what a token costs: by **bits per
character**, $-\mathrm{PLL} / (\ln 2 \cdot n)$ with $n$ the code points of the text as it was given. `nats_per_word`
divides by the words between white space.

**Windows.** A text with more tokens than a window is cut into windows as by `evaluate`, and each is scored alone.

**Work.** A text of $n$ tokens takes $n$ sequences. They are made for a few thousand tokens at a time, texts of similar
lengths together, and the last layer and the vocabulary are computed at the masked position only.
"""
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labml_mlm.baselines.characters import bits_per_character
from labml_mlm.common.errors import UserError
from labml_mlm.inference.pretrained import Pretrained

# Tokens of a batch of masked sequences, more of them on a GPU, and logits that are in memory at once
_BATCH_TOKENS = 1 << 13
_GPU_BATCH_TOKENS = 1 << 15
_LOGITS = 1 << 24
# Texts, and their tokens, that are scored together
_TEXTS, _TEXT_TOKENS = 256, 1 << 15


class TextScore(NamedTuple):
    """How well a model knows a text. The figures are `None` where there is nothing to divide by."""
    text: str
    # Sum of the log-probabilities of its tokens, in nats
    pll: float
    # Tokens that were predicted, words between white space, code points
    n_tokens: int
    n_words: int
    n_characters: int
    # Into how many windows it was cut
    n_windows: int

    @property
    def nats_per_token(self) -> float | None:
        """-PLL by tokens: the logarithm of the pseudo-perplexity."""
        return -self.pll / self.n_tokens if self.n_tokens else None

    @property
    def nats_per_word(self) -> float | None:
        """-PLL by words."""
        return -self.pll / self.n_words if self.n_words else None

    @property
    def bits_per_character(self) -> float | None:
        """-PLL in bits, by characters."""
        return bits_per_character(-self.pll, self.n_characters)


def score_texts(pretrained: Pretrained, texts: Iterable[str], *, within_word: bool = False, window: int | None = None,
                at_once: int = _TEXTS) -> Iterator[TextScore]:
    """
    The scores of texts, in their order; a text without tokens has none to be predicted.

    * `texts` may be a stream of any length: they are read and scored `at_once`
    * `within_word` masks the later tokens of the same word, too
    * `window` is the number of tokens of a window, special ones included; by default the `seq_len` of the run

    Raises `UserError` if the model has no head, or does not take such windows; and, when all texts before it are
    scored, for a text that is not in the vocabulary.
    """
    length = text_window(pretrained, window)
    if within_word and not hasattr(pretrained.tokenizer, 'words'):
        raise UserError('within_word needs word boundaries: your tokenizer has no `words`')
    return _scores(pretrained, iter(texts), within_word, length, at_once)


def text_window(pretrained: Pretrained, window: int | None = None) -> int:
    """The tokens of a text that a `window` takes, by default one of the run; raises what `score_texts` does at once."""
    pretrained.require_head()
    window = pretrained.configs.seq_len if window is None else window
    if not 1 <= window <= pretrained.max_seq_len:
        longest = '' if math.isinf(pretrained.max_seq_len) else f' and at most {pretrained.max_seq_len:,}'
        raise UserError(f'window={window}: it must be at least 1{longest}')
    return pretrained.configs._template.text_length(window)


def _scores(pretrained: Pretrained, texts: Iterator[str], within_word: bool, length: int,
            at_once: int) -> Iterator[TextScore]:
    error = None
    while error is None:
        # The ids of each are `[n]`
        some: list[tuple[str, Tensor]] = []
        n_tokens = 0
        try:
            for text in itertools.islice(texts, at_once):
                some.append((text, pretrained.text_ids(text)))
                n_tokens += len(some[-1][1])
                if n_tokens >= _TEXT_TOKENS:
                    break
        except UserError as e:
            error = e
        if not some and error is None:
            return
        yield from _scores_of(pretrained, some, within_word, length)
    raise error


def _scores_of(pretrained: Pretrained, texts: Sequence[tuple[str, Tensor]], within_word: bool,
               length: int) -> Iterator[TextScore]:
    sequences, of_text = windows([ids for _, ids in texts], pretrained, length)
    owners = torch.tensor(of_text, dtype=torch.long)
    # `[n_texts]`
    sums, counts = torch.zeros(len(texts), dtype=torch.double), torch.zeros(len(texts), dtype=torch.long)
    for indices, x, padding_mask in pretrained.batches(sequences):
        owner = owners[indices]
        for position, column, log_p in predictions(pretrained, x, padding_mask, within_word=within_word):
            right = log_p.gather(1, x[position, column][:, None])[:, 0].cpu().double()
            sums.index_add_(0, owner[column.cpu()], right)
            counts.index_add_(0, owner[column.cpu()], torch.ones_like(column, device='cpu'))
    n_windows = owners.bincount(minlength=len(texts)).tolist()
    for (text, _), pll, n_tokens, n in zip(texts, sums.tolist(), counts.tolist(), n_windows, strict=True):
        yield TextScore(text, pll, n_tokens, len(text.split()), len(text), n)


def windows(ids: Sequence[Tensor], pretrained: Pretrained, length: int) -> tuple[list[Tensor], list[int]]:
    """
    Texts, `[n]` each, as windows of `length` tokens with special tokens around them, and the number of the text that
    each is from.
    """
    around = pretrained.configs._template.around
    pairs = [(around(part), i) for i, of_text in enumerate(ids) if len(of_text) for part in of_text.split(length)]
    return [part for part, _ in pairs], [i for _, i in pairs]


def perplexity(nats_per_token: float) -> float:
    """Infinite if it is too large for a number."""
    try:
        return math.exp(nats_per_token)
    except OverflowError:
        return math.inf


@torch.no_grad()
def predictions(pretrained: Pretrained, x: Tensor, padding_mask: Tensor | None = None,
                document_ids: Tensor | None = None, segment_ids: Tensor | None = None, *,
                within_word: bool = False) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """
    What the model says of each token of a batch, if it is masked: sequence by sequence, from left to right. Tokens that
    are never masked are left out.

    * `x`, `padding_mask`, `document_ids` and `segment_ids` are those of `TransformerMLM.predict`, `[seq_len,
      batch_size]`

    Yields, for some tokens at a time, their positions and their columns in the batch, `[n]` each, and the
    log-probabilities of the vocabulary, `[n, n_tokens]`.
    """
    model, conf = pretrained.model, pretrained.configs
    is_maskable = conf._is_maskable.to(x.device)[x]
    columns, positions = is_maskable.T.nonzero(as_tuple=True)
    index = torch.arange(len(x), device=x.device)[:, None]
    # The number of each word in its sequence, and how long each sequence is
    words = pretrained.tokenizer.words.starts(x).cumsum(dim=0) if within_word else None
    lengths = x.new_tensor([len(x)]).expand(x.shape[1]) if padding_mask is None else \
        ((index + 1) * ~padding_mask).amax(dim=0)
    size = max(1, (_BATCH_TOKENS if x.device.type == 'cpu' else _GPU_BATCH_TOKENS) // len(x))
    for column, position in zip(columns.split(size), positions.split(size), strict=True):
        # Without the padding that only the others need
        longest = int(lengths[column].max())
        # A copy of the sequence for each; `[seq_len, n]`
        copies = x[:longest, column]
        is_masked = index[:longest] == position
        if words is not None:
            is_later = (index[:longest] > position) & (words[:longest, column] == words[position, column])
            is_masked |= is_later & is_maskable[:longest, column]
        copies = copies.masked_fill(is_masked, conf.mask_token)
        padding, documents, segments = (part if part is None else part[:longest, column]
                                        for part in (padding_mask, document_ids, segment_ids))
        if padding is not None and not padding.any():
            padding = None
        # `[n, d_model]`
        hidden = model.encode(copies, padding, documents, position[None], segments)[0]
        for at in torch.arange(len(hidden), device=x.device).split(max(1, _LOGITS // conf.n_tokens)):
            yield position[at], column[at], model.generator(hidden[at]).float().log_softmax(dim=-1)
