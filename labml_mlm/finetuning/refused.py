"""
# What fine-tuning does without

Items of pre-training that would have no effect. They are refused by name.
"""
from typing import Annotated, Any

from labml_mlm.configs.training import TrainingConfigs
from labml_mlm.items.declarations import Item

_NO_MASKING = Item(refused='fine-tuning masks nothing')
_NO_WINDOWS = Item(refused='fine-tuning trains on the rows of `text_path`, each text alone')
_FROM_ROWS = Item(refused='it follows from the rows of `text_path`')


class RefusingConfigs(TrainingConfigs):
    """
    ## Configurations of training without items of pre-training
    """
    text: Annotated[Any, _FROM_ROWS]
    masking_prob: Annotated[Any, _NO_MASKING]
    masking_schedule: Annotated[Any, _NO_MASKING]
    masking_prob_start: Annotated[Any, _NO_MASKING]
    masking: Annotated[Any, _NO_MASKING]
    valid_masking_prob: Annotated[Any, _NO_MASKING]
    randomize_prob: Annotated[Any, _NO_MASKING]
    no_change_prob: Annotated[Any, _NO_MASKING]
    mask_token: Annotated[Any, _NO_MASKING]
    no_mask_tokens: Annotated[Any, _NO_MASKING]
    mlm: Annotated[Any, _NO_MASKING] = None
    valid_mlm: Annotated[Any, _NO_MASKING] = None
    packing: Annotated[Any, _NO_WINDOWS]
    packed_attention: Annotated[Any, _NO_WINDOWS]
    sentence_pairs: Annotated[Any, _NO_WINDOWS]
    sentence_rule: Annotated[Any, _NO_WINDOWS]
    seq_len_schedule: Annotated[Any, _NO_WINDOWS]
    is_token_budget_constant: Annotated[Any, _NO_WINDOWS]
    text_glob: Annotated[Any, _NO_WINDOWS]
    text_errors: Annotated[Any, _NO_WINDOWS]
    text_unit: Annotated[Any, _NO_WINDOWS]
    text_format: Annotated[Any, _NO_WINDOWS]
    default_text: Annotated[Any, _NO_WINDOWS]
    tiny_shakespeare_url: Annotated[Any, _NO_WINDOWS]
    tokens: Annotated[Any, _FROM_ROWS]
    train_tokens: Annotated[Any, _FROM_ROWS]
    valid_tokens: Annotated[Any, _FROM_ROWS]
    train_document_ends: Annotated[Any, _FROM_ROWS]
    valid_document_ends: Annotated[Any, _FROM_ROWS]
    old_path: Annotated[Any, _NO_WINDOWS]
    replay_path: Annotated[Any, _NO_WINDOWS]
    replay_fraction: Annotated[Any, _NO_WINDOWS]
    old_loader: Annotated[Any, _NO_WINDOWS] = None
    old_validator: Annotated[Any, _NO_WINDOWS] = None
