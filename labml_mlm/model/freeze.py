"""Parts of a model that training leaves as they are."""
import re

from labml_mlm.common.errors import UserError
from labml_mlm.model.transformer import TransformerMLM


def freeze(model: TransformerMLM, what: str):
    """
    Freezes the parameters of a part of a model, also where another part shares them.

    * `what` is `embeddings`, or `layers:N` for these and the first N layers

    Raises `UserError` if it is something else.
    """
    n_layers = len(model.encoder.layers)
    match = re.fullmatch(r'embeddings|layers:(\d+)', what)
    n_frozen = int(match[1] or 0) if match else -1
    if not match or match[1] and not 1 <= n_frozen <= n_layers:
        raise UserError(f'freeze={what}: it must be embeddings, or layers:N with N from 1 to {n_layers}, the number of '
                        'layers')
    for part in (model.src_embed, *model.encoder.layers[:n_frozen]):
        part.requires_grad_(False)
