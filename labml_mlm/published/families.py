"""
# Which family a folder is of
"""
from labml_mlm.common.errors import UserError
from labml_mlm.published.bert import BERTFamily
from labml_mlm.published.custom_code import CustomCodeFamily
from labml_mlm.published.esm import ESMFamily
from labml_mlm.published.family import Family
from labml_mlm.published.folder import PublishedFolder
from labml_mlm.published.modernbert import ModernBERTFamily

FAMILIES: dict[str, Family] = {family.model_type: family for family in (
    BERTFamily('bert', model_type='bert', architecture='Bert'),
    BERTFamily('roberta', model_type='roberta', architecture='Roberta'),
    BERTFamily('roberta', model_type='xlm-roberta', architecture='XLMRoberta'),
    BERTFamily('roberta', model_type='camembert', architecture='Camembert'),
    ModernBERTFamily(), ESMFamily(), CustomCodeFamily())}
# Why those that people try are not among them
_OTHERS = {'albert': 'its layers share their weights', 'deberta': 'it attends by relative positions',
           'deberta-v2': 'it attends by relative positions', 'distilbert': 'its names and its layers are others',
           'electra': 'it has a discriminator', 'mpnet': 'it attends by relative positions',
           'xlnet': 'it is not a masked language model', 'gpt2': 'it is not a masked language model'}


def family_of(folder: PublishedFolder) -> Family:
    """Raises `UserError` for an architecture that is not known."""
    kind = folder.config.get('model_type')
    if kind is None:
        # The weights of old folders say what they are
        kind = next((kind for kind in ('bert', 'roberta') for name in folder.weights if name.startswith(f'{kind}.')),
                    'bert' if 'embeddings.word_embeddings.weight' in folder.weights else None)
    if not isinstance(kind, str) or kind not in FAMILIES:
        reason = f' ({_OTHERS[kind]})' if isinstance(kind, str) and kind in _OTHERS else ''
        raise UserError(f'{folder.path} has a model of type {kind or "unknown"}{reason}: it must be one of '
                        f'{", ".join(FAMILIES)}')
    return FAMILIES[kind]
