"""
# Two tasks on Python's standard library

    python benchmarks/code_data.py FOLDER

Written into FOLDER, as in `labelled_files.py`, from the sources of the Python that runs this. With another version of
Python they are other ones (3.12 cuts f-strings into several tokens).

* `packages`: which package is a function from? `{"text", "label"}`; functions and methods of at least three lines, each
  text once. Docstrings are removed, and the name of each of the packages is replaced by `package` wherever it stands as
  a word, or as a part of an identifier between underscores. Left out are packages that this Python comes without, or of
  which there are too few functions.
* `tokens`: Python's own tokens as words, and the names of their types as labels: `{"tokens", "labels"}`, a row for each
  32 tokens or more, up to a line's end. Spaces, line ends and indentation are no words, so that a word is never empty.
* `characters`: the same from characters. Each character of a line is a word, without indentation and with the spaces
  behind it, as no word may be blank (`word_separator=` gives the line). Its label is `B-NAME` at the beginning of a
  token, `I-NAME` within it, and `O` at a backslash that continues a line. Lines that begin or end within a string are
  left out: nothing in them says so.
* `unlabelled_code`: for pre-training, all sources but those that are held out, as JSON lines.

A file's rows are either all for training or all held out. Of each package, files are held out in the order of SHA-256
of their names, until they have a fifth of its functions; of other files, those with one that is divisible by 5.
"""
import argparse
import ast
import io
import re
import sys
import sysconfig
import textwrap
import token as token_types
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from labelled_files import Row, digest, is_held_out, write_data_set, write_rows

from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import exit_on_error
from labml_mlm.data.sources import python_sources

PACKAGES = ('asyncio', 'concurrent', 'email', 'http', 'idlelib', 'importlib', 'lib2to3', 'logging', 'multiprocessing',
            'tkinter', 'unittest', 'urllib', 'wsgiref', 'xml', 'xmlrpc')
_NAMES = re.compile(rf'(?<![^\W_])({"|".join(PACKAGES)})(?![^\W_])', re.IGNORECASE)
_WITH_SPACES = re.compile(r'\S\s*')
_TESTS = {'test', 'tests', 'idle_test'}
_MIN_LINES = 3
_MIN_FUNCTIONS = 60
_MIN_TOKENS = 32
# Rows of tokens and of characters
_MAX_TRAIN, _MAX_HELD_OUT = 10_000, 2000


def sources() -> dict[str, str]:
    """The text of each file of the standard library without its tests, by its name below the library."""
    library = Path(sysconfig.get_path('stdlib'))
    found = {path.relative_to(library): path for path in python_sources()}
    return {name.as_posix(): path.read_text(encoding='utf-8') for name, path in found.items()
            if not _TESTS & set(name.parts)}


def functions(source: str) -> list[str]:
    """The functions of a module and the methods of its classes, without docstrings and names of packages."""
    found = []
    for node in _definitions(ast.parse(source)):
        lines = source.split('\n')[node.lineno - 1:node.end_lineno]
        if ast.get_docstring(node) is not None:
            doc = node.body[0]
            if doc.lineno == node.lineno:
                continue
            del lines[doc.lineno - node.lineno:doc.end_lineno - node.lineno + 1]
        if len([line for line in lines if line.strip()]) >= _MIN_LINES:
            found.append(_NAMES.sub('package', textwrap.dedent('\n'.join(lines))))
    return found


def _definitions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All but functions within functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from _definitions(child)


def package_rows(files: dict[str, str]) -> tuple[list[Row], list[Row], set[str]]:
    """Rows for training, rows that are held out, and the names of the files that are held out."""
    by_package: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for name, source in files.items():
        if (package := name.partition('/')[0]) in PACKAGES:
            by_package[package][name] = functions(source)
    train, held_out, names = [], [], set()
    for package, by_file in by_package.items():
        n = sum(map(len, by_file.values()))
        with_functions = [name for name in sorted(by_file, key=digest) if by_file[name]]
        if n < _MIN_FUNCTIONS or len(with_functions) < 2:
            continue
        n_held = 0
        for name in with_functions:
            rows = [{'text': text, 'label': package} for text in by_file[name]]
            # The file that would be most of the package is for training
            if n_held < n / 5 and n_held + len(rows) <= n / 2:
                n_held += len(rows)
                names.add(name)
                held_out += rows
            else:
                train += rows
    known = {row['text'] for row in train}
    return _each_once(train), [row for row in _each_once(held_out) if row['text'] not in known], names


def _each_once(rows: list[Row]) -> list[Row]:
    """Without texts that more than one package has, or one package has twice."""
    labels = defaultdict(set)
    for row in rows:
        labels[row['text']].add(row['label'])
    return list({row['text']: row for row in rows if len(labels[row['text']]) == 1}.values())


def token_rows(source: str) -> list[Row]:
    """Tokens and the names of their types, some lines of source a row."""
    rows, words, labels = [], [], []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string.strip():
            words.append(token.string)
            labels.append(token_types.tok_name[token.type])
        elif token.type in (token_types.NEWLINE, token_types.NL) and len(words) >= _MIN_TOKENS:
            rows.append({'tokens': words, 'labels': labels})
            words, labels = [], []
    return [*rows, *([{'tokens': words, 'labels': labels}] if words else [])]


def character_rows(source: str) -> list[Row]:
    """Characters, and the tokens that they belong to, a line of source a row."""
    # Only these are line ends to Python; a form feed is none
    lines = io.StringIO(source).readlines()
    labels = [['O'] * len(line) for line in lines]
    left_out: set[int] = set()
    for token in tokenize.generate_tokens(iter([*lines, '']).__next__):
        (row, begin), (last_row, end) = token.start, token.end
        if row != last_row:
            left_out.update(range(row, last_row + 1))
        elif token.string.strip():
            name = token_types.tok_name[token.type]
            labels[row - 1][begin:end] = [f'B-{name}', *[f'I-{name}'] * (end - begin - 1)]
    rows = []
    for row, line in enumerate(lines):
        begin, end = len(line) - len(line.lstrip()), len(line.rstrip())
        if begin < end and row + 1 not in left_out:
            words = [*_WITH_SPACES.finditer(line[begin:end])]
            rows.append({'tokens': [word[0] for word in words],
                         'labels': [labels[row][begin + word.start()] for word in words]})
    return rows


def prepare(folder: Path):
    """Writes all files, and prints how much there is of what."""
    files = sources()
    train, held_out, names = package_rows(files)
    if not train:
        raise UserError('this Python comes without the sources of its packages')
    names |= {name for name in files if name.partition('/')[0] not in PACKAGES and is_held_out(name)}
    write_data_set(folder / 'packages', train, held_out)
    print(f'packages: {len(train):,} functions for training, {len(held_out):,} held out; '
          f'{", ".join(sorted({row["label"] for row in train}))}')
    for task, rows_of in (('tokens', token_rows), ('characters', character_rows)):
        train, held_out = ({str(row['tokens']): row for name, source in files.items() if (name in names) == is_held
                            for row in rows_of(source)} for is_held in (False, True))
        held_out = [row for text, row in held_out.items() if text not in train]
        train, held_out = _some(list(train.values()), _MAX_TRAIN), _some(held_out, _MAX_HELD_OUT)
        write_data_set(folder / task, train, held_out, field='labels')
        print(f'{task}: {len(train):,} rows for training, {len(held_out):,} held out')
    (folder / 'unlabelled_code').mkdir(exist_ok=True)
    write_rows(folder / 'unlabelled_code' / 'sources.jsonl',
               ({'text': source} for name, source in files.items() if name not in names))
    print(f'{len(files):,} files, {len(names):,} of them held out; Python {sys.version.split()[0]}')


def _some(rows: list[Row], at_most: int) -> list[Row]:
    """So many rows from all of them, at equal distances."""
    return rows[::max(1, -(-len(rows) // at_most))]


def main():
    """Prepares a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path, metavar='FOLDER')
    prepare(parser.parse_args().folder)


if __name__ == '__main__':
    with exit_on_error():
        main()
