"""
# The files of sentence-transformers

Mean pooling of the hidden states, the usual choice for an encoder without a trained pooler ([Reimers and Gurevych
2019](https://arxiv.org/abs/1908.10084), section 3).
"""
import json

import torch
from torch import Tensor
from torch.nn import functional

from labml_mlm.common.errors import UserError
from labml_mlm.export.card import Note
from labml_mlm.inference.pretrained import Pretrained

FILES = _MODULES, _POOLING, _CONFIG = 'modules.json', '1_Pooling/config.json', 'sentence_bert_config.json'
# Texts that are compared
_N_TEXTS = 64


def files(trained: Pretrained, *, max_length: int) -> dict[str, str]:
    """Files by name; `max_length` is the longest sequence of tokens."""
    modules = [{'idx': 0, 'name': '0', 'path': '', 'type': 'sentence_transformers.models.Transformer'},
               {'idx': 1, 'name': '1', 'path': '1_Pooling', 'type': 'sentence_transformers.models.Pooling'}]
    pooling = {'word_embedding_dimension': trained.configs.transformer.d_model, 'pooling_mode_mean_tokens': True,
               'pooling_mode_cls_token': False, 'pooling_mode_max_tokens': False,
               'pooling_mode_mean_sqrt_len_tokens': False}
    config = {'max_seq_length': max_length, 'do_lower_case': False}
    return {name: json.dumps(content, indent=2) for name, content in
            ((_MODULES, modules), (_POOLING, pooling), (_CONFIG, config))}


@torch.no_grad()
def similarity(trained: Pretrained) -> list[Note]:
    """How far apart random texts are, the windows of the validation text."""
    vectors: list[Tensor] = []
    try:
        for batch in trained.validation_batches():
            batch = trained.configs.batch_reader(batch, is_own=False).to(trained.device)
            vectors += _pooled(trained, batch.tokens, batch.padding_mask)
            if len(vectors) >= _N_TEXTS:
                break
    except (UserError, OSError) as e:
        return [Note('How far apart random texts are was not measured', str(e))]
    if len(vectors) < 2:
        return [Note('How far apart random texts are was not measured', 'the validation text has one window')]
    normalised = functional.normalize(torch.stack(vectors[:_N_TEXTS]), dim=1)
    cosines = (normalised @ normalised.T)[~torch.eye(len(normalised), dtype=torch.bool, device=normalised.device)]
    return [Note(f'{len(normalised)} random texts have a mean cosine of {cosines.mean():.2f}; at 1 they are the same'),
            Note('Without fine-tuning such vectors are often poor')]


def _pooled(trained: Pretrained, tokens: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Means over tokens, `[batch_size, d_model]`, of `tokens`, `[seq_len, batch_size]`."""
    hidden = trained.model.encode(tokens, padding_mask)
    kept = torch.ones_like(tokens, dtype=hidden.dtype) if padding_mask is None else (~padding_mask).to(hidden.dtype)
    return (hidden * kept[..., None]).sum(0) / kept.sum(0)[:, None].clamp(min=1)
