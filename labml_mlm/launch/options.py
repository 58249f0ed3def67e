"""
# Arguments that are no overrides: `--resume`, `--name`, `--comment`, `--tags`

All runs of a script have its name. What tells them apart in a list is a comment, by default what was given
(`seq_len=64 optimizer=muon`), and what one may filter by are tags: the recipe, the text, the tokenizer, the device.
"""
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.configs.snapshot import PATHS
from labml_mlm.items.own_code import is_plain
from labml_mlm.items.schema import chosen_value, given_values
from labml_mlm.runs.run import check_experiment_name

# Characters of a value, a tag, and a comment
_MAX_VALUE, _MAX_TAG, _MAX_COMMENT = 40, 60, 300
# What an option takes
_NEEDS = {'--resume': 'a run: its uuid, its folder, or last', '--name': 'a name for the experiment',
          '--comment': 'a text', '--tags': 'words, separated by commas'}


class Options(NamedTuple):
    """Arguments that are no overrides; `None` if they are not given."""
    # The run to resume
    resume: str | None = None
    # That of the experiment
    name: str | None = None
    comment: str | None = None
    tags: tuple[str, ...] | None = None

    @property
    def arguments(self) -> list[str]:
        """The same as arguments."""
        values = self._asdict() | {'tags': self.tags and ','.join(self.tags)}
        return [f'--{name}={value}' for name, value in values.items() if value is not None]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], Options]:
    """
    The overrides, and the options. All that is no option is for `parse_overrides`. Raises `UserError` for an option
    without a value, with a wrong one, or that a resumed run cannot have.
    """
    overrides, found, tags = [], {}, []
    arguments = iter(arguments)
    for argument in arguments:
        option, equals, value = argument.partition('=')
        if option not in _NEEDS:
            overrides.append(argument)
            continue
        if not equals:
            value = next(arguments, '')
            if not value or value.startswith('-'):
                raise UserError(f'{option} needs {_NEEDS[option]}')
        elif not value and option != '--comment' or option == '--resume' and value.startswith('-'):
            raise UserError(f'{option} needs {_NEEDS[option]}')
        found[option.removeprefix('--')] = value
        if option == '--tags':
            tags += _tags(value)
    options = Options(**found | ({'tags': tuple(dict.fromkeys(tags))} if tags else {}))
    _check(options)
    return overrides, options


def _tags(value: str) -> list[str]:
    tags = [tag.strip() for tag in value.split(',')]
    for tag in tags:
        if not tag or not tag.isprintable() or len(tag) > _MAX_TAG:
            raise UserError(f'`--tags {value}`: it must be {_NEEDS["--tags"]}, each of up to {_MAX_TAG} characters')
    return tags


def _check(options: Options):
    if options.resume is not None and (other := [option for option in ('name', 'comment', 'tags')
                                                 if getattr(options, option) is not None]):
        raise UserError(f'a resumed run keeps its name, comment and tags: leave out --{other[0]}')
    if options.name is not None:
        check_experiment_name(options.name)
    if options.comment is not None and (not options.comment.isprintable() or len(options.comment) > _MAX_COMMENT):
        raise UserError(f'--comment must be one line of up to {_MAX_COMMENT} characters')


def given_comment(conf: Any, *, given: Collection[str], arguments: Mapping[str, Any]) -> str:
    """
    What a run was given, as it is written on the command line.

    * `conf` are its configs, which were built
    * `given` are the names of items that were given, in Python and as arguments
    * `arguments` are the values of the latter, which come first
    """
    values = {name: chosen_value(conf, name) for name in conf._assigned} | given_values(conf) | dict(arguments)
    if 'text' in values:
        # It may be the text itself
        values['text'] = conf._text_name
    # The recipe is a tag
    names = [*arguments, *sorted(set(given) - set(arguments))]
    text = ' '.join(f'{name}={_written(name, values[name])}' for name in names if name in values and name != 'recipe')
    return text if len(text) <= _MAX_COMMENT else text[:_MAX_COMMENT] + '…'


def default_tags(conf: Any) -> list[str]:
    """What one may filter runs by, of configs that were built."""
    paths = conf._get_computed('text_path')
    source = _written('text_path', paths) if paths else conf._text_name
    tags = [chosen_value(conf, 'recipe') or conf._objective, source, chosen_value(conf, 'tokenizer'), conf.device.type]
    return list(dict.fromkeys(tag for tag in tags if isinstance(tag, str) and tag))


def _written(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if not is_plain(value):
        return type(value).__name__
    values = value if isinstance(value, list | tuple) else [value]
    if name in PATHS:
        # Its last part is what tells one from another
        values = [os.path.basename(str(path).rstrip(os.sep)) for path in values]
    text = ','.join(map(str, values))
    return shlex.quote(text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + '…') if text else ''
