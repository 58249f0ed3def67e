r"""
# Evaluate a trained model on a text

The text is cut into windows of the run's `seq_len`, every token in one. In each, the run's validation masking rate
(15%, unless `valid_masking_prob` was given) is masked in BERT's way, always the same tokens, and the loss is the mean
over all of them, in nats. Beside it stands the *unigram* baseline, which ignores context: it gives each token its
frequency in the same text.

**Pseudo-perplexity** ([Salazar et al. 2020](https://arxiv.org/abs/1910.14659), section 2.2): each token is masked in
turn, alone, and with $W_{\setminus t}$ all other tokens of its window

$$\mathrm{PPPL} = \exp \Big( -\frac{1}{N} \sum_t \log p(w_t \mid W_{\setminus t}) \Big)$$

It does not depend on a choice of masks, and takes as many passes of a window as the window has tokens.
"""
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import NO_TEMPLATE, Batch, Template
from labml_mlm.data.documents import TextFiles
from labml_mlm.data.loader import ValidLoader
from labml_mlm.data.packing import PackedDocuments
from labml_mlm.data.sources import expand_path, list_text_files
from labml_mlm.inference.pretrained import Pretrained, silent
from labml_mlm.tokenization.token_cache import TokenCache
from labml_mlm.training.valid_masking import RepeatedMasking

# Tokens of a batch of pseudo-perplexity
_BATCH_TOKENS = 1 << 15


class Evaluation(NamedTuple):
    """Figures of a text; losses are in nats per masked token."""
    # Tokens of the text, how many of them were masked, and how many are not in the vocabulary
    n_tokens: int
    n_masked: int
    n_unknown: int
    loss: float
    accuracy: float
    perplexity: float
    unigram_loss: float
    unigram_accuracy: float
    unigram_perplexity: float
    pseudo_perplexity: float | None = None


class AllWindows:
    """
    ## All windows of a text in batches, `[seq_len, batch_size]`, and the rest as a batch of its own

    * `tokens` is the text, `[n]`
    * `template` puts special tokens around each window, and around the rest
    """

    def __init__(self, tokens: Tensor, *, seq_len: int, batch_size: int, template: Template = NO_TEMPLATE):
        length = template.text_length(seq_len)
        n = len(tokens) // length * length
        # `[n_windows, length]`, and the rest
        self._windows, self._rest = tokens[:n].view(-1, length), tokens[n:]
        self._batch_size = batch_size
        self._template = template

    def __len__(self) -> int:
        return -(-len(self._windows) // self._batch_size) + bool(len(self._rest))

    def __iter__(self) -> Iterator[Tensor | Batch]:
        for begin in range(0, len(self._windows), self._batch_size):
            yield self._template.batch(self._windows[begin:begin + self._batch_size].long().T)
        if len(self._rest):
            yield self._template.batch(self._rest[:, None].long())


def read_batches(paths: Sequence[str], pretrained: Pretrained, folder: Path) -> Iterable[Tensor | Batch]:
    """
    The windows of a text, which is read as the run reads its own.

    * `paths` are files, or folders of files
    * `folder` is where its tokens are kept while they are needed

    Raises `UserError` if there is nothing to read, and for files that are not text.
    """
    conf = pretrained.configs
    files = [file for path in map(expand_path, paths)
             for file in (list_text_files(path, conf.text_glob) if path.is_dir() else [path])]
    cache = TokenCache(folder, TextFiles(files, field=conf.text_field, errors=conf.text_errors, unit=conf.text_unit),
                       valid_fraction=None)
    cache.is_verbose = False
    with silent():
        found = cache.tokens(cache.corpus(), pretrained.tokenizer)
        conf.valid_tokens, conf.valid_document_ends = map(torch.from_numpy, (found.train, found.train_ends))
        windows = conf.packing('valid')
        if isinstance(windows, PackedDocuments):
            return ValidLoader(windows, batch_size=conf.valid_batch_size)
        return AllWindows(conf.valid_tokens, seq_len=conf.seq_len, batch_size=conf.valid_batch_size,
                          template=conf._template)


@torch.no_grad()
def evaluate(pretrained: Pretrained, batches: Iterable[Tensor | Batch], *, is_pseudo: bool = False,
             progress: Callable[[int], None] = lambda n_batches: None) -> Evaluation:
    """
    * `batches` are windows of token ids, `[seq_len, batch_size]`, or `Batch`es of such
    * `is_pseudo` adds the pseudo-perplexity
    * `progress` is called with the number of batches so far

    Raises `UserError` if there is nothing to mask, or the model has no head.
    """
    pretrained.require_head()
    model, device, conf = pretrained.model, pretrained.device, pretrained.configs
    mlm, is_maskable = RepeatedMasking(conf.valid_mlm), conf._is_maskable
    mlm.restart()
    loss_sum, n_correct, n_tokens, log_p, n_pseudo = 0., 0, 0, 0., 0
    # How often each token occurs, and how often it was masked; `[n_vocabulary]`
    counts = torch.zeros(conf.n_tokens, dtype=torch.long)
    labelled = torch.zeros_like(counts)
    for number, batch in enumerate(batches, start=1):
        batch = conf.batch_reader(batch, is_own=not isinstance(batches, ValidLoader | AllWindows))
        batch = batch.to(device)
        masked, labels = mlm(batch.tokens.clone()) if batch.labels is None else (batch.tokens, batch.labels)
        output = model(masked, labels, padding_mask=batch.padding_mask, document_ids=batch.document_ids)
        loss_sum += output.loss_sum.item()
        n_correct += output.n_correct.item()
        n_tokens += batch.n_tokens
        counts += batch.unmasked(model.padding_token).flatten().bincount(minlength=len(counts)).cpu()
        if batch.n_special_tokens:
            special = torch.tensor(conf._template.ids)
            counts -= special.bincount(minlength=len(counts)) * (batch.n_special_tokens // len(special))
        labelled += labels[labels != model.padding_token].bincount(minlength=len(counts)).cpu()
        if is_pseudo:
            of_batch, n = _pseudo_log_likelihood(pretrained, batch)
            log_p, n_pseudo = log_p + of_batch, n_pseudo + n
        progress(number)

    n_masked = int(labelled.sum())
    if not n_masked:
        raise UserError('the text has no token that can be masked')
    unk = pretrained.tokenizer.special.unk
    n_unknown = 0 if unk is None else int(counts[unk])
    counts[~is_maskable] = 0
    unigram_loss = -(labelled * (counts.double() / counts.sum()).clamp(min=1e-300).log()).sum().item() / n_masked + 0.
    return Evaluation(n_tokens, n_masked, n_unknown, loss_sum / n_masked, n_correct / n_masked,
                      _exp(loss_sum / n_masked), unigram_loss, labelled[counts.argmax()].item() / n_masked,
                      _exp(unigram_loss), _exp(-log_p / n_pseudo) if is_pseudo else None)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _pseudo_log_likelihood(pretrained: Pretrained, batch: Batch) -> tuple[float, int]:
    """The sum of the log-probabilities of the tokens of a batch, each masked in turn, and their number."""
    x = batch.unmasked(pretrained.model.padding_token)
    model, conf = pretrained.model, pretrained.configs
    # Position and window of each token that can be masked; `[n]`
    positions, columns = conf._is_maskable.to(x.device)[x].nonzero(as_tuple=True)
    total = 0.
    for position, column in zip(*(t.split(max(1, _BATCH_TOKENS // len(x))) for t in (positions, columns)), strict=True):
        # A copy of the window for each; `[seq_len, n]`
        copies = x[:, column]
        copy = torch.arange(len(position), device=x.device)
        labels = copies[position, copy]
        copies[position, copy] = conf.mask_token
        # `[n, n_vocabulary]`
        context = (part if part is None else part[:, column] for part in (batch.padding_mask, batch.document_ids))
        logits = model.generator(model.encode(copies, *context)[position, copy])
        total -= functional.cross_entropy(logits.float(), labels, reduction='sum').item()
    return total, len(positions)
