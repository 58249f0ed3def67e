"""Parsers of command lines whose errors are one message, with the nearest name."""
import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from labml_mlm.common.errors import UserError, did_you_mean

# What a command may be called elsewhere
_ALSO_CALLED = {'list': 'runs', 'ls': 'runs', 'show': 'info', 'describe': 'info', 'compare': 'diff', 'rm': 'delete',
                'remove': 'delete', 'eval': 'evaluate', 'test': 'evaluate', 'fill': 'fill-mask', 'curves': 'plot',
                'metrics': 'export-metrics', 'server': 'app', 'serve': 'app', 'ui': 'app', 'upload': 'sync',
                'grid': 'sweep', 'search': 'sweep', 'tune': 'sweep', 'classify': 'predict', 'encode': 'embed',
                'help': '--help', 'version': '--version'}
_PACKAGES = 'labml_mlm', 'labml', 'torch'


class Parser(argparse.ArgumentParser):
    """Raises `UserError` for wrong arguments."""
    # May options stand between positional arguments?
    is_intermixed = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) \
            -> tuple[argparse.Namespace, list[str]]:
        """As of `argparse`; with `is_intermixed`, options may stand anywhere."""
        if not self.is_intermixed:
            return super().parse_known_args(args, namespace)
        # It calls this method
        self.is_intermixed = False
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.is_intermixed = True

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{self.prog}: {message}. `{self.prog} --help` says what it takes')


def check_names(parser: Parser, commands: Mapping[str, Parser], arguments: Sequence[str]):
    """
    Raises `UserError` for an unknown command, and for unknown options: argparse may take what follows one for something
    else, and complain of that.
    """
    if not arguments:
        return
    name, *rest = arguments
    if name in commands:
        _check_options(commands[name], rest)
    elif name.startswith('-'):
        _check_options(parser, [name])
    else:
        nearest = f' Did you mean `{_ALSO_CALLED[name]}`?' if name in _ALSO_CALLED else did_you_mean(name, commands)
        raise UserError(f'`{name}` is not a command.{nearest} `{parser.prog}` alone lists them all')


def _check_options(parser: Parser, arguments: Sequence[str]):
    known = parser._option_string_actions
    for argument in arguments:
        if argument == '--':
            return
        name = argument.partition('=')[0]
        # As for argparse: a single -, a negative number, and a text with a space are no options
        if not name.startswith('-') or name == '-' or ' ' in argument or parser._negative_number_matcher.match(name):
            continue
        # `-oFILE`, and the beginning of a long name
        is_short = name[:2] in known and not name.startswith('--')
        if name not in known and not is_short and not any(option.startswith(name) for option in known if len(name) > 2):
            raise UserError(f'{parser.prog}: there is no option {name}.{did_you_mean(name, known)} '
                            f'`{parser.prog} --help` lists them all')


def versions_text() -> str:
    """Our version, and those of what a run depends on; nothing of that is imported."""
    found = []
    for package in _PACKAGES:
        try:
            found.append(f'{package} {version(package)}')
        except PackageNotFoundError:
            found.append(f'{package} is not installed')
    return ', '.join(found)
