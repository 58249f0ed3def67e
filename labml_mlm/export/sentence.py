"""
# A masked sentence of the validation text

Whether text becomes the same tokens elsewhere is to be seen on real text only.
"""
from typing import NamedTuple

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.inference.pretrained import Pretrained

# Tokens of the text
_LENGTH = 32


class Sentence(NamedTuple):
    """A text with the mask in it, and its token ids in the run, `[seq_len]`."""
    text: str
    ids: Tensor


def masked_sentence(trained: Pretrained) -> Sentence:
    """
    The beginning of the validation text, with a mask in place of a word; or of a character, where there are no spaces.

    Raises `UserError` if that text is not here, or cannot be used.
    """
    tokenizer = trained.tokenizer
    special = tokenizer.special.all
    words = _beginning(trained).split()
    if len(words) > 2:
        middle = len(words) // 2
        before, after = ' '.join(words[:middle]) + ' ', ' ' + ' '.join(words[middle + 1:])
    else:
        text = ' '.join(words)
        before, after = text[:len(text) // 2], text[len(text) // 2 + 1:]
        # In other places, a tokenizer with spaces may put one behind a mask
        if tokenizer.is_spaced or not before or not after:
            raise UserError('its beginning is too short')
    if any(tokenizer.tokens[i] in before + after for i in special):
        raise UserError('there is the name of a special token in it')
    if unknown := tokenizer.unknown(before + after):
        raise UserError(f'{", ".join(map(repr, unknown))} in it is not in the vocabulary')
    return Sentence(f'{before}{tokenizer.tokens[tokenizer.special.mask]}{after}',
                    trained.masked_ids([before, after]).to(torch.long))


def _beginning(trained: Pretrained) -> str:
    try:
        for batch in trained.validation_batches():
            batch = trained.configs.batch_reader(batch, is_own=False)
            break
        else:
            raise UserError('it is empty')
    except OSError as e:
        raise UserError(f'it cannot be read: {e.strerror or e}') from None
    tokens, tokenizer = batch.tokens[:, 0], trained.tokenizer
    # Another piece of a document's window is another document
    tokens = tokens if batch.document_ids is None else tokens[batch.document_ids[:, 0] == 1]
    return tokenizer.decode([i for i in tokens.tolist() if i not in tokenizer.special.all][:_LENGTH])
