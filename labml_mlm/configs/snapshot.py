"""
# What a run is noted down as

Before the first step `record_of` says which values were given, what the defaults were, what was computed, and which
text it is. That is what a run goes on with, and what a trained model is built from.
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
from labml_mlm.configs.schema import Item, computed_values, given_values, items_of
from labml_mlm.distributed.process_group import ranks
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer

# Items that are paths
PATHS = 'text_path', 'valid_path', 'tokenizer_path'
# Kinds of tokenizers that a record tells enough of
TOKENIZERS = CharacterTokenizer.kind, 'tokenizers'

# Characters of a computed value: one may be a whole text
_MAX_COMPUTED = 200


def record_of(conf: BaseConfigs, *, experiment: str) -> dict:
    """All about the configs of a run, once they are built, for JSON."""
    items = {item.name: item for item in items_of(conf).values() if item.is_given}
    given = {name: value for name, value in given_values(conf).items() if _is_plain(value)}
    for name in PATHS:
        if path := conf._get_computed(name):
            given[name] = absolute(path)
    tokenizer = conf._get_computed('tokenizer')
    return {
        'experiment': experiment, 'time': time.time(), 'given': given,
        'defaults': defaults_of(conf),
        'computed': {name: _shortened(value) for name, value in computed_values(conf).items()
                     if name in items and (_is_plain(value) or isinstance(value, torch.device))},
        'text': text_of(conf), 'tokenizer': tokenizer.to_dict() if hasattr(tokenizer, 'to_dict') else None,
        'versions': _versions(conf), 'resumed': [],
    }


def values_of(conf: BaseConfigs, record: dict) -> dict[str, Any]:
    """
    What freshly made configs have to be given to be those of the run, by dotted name, whatever their defaults are by
    now. What they do not have is left out; what came with a later version is as if that version had not been.
    """
    items = items_of(conf)
    # Of the class here that theirs is derived from
    plain = items_of(next(class_ for class_ in type(conf).__mro__ if class_.__module__.startswith('labml_mlm.'))())
    defaults = {name: as_json(item.default) for name, item in plain.items()
                if item.is_given and _is_plain(item.default)} | record['defaults']
    values = {name: value for name, value in defaults.items()
              if name in items and value != as_json(items[name].default)} | record['given']
    if record['text']['source'] is not None and values.get('text', 'auto') == 'auto':
        # `auto` may find another text by now
        values['text'] = record['text']['source']
    return {name: retyped(items[name], value) for name, value in values.items()
            if name in items and items[name].is_possible(value)}


def check_same(conf: BaseConfigs, record: dict):
    """Raises `UserError` if configs that were built have another text or vocabulary than the run."""
    text, saved = text_of(conf), record['text']
    if text['valid_sha256'] != saved.get('valid_sha256'):
        raise UserError('the text for validation is another one than the run has')
    if text['sha256'] != saved['sha256']:
        raise UserError(f'this is another text than the run has: {text["characters"]:,} characters, and not the '
                        f'{saved["characters"]:,} with the SHA-256 {saved["sha256"][:12]}…'
                        if text['sha256'] and saved['sha256'] else
                        'the run has a text and these configs have none, or the other way round')
    tokenizer = conf._get_computed('tokenizer')
    if hasattr(tokenizer, 'to_dict') and tokenizer.to_dict() != record['tokenizer']:
        raise UserError('this is another tokenizer than the run has: its vocabulary differs')


def saved_tokenizer(saved: dict, folder: Path) -> Tokenizer:
    """
    The tokenizer that a record tells of.

    * `saved` is what it says
    * `folder` has the files of the tokenizer, if there are any

    Raises `UserError` if it is of a kind that is not known here, or its files are no tokenizer.
    """
    if saved.get('kind') not in TOKENIZERS:
        raise UserError(f'a tokenizer of the kind {saved.get("kind")} is none that is known here')
    if saved['kind'] == CharacterTokenizer.kind:
        return CharacterTokenizer.from_dict(saved)
    from labml_mlm.tokenization import subword as subwords
    return subwords.from_file(folder / subwords.FILE)


def differing_versions(conf: BaseConfigs, record: dict) -> list[str]:
    """What is another one now than when the run was started, and may change a last bit."""
    before = {'ranks': 1, **record['versions']}
    return [f'{name} {before.get(name)} → {now}' for name, now in _versions(conf).items() if before.get(name) != now]


def absolute(path: str) -> str:
    """A path that means the same from another folder."""
    return os.path.abspath(os.path.expanduser(path))


def as_json(value: Any) -> Any:
    """Lists in place of tuples, which JSON does not have."""
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def retyped(item: Item, value: Any) -> Any:
    """A tuple again, if the item is one."""
    return tuple(value) if isinstance(value, list) and isinstance(item.default, tuple) else value


def defaults_of(conf: BaseConfigs) -> dict[str, Any]:
    """What the items that can be given are by default, by dotted name."""
    return {item.name: item.default for item in items_of(conf).values() if item.is_given and _is_plain(item.default)}


def text_of(conf: BaseConfigs) -> dict:
    """What tells the text of configs that were built from others, for JSON."""
    if conf._get_computed('text') is None:
        return {'source': None, 'characters': None, 'sha256': None, 'valid_sha256': None}
    return {'source': conf._get_computed('auto_text'), 'characters': conf.corpus.n_characters,
            'sha256': conf.corpus.sha256,
            'valid_sha256': conf._valid_cache.corpus().sha256 if conf._valid_cache else None}


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

