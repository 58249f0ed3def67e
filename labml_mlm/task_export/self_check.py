"""
# Is what was written the fine-tuned model?

As for models with masked tokens: the folder is read back, and its logits are compared with those of the model, then
with those that `transformers` computes, at several lengths, with padding, and on a text of the validation.
"""
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from labml_mlm.common.errors import UserError
from labml_mlm.export.card import Note
from labml_mlm.export.self_check import (
    NotCompared,
    Sequences,
    ask_transformers,
    compare_tokens,
    equal_note,
    make_sequences,
    relative_difference,
)
from labml_mlm.inference.fine_tuned import FineTuned
from labml_mlm.inference.loading import load
from labml_mlm.labelled.examples import Examples
from labml_mlm.labelled.rows import Row, Rows
from labml_mlm.published.folder import WEIGHTS
from labml_mlm.task_export.heads import Representation, auto_class, read_head
from labml_mlm.tokenization.base import tokenizer_pair_template

# Words of a text that is compared
_N_WORDS = 24


def check_task_folder(folder: Path, trained: FineTuned, shown: Representation, *, python: str | None = None) \
        -> list[Note]:
    """
    Compares a folder with the model that it was written from, and that `shown` represents. Arguments, what is returned
    and what is raised are those of `check_folder`.
    """
    notes, texts, sequences = [], [], make_sequences(trained, None)
    try:
        texts, sequence = _validation_text(trained)
        sequences = [sequence, *sequences]
    except (UserError, OSError) as e:
        notes.append(Note('No text of the validation was compared', str(e)))
    head = trained.model.plain_head()
    expected = [_logits(trained.model, head, given) for given in sequences]
    encoder, again = load(folder, device='cpu').model, read_head(trained, load_file(folder / WEIGHTS), shown.names)
    for given, logits in zip(sequences, expected, strict=True):
        if not torch.allclose(_logits(encoder, again, given), logits, rtol=0, atol=1e-5):
            raise UserError('what was written and read back has other logits than the model')
    lengths = ', '.join(str(given.ids.shape[1]) for given in sequences[bool(texts):-1])
    notes.append(Note(f'Read back with equal logits: {lengths} tokens, padding{", a text" * bool(texts)}'))
    return notes + _by_transformers(folder, trained, sequences, expected, texts=texts, is_custom=bool(shown.code),
                                    python=python)


def _validation_text(trained: FineTuned) -> tuple[list[str], Sequences]:
    """The beginning of the first text of the validation, or of a pair, and its sequence. Raises `UserError`."""
    conf = trained.configs
    row = trained.validation_rows()[0]
    # Line ends and runs of white space may become other tokens
    texts = [' '.join(text.split()[:_N_WORDS]) for text in conf._texts(row)]
    special = [conf.tokenizer.tokens[i] for i in conf.tokenizer.special.all]
    if any(name in text for name in special for text in texts):
        raise UserError('there is the name of a special token in it')
    rows = Rows([Row(texts[0], None, *texts[1:])], 0, Path('validation'))
    examples = Examples.of_rows(rows, conf.tokenizer, max_len=int(min(trained.model.max_seq_len, 1 << 20)),
                                template=conf._template, pair_template=tokenizer_pair_template(conf.tokenizer))
    if examples.counts.n_cut:
        raise UserError('it is too long')
    batch = examples.batch(examples.rows)
    segments = batch.segment_ids.T.contiguous() if batch.segment_ids is not None and trained.model.n_segments > 1 \
        else None
    ids = batch.tokens.T.contiguous()
    return texts, Sequences(ids, torch.ones_like(ids), segments)


@torch.no_grad()
def _logits(model: nn.Module, head: nn.Module, given: Sequences) -> Tensor:
    """Of texts, `[batch_size, n_logits]`; or of tokens, `[batch_size, seq_len, n_logits]`, 0 at padding."""
    device = next(model.parameters()).device
    padding = None if given.mask.all() else (given.mask == 0).T
    segments = None if given.segments is None else given.segments.T.to(device)
    hidden = model.encode(given.ids.T.to(device), None if padding is None else padding.to(device),
                          segment_ids=segments).float().cpu()
    logits = head(hidden, padding)
    return logits if logits.ndim == 2 else logits.transpose(0, 1) * given.mask[..., None]


def _by_transformers(folder: Path, trained: FineTuned, sequences: Sequence[Sequences], expected: Sequence[Tensor], *,
                     texts: list[str], is_custom: bool, python: str | None) -> list[Note]:
    """`expected` are logits of `sequences`. Raises `UserError` on a difference."""
    try:
        found, version = ask_transformers(folder, sequences, auto=auto_class(trained), is_custom=is_custom, texts=texts,
                                          python=python)
    except NotCompared as e:
        return e.notes
    if texts:
        compare_tokens(found['sentence'], sequences[0].ids[0], ' '.join(texts))
    off = [relative_difference(found[f'ids{i:02}'], logits, None if logits.ndim == 2 else given.mask, of='logits')
           for i, (given, logits) in enumerate(zip(sequences, expected, strict=True))]
    return [equal_note(version, max(off))]
