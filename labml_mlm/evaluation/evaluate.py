r"""
# Evaluate a trained model on a text

The text is cut into windows of the run's `seq_len`, every token in one. In each, the run's validation masking rate
(15%, unless `valid_masking_prob` was given) is masked in BERT's way, always the same tokens, and the loss is the mean
over all of them, in nats, and in bits per character. Beside it stand the guesses of `labml_mlm.baselines`, which know
the text that the run was trained on; where that is gone, only the unigram, with its frequencies in the same text.

**Pseudo-perplexity** ([Salazar et al. 2020](https://arxiv.org/abs/1910.14659), section 2.2): each token is masked in
turn, alone, and with $W_{\setminus t}$ all other tokens of its window

$$\mathrm{PPPL} = \exp \Big( -\frac{1}{N} \sum_t \log p(w_t \mid W_{\setminus t}) \Big)$$

It does not depend on a choice of masks, and takes as many passes of a window as the window has tokens. `score_texts`
does that for each text of many.
"""
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_mlm.baselines.characters import bits_per_character, characters
from labml_mlm.baselines.counts import Counts, sampled
from labml_mlm.baselines.guesses import Guess, guess
from labml_mlm.baselines.masked import Masked, MaskedTokens, is_neighbour
from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import NO_TEMPLATE, Batch, Template
from labml_mlm.data.documents import TextFiles
from labml_mlm.data.loader import ValidLoader
from labml_mlm.data.packing import PackedDocuments
from labml_mlm.evaluation.score import perplexity, predictions
from labml_mlm.inference.pretrained import Pretrained, silent
from labml_mlm.reading.listing import list_files
from labml_mlm.reading.texts import has_field
from labml_mlm.tokenization.token_cache import TokenCache
from labml_mlm.training.valid_masking import RepeatedMasking


class Evaluation(NamedTuple):
    """Figures of a text; losses are in nats per masked token."""
    # Tokens of the text, how many of them were masked, and how many are not in the vocabulary
    n_tokens: int
    n_masked: int
    n_unknown: int
    loss: float
    accuracy: float
    perplexity: float
    # `None` for batches of a loader of the user's
    bits_per_character: float | None
    # By the name of the guess
    baselines: dict[str, Guess]
    # Are they those of this text, and not of the text that the run was trained on?
    is_of_this_text: bool
    pseudo_perplexity: float | None = None
    # Over pairs of sentences, if the batches are such
    pairs_loss: float | None = None
    pairs_accuracy: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, with three figures of each guess: `unigram_loss`, and so on."""
        of_guesses = {f'{name}_{figure}': value for name, found in self.baselines.items() for figure, value in
                      (*found._asdict().items(), ('perplexity', perplexity(found.loss)))}
        return {name: value for name, value in self._asdict().items() if name != 'baselines'} | of_guesses


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


def read_batches(paths: Sequence[str], pretrained: Pretrained, folder: Path, *, field: str | None = None,
                 say: Callable[[str], None] = lambda note: None) -> Iterable[Tensor | Batch]:
    """
    The windows of a text, which is read as the run reads its own.

    * `paths` are files, or folders of files
    * `folder` is where its tokens are kept while they are needed
    * `field` is the field of a row that holds its text, by default that of the run
    * `say` is called with what is left out

    Raises `UserError` if there is nothing to read, and for files that are not text.
    """
    conf = pretrained.configs
    # Early runs read theirs as plain text, which is no reason to read others so
    given = pretrained.checkpoint.metadata['configs']['given'] if pretrained.checkpoint else {}
    text_format = given.get('text_format', 'auto')
    listing = list_files(paths, conf.text_glob, item='--text', text_format=text_format)
    for note in listing.notes:
        say(note)
    if field is not None and not any(has_field(path, text_format=text_format) for path in listing.files):
        raise UserError(f'--field {field} is for JSON lines, tables and Parquet, and --text has none')
    files = TextFiles(listing.files, field=conf.text_field if field is None else field, role='--field',
                      errors=conf.text_errors, unit=conf.text_unit, text_format=text_format)
    files.say = say
    cache = TokenCache(folder, files, valid_fraction=None)
    cache.is_verbose = False
    with silent():
        found = cache.tokens(cache.corpus(), pretrained.tokenizer)
        conf.valid_tokens, conf.valid_document_ends = map(torch.from_numpy, (found.train, found.train_ends))
        windows = conf.packing('valid')
        if isinstance(windows, PackedDocuments):
            return ValidLoader(windows, batch_size=conf.valid_batch_size)
        return AllWindows(conf.valid_tokens, seq_len=conf.seq_len, batch_size=conf.valid_batch_size,
                          template=conf._template)


def training_counts(pretrained: Pretrained) -> Counts:
    """What the training text of a run says of its tokens. Raises `UserError` or `OSError` if that text is gone."""
    tokens = pretrained.training_text()
    return Counts(sampled(tokens), is_maskable=pretrained.configs._is_maskable.numpy())


@torch.no_grad()
def evaluate(pretrained: Pretrained, batches: Iterable[Tensor | Batch], *, is_pseudo: bool = False,
             counts: Counts | None = None,
             progress: Callable[[int], None] = lambda n_batches: None) -> Evaluation:
    """
    * `batches` are windows of token ids, `[seq_len, batch_size]`, or `Batch`es of such
    * `is_pseudo` adds the pseudo-perplexity
    * `counts` are those of the training text, for the baselines; without them there is a unigram of this text
    * `progress` is called with the number of batches so far

    Raises `UserError` if there is nothing to mask, or the model has no head.
    """
    pretrained.require_head()
    model, device, conf = pretrained.model, pretrained.device, pretrained.configs
    mlm, is_maskable = RepeatedMasking(conf.valid_mlm), conf._is_maskable
    mlm.restart()
    is_own = not isinstance(batches, ValidLoader | AllWindows)
    loss_sum, n_correct, n_tokens, log_p, n_pseudo = 0., 0, 0, 0., 0
    # Sum of losses, number of pairs, and of those that are right
    of_pairs = [0., 0., 0.]
    # How often each token occurs, and how often it was masked; `[n_vocabulary]`
    n_of_token = torch.zeros(conf.n_tokens, dtype=torch.long)
    labelled = torch.zeros_like(n_of_token)
    seen, neighbours = MaskedTokens(), is_neighbour(conf.n_tokens, {*conf._separators, model.padding_token})
    for number, batch in enumerate(batches, start=1):
        batch = conf.batch_reader(batch, is_own=is_own).to(device)
        masked, labels = mlm(batch.tokens.clone()) if batch.labels is None else (batch.tokens, batch.labels)
        others = {name: getattr(batch, name) for name in ('segment_ids', 'pair_labels')
                  if getattr(batch, name) is not None}
        output = model(masked, labels, padding_mask=batch.padding_mask, document_ids=batch.document_ids, **others)
        if output.pairs is not None:
            of_pairs = [total + float(part) for total, part in zip(of_pairs, output.pairs[1:], strict=True)]
        loss_sum += output.loss_sum.item()
        n_correct += output.n_correct.item()
        n_tokens += batch.n_tokens
        tokens = batch.unmasked(model.padding_token)
        n_of_token += tokens.flatten().bincount(minlength=conf.n_tokens).cpu()
        if batch.n_special_tokens:
            special = torch.tensor(conf._template.ids)
            n_of_token -= special.bincount(minlength=conf.n_tokens) * (batch.n_special_tokens // len(special))
        labelled += labels[labels != model.padding_token].bincount(minlength=conf.n_tokens).cpu()
        if not seen.is_enough:
            seen.add(Masked.of_batch(tokens, labels, padding_token=model.padding_token, is_neighbour=neighbours,
                                     document_ids=batch.document_ids))
        if is_pseudo:
            of_batch, n = _pseudo_log_likelihood(pretrained, batch)
            log_p, n_pseudo = log_p + of_batch, n_pseudo + n
        progress(number)

    n_masked = int(labelled.sum())
    if not n_masked:
        raise UserError('the text has no token that can be masked')
    unk = pretrained.tokenizer.special.unk
    n_unknown = 0 if unk is None else int(n_of_token[unk])
    baselines = {'unigram': _own_unigram(n_of_token.where(is_maskable, 0), labelled)} if counts is None else \
        guess(counts, seen.all)
    # Of a loader of the user's, nobody knows what its tokens are
    n_characters = 0 if is_own else int((labelled * torch.from_numpy(
        characters(pretrained.tokenizer, n_tokens=conf.n_tokens))).sum())
    return Evaluation(n_tokens, n_masked, n_unknown, loss_sum / n_masked, n_correct / n_masked,
                      perplexity(loss_sum / n_masked), bits_per_character(loss_sum, n_characters), baselines,
                      counts is None, perplexity(-log_p / n_pseudo) if is_pseudo else None,
                      *((of_pairs[0] / of_pairs[1], of_pairs[2] / of_pairs[1]) if of_pairs[1] else ()))


def _own_unigram(n_of_token: Tensor, labelled: Tensor) -> Guess:
    """That of a text by itself: how often each token occurs, and how often it was masked; `[n_tokens]` each."""
    p, n_masked = n_of_token.double() / n_of_token.sum(), labelled.sum().item()
    return Guess(-(labelled * p.clamp(min=1e-300).log()).sum().item() / n_masked + 0.,
                 labelled[n_of_token.argmax()].item() / n_masked)


def _pseudo_log_likelihood(pretrained: Pretrained, batch: Batch) -> tuple[float, int]:
    """The sum of the log-probabilities of the tokens of a batch, each masked in turn, and their number."""
    x = batch.unmasked(pretrained.model.padding_token)
    total, n = 0., 0
    for position, column, log_p in predictions(pretrained, x, batch.padding_mask, batch.document_ids,
                                               batch.segment_ids):
        total += log_p.gather(1, x[position, column][:, None]).sum().item()
        n += len(position)
    return total, n
