"""
# A trained model in your own code

    import labml_mlm

    trained = labml_mlm.load('8c5e022e')
    features = trained.encode(['To be, or not to be', 'that is the question'])
"""
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labml.internal.monitor import monitor_singleton
from torch import Tensor
from torch.nn import functional

from labml_mlm.common.errors import UserError
from labml_mlm.common.project import in_project_of
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.same_text import check_same_text
from labml_mlm.configs.snapshot import with_current_names
from labml_mlm.data.batch import Batch, batches_by_length
from labml_mlm.items.schema import config_items
from labml_mlm.model.pooling import POOLINGS, check_layer, check_pooling, hidden_states_at, pool
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.runs.checkpoint import Checkpoint
from labml_mlm.runs.text_files import read_files
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer

# Tokens of a batch, padding included
BATCH_TOKENS = 1 << 12
# Tokenizers trained on a text that know all of it
_COMPLETE = 'character', 'grapheme', 'pattern', 'bpe', 'unigram'


class Pretrained:
    """
    ## A trained model, with its tokenizer and configs

    * `model` is in evaluation mode
    * `configs` are those of the run; items are computed when they are asked for
    * `about` describes in words where the model comes from, and `checkpoint` is that, unless it was published
    * `source` is what it went on from, if that was something else
    * `has_head`: can it predict tokens? An encoder that was published without a head cannot
    * `max_seq_len` is the length of the longest sequence that it takes, special tokens included; may be infinite
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
        self.max_seq_len = model.max_seq_len

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

    def masked_ids(self, pieces: Sequence[str], *, is_unknown_allowed: bool = False) -> Tensor:
        """
        The same of the pieces of a text, with `[MASK]` between every two; raises what `ids` does. With
        `is_unknown_allowed`, what is not in the vocabulary is the unknown token.
        """
        ids = self._encode(pieces, is_unknown_allowed=is_unknown_allowed)
        if not len(ids):
            raise UserError('the text is empty')
        template = self.configs._template
        if (n := len(ids) + template.length) > self.max_seq_len:
            raise UserError(f'the text has {n:,} tokens,{" special ones included," * bool(template.length)} and the '
                            f'model takes at most {self.max_seq_len:,}')
        return template.around(ids)

    def text_ids(self, text: str) -> Tensor:
        """
        Token ids of a text of any length, `[n]`, without special tokens around it; none for an empty text.

        Raises `UserError` for text that is not in the vocabulary.
        """
        return self._encode([text])

    @property
    def has_trained_unknown(self) -> bool:
        """
        May the model have met its unknown token in training? Not if its vocabulary was made of all characters of its
        text, or has all bytes.
        """
        if self.tokenizer.special.unk is None or isinstance(self.tokenizer, CharacterTokenizer):
            return False
        # It was published, or went on from what was trained on other texts
        if self.checkpoint is None or self.source is not None:
            return True
        snapshot = self.checkpoint.metadata['configs']
        return snapshot['given'].get('tokenizer', snapshot['defaults'].get('tokenizer')) not in _COMPLETE

    def unknown_parts(self, pieces: Sequence[str], ids: Tensor) -> tuple[str, ...]:
        """The parts of pieces of a text with the token ids `[n]` that are not in the vocabulary, sorted."""
        if self.tokenizer.special.unk not in ids.tolist():
            return ()
        return tuple(sorted({part for piece in pieces for part in self.tokenizer.unknown(piece)}))

    def _encode(self, pieces: Sequence[str], *, is_unknown_allowed: bool = False) -> Tensor:
        try:
            ''.join(pieces).encode()
        except UnicodeEncodeError:
            raise UserError('the text is not valid Unicode') from None
        ids = self.tokenizer.encode_masked(pieces).astype(np.int64)
        # The run may have another id for it than the tokenizer
        ids[ids == self.tokenizer.special.mask] = self.configs.mask_token
        if self.tokenizer.special.unk in ids.tolist() and not is_unknown_allowed:
            unknown = ', '.join(sorted({repr(part) for piece in pieces for part in self.tokenizer.unknown(piece)}))
            raise UserError(f'the model does not know {unknown}, which is not in its vocabulary')
        return torch.from_numpy(ids)

    def validation_batches(self) -> Iterable[Tensor | Batch]:
        """
        The validation set of the run, `[seq_len, batch_size]` each; can be iterated more than once.

        Raises `UserError` if its text is missing, or was changed.
        """
        if self.checkpoint is None:
            raise UserError(f'{self.about} is no run, and has no validation set')
        return self._of_run('valid_loader', ('text', 'valid_tokens', 'valid_loader'), what='validated on')

    def training_text(self) -> Tensor:
        """
        Token ids of the text that the run was trained on, `[n]`.

        Raises `UserError` if there is none, or it is missing, or was changed.
        """
        if self.checkpoint is None:
            raise UserError(f'{self.about} is no run, and has no training text')
        snapshot, parts = self.checkpoint.metadata['configs'], ('tokens', 'train_tokens', 'train_loader')
        if own := [name for name in parts if name in (snapshot.get('own_code') or ())]:
            raise UserError(f'the run was trained on its own `{own[0]}`')
        if not snapshot['text'].get('sha256'):
            raise UserError('the run was trained on batches of a loader, without a text')
        return self._of_run('_training_text', ('text', *parts), what='trained on')

    def _of_run(self, part: str, items_of_part: Sequence[str], *, what: str) -> Any:
        """A part of the configs that depends on the text; raises `UserError` if that is not the one of the run."""
        snapshot, items = with_current_names(self.configs, self.checkpoint.metadata['configs']), \
            config_items(self.configs)
        for name in items_of_part:
            value = snapshot['given'].get(name, snapshot['defaults'].get(name))
            if value is not None and not items[name].is_possible(value):
                raise UserError(f'the run was {what} {name}={value}, which is unknown here: '
                                f'give another text, or `configs` of the class that has it')
        # Its text and tokens are in the data of its own project
        with silent(), in_project_of(self.checkpoint.path.parent):
            found = getattr(self.configs, part)
            check_same_text(self.configs, snapshot, read_files(self.checkpoint.path.parents[1]))
            return found

    @property
    def n_layers(self) -> int:
        """Number of layers, embeddings not included."""
        return len(self.model.encoder.layers)

    def check_features(self, *, pooling: str, layer: int, allowed: tuple[str, ...] = POOLINGS):
        """Raises `UserError` if the model has no such features, as `encode` takes them."""
        check_pooling(pooling, has_cls=bool(self.configs._template.before), allowed=allowed)
        check_layer(layer, self.n_layers)

    def encode(self, texts: Sequence[str], *, pooling: str = 'mean', layer: int = -1,
               normalize: bool = False) -> Tensor | list[Tensor]:
        """
        Features of texts: hidden states of a layer.

        * `pooling` is `mean` for the mean over the tokens of each text, `[len(texts), d_model]`; `cls` for the vector
          of `[CLS]`, of the same shape, if the run has that; or `none` for the vectors of all tokens, a list of
          `[seq_len, d_model]`
        * `layer` is 0 for the embeddings, or the number of a layer; negative numbers count from the end
        * `normalize` divides each vector by its length

        The tokens are those of `ids`: if the run has `[CLS]` and `[SEP]` around each text, the mean is over these, too,
        as that of sentence-transformers is.

        Raises what `ids` does. For texts without end, see `labml_mlm.inference.embed`.
        """
        self.check_features(pooling=pooling, layer=layer, allowed=(*POOLINGS, 'none'))
        sequences = [self.ids(text) for text in ([texts] if isinstance(texts, str) else texts)]
        return self.features(sequences, pooling=pooling, layer=layer, normalize=normalize)

    @torch.no_grad()
    def features(self, sequences: Sequence[Tensor], *, pooling: str = 'mean', layer: int = -1,
                 normalize: bool = False) -> Tensor | list[Tensor]:
        """Those of sequences of token ids, `[seq_len]` each; the other arguments, and the result, are `encode`'s."""
        features: list[Any] = [None] * len(sequences)
        for indices, x, padding_mask in self.batches(sequences):
            # `[seq_len, batch_size, d_model]`
            hidden = hidden_states_at(self.model, layer, x, padding_mask)
            of_texts = hidden.transpose(0, 1) if pooling == 'none' else pool(hidden, padding_mask, pooling=pooling)
            if normalize:
                of_texts = functional.normalize(of_texts, dim=-1)
            for i, of_text in zip(indices, of_texts.cpu(), strict=True):
                features[i] = of_text[:len(sequences[i])] if pooling == 'none' else of_text
        if pooling == 'none':
            return features
        return torch.stack(features) if features else torch.empty(0, self.configs.transformer.d_model)

    def batches(self, sequences: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
        """Those of `batches_by_length`, on the device of the model."""
        for indices, x, padding_mask in batches_by_length(sequences, padding_token=self.model.padding_token,
                                                          n_tokens=BATCH_TOKENS):
            yield indices, x.to(self.device), None if padding_mask is None else padding_mask.to(self.device)


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
