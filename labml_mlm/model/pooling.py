r"""
# One vector for a text

The encoder gives a vector for each token, after each of its layers. Two ways make one of these:

* `mean`: the mean over all tokens, special ones included, as in Sentence-BERT
  ([Reimers and Gurevych 2019](https://arxiv.org/abs/1908.10084), section 3). It is the better one for a model that has
  only predicted masked tokens.
* `cls`: the vector of the first token, `[CLS]`, as in BERT ([Devlin et al. 2019](https://arxiv.org/abs/1810.04805)).

Layers are numbered as in Hugging Face's `hidden_states`: 0 are the embeddings, $l$ is the output of the $l$-th layer,
and the last is what the head sees. Negative numbers count from the end.
"""
import torch
from torch import Tensor

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.model.transformer import TransformerMLM

POOLINGS = 'mean', 'cls'


def check_pooling(pooling: str, *, has_cls: bool, allowed: tuple[str, ...] = POOLINGS):
    """Raises `UserError` if there is no such pooling, or if it is `cls` and no special token begins a text."""
    if pooling not in allowed:
        raise UserError(f'pooling={pooling!r}: it must be {", ".join(allowed[:-1])} or {allowed[-1]}.'
                        f'{did_you_mean(str(pooling), allowed)}')
    if pooling == 'cls' and not has_cls:
        raise UserError('pooling=cls takes the vector of [CLS], and this model has no special token before a text: use '
                        'pooling=mean')


def check_layer(layer: int, n_layers: int):
    """Raises `UserError` if a model with so many layers has no such one."""
    if not -n_layers - 1 <= layer <= n_layers:
        raise UserError(f'layer={layer}: it must be from 0, the embeddings, to {n_layers}, the last layer, or from the '
                        f'end, -1 to {-n_layers - 1}')


def hidden_states_at(model: TransformerMLM, layer: int, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Hidden states at one layer, `[seq_len, batch_size, d_model]`; the others are those of `TransformerMLM.encode`."""
    if layer in (-1, len(model.encoder.layers)):
        return model.encode(x, padding_mask)
    return model.hidden_states(x, padding_mask)[layer]


def pool(hidden: Tensor, padding_mask: Tensor | None = None, *, pooling: str) -> Tensor:
    """
    A vector for each sequence, `[batch_size, d_model]`.

    * `hidden` has shape `[seq_len, batch_size, d_model]`
    * `padding_mask` is true at padding, `[seq_len, batch_size]`
    * `pooling` is `mean` or `cls`
    """
    if pooling == 'cls':
        return hidden[0]
    if padding_mask is None:
        return hidden.mean(dim=0)
    n_tokens = (~padding_mask).sum(dim=0)
    return torch.where(padding_mask[:, :, None], 0, hidden).sum(dim=0) / n_tokens[:, None]
