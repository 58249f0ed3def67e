"""
# A text as a stream of documents

A document is a file, or a line of a `.jsonl` file, or a paragraph of either. It comes in pieces of some million
characters, so no more than a piece is ever in memory.
"""
import codecs
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labml import logger
from labml.logger import Text

from labml_mlm.common.errors import UserError
from labml_mlm.data.sources import open_text, text_suffix

# A piece of a document, and whether it is the last one
Piece = tuple[str, bool]

# Bytes that are read at once
_CHUNK = 1 << 22
# Between two paragraphs, before the first, and at the end of one
_BLANK_LINES = re.compile(r'\n(?:[^\S\n]*\n)+')
_FIRST_BLANK_LINES = re.compile(r'\A(?:[^\S\n]*\n)+')
_LINE_END = re.compile(r'(?:\n[^\S\n]*)+\Z')
# Files that a message names
_MAX_NAMED = 5


class TextFiles:
    """
    ## The documents of files

    * `paths` are text files in UTF-8, with any name, and files of JSON lines (`.jsonl`); either may be compressed by
      gzip (`.gz`) or Zstandard (`.zst`)
    * `field` is the field of a JSON line that holds the text
    * `errors` is how to handle invalid input: `strict` refuses it, `skip` leaves out the document, and `replace` puts
      U+FFFD in place of invalid UTF-8 and leaves out all else that is not text (binary, not JSON, empty)
    * `unit` is `file` for one document per file or JSON line, or `paragraph` for one per paragraph

    Line ends become `\\n`. Raises `UserError` at the end of the first pass if there is nothing to read, or, if `errors`
    is `strict`, if something cannot be read or is not text; the message names the files.
    """

    def __init__(self, paths: Sequence[Path], *, field: str = 'text', errors: str = 'strict', unit: str = 'file'):
        self.paths = list(paths)
        self.field = field
        self.errors = errors
        self.unit = unit
        self._decoding = 'replace' if errors == 'replace' else 'strict'
        self._left_out: set[tuple[Path, int]] | None = None

    @property
    def identity(self) -> list:
        """Tells it from other texts without reading it: names, sizes and times, and how they are read. For JSON."""
        files = []
        for path in self.paths:
            try:
                stat = path.stat()
                files.append([str(path.absolute()), stat.st_size, stat.st_mtime_ns])
            except OSError:
                files.append([str(path), None])  # which the first pass reports
        # Paragraphs were cut otherwise before
        return [files, self.field, self.errors, 'paragraph, 2' if self.unit == 'paragraph' else self.unit]

    def __iter__(self) -> Iterator[Piece]:
        if self._left_out is None:
            wrong: dict[tuple[Path, int], str] = {}
            with_text: list[Path] = []
            pieces = self._check(wrong, with_text)
            # With `strict`, the first pass yields and raises at its end; otherwise it only finds what to leave out
            is_first_pass = self.errors == 'strict'
            for piece in self._units(pieces) if is_first_pass else pieces:
                if is_first_pass:
                    yield piece
            self._left_out = self._report(wrong, with_text)
            if is_first_pass:
                return
        for path in self.paths:
            if (path, 0) not in self._left_out:
                yield from self._units(self._documents(path, left_out=self._left_out))

    def _units(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        return _paragraphs(pieces) if self.unit == 'paragraph' else pieces

    def _documents(self, path: Path, *, left_out: set[tuple[Path, int]]) -> Iterator[Piece]:
        if text_suffix(path) != '.jsonl':
            yield from _read_pieces(path, errors=self._decoding)
            return
        with open_text(path) as f:
            for number, line in enumerate(f, start=1):
                if line.strip() and (path, number) not in left_out:
                    yield self._parse(line), True

    def _parse(self, line: bytes) -> str:
        """The text of a JSON line. Raises `ValueError` if it has none."""
        try:
            record = json.loads(line.decode('utf-8-sig', self._decoding))
        except (json.JSONDecodeError, RecursionError):
            raise ValueError('is not JSON') from None
        text = record.get(self.field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            fields = f': its fields are {", ".join(map(repr, record))}' if isinstance(record, dict) else ''
            raise ValueError(f'has no text in the field `{self.field}` (text_field){fields}')
        if not text:
            raise ValueError('is empty')
        try:
            text.encode()
        except UnicodeEncodeError as e:
            if self._decoding == 'strict':
                raise ValueError(f'has a lone surrogate: U+{ord(text[e.start]):04X}') from None
            text = text.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')
        return text.replace('\r\n', '\n').replace('\r', '\n')

    def _check(self, wrong: dict[tuple[Path, int], str], with_text: list[Path]) -> Iterator[Piece]:
        """
        All documents. Notes in `wrong` why files and lines cannot be read, a whole file as its line 0, and in
        `with_text` all other files.
        """
        for path in self.paths:
            is_empty = True
            try:
                for piece in self._check_lines(path, wrong) if text_suffix(path) == '.jsonl' else \
                        _read_pieces(path, errors=self._decoding):
                    is_empty = is_empty and not piece[0]
                    yield piece
            except UnicodeDecodeError as e:
                wrong[path, 0] = f'is not UTF-8: invalid byte 0x{e.object[e.start]:02x}'
            except _Binary as e:
                wrong[path, 0] = str(e)
            except (OSError, EOFError) as e:
                wrong[path, 0] = f'cannot be read: {getattr(e, "strerror", None) or e}'
            except Exception as e:  # what a decompressor raises
                wrong[path, 0] = f'cannot be decompressed: {e}'
            else:
                if not is_empty:
                    with_text.append(path)
                elif not any(at[0] == path for at in wrong):
                    wrong[path, 0] = 'is empty'

    def _check_lines(self, path: Path, wrong: dict[tuple[Path, int], str]) -> Iterator[Piece]:
        with open_text(path) as f:
            for number, line in enumerate(f, start=1):
                if not line.strip():
                    continue
                try:
                    text = self._parse(line)
                except UnicodeDecodeError:
                    wrong[path, number] = 'is not UTF-8'
                except ValueError as e:
                    wrong[path, number] = str(e)
                else:
                    yield text, True

    def _report(self, wrong: dict[tuple[Path, int], str], with_text: list[Path]) -> set[tuple[Path, int]]:
        """Reports what is wrong, after the first pass. Returns what to leave out."""
        if wrong and self.errors == 'strict':
            is_some = len(self.paths) > 1 or any(line for _, line in wrong)
            hints = ['text_errors=skip leaves them out'] * is_some + \
                ['text_errors=replace puts U+FFFD in place of invalid UTF-8'] * any('is not UTF-8' in what
                                                                                   for what in wrong.values())
            raise UserError('. '.join([_named(wrong), ', '.join(hints)] if hints else [_named(wrong)]))
        if not with_text:
            raise UserError('there is no text: ' + (_named(wrong) if wrong else 'no file to read'))
        if wrong:
            logger.log(f'Left out: {_named(wrong)}', Text.warning)
        return set(wrong)


class _Binary(ValueError):
    """A file with NUL characters."""


class TextIterable:
    """
    ## Documents from Python

    * `documents` are texts; a single text is one document. An iterator, which can be read once only, is read at once,
      into a temporary file
    """
    identity = None

    def __init__(self, documents: str | Iterable[str]):
        self._documents: Iterable[str] = [documents] if isinstance(documents, str) else documents
        self._spool: Any = None
        if iter(self._documents) is self._documents:
            self._spool = tempfile.NamedTemporaryFile()  # noqa: SIM115  it lives as long as this
            for document in self._documents:
                self._spool.write(json.dumps(document).encode() + b'\n')
            self._spool.flush()

    def __iter__(self) -> Iterator[Piece]:
        if self._spool is None:
            yield from self._pieces(self._documents)
        else:
            with open(self._spool.name, 'rb') as f:
                yield from self._pieces(map(json.loads, f))

    def _pieces(self, documents: Iterable[str]) -> Iterator[Piece]:
        for document in documents:
            if not isinstance(document, str):
                raise UserError(f'documents must be of type str, and one is of type {type(document).__name__}')
            # No longer than those of a file
            for begin in range(0, max(len(document), 1), _CHUNK):
                yield document[begin:begin + _CHUNK], begin + _CHUNK >= len(document)


def _read_pieces(path: Path, *, errors: str) -> Iterator[Piece]:
    """The one document of a text file. Raises `UnicodeDecodeError` and `_Binary`."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder('utf-8-sig')(errors), translate=True)
    with open_text(path) as f:
        chunk = f.read(_CHUNK)
        while True:
            if b'\0' in chunk:
                raise _Binary('is UTF-16 instead of UTF-8' if chunk.startswith((b'\xff\xfe', b'\xfe\xff')) else
                              'is binary: it contains NUL characters')
            # Reads ahead, as the last piece is marked as such
            following = f.read(_CHUNK)
            yield decoder.decode(chunk, final=not following), not following
            if not following:
                return
            chunk = following


def _paragraphs(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Documents split at blank lines, which may have blanks, each with one line end."""
    rest, is_begun = '', False
    for piece, is_last in pieces:
        *whole, rest = _BLANK_LINES.split(rest + piece)
        if is_last:
            whole, rest = [*whole, rest], ''
        for paragraph in whole:
            paragraph = _LINE_END.sub('', paragraph if is_begun else _FIRST_BLANK_LINES.sub('', paragraph))
            if is_begun or paragraph.strip():
                yield paragraph + '\n', True
            is_begun = False
        # A paragraph that continues; blanks may be the first half of its end
        if len(rest) > _CHUNK and (begin := rest.rstrip()):
            rest = rest[len(begin):]
            yield begin if is_begun else _FIRST_BLANK_LINES.sub('', begin), False
            is_begun = True


def _named(wrong: dict[tuple[Path, int], str]) -> str:
    named = [f'{path}{f", line {line:,}," if line else ""} {what}' for (path, line), what in wrong.items()]
    count = f'{len(named):,} files or lines are not text: ' if len(named) > 1 else ''
    more = f' and {len(named) - _MAX_NAMED:,} more' if len(named) > _MAX_NAMED else ''
    return count + '; '.join(named[:_MAX_NAMED]) + more
