"""
# A snapshot of the configs of a run

Before the first step, `take_snapshot` notes which values were given, what the defaults were, what was computed, and
which text it is. A run is resumed from that, and a trained model is built from it.
"""
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from labml.configs import BaseConfigs
from torch import nn

from labml_mlm.common.errors import UnknownPart, UserError
from labml_mlm.common.files import refuse_address
from labml_mlm.configs.same_text import identify_texts
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.own_code import is_plain, own_code
from labml_mlm.items.python_values import wrong_value
from labml_mlm.items.schema import (
    ConfigField,
    aggregating,
    computed_values,
    config_items,
    current_names,
    given_values,
    scalar_type,
)
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer

# Items that are paths
PATHS = 'text_path', 'valid_path', 'old_path', 'replay_path', 'tokenizer_path', 'init_from', 'probe_path'
# Kinds of tokenizers that can be built from a snapshot
TOKENIZERS = CharacterTokenizer.kind, 'tokenizers'
# What items that a run did not have yet would have been
_EARLIER = {'text_format': 'plain'}

# Items that determine the model
_OF_MODEL = ('model', 'transformer', 'd_model', 'n_tokens', 'padding_token', 'mask_token', 'no_mask_tokens',
             'add_special_tokens')
# Characters of a computed value: one may be a whole text
_MAX_COMPUTED = 200


def take_snapshot(conf: BaseConfigs, *, experiment: str, script: str | None = None) -> dict:
    """
    Everything about configs that were built, for JSON.

    * `experiment` is its name, and `script` the file that trains
    """
    items = {item.name: item for item in config_items(conf).values() if item.is_settable}
    given = {name: value for name, value in given_values(conf).items() if is_plain(value)}
    for name in PATHS:
        if path := conf._get_computed(name):
            given[name] = absolute(path)
    tokenizer = conf._get_computed('tokenizer')
    return {
        'experiment': experiment, 'script': script and absolute(script), 'class': type(conf).__qualname__,
        'time': time.time(), 'objective': conf._objective,
        'labels': conf._labels_as_json, 'own_code': own_code(conf), 'given': given,
        'defaults': default_values(conf), 'fitted': conf._fitted,
        'computed': {name: _shortened(value) for name, value in computed_values(conf).items()
                     # `text` has the text itself
                     if name in items and name != 'text' and (is_plain(value) or isinstance(value, torch.device))},
        'text': identify_texts(conf),
        'tokenizer': tokenizer.to_dict() if hasattr(tokenizer, 'to_dict') else None,
        'parameters': _n_parameters(conf._get_computed('model')),
        'versions': _versions(conf), 'resumed': [],
    }


def with_current_names(conf: BaseConfigs, snapshot: dict, *, is_model_only: bool = False) -> dict:
    """
    A snapshot of a run, whose items may have earlier names, with the present ones.

    With `is_model_only`, `conf` may be of another class, which takes nothing but the model from it.

    Raises `UserError` for a value that its item cannot have: it is damaged then.
    """
    items = config_items(conf, chosen=snapshot['given'])
    renamed = current_names(items)
    snapshot = snapshot | {part: {renamed.get(name, name): value for name, value in snapshot[part].items()}
                           for part in ('given', 'defaults', 'computed')}
    of_model = {name: value for name, value in snapshot['computed'].items()
                if name.startswith('transformer.') and name in items and _is_number_item(items[name])}
    for values in (snapshot['given'], snapshot['defaults'], of_model):
        for name, value in values.items():
            if is_model_only and name.partition('.')[0] not in _OF_MODEL:
                continue
            if name in items and (must_be := _wrong_value(items[name], value, snapshot)) is not None:
                raise UserError(f'the configs of the run are damaged: they have {name}={value!r:.60}, and it must be '
                                f'{must_be}')
    return snapshot


def _wrong_value(item: ConfigField, value: Any, snapshot: dict) -> str | None:
    """What the value of an item must be, if no run could have had this one."""
    if item.is_own or value == as_json(item.default):
        return None
    if isinstance(value, str) and (not _is_number_item(item) or snapshot.get('own_code') is None
                                   or item.name in snapshot['own_code']):
        # Perhaps the name of an option that is unknown here
        return None
    return wrong_value(item, value)


def _is_number_item(item: ConfigField) -> bool:
    return not item.options and scalar_type(item.type)[0] in (int, float, int | float)


def restored_values(conf: BaseConfigs, snapshot: dict) -> dict[str, Any]:
    """
    The values that turn new configs into those of the run, by dotted name, even if defaults have changed since. Items
    that the configs do not have are left out; items that the run did not have get the defaults of this package, or what
    was usual then.
    """
    # A recipe is that of the run; that of the configs, if the run is older than recipes
    recipes, known = aggregating(conf), snapshot['defaults'] | snapshot['given']
    chosen = {name: known[name] for name in recipes & known.keys()} | snapshot['given']
    items = config_items(conf, chosen=chosen)
    # The defaults of the class of ours that theirs is derived from
    plain = config_items(next(class_ for class_ in type(conf).__mro__ if class_.__module__.startswith('labml_mlm.'))())
    defaults = {name: as_json(item.default) for name, item in plain.items()
                if item.is_settable and is_plain(item.default) and name not in recipes}
    defaults |= _EARLIER | snapshot['defaults']
    values = {name: value for name, value in defaults.items()
              if name in items and value != as_json(items[name].default)} | snapshot['given']
    if (source := snapshot['text'].get('source')) is not None and values.get('text', 'auto') == 'auto':
        # `auto` may find another text by now
        values['text'] = source
    values = {name: retyped(items[name], value) for name, value in values.items() if name in items}
    return {name: value for name, value in values.items() if items[name].is_possible(value)}


def model_values(conf: BaseConfigs, snapshot: dict) -> dict[str, Any]:
    """
    Those of `restored_values` that determine the model, and defaults that an option of the user's own may have set for
    it. Raises `UnknownPart` for parts of the model that the configs do not have.
    """
    items = config_items(conf, chosen=snapshot['given'])
    for name, value in snapshot['given'].items():
        is_of_model = name.partition('.')[0] in ('model', 'transformer')
        if is_of_model and not (name in items and items[name].is_possible(value)):
            raise UnknownPart(f'the run has {name}={value}, which is unknown here', snapshot.get('script'))
    values = {name: value for name, value in restored_values(conf, snapshot).items()
              if name.partition('.')[0] in _OF_MODEL}
    return values | {name: value for name, value in snapshot['computed'].items()
                     if name.startswith('transformer.') and name in items and isinstance(value, int | float)
                     and items[name].is_possible(value)}


def saved_tokenizer(saved: dict, folder: Path) -> Tokenizer:
    """
    The tokenizer of a run.

    * `saved` is that of the snapshot
    * `folder` has the files of the tokenizer, if there are any

    Raises `UserError` if its kind is unknown, or its files are invalid.
    """
    if saved.get('kind') not in TOKENIZERS:
        raise UserError(f'this version has no tokenizer of the kind {saved.get("kind")}')
    if saved['kind'] == CharacterTokenizer.kind:
        try:
            return CharacterTokenizer.from_dict(saved)
        except (KeyError, TypeError, ValueError):
            raise UserError('the configs of the run are damaged: their tokenizer has no characters') from None
    from labml_mlm.tokenization import subword
    return subword.SubwordTokenizer.from_file(folder / subword.FILE, is_link_followed=False)


def differing_versions(conf: BaseConfigs, snapshot: dict) -> list[str]:
    """Changes since the run was started that may change the last bits."""
    before = {'ranks': 1, **snapshot['versions']}
    return [f'{name} {before.get(name)} → {now}' for name, now in _versions(conf).items() if before.get(name) != now]


def absolute(path: str | list[str]) -> str | list[str]:
    """
    A path, or several, that mean the same from another folder; a list of one is a path. Raises `UserError` for an
    address.
    """
    if isinstance(path, list | tuple):
        return absolute(path[0]) if len(path) == 1 else [absolute(one) for one in path]
    refuse_address(path)
    return os.path.abspath(os.path.expanduser(path))


def as_json(value: Any) -> Any:
    """Lists in place of tuples, which JSON does not have."""
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def retyped(item: ConfigField, value: Any) -> Any:
    """A tuple again, if the item is one, or a list, if it has paths."""
    if item.declaration.is_path and isinstance(value, str):
        return [value] if value else []
    return tuple(value) if isinstance(value, list) and isinstance(item.default, tuple) else value


def default_values(conf: BaseConfigs) -> dict[str, Any]:
    """The defaults of the items that can be set, by dotted name."""
    return {item.name: item.default for item in config_items(conf).values()
            if item.is_settable and is_plain(item.default)}


def _versions(conf: BaseConfigs) -> dict[str, Any]:
    packages = {name: version(name) for name in ('torch', 'labml', 'labml-nn', 'labml-helpers', 'numpy')}
    return {'python': platform.python_version(), **packages, 'device': conf.device.type,
            'threads': torch.get_num_threads(), 'ranks': ranks().size}


def _n_parameters(model: Any) -> int | None:
    return sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, nn.Module) else None


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MAX_COMPUTED:
        return value[:_MAX_COMPUTED] + '…'
    return value if is_plain(value) else str(value)
