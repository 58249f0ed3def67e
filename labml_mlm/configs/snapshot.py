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

from labml_mlm.common.errors import UserError
from labml_mlm.common.schema import ConfigField, computed_values, config_items, current_names, given_values
from labml_mlm.distributed.process_group import ranks
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer

# Items that are paths
PATHS = 'text_path', 'valid_path', 'old_path', 'replay_path', 'tokenizer_path', 'init_from'
# Kinds of tokenizers that can be built from a snapshot
TOKENIZERS = CharacterTokenizer.kind, 'tokenizers'

# Items that determine the model
_OF_MODEL = ('model', 'transformer', 'd_model', 'n_tokens', 'padding_token', 'mask_token', 'no_mask_tokens',
             'add_special_tokens')
# Characters of a computed value: one may be a whole text
_MAX_COMPUTED = 200


def take_snapshot(conf: BaseConfigs, *, experiment: str) -> dict:
    """Everything about configs that were built, for JSON."""
    items = {item.name: item for item in config_items(conf).values() if item.is_settable}
    given = {name: value for name, value in given_values(conf).items() if _is_plain(value)}
    for name in PATHS:
        if path := conf._get_computed(name):
            given[name] = absolute(path)
    tokenizer = conf._get_computed('tokenizer')
    return {
        'experiment': experiment, 'time': time.time(), 'given': given,
        'defaults': default_values(conf),
        'computed': {name: _shortened(value) for name, value in computed_values(conf).items()
                     if name in items and (_is_plain(value) or isinstance(value, torch.device))},
        'text': identify_text(conf) | identify_old_texts(conf),
        'tokenizer': tokenizer.to_dict() if hasattr(tokenizer, 'to_dict') else None,
        'versions': _versions(conf), 'resumed': [],
    }


def with_current_names(conf: BaseConfigs, snapshot: dict) -> dict:
    """A snapshot of a run, whose items may have earlier names, with the present ones."""
    renamed = current_names(config_items(conf, chosen=snapshot['given']))
    return snapshot | {part: {renamed.get(name, name): value for name, value in snapshot[part].items()}
                       for part in ('given', 'defaults', 'computed')}


def restored_values(conf: BaseConfigs, snapshot: dict) -> dict[str, Any]:
    """
    The values that turn new configs into those of the run, by dotted name, even if defaults have changed since. Items
    that the configs do not have are left out; items that the run did not have get the defaults of this package.
    """
    items = config_items(conf, chosen=snapshot['given'])
    # The defaults of the class of ours that theirs is derived from
    plain = config_items(next(class_ for class_ in type(conf).__mro__ if class_.__module__.startswith('labml_mlm.'))())
    defaults = {name: as_json(item.default) for name, item in plain.items()
                if item.is_settable and _is_plain(item.default)} | snapshot['defaults']
    values = {name: value for name, value in defaults.items()
              if name in items and value != as_json(items[name].default)} | snapshot['given']
    if snapshot['text']['source'] is not None and values.get('text', 'auto') == 'auto':
        # `auto` may find another text by now
        values['text'] = snapshot['text']['source']
    return {name: retyped(items[name], value) for name, value in values.items()
            if name in items and items[name].is_possible(value)}


def model_values(conf: BaseConfigs, snapshot: dict) -> dict[str, Any]:
    """
    Those of `restored_values` that determine the model, and defaults that an option of the user's own may have set for
    it. Raises `UserError` for parts of the model that the configs do not have.
    """
    items = config_items(conf, chosen=snapshot['given'])
    for name, value in snapshot['given'].items():
        is_of_model = name.partition('.')[0] in ('model', 'transformer')
        if is_of_model and not (name in items and items[name].is_possible(value)):
            raise UserError(f'the run has {name}={value}, which is unknown here: import the file that registers it, or '
                            f'give `configs` of the class that has it')
    values = {name: value for name, value in restored_values(conf, snapshot).items()
              if name.partition('.')[0] in _OF_MODEL}
    return values | {name: value for name, value in snapshot['computed'].items()
                     if name.startswith('transformer.') and name in items and isinstance(value, int | float)
                     and items[name].is_possible(value)}


def check_same_text(conf: BaseConfigs, snapshot: dict):
    """Raises `UserError` if configs that were built have another text or vocabulary than the run."""
    text, saved = identify_text(conf), snapshot['text']
    if text['valid_sha256'] != saved.get('valid_sha256'):
        raise UserError('the validation text is not that of the run')
    if text['sha256'] != saved['sha256']:
        if not text['sha256'] or not saved['sha256']:
            raise UserError('either the run or these configs have no text')
        raise UserError(f'this is not the text of the run: {text["characters"]:,} characters with the SHA-256 '
                        f'{text["sha256"][:12]}… instead of {saved["characters"]:,} with {saved["sha256"][:12]}…')
    tokenizer = conf._get_computed('tokenizer')
    if hasattr(tokenizer, 'to_dict') and tokenizer.to_dict() != snapshot['tokenizer']:
        raise UserError('this is not the tokenizer of the run: its vocabulary differs')


def check_same_old_texts(conf: BaseConfigs, snapshot: dict):
    """Raises `UserError` if configs that were built have another `old_path` or `replay_path` than the run."""
    for (name, sha256), item in zip(identify_old_texts(conf).items(), ('old_path', 'replay_path'), strict=True):
        if sha256 != snapshot['text'].get(name):
            raise UserError(f'the text of {item} is not that of the run')


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
        return CharacterTokenizer.from_dict(saved)
    from labml_mlm.tokenization import subword
    return subword.SubwordTokenizer.from_file(folder / subword.FILE)


def differing_versions(conf: BaseConfigs, snapshot: dict) -> list[str]:
    """Changes since the run was started that may change the last bits."""
    before = {'ranks': 1, **snapshot['versions']}
    return [f'{name} {before.get(name)} → {now}' for name, now in _versions(conf).items() if before.get(name) != now]


def absolute(path: str) -> str:
    """A path that means the same from another folder."""
    return os.path.abspath(os.path.expanduser(path))


def as_json(value: Any) -> Any:
    """Lists in place of tuples, which JSON does not have."""
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def retyped(item: ConfigField, value: Any) -> Any:
    """A tuple again, if the item is one."""
    return tuple(value) if isinstance(value, list) and isinstance(item.default, tuple) else value


def default_values(conf: BaseConfigs) -> dict[str, Any]:
    """The defaults of the items that can be set, by dotted name."""
    return {item.name: item.default for item in config_items(conf).values()
            if item.is_settable and _is_plain(item.default)}


def identify_text(conf: BaseConfigs) -> dict:
    """Which text configs that were built have, for JSON."""
    if conf._get_computed('text') is None:
        return {'source': None, 'characters': None, 'sha256': None, 'valid_sha256': None}
    return {'source': conf._get_computed('auto_text'), 'characters': conf.corpus.n_characters,
            'sha256': conf.corpus.sha256,
            'valid_sha256': conf._valid_cache.corpus().sha256 if conf._valid_cache else None}


def identify_old_texts(conf: BaseConfigs) -> dict:
    """Which old texts they have, for JSON."""
    return {name: cache.corpus().sha256 if cache else None
            for name, cache in (('old_sha256', conf._old_cache), ('replay_sha256', conf._replay_cache))}


def _versions(conf: BaseConfigs) -> dict[str, Any]:
    packages = {name: version(name) for name in ('torch', 'labml', 'labml-nn', 'labml-helpers', 'numpy')}
    return {'python': platform.python_version(), **packages, 'device': conf.device.type,
            'threads': torch.get_num_threads(), 'ranks': ranks().size}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MAX_COMPUTED:
        return value[:_MAX_COMPUTED] + '…'
    return value if _is_plain(value) else str(value)
