"""
# `--help`

What matters first stands in groups, as configs name them in `_help_groups`: names of items by heading. Then come the
items that a user's class adds; the rest only if it is asked for. An item with a single possible value is a part of the
machinery, and stands nowhere.
"""
import inspect
import shutil
import textwrap
from collections.abc import Iterable, Mapping

from labml.configs import BaseConfigs

from labml_mlm.items.declarations import DeclaredConfigs
from labml_mlm.items.overrides import describe, find_item
from labml_mlm.items.schema import (
    NO_DEFAULT,
    ConfigField,
    config_items,
    current_names,
    is_own,
    named_values,
    scalar_type,
)

ALL = 'all'
_WIDEST = 100


def help_text(conf: BaseConfigs, topic: str = '') -> str:
    """
    Items, with their defaults and what is allowed, in the width of the terminal.

    * `topic` is `all`, or the name of an item, for that one and those below it; by default, those that matter first

    Raises `UserError` if there is no such item.
    """
    every = config_items(conf)
    items = {name: item for name, item in every.items() if is_for_people(item)}
    if topic and topic != ALL:
        topic = current_names(every).get(topic, topic)
        find_item(every, topic)
        below = [item for name, item in items.items() if name == topic or name.startswith(f'{topic}.')]
        return _listed({'': below}) if below else f'`{topic}` is an object, to be set in Python'
    groups = {heading: [items[name] for name in names if name in items]
              for heading, names in getattr(conf, '_help_groups', {}).items()}
    if topic == ALL or not groups:
        return _listed(_by_class(conf, items))
    shown = {item.name for found in groups.values() for item in found}
    for class_ in _users(conf):
        groups[f'Of {class_.__name__}'] = own = [item for name, item in items.items()
                                                 if _declaring(conf, name) is class_ and name not in shown]
        shown.update(item.name for item in own)
    rest = f'{len(items) - len(shown)} more items: `--help all` lists all, and `--help NAME` an item and those below ' \
           'it, as in `--help optimizer`'
    return f'{_listed(groups)}\n\n{textwrap.fill(rest, width())}'


def is_for_people(item: ConfigField) -> bool:
    """Can it be set on the command line, to more than one value?"""
    return item.is_settable and not (len(item.allowed) == 1 and allowed_text(item) == item.allowed[0])


def allowed_text(item: ConfigField) -> str:
    """The values that an item allows, in words."""
    scalar, is_optional = scalar_type(item.type)
    allowed, declaration = named_values(item), item.declaration
    if scalar is not None and not (scalar is str and item.options):
        kind = 'paths, separated by commas' if declaration.is_path else describe(scalar)
        allowed.append(kind + (f' {declaration.range}' if declaration.range else '')
                       + (f', in {declaration.unit}' if declaration.unit else ''))
    if is_optional:
        allowed.append('none')
    return ' or '.join(filter(None, [', '.join(allowed[:-1]), *allowed[-1:]]))


def show(value: object) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, bool | type(None)):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value) or '(none)'
    if isinstance(value, list | tuple):
        return ','.join(map(str, value)) or '(none)'
    return type(value).__name__


def width() -> int:
    """Columns for a text: those of the terminal, up to 100."""
    return min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)


def _listed(groups: Mapping[str, Iterable[ConfigField]]) -> str:
    parts = []
    for heading, items in groups.items():
        lines = []
        for item in items:
            name = item.name + ('' if item.default is NO_DEFAULT else f' = {show(item.default)}')
            description = ' '.join(filter(None, [item.declaration.help, f'({allowed_text(item)})']))
            for text, indent in ((name, 2), (description, 8)):
                lines += textwrap.wrap(text, width(), initial_indent=' ' * indent, subsequent_indent=' ' * 8,
                                       break_long_words=False, break_on_hyphens=False)
        if lines:
            parts.append('\n'.join([f'{heading}:'] * bool(heading) + lines))
    return '\n\n'.join(parts)


def _by_class(conf: BaseConfigs, items: Mapping[str, ConfigField]) -> dict[str, list[ConfigField]]:
    """All items, by the class that declares them."""
    groups = {}
    for class_ in reversed(type(conf).__mro__):
        if found := [item for name, item in items.items() if _declaring(conf, name) is class_]:
            groups.setdefault(_title(class_), []).extend(found)
    return groups


def _declaring(conf: BaseConfigs, name: str) -> type:
    """The first class of ours, or of the user's, that has an item; nested ones go with their parents."""
    name = name.partition('.')[0]
    classes = [class_ for class_ in reversed(type(conf).__mro__) if name in vars(class_)]
    declared = [class_ for class_ in classes if issubclass(class_, DeclaredConfigs)]
    return (declared or classes)[0]


def _users(conf: BaseConfigs) -> list[type]:
    """The classes of a user's."""
    return [class_ for class_ in type(conf).__mro__ if issubclass(class_, BaseConfigs) and is_own(class_)]


def _title(class_: type) -> str:
    """What the docstring of a class says that it configures, or its name."""
    for line in inspect.cleandoc(class_.__doc__ or '').splitlines():
        if line.startswith('## Configurations of '):
            title = line.removeprefix('## Configurations of ')
            return title[:1].upper() + title[1:]
    return class_.__name__
