"""
# Parts of the user's own in a run

A run may have an attention, a tokenizer or a class of configs that a script of the user registers. A model is built
from it where that file was imported before: by the user's own code, or by `--import FILE`. Nothing is imported
otherwise, whatever a run says.
"""
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import expand_home

# The file that is being imported
_importing: list[Path] = []


class _Trains(BaseException):
    """The file has called `train`. Nothing that handles exceptions in it shall catch this."""


def import_file(path: Path) -> ModuleType:
    """
    Imports a Python file, up to the call of `train` if it has one: nothing is trained.

    Modules beside it can be imported in it, as in a script. Raises `UserError` if there is no such file, or if it
    fails.
    """
    path = expand_home(path)
    if path.suffix != '.py' or not path.is_file():
        kind = 'it is a folder' if path.is_dir() else 'it must end in .py' if path.exists() else 'there is no such file'
        raise UserError(f'--import {path}: {kind}')
    path = path.resolve()
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    arguments, sys.argv = sys.argv, [str(path)]
    sys.path.insert(0, str(path.parent))
    _importing.append(path)
    try:
        spec.loader.exec_module(module)
    except _Trains as e:
        line = _line_of(e, path)
        print(f'{path.name} is imported up to its train(…) in line {line}, which trains nothing here', file=sys.stderr)
    except SystemExit:
        raise UserError(f'--import {path}: it exits when it is imported') from None
    except Exception as e:
        where = f', line {line}' if (line := _line_of(e, path)) else ''
        raise UserError(f'--import {path}{where}: {type(e).__name__}: {e}') from e
    finally:
        _importing.pop()
        sys.argv = arguments
    return module


def stop_if_importing():
    """Ends the import of a file by `import_file`, if there is one in progress."""
    if _importing:
        raise _Trains


def find_class(base: type, name: str, script: str | None) -> type | None:
    """
    The class of a run, if the file that has it was imported.

    * `base` is one of ours that it is derived from
    * `name` is its name, and `script` the file that trained the run
    """
    for class_ in subclasses(base):
        file = getattr(sys.modules.get(class_.__module__), '__file__', None)
        # The file may have been moved since
        if class_.__qualname__ == name and script and file and Path(file).name == Path(script).name:
            return class_
    return None


def subclasses(base: type) -> Iterator[type]:
    """All classes that are derived from one, the latest first: a file may have been run twice."""
    for class_ in reversed(base.__subclasses__()):
        yield class_
        yield from subclasses(class_)


def _module_name(path: Path) -> str:
    """The name by which other files import it, unless another module has it."""
    name = re.sub(r'\W', '_', path.stem)
    found = None if name in sys.modules else importlib.util.find_spec(name)
    is_free = name not in sys.modules and (found is None or found.origin == str(path))
    return name if is_free else f'_imported_{name}'


def _line_of(error: BaseException, path: Path) -> int | None:
    """The line of the file in which an error was raised."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None
