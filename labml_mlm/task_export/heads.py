r"""
# Which class of Hugging Face's a fine-tuned model is

Classes for classification have an encoder, and a head that is theirs:

| class | head |
|---|---|
| `Bert…` of texts | dropout and a linear layer on the pooler of `[CLS]` |
| `Roberta…`, `Esm…` of texts | a linear layer, tanh and a linear layer on the first token |
| all but ModernBERT's of tokens | dropout and a linear layer |

So `pooling=cls` and tags have such a class. A mean over tokens has none, nor has ModernBERT, which puts a norm before
its last layer: these come with `modeling_labml_mlm_head.py`, on top of Hugging Face's own encoder, or of
`modeling_labml_mlm.py` where that has none.

Numbers are predicted in units of the training labels, $\hat y = \sigma z + \mu$. The last layer has that in it there.
"""
from pathlib import Path
from typing import Any, NamedTuple

import torch
from labml_nn.transformers.models import Generator
from torch import Tensor, nn

from labml_mlm.common.errors import UserError
from labml_mlm.export.custom_code import HEAD_MODELING, MODELING, custom_config
from labml_mlm.finetuning.heads import TagHead, TaskTransformer, TextHead
from labml_mlm.inference.fine_tuned import FineTuned
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.published.custom_code import HEAD_TYPE, published_name
from labml_mlm.published.family import Family
from labml_mlm.published.represent import NotRepresentable, represent, token_ids

# Copied into folders. It is not imported here, as it needs transformers
_HEAD_MODELING = Path(__file__).with_name(HEAD_MODELING)
TEXTS, TOKENS = 'AutoModelForSequenceClassification', 'AutoModelForTokenClassification'
_CLASSES = {TEXTS: 'LabmlMLMForSequenceClassification', TOKENS: 'LabmlMLMForTokenClassification'}
_PROBLEMS = {'single': 'single_label_classification', 'multiple': 'multi_label_classification', 'number': 'regression'}
_KINDS = 'weight', 'bias'


class Representation(NamedTuple):
    """A fine-tuned model as Hugging Face has it."""
    config: dict[str, Any]
    # By the names of the class
    weights: dict[str, Tensor]
    # Of the head: theirs by ours
    names: dict[str, str]
    # Files of code by name; none for a class of Hugging Face's
    code: dict[str, str]
    # Why there is code
    why: str = ''


def auto_class(trained: FineTuned) -> str:
    """The class of transformers that loads such models."""
    return TOKENS if trained.kind == 'tags' else TEXTS


def represent_task(trained: FineTuned, *, is_custom: bool = False) -> Representation:
    """
    A fine-tuned model as a class of Hugging Face's, or, where there is none or with `is_custom`, with code of its own.
    Raises `UserError`, which names the part, if that cannot represent it either.
    """
    head, conf = trained.model.plain_head(), trained.configs
    if type(head) not in (TextHead, TagHead):
        raise UserError(f'a head of the class {type(head).__name__} cannot be exported: it must be TextHead or TagHead')
    why = encoder = None
    try:
        encoder = represent(trained.model, conf, has_head=False)
        if not is_custom:
            architecture, names = _class_of(encoder.family, head)
            config = encoder.family.config(encoder.items) | {'model_type': encoder.family.model_type,
                                                             'classifier_dropout': head.dropout.p}
            return Representation(_about_labels(trained) | config | {'architectures': [architecture]},
                                  encoder.weights | _head_weights(head, names), names, {})
    except NotRepresentable as e:
        why = str(e)
    if encoder is None or encoder.family.option == 'mlm':
        config, weights = _own_encoder(trained.model)
    else:
        config = encoder.family.config(encoder.items) | {'model_type': encoder.family.model_type}
        # All begin with the same part, which an encoder alone has not
        weights = {published_name(name.partition('.')[2]): tensor for name, tensor in encoder.weights.items()}
    auto = auto_class(trained)
    config = _about_labels(trained) | {
        'architectures': [_CLASSES[auto]], 'model_type': HEAD_TYPE, 'pooling': getattr(head, 'pooling', None),
        'head_dropout': head.dropout.p, 'encoder': config | token_ids(conf),
        'auto_map': {'AutoConfig': f'{_HEAD_MODELING.stem}.LabmlMLMHeadConfig',
                     auto: f'{_HEAD_MODELING.stem}.{_CLASSES[auto]}'}}
    names = {f'{part}.{kind}': f'{part}.{kind}' for part in _parts(head) for kind in _KINDS}
    code = {path.name: path.read_text(encoding='utf-8') for path in (_HEAD_MODELING, MODELING)}
    return Representation(config, weights | _head_weights(head, names), names, code, why or '')


def _parts(head: nn.Module) -> list[str]:
    """The linear layers of a head."""
    return ['pooler', 'output'] if getattr(head, 'pooler', None) is not None else ['output']


def _class_of(family: Family, head: nn.Module) -> tuple[str, dict[str, str]]:
    """The class for a head, and its names by ours. Raises `NotRepresentable` if there is none."""
    base = family.base.removesuffix('Model')
    if family.option == 'modernbert':
        raise NotRepresentable(f'{base} has a norm before the last layer, and this model has none')
    if type(head) is TagHead:
        architecture, theirs = f'{base}ForTokenClassification', {'output': 'classifier'}
    elif head.pooler is None:
        raise NotRepresentable(f'{base}ForSequenceClassification has no mean over tokens (pooling=mean)')
    elif family.option == 'bert':
        architecture = f'{base}ForSequenceClassification'
        theirs = {'pooler': 'bert.pooler.dense', 'output': 'classifier'}
    else:
        architecture = f'{base}ForSequenceClassification'
        theirs = {'pooler': 'classifier.dense', 'output': 'classifier.out_proj'}
    return architecture, {f'{ours}.{kind}': f'{theirs_}.{kind}' for ours, theirs_ in theirs.items() for kind in _KINDS}


def _head_weights(head: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    state = head.state_dict()
    if state.keys() != names.keys():
        raise UserError(f'the head has {", ".join(state)}, and {", ".join(names)} can be exported')
    return {theirs: state[ours] for ours, theirs in names.items()}


def _own_encoder(model: TaskTransformer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of an encoder as `modeling_labml_mlm.py` has it."""
    embeddings = getattr(model.src_embed, 'linear', model.src_embed)
    # Only a whole model has a config
    generator = Generator(*embeddings.weight.shape) if isinstance(embeddings, nn.Embedding) else nn.Identity()
    whole = TransformerMLM(src_embed=model.src_embed, encoder=model.encoder, generator=generator,
                           padding_token=model.padding_token)
    config = custom_config(whole)
    del config['architectures'], config['auto_map']
    return config, {published_name(name): tensor.detach().cpu().contiguous().clone()
                    for name, tensor in model.state_dict().items() if name.startswith(('src_embed.', 'encoder.'))}


def _about_labels(trained: FineTuned) -> dict[str, Any]:
    # A number has the name of its field
    names = trained.labels or (trained.configs.label_field,)
    problem = {'problem_type': _PROBLEMS[trained.kind]} if trained.kind in _PROBLEMS else {}
    return problem | {'num_labels': len(names), 'id2label': {str(i): name for i, name in enumerate(names)},
                      'label2id': {name: i for i, name in enumerate(names)}}


@torch.no_grad()
def read_head(trained: FineTuned, weights: dict[str, Tensor], names: dict[str, str]) -> nn.Module:
    """A head of ours with the weights of a folder; the arguments are those of its `Representation`."""
    head = trained.model.plain_head()
    head.load_state_dict({ours: weights[theirs] for ours, theirs in names.items()})
    return head
