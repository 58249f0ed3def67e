"""
# A trained model in your own code

    import labml_mlm

    trained = labml_mlm.load('8c5e022e')
    features = trained.encode(['To be, or not to be', 'that is the question'])

`load` builds the model from the checkpoint alone: the text that it was trained on is not needed, and nothing that comes
with the checkpoint is executed.
"""
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labml.internal.monitor import monitor_singleton
from safetensors import SafetensorError
from torch import Tensor

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.common.project import in_project_of, logs_path
from labml_mlm.common.schema import config_items
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.snapshot import (
    TOKENIZERS,
    check_same_text,
    restored_values,
    saved_tokenizer,
    with_current_names,
)
from labml_mlm.data.batch import Batch
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.runs import checkpoint
from labml_mlm.runs.checkpoint import Checkpoint, Damaged
from labml_mlm.runs.run import Run, find_run
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.training.serialization import unpack

# Tokens of a batch, padding included
_BATCH_TOKENS = 1 << 12


class Pretrained:
    """
    ## A trained model, with its tokenizer and configs

    * `model` is in evaluation mode
    * `configs` are those of the run; items are computed when they are asked for
    * `checkpoint` is where the model comes from, and `about` describes it in words
    """

    def __init__(self, *, model: TransformerMLM, tokenizer: Tokenizer, configs: MLMConfigs,
                 checkpoint: Checkpoint, about: str):
        self.model = model
        self.tokenizer = tokenizer
        self.configs = configs
        self.checkpoint = checkpoint
        self.about = about
        # A walk through all modules
        self._max_seq_len = model.max_seq_len

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def ids(self, text: str) -> Tensor:
        """
        Token ids, `[seq_len]`.

        Raises `UserError` for an empty text, for one longer than the model allows, and for text that is not in the
        vocabulary.
        """
        return self.masked_ids([text])

    def masked_ids(self, pieces: Sequence[str]) -> Tensor:
        """Token ids of the pieces of a text, with `[MASK]` between every two; raises what `ids` does."""
        try:
            ''.join(pieces).encode()
        except UnicodeEncodeError:
            raise UserError('the text is not valid Unicode') from None
        ids = self.tokenizer.encode_masked(pieces).astype(np.int64)
        # The run may have another id for it than the tokenizer
        ids[ids == self.tokenizer.special.mask] = self.configs.mask_token
        if self.tokenizer.special.unk in ids.tolist():
            unknown = ', '.join(sorted({repr(part) for piece in pieces for part in self.tokenizer.unknown(piece)}))
            raise UserError(f'the model does not know {unknown}, which is not in its vocabulary')
        if not len(ids):
            raise UserError('the text is empty')
        if len(ids) > self._max_seq_len:
            raise UserError(f'the text has {len(ids):,} tokens, and the model takes at most {self._max_seq_len:,}')
        return torch.from_numpy(ids)

    def validation_batches(self) -> Iterable[Tensor | Batch]:
        """
        The validation set of the run, `[seq_len, batch_size]` each; can be iterated more than once.

        Raises `UserError` if its text is missing, or was changed.
        """
        snapshot, items = with_current_names(self.configs, self.checkpoint.metadata['configs']), \
            config_items(self.configs)
        for name in ('text', 'valid_tokens', 'valid_loader'):
            value = snapshot['given'].get(name, snapshot['defaults'].get(name))
            if value is not None and not items[name].is_possible(value):
                raise UserError(f'the run was validated on {name}={value}, which is unknown here: '
                                f'give another text, or `configs` of the class that has it')
        # Its text and tokens are in the data of its own project
        with silent(), in_project_of(self.checkpoint.path.parent):
            batches = self.configs.valid_loader
            check_same_text(self.configs, snapshot)
            return batches

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, pooling: str = 'mean') -> Tensor | list[Tensor]:
        """
        Features of texts: the hidden states of the last layer.

        * `pooling` is `mean` for the mean over the tokens of each text, `[len(texts), d_model]`, or `none` for those of
          each token, a list of `[seq_len, d_model]`

        Raises what `ids` does.
        """
        if pooling not in ('mean', 'none'):
            raise UserError(f'pooling={pooling!r}: it must be mean or none.{did_you_mean(pooling, ["mean", "none"])}')
        sequences = [self.ids(text) for text in ([texts] if isinstance(texts, str) else texts)]
        features: list[Any] = [None] * len(sequences)
        for indices, x, padding_mask in self.batches(sequences):
            # `[seq_len, batch_size, d_model]`
            hidden = self.model.encode(x, padding_mask).cpu()
            for column, i in enumerate(indices):
                of_text = hidden[:len(sequences[i]), column]
                features[i] = of_text if pooling == 'none' else of_text.mean(dim=0)
        if pooling == 'none':
            return features
        return torch.stack(features) if features else torch.empty(0, self.configs.transformer.d_model)

    def batches(self, sequences: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
        """
        Sequences of token ids, `[seq_len]` each, in batches of similar lengths: their indices, their ids, `[seq_len,
        batch_size]`, and a padding mask of the same shape, or `None` if there is no padding.
        """
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        while order:
            # The longest first: if memory is too small, that shows at once
            batch_size = max(1, _BATCH_TOKENS // len(sequences[order[-1]]))
            indices, order = order[-batch_size:], order[:-batch_size]
            x = torch.nn.utils.rnn.pad_sequence([sequences[i] for i in indices],
                                                padding_value=self.model.padding_token)
            padding_mask = torch.arange(len(x))[:, None] >= torch.tensor([len(sequences[i]) for i in indices])
            yield indices, x.to(self.device), padding_mask.to(self.device) if padding_mask.any() else None


def load(run: str | Path, *, which: str = 'best', configs: MLMConfigs | None = None,
         device: str | torch.device | None = None, folder: str | Path = '.') -> Pretrained:
    """
    A trained model.

    * `run` is a run's uuid or the beginning of it, its folder, that of one of its checkpoints, or `last` for the newest
    * `which` checkpoint: the `best` by validation loss (the last, if there was no validation), the `last`, or a step
    * `configs` are freshly made configs of your own class, if the run has such
    * `device` is by default a CUDA device if there is one
    * `folder` is in the labml project whose runs are meant

    Raises `UserError` if there is no such run or checkpoint, if none is intact, and if the model has parts of your own
    that are unknown here.
    """
    path = Path(run).expanduser()
    found, at = find_run(Path() if path.is_dir() else logs_path(Path(folder)), str(run))
    chosen, about, tensors = _read(found, at, str(which).replace(',', ''))
    conf = MLMConfigs() if configs is None else configs
    with silent(), torch.random.fork_rng(devices=[]):
        _configure(conf, chosen, device)
        # `evaluate` needs the masks and the reader
        model, _, _ = conf.model, conf.valid_mlm, conf.batch_reader
        try:
            model.load_state_dict(unpack(chosen.metadata['model'], tensors))
        except RuntimeError as e:
            raise UserError(f'the model of {chosen.path} differs: {" ".join(str(e).split())}') from None
        return Pretrained(model=model.eval(), tokenizer=conf.tokenizer, configs=conf, checkpoint=chosen, about=about)


def _read(run: Run, at: Path | None, which: str) -> tuple[Checkpoint, str, dict[str, Tensor]]:
    """An intact checkpoint, what it is, and its model. A running run may remove it at any time."""
    while True:
        chosen, about = _choose(run, at, which)
        try:
            return chosen, about, chosen.load_tensors('model')
        except (OSError, SafetensorError):
            if chosen.path.exists():
                raise


def _choose(run: Run, at: Path | None, which: str) -> tuple[Checkpoint, str]:
    """An intact checkpoint, and what it is."""
    if at is not None:
        found = checkpoint.read(at)
        found.verify()
        return found, f'{at}'
    steps = run.checkpoints.steps()
    if not steps:
        raise UserError(f'the run {run.uuid} has no checkpoint yet, in {run.checkpoints.path}')
    if which not in ('best', 'last'):
        if which not in map(str, steps):
            raise UserError(f'the run {run.uuid} has no checkpoint {which}: it has {", ".join(map(str, steps))}')
        return _choose(run, steps[int(which)], which)
    wrong = []
    if which == 'best' and (best := run.checkpoints.best()):
        try:
            best.verify()
            return best, f'{best.path}, the best by validation loss: {best.valid["loss"]:.4f}'
        except Damaged as e:
            if not best.path.exists():
                return _choose(run, at, which)
            wrong = [str(e)]
    last, damaged = run.checkpoints.last()
    wrong = list(dict.fromkeys([*wrong, *damaged]))
    if last is None:
        raise UserError(f'no checkpoint of the run {run.uuid} can be used: {"; ".join(wrong)}')
    return last, f'{last.path}, the last' + (f' intact one: {"; ".join(wrong)}' if wrong else '')


def _configure(conf: MLMConfigs, chosen: Checkpoint, device: str | torch.device | None):
    """Gives configs the values and the tokenizer of the run."""
    snapshot, items = chosen.metadata.get('configs'), config_items(conf)
    if snapshot is None:
        raise UserError(f'{chosen.path} lacks the configs of its run')
    snapshot = with_current_names(conf, snapshot)
    for name, value in snapshot['given'].items():
        is_of_model = name.partition('.')[0] in ('model', 'transformer')
        if is_of_model and not (name in items and items[name].is_possible(value)):
            raise UserError(f'the run has {name}={value}, which is unknown here: import the file that registers it, or '
                            f'give `configs` of the class that has it')
    values = {name: value for name, value in restored_values(conf, snapshot).items() if not name.startswith('device')}
    # Defaults that an option of the user's own may have set
    values |= {name: value for name, value in snapshot['computed'].items()
               if name.startswith('transformer.') and name in items and isinstance(value, int | float)
               and items[name].is_possible(value)}
    saved = snapshot['tokenizer']
    if saved is not None and (type(conf) is MLMConfigs or saved.get('kind') in TOKENIZERS):
        values.pop('tokenizer', None)
        conf.tokenizer = saved_tokenizer(saved, chosen.path)
    conf._set_values(values)
    conf.device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))


@contextmanager
def silent() -> Iterator[None]:
    """Inside, labml prints no `Prepare …` lines."""
    monitor = monitor_singleton()
    before = monitor._Monitor__is_silent
    monitor.silent()
    try:
        yield
    finally:
        monitor.silent(before)
