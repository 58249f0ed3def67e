"""
# A text as a stream of documents

A document is a file, or a record of one (such as a row of a table), or a paragraph of either. It comes in pieces of
some million characters, so no more than a piece is ever in memory.
"""
import codecs
import collections
import io
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labml import logger
from labml.logger import Text

from labml_mlm.common.errors import UserError
from labml_mlm.reading.files import open_text, text_suffix, was_changed, what_failed
from labml_mlm.reading.lines import Wrong
from labml_mlm.reading.texts import Entry, has_records, read_texts_of

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

    * `paths` are files of records, which `labml_mlm.reading.texts` reads, and text files in UTF-8, with any other name;
      they may be compressed by gzip (`.gz`) or Zstandard (`.zst`)
    * `names` are what the files are called elsewhere; by default their paths
    * `field` is the field of a row that holds its text, and `role` the item that names it, for messages
    * `errors` is how to handle invalid input: `strict` refuses it, `skip` leaves out the document, and `replace` puts
      U+FFFD in place of invalid UTF-8 and leaves out all else that is not text (binary, not JSON, empty)
    * `unit` is `file` for one document per file or record, or `paragraph` for one per paragraph
    * `text_format` is `auto`, or `plain` to take all files but `.jsonl` as they are

    Rows with a blank text are left out, and counted. Line ends become `\\n`. Raises `UserError` at the end of the first
    pass if there is nothing to read, or, if `errors` is `strict`, if something cannot be read or is not text; the
    message names the files.
    """

    def __init__(self, paths: Sequence[Path], *, names: Sequence[str] | None = None, field: str = 'text',
                 role: str = 'text_field', errors: str = 'strict', unit: str = 'file', text_format: str = 'auto'):
        self.paths = list(paths)
        self.names = [str(path) for path in paths] if names is None else list(names)
        self.field = field
        self.role = role
        self.errors = errors
        self.unit = unit
        self.text_format = text_format
        self._decoding = 'replace' if errors == 'replace' else 'strict'
        # Called with what was left out
        self.say: Callable[[str], None] = lambda message: logger.log(message, Text.warning)
        self._left_out: set[tuple[Path, int]] | None = None
        self._n_blank = 0

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
        # Paragraphs were cut otherwise before, and all files but `.jsonl` were taken as they are
        return [files, self.field, self.errors, 'paragraph, 2' if self.unit == 'paragraph' else self.unit,
                *(['auto'] * (self.text_format == 'auto' and any(map(has_records, self.paths))))]

    def what_changed(self, identity: list) -> str:
        """A message on the first file that is another one than when `identity` was that of the text; empty if none."""
        for name, before, now in zip(self.names, identity[0], self.identity[0], strict=True):
            if before != now:
                return was_changed(name, before[1], now[1])
        return ''

    @property
    def taken(self) -> list[Path]:
        """The paths without those that are left out, which the first pass finds."""
        return [path for path in self.paths if (path, 0) not in (self._left_out or ())]

    def __iter__(self) -> Iterator[Piece]:
        if self._left_out is None:
            wrong: dict[tuple[Path, int], Wrong] = {}
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
                yield from self._units((text, is_last) for line, text, is_last in self._entries(path)
                                       if isinstance(text, str) and (path, line) not in self._left_out)

    def _units(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        return _paragraphs(pieces) if self.unit == 'paragraph' else pieces

    def _entries(self, path: Path) -> Iterator[Entry]:
        """The texts of a file, in pieces, or what is wrong with them, or `None` for blank ones; with their lines."""
        if has_records(path, text_format=self.text_format):
            yield from read_texts_of(path, field=self.field, role=self.role, decoding=self._decoding,
                                     text_format=self.text_format)
        else:
            yield from ((0, piece, is_last) for piece, is_last in _read_pieces(path, errors=self._decoding))

    def _check(self, wrong: dict[tuple[Path, int], Wrong], with_text: list[Path]) -> Iterator[Piece]:
        """
        All documents. Notes in `wrong` what is wrong with files and lines, a whole file as its line 0, and in
        `with_text` all other files; counts blank texts.
        """
        self._n_blank = 0
        for path in self.paths:
            n_blank, is_empty = 0, True
            try:
                for line, text, is_last in self._entries(path):
                    if isinstance(text, Wrong):
                        wrong[path, line] = text
                    elif text is None:
                        n_blank += 1
                    else:
                        is_empty = is_empty and not text
                        yield text, is_last
            except UnicodeDecodeError as e:
                wrong[path, 0] = Wrong(f'is not UTF-8: invalid byte 0x{e.object[e.start]:02x}', True)
            except _Binary as e:
                wrong[path, 0] = Wrong(str(e), True)
            except UserError:
                raise
            except Exception as e:  # what a decompressor raises, too
                wrong[path, 0] = Wrong(what_failed(e), True)
            else:
                if not is_empty:
                    with_text.append(path)
                elif not any(at[0] == path for at in wrong):
                    wrong[path, 0] = Wrong(f'has no text: all of its {n_blank:,} rows are blank' if n_blank else
                                           'has no rows' if has_records(path, text_format=self.text_format) else
                                           'is empty', True)
            self._n_blank += n_blank

    def _report(self, wrong: dict[tuple[Path, int], Wrong], with_text: list[Path]) -> set[tuple[Path, int]]:
        """Reports what is wrong, after the first pass. Returns what to leave out."""
        if wrong and self.errors == 'strict':
            is_some = len(self.paths) > 1 or not all(what.is_whole for what in wrong.values())
            hints = ['text_errors=skip leaves them out'] * is_some + \
                ['text_errors=replace puts U+FFFD in place of invalid UTF-8'] * any('is not UTF-8' in what.what
                                                                                   for what in wrong.values()) + \
                ['text_format=plain takes .json as it is'] * any(text_suffix(path) == '.json' for path, _ in wrong)
            raise UserError('. '.join([_named(wrong).rstrip('.'), ', '.join(hints)] if hints else [_named(wrong)]))
        if not with_text:
            raise UserError('there is no text: ' + (_named(wrong) if wrong else 'no file to read'))
        if wrong:
            self.say(f'Left out: {_named(wrong)}')
        if self._n_blank:
            self.say('1 row without text is left out' if self._n_blank == 1 else
                     f'{self._n_blank:,} rows without text are left out')
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


def _named(wrong: dict[tuple[Path, int], Wrong]) -> str:
    # The lines of a file with which the same is wrong are named once
    lines = collections.defaultdict(list)
    for (path, line), what in wrong.items():
        lines[path, what.what].append(line)
    named = [f'{path}{f", line {of_file[0]:,}," if of_file[0] else ""} {what}'
             + (f' ({len(of_file) - 1:,} more lines are like this)' if len(of_file) > 1 else '')
             for (path, what), of_file in itertools.islice(lines.items(), _MAX_NAMED)]
    count = f'{len(wrong):,} files or lines are not text: ' if len(wrong) > 1 else ''
    n_more = sum(map(len, itertools.islice(lines.values(), _MAX_NAMED, None)))
    return count + '; '.join(named) + (f' and {n_more:,} more' if n_more else '')
