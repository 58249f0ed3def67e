"""
# What the snapshot of a run must be

A `configs.json`, and the `configs` of a checkpoint, may be damaged, or somebody else's. One that does not fit is none.
"""
from typing import Any

from labml_mlm.common.untrusted import is_integer, is_list_of, is_number

# Items that are paths, of what a run was given
_PATHS = 'text_path', 'valid_path'


def is_snapshot(value: Any) -> bool:
    """Is it what `take_snapshot` makes, in this version or in an earlier one?"""
    if not isinstance(value, dict) or not all(name in value and fits(value[name]) for name, fits in _PARTS.items()):
        return False
    return all(fits(value[name]) for name, fits in _LATER_PARTS.items() if value.get(name) is not None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_plain(value: Any) -> bool:
    """A value that an item may have."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | str) or is_integer(value) or type(value) is float


def _are_items(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_plain, value.values())) and all(
        value[name] is None or _is_text(value[name]) or is_list_of(str, value[name])
        for name in _PATHS if name in value)


def _is_about_text(value: Any) -> bool:
    """What is known of the text: its size, and hashes and names."""
    return isinstance(value, dict) and all(
        inner is None or (is_integer(inner) if name == 'characters' else _is_text(inner))
        for name, inner in value.items())


def _is_tokenizer(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and (value.get('kind') is None or _is_text(value['kind'])) and (
        value.get('kind') != 'character' or _is_text(value.get('characters')))


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_plain, value.values())) and is_integer(value.get('ranks', 1))


def _are_lives(value: Any) -> bool:
    """When it was resumed."""
    return isinstance(value, list) and all(isinstance(life, dict) and is_integer(life.get('tokens')) for life in value)


def _are_labels(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get('kind')) and is_list_of(str, value.get('names'))


_PARTS = {'experiment': _is_text, 'time': is_number, 'given': _are_items, 'defaults': _are_items,
          'computed': _are_items, 'text': _is_about_text, 'tokenizer': _is_tokenizer, 'versions': _are_versions,
          'resumed': _are_lives}
# Those that runs of earlier versions lack
_LATER_PARTS = {'script': _is_text, 'class': _is_text, 'objective': _is_text, 'script_experiment': _is_text,
                'own_code': lambda value: is_list_of(str, value), 'labels': _are_labels, 'parameters': is_integer,
                'fitted': lambda value: isinstance(value, dict)}
