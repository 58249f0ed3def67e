"""
# A trained model in your own code

    import labml_mlm

    trained = labml_mlm.load('8c5e022e')
    features = trained.encode(['To be, or not to be', 'that is the question'])

`load` builds the model from the checkpoint alone: the text that it was trained on is not needed, and nothing that comes
with the checkpoint is executed.
"""
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labml.internal.monitor import monitor_singleton
from torch import Tensor

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.common.project import in_project_of, logs_path
from labml_mlm.common.schema import config_items
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.snapshot import (
    TOKENIZERS,
    check_same_text,
    model_values,
    restored_values,
    saved_tokenizer,
    with_current_names,
)
from labml_mlm.data.batch import Batch
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.published.folder import is_published
from labml_mlm.published.start import PublishedEncoder, refuse_ambiguous
from labml_mlm.runs.checkpoint import Checkpoint
from labml_mlm.runs.choose import read_model
from labml_mlm.runs.run import find_run, is_run
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.training.serialization import unpack

# Tokens of a batch, padding included
_BATCH_TOKENS = 1 << 12
# Items that say how a run began
_OF_START = 'init_from', 'vocab_extend'
# Of the windows of a text on which a published encoder is evaluated
_SEQ_LEN = 512


class Pretrained:
    """
    ## A trained model, with its tokenizer and configs

    * `model` is in evaluation mode
    * `configs` are those of the run; items are computed when they are asked for
    * `about` describes in words where the model comes from, and `checkpoint` is that, unless it was published
    * `source` is what it went on from, if that was something else
    * `has_head`: can it predict tokens? An encoder that was published without a head cannot
    """

    def __init__(self, *, model: TransformerMLM, tokenizer: Tokenizer, configs: MLMConfigs,
                 checkpoint: Checkpoint | None, about: str, source: Path | None = None, has_head: bool = True):
        self.model = model
        self.tokenizer = tokenizer
        self.configs = configs
        self.checkpoint = checkpoint
        self.about = about
        self.source = source
        self.has_head = has_head
        # A walk through all modules
        self._max_seq_len = model.max_seq_len

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def require_head(self):
        """Raises `UserError` if the model cannot predict tokens."""
        if not self.has_head:
            raise UserError(f'{self.about} has no head for masked language modelling, and predicts nothing: train one '
                            'with init_from')

    def ids(self, text: str) -> Tensor:
        """
        Token ids, `[seq_len]`, with special tokens around the text if the run has them.

        Raises `UserError` for an empty text, for one longer than the model allows, and for text that is not in the
        vocabulary.
        """
        return self.masked_ids([text])

    def masked_ids(self, pieces: Sequence[str]) -> Tensor:
        """The same of the pieces of a text, with `[MASK]` between every two; raises what `ids` does."""
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
        template = self.configs._template
        if (n := len(ids) + template.length) > self._max_seq_len:
            raise UserError(f'the text has {n:,} tokens,{" special ones included," * bool(template.length)} and the '
                            f'model takes at most {self._max_seq_len:,}')
        return template.around(torch.from_numpy(ids))

    def validation_batches(self) -> Iterable[Tensor | Batch]:
        """
        The validation set of the run, `[seq_len, batch_size]` each; can be iterated more than once.

        Raises `UserError` if its text is missing, or was changed.
        """
        if self.checkpoint is None:
            raise UserError(f'{self.about} is no run, and has no validation set')
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

        The tokens are those of `ids`: if the run has `[CLS]` and `[SEP]` around each text, the mean is over these, too,
        as that of sentence-transformers is.

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

    * `run` is a run's uuid or the beginning of it, its folder, that of one of its checkpoints, `last` for the newest,
      or the folder of a published encoder, as `save_pretrained` writes it
    * `which` checkpoint: the `best` by validation loss (the last, if there was no validation), the `last`, or a step
    * `configs` are freshly made configs of your own class, if the run has such
    * `device` is by default a CUDA device if there is one
    * `folder` is in the labml project whose runs are meant

    Raises `UserError` if there is no such run or checkpoint, if none is intact, and if the model has parts of your own
    that are unknown here.
    """
    path = Path(run).expanduser()
    if is_published(path) and not is_run(path):
        if which != 'best':
            raise UserError(f'{path} is a published encoder, and has no checkpoint {which}')
        if len(path.parts) == 1:
            logs = None
            # Outside of a project there are no runs
            with suppress(UserError):
                logs = logs_path(Path(folder))
            if logs is not None:
                refuse_ambiguous(str(run), logs)
        return _load_published(path, MLMConfigs() if configs is None else configs, device)
    found, at = find_run(Path() if path.is_dir() else logs_path(Path(folder)), str(run))
    chosen, about, tensors = read_model(found, at, str(which).replace(',', ''))
    conf = MLMConfigs() if configs is None else configs
    with silent(), torch.random.fork_rng(devices=[]):
        _configure(conf, chosen, device)
        # `evaluate` needs the masks and the reader
        model, _, _ = conf.model, conf.valid_mlm, conf.batch_reader
        try:
            model.load_state_dict(unpack(chosen.metadata['model'], tensors))
        except RuntimeError as e:
            raise UserError(f'the model of {chosen.path} differs: {" ".join(str(e).split())}') from None
        source = chosen.metadata['configs']['given'].get('init_from')
        return Pretrained(model=model.eval(), tokenizer=conf.tokenizer, configs=conf, checkpoint=chosen, about=about,
                          source=Path(source) if source else None)


def _load_published(path: Path, conf: MLMConfigs, device: str | torch.device | None) -> Pretrained:
    """A published encoder, with configs of ours."""
    source = PublishedEncoder(path)
    if source.tokenizer is None:
        raise UserError(f'{path} has no tokenizer')
    conf.tokenizer = source.tokenizer
    conf._set_values({**source.values, 'add_special_tokens': source.tokenizer.template.length > 0,
                      'seq_len': min(source.max_seq_len or _SEQ_LEN, _SEQ_LEN),
                      'valid_batch_size': _BATCH_TOKENS // _SEQ_LEN})
    conf.device = _device(device)
    with silent(), torch.random.fork_rng(devices=[]):
        loaded = source.load_weights(conf.model)
        _ = conf.valid_mlm, conf.batch_reader
    return Pretrained(model=conf.model.eval(), tokenizer=source.tokenizer, configs=conf, checkpoint=None,
                      about=source.about, source=path, has_head=loaded.has_head)


def _device(device: str | torch.device | None) -> torch.device:
    return torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))


def _configure(conf: MLMConfigs, chosen: Checkpoint, device: str | torch.device | None):
    """Gives configs the values and the tokenizer of the run."""
    snapshot = chosen.metadata.get('configs')
    if snapshot is None:
        raise UserError(f'{chosen.path} lacks the configs of its run')
    snapshot = with_current_names(conf, snapshot)
    values = {name: value for name, value in restored_values(conf, snapshot).items()
              if not name.startswith('device') and name not in _OF_START} | model_values(conf, snapshot)
    saved = snapshot['tokenizer']
    if saved is not None and (type(conf) is MLMConfigs or saved.get('kind') in TOKENIZERS):
        values.pop('tokenizer', None)
        conf.tokenizer = saved_tokenizer(saved, chosen.path)
    conf._set_values(values)
    conf.device = _device(device)


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
