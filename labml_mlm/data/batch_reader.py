"""
# Batches of any loader

A loader of your own gives tokens in the shape, type and container that suit it. `BatchReader` makes a `Batch` of them,
and refuses what would train on something else than was meant.
"""
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from labml import logger
from labml.logger import Text
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch

# Of Hugging Face, where there is nothing to predict
_NO_LABEL = -100
# Keys of their batches that have a meaning here
_KEYS = 'input_ids', 'attention_mask', 'labels', 'token_type_ids'


class BatchReader:
    """
    ## Reads the batches of a loader

    * `padding_token` is the id of `[PAD]`; with `is_padded`, it is padding in batches without a padding mask, too
    * `n_tokens` is the size of the vocabulary
    * `seq_len` is the sequence length of the run, and `max_seq_len` the longest that the model takes
    * `n_segments` is the number of segments (token types) that the model tells apart
    * `batch_sizes` are those of the run, to tell the order of batches that are shorter
    * `batch_first` says that batches are `[batch_size, seq_len]`, if they do not say so themselves

    A batch is

    * a tensor or an array of token ids, integers of any type, or a tuple `(tokens, padding_mask)`;
      `[seq_len, batch_size]` each, or `[batch_size, seq_len]` with `batch_first`;
    * a `Batch`, for document ids, for labels, or with an order of its own;
    * a mapping with `input_ids`, and perhaps `attention_mask`, `token_type_ids` and `labels`, as Hugging Face's
      tokenizers and collators give it: `[batch_size, seq_len]`, whatever `batch_first` says.

    A batch with labels is not masked again.

    A padding mask is true, or 1, at padding; Hugging Face's `attention_mask` is 0 there.

    Raises `UserError` for anything else, for ids outside of the vocabulary, and for the other order. Ids that are on a
    GPU already are not checked: that would be to wait for it.
    """

    def __init__(self, *, padding_token: int, n_tokens: int, seq_len: int, max_seq_len: float,
                 n_segments: int = 1, batch_sizes: Collection[int] = (), is_padded: bool = False,
                 batch_first: bool = False):
        self.padding_token = padding_token
        self.n_tokens = n_tokens
        self.seq_len = seq_len
        self.max_seq_len = max_seq_len
        self.n_segments = n_segments
        self.batch_sizes = batch_sizes
        self.is_padded = is_padded
        self.batch_first = batch_first
        self._is_order_said = False

    def __call__(self, batch: Any, *, is_own: bool = True, is_padded: bool | None = None) -> Batch:
        """
        The batch, `[seq_len, batch_size]`, with `padding_token` wherever there is padding. `is_own` says that it is of
        a loader of your own, where order and length are checked.
        """
        batch = self._with_types(_with_names(batch))
        if is_own and batch.pair_labels is not None:
            raise UserError('the loader gives `pair_labels`, which are only those of sentence_pairs: remove them')
        if self._is_batch_first(batch, is_own=is_own):
            batch = batch.map(Tensor.t)
        batch = batch._replace(batch_first=None)
        if is_own and len(batch.tokens) > self.max_seq_len:
            raise UserError(f'the loader gives sequences of {len(batch.tokens)} tokens, and the position embeddings of '
                            f'this model end at {self.max_seq_len}. transformer.encoder_attn=sdpa_rotary takes any '
                            'length')
        if batch.padding_mask is not None:
            batch = batch._replace(tokens=batch.tokens.masked_fill(batch.padding_mask, self.padding_token))
        elif self.is_padded if is_padded is None else is_padded:
            batch = batch._replace(padding_mask=batch.tokens == self.padding_token)
        self._check_ids('token ids', batch.tokens, self.n_tokens, 'n_tokens')
        batch = self._with_segments(batch, is_own=is_own)
        if batch.labels is not None:
            labels = batch.labels.masked_fill(batch.labels == _NO_LABEL, self.padding_token)
            if batch.padding_mask is not None:
                # Whatever the collator has there
                labels = labels.masked_fill(batch.padding_mask, self.padding_token)
            self._check_ids('labels', labels, self.n_tokens, 'n_tokens')
            batch = batch._replace(labels=labels)
        return batch

    def _with_segments(self, batch: Batch, *, is_own: bool) -> Batch:
        """
        The same without segments if there is one only, whatever the padding has. Pairs of our own loaders are told
        apart by the token between them, too.
        """
        if batch.segment_ids is None:
            return batch
        segment_ids = batch.segment_ids
        if batch.padding_mask is not None:
            segment_ids = segment_ids.masked_fill(batch.padding_mask, 0)
        if self.n_segments == 1 and is_own:
            message = ('the loader gives segment ids (`token_type_ids`) other than 0, and the model has no segments: '
                       'remove them. transformer=bert has two')
            if segment_ids.is_cuda:
                # Without waiting for it: the error comes a little later
                torch._assert_async((segment_ids == 0).all(), message)
            elif segment_ids.any():
                raise UserError(message)
        if self.n_segments == 1:
            return batch._replace(segment_ids=None)
        self._check_ids('segment ids', segment_ids, self.n_segments, 'transformer.n_segments')
        return batch._replace(segment_ids=segment_ids)

    def _with_types(self, batch: Batch) -> Batch:
        """The same with 64-bit ids and a boolean mask, all of one shape."""
        tokens = _integers('token ids', batch.tokens)
        if tokens.ndim != 2:
            raise UserError(f'a batch of the loader has shape {list(tokens.shape)}: it must be [seq_len, batch_size], '
                            'or [batch_size, seq_len] with batch_first=true')
        parts = {'tokens': tokens}
        for name in ('padding_mask', 'document_ids', 'labels', 'segment_ids'):
            part = getattr(batch, name)
            if part is None:
                continue
            part = _boolean(part) if name == 'padding_mask' else _integers(name, part)
            if part.shape != tokens.shape:
                raise UserError(f'a batch of the loader has tokens of shape {list(tokens.shape)} and `{name}` of shape '
                                f'{list(part.shape)}: they must be alike')
            parts[name] = part
        return batch._replace(**parts)

    def _is_batch_first(self, batch: Batch, *, is_own: bool) -> bool:
        """Is the batch `[batch_size, seq_len]`? Raises `UserError` if its shape says otherwise than the item does."""
        if batch.batch_first is not None or not is_own:
            return bool(batch.batch_first)
        n, m = batch.tokens.shape
        if n == m == self.seq_len and not self._is_order_said:
            self._is_order_said = True
            order = '[batch_size, seq_len]' if self.batch_first else '[seq_len, batch_size]'
            logger.log(f'The batches of the loader are square, and taken as {order}: batch_first='
                       f'{str(self.batch_first).lower()}', Text.warning)
        n_sequences, length = (n, m) if self.batch_first else (m, n)
        is_transposed = n_sequences == self.seq_len != length or self.seq_len not in (n, m) and \
            length in self.batch_sizes and n_sequences not in self.batch_sizes
        if is_transposed:
            order, other = ('[batch_size, seq_len]', 'true') if not self.batch_first else \
                ('[seq_len, batch_size]', 'false')
            raise UserError(f'a batch of the loader has shape [{n}, {m}]{self._sizes}: if that is {order}, use '
                            f'batch_first={other}. If it is not, say so: Batch(tokens, '
                            f'batch_first={self.batch_first})')
        return self.batch_first

    @property
    def _sizes(self) -> str:
        batch_sizes = ' or '.join(map(str, sorted({*self.batch_sizes})))
        return f', where seq_len={self.seq_len}' + f' and batch_size={batch_sizes}' * bool(batch_sizes)

    def _check_ids(self, name: str, ids: Tensor, n: int, item: str):
        if ids.device.type != 'cpu' or not ids.numel():
            return
        lowest, highest = map(int, ids.aminmax())
        if lowest < 0 or highest >= n:
            raise UserError(f'the loader gives {name} from {lowest} to {highest}: they must be from 0 to {n - 1}, as '
                            f'{item}={n}')


def _with_names(batch: Any) -> Batch:
    """What a loader gives, as a `Batch`."""
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, Tensor | np.ndarray):
        return Batch(batch)
    if isinstance(batch, Mapping):
        return _of_hugging_face(batch)
    if isinstance(batch, tuple | list) and 1 <= len(batch) <= 2 and isinstance(batch[0], Tensor | np.ndarray):
        return Batch(*batch)
    raise UserError(f'the loader gives {_described(batch)}: a batch is a tensor of token ids, a tuple (tokens, '
                    'padding_mask), a labml_mlm.data.Batch, or a mapping with `input_ids`')


def _of_hugging_face(batch: Mapping) -> Batch:
    if 'input_ids' not in batch:
        raise UserError(f'the loader gives a mapping of {", ".join(map(str, batch)) or "nothing"}: its token ids must '
                        'be named `input_ids`')
    unknown = [str(key) for key in batch if key not in _KEYS]
    if unknown:
        hint = '. Give the ids of special tokens as no_mask_tokens' if 'special_tokens_mask' in unknown else ''
        raise UserError(f'the loader gives `{unknown[0]}`, which nothing reads: remove it. Allowed are '
                        f'{", ".join(_KEYS)}{hint}')
    is_attended = batch.get('attention_mask')
    return Batch(batch['input_ids'], None if is_attended is None else ~_boolean(is_attended, 'attention_mask'),
                 labels=batch.get('labels'), batch_first=True, segment_ids=batch.get('token_type_ids'))


def _integers(name: str, ids: Any) -> Tensor:
    ids = _tensor(name, ids)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise UserError(f'the loader gives {name} of type {ids.dtype}: they must be integers')
    return ids.long()


def _boolean(mask: Any, name: str = 'padding_mask') -> Tensor:
    mask = _tensor(name, mask)
    if mask.dtype == torch.bool:
        return mask
    if mask.is_floating_point() or mask.is_complex() or mask.device.type == 'cpu' and ((mask != 0) & (mask != 1)).any():
        hint = '. Labels go by name: Batch(tokens, labels=labels)' if name == 'padding_mask' else ''
        raise UserError(f'the loader gives a `{name}` of type {mask.dtype} that is not 0 or 1{hint}')
    return mask != 0


def _tensor(name: str, values: Any) -> Tensor:
    if not isinstance(values, Tensor | np.ndarray):
        raise UserError(f'the loader gives {name} as {_described(values)}: they must be a tensor')
    return torch.as_tensor(values)


def _described(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f'a {type(value).__name__} of {len(value)}'
    return f'a {type(value).__name__}'
