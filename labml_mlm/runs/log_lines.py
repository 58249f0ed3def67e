"""
# The lines of a run's logs

`log.jsonl` and `samples.jsonl` may be damaged, or somebody else's: without a bound, a large file without a line end
would be read into memory as one line. What cannot be read is skipped, and said, by all commands in the same words.
"""
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from labml_mlm.common.files import open_ordinary

# Bytes of a line. One of metrics has the steps of up to a minute, one of samples all prompts
MAX_LINE = 2 ** 26

# How many lines were skipped, by the path of the file
Skipped = Counter[Path]


def bounded_lines(f: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """
    The lines of a file from where it stands, each with how many bytes it has; `None` in place of one that has more than
    `MAX_LINE`, which is never held as a whole. The last one may have no end.
    """
    while line := f.readline(MAX_LINE):
        n_bytes, part = len(line), line
        while len(part) == MAX_LINE and not part.endswith(b'\n'):
            line, part = None, f.readline(MAX_LINE)
            n_bytes += len(part)
        yield n_bytes, line


def whole_lines(path: Path) -> Iterator[bytes | None]:
    """
    The lines of a file that have an end; the last one may be one that is being written. `None` in place of one that is
    too long, with or without an end. None at all, if there is no ordinary file that can be read.
    """
    with contextlib.suppress(OSError), open_ordinary(path) as f:
        for _, line in bounded_lines(f):
            if line is None or line.endswith(b'\n'):
                yield line


def skipped(n: int, path: Path) -> str:
    """What is said of so many damaged lines of a file."""
    return f'{n:,} damaged line{"s" * (n > 1)} skipped in {path}'


def say_skipped(lines: Skipped):
    """Says on standard error what was skipped, a line for each file."""
    for path, n in lines.items():
        print(skipped(n, path), file=sys.stderr)
