"""The lines of a file; errors name the file and the line."""
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.reading.files import expand_path, open_text, text_suffix

_LONE_SURROGATE = re.compile('[\ud800-\udfff]')
_UTF_16 = b'\xff\xfe', b'\xfe\xff'


class Wrong(NamedTuple):
    """What is wrong with a row or a line, in place of it; a message puts where it is before this."""
    what: str
    # Is it the whole file that cannot be used?
    is_whole: bool = False


def check_suffix(path: Path, allowed: Iterable[str], *, what: str = 'labels'):
    """
    Raises `UserError` if the suffix of a file, which has `what` in it, is not among the `allowed`; without that of its
    compression.
    """
    allowed = sorted(allowed)
    if text_suffix(path) not in allowed:
        raise UserError(f'{path}: a file with {what} ends in {", ".join(allowed[:-1])} or {allowed[-1]}, or in one '
                        'of those and .gz or .zst')


def decoded_lines(path: Path, *, decoding: str = 'strict') -> Iterator[tuple[int, str | Wrong]]:
    """
    The lines of a file in UTF-8, with their ends, each with its number from 1, and what is wrong in place of those that
    are no text.

    * `decoding` is `strict`, or `replace` for U+FFFD in place of invalid UTF-8

    Raises what `open_text` does.
    """
    with open_text(path) as f:
        yield from decode_lines(f, decoding=decoding)


def decode_lines(lines: Iterable[bytes], *, first: int = 1, decoding: str = 'strict') \
        -> Iterator[tuple[int, str | Wrong]]:
    """The same of lines of a file from the line `first`."""
    for number, line in enumerate(lines, start=first):
        if b'\0' in line:
            is_utf_16 = number == 1 and line.startswith(_UTF_16)
            yield number, Wrong('is UTF-16 instead of UTF-8: it contains NUL characters', is_whole=True) \
                if is_utf_16 else Wrong('is not text: it contains NUL characters')
            if is_utf_16:
                return
            continue
        try:
            yield number, line.decode('utf-8-sig' if number == 1 else 'utf-8', decoding)
        except UnicodeDecodeError as e:
            yield number, Wrong(f'is not UTF-8: invalid byte 0x{e.object[e.start]:02x}')


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """
    The lines of a file in UTF-8, with their ends, each with its number from 1. Raises `UserError` if it cannot be read,
    or is not text, or is empty.
    """
    is_empty = True
    for number, line in without_wrong(path, decoded_lines(expand_path(path))):
        is_empty = is_empty and not line.strip()
        yield number, line
    if is_empty:
        raise UserError(f'{path} is empty')


def without_wrong(path: Path, lines: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """The same lines or rows. Raises `UserError` for the first wrong one, and if the file cannot be read."""
    try:
        for number, line in lines:
            if isinstance(line, Wrong):
                raise at_line(path, number, line.what)
            yield number, line
    except UserError:
        raise
    except (OSError, EOFError) as e:
        raise UserError(f'cannot read {path}: {getattr(e, "strerror", None) or e}') from None
    except Exception as e:  # what a decompressor raises
        raise UserError(f'{path} cannot be decompressed: {e}') from None


def at_line(path: Path, number: int, what: str) -> UserError:
    """An error that names a line of a file; line 0 is the whole file."""
    return UserError(f'{path}, line {number:,} {what}' if number else f'{path} {what}')


def no_field(name: str, role: str, fields: Iterable[str]) -> str:
    """What is wrong where a field, which the item `role` names, is not among the fields that there are."""
    fields = [str(field) for field in fields]
    return (f'has no field `{name}` ({role}): its fields are {", ".join(map(repr, fields)) or "none"}.'
            f'{did_you_mean(name, fields)}')


def checked_text(text: Any, *, role: str, decoding: str = 'strict') -> str | Wrong:
    """
    The same text, with `\\n` at the ends of its lines; what is wrong, if it is none.

    * `decoding` is `strict`, or `replace` for U+FFFD in place of lone surrogates
    """
    if not isinstance(text, str):
        what = 'null' if text is None else 'NaN' if text != text else f'a value of type {type(text).__name__}'
        return Wrong(f'has no text in the field that {role} names, but {what}')
    if surrogate := _LONE_SURROGATE.search(text):
        if decoding == 'strict':
            return Wrong(f'has a lone surrogate: U+{ord(surrogate[0]):04X}')
        text = text.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')
    return text.replace('\r\n', '\n').replace('\r', '\n')


def check_text(text: Any, *, path: Path, line: int, role: str) -> str:
    """`checked_text`. Raises `UserError` if it is none."""
    checked = checked_text(text, role=role)
    if isinstance(checked, Wrong):
        raise at_line(path, line, checked.what)
    return checked
