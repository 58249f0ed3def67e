"""
# Labelled rows in files, for benchmarks

A data set is a folder: `train.jsonl`, `held_out.jsonl`, and subsets of the former, `train_50_seed1.jsonl` and so on.
What is held out and what a subset has follows from SHA-256 of the rows alone, not from their order or a generator.
"""
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SIZES = 50, 200, 1000
SEEDS = 1, 2, 3
# One row of so many is held out
_HELD_OUT = 5

Row = dict[str, Any]


def digest(text: str) -> int:
    """SHA-256 of a text in UTF-8, as a number."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def is_held_out(text: str) -> bool:
    """Is a text in the fifth that nothing is trained on?"""
    return digest(text) % _HELD_OUT == 0


def subset(rows: Sequence[Row], n: int, *, seed: int, field: str = 'label') -> list[Row]:
    """
    `n` rows in random order; those of a smaller subset with the same seed begin it.

    The first ones are those that bring a label, so that each is there even where `n` is small.
    """
    shuffled = sorted(rows, key=lambda row: digest(f'{seed} {json.dumps(row)}'))
    seen: set[str] = set()
    first, others = [], []
    for row in shuffled:
        labels = {row[field]} if isinstance(row[field], str) else set(row[field])
        (others if labels <= seen else first).append(row)
        seen |= labels
    return (first + others)[:n]


def write_data_set(folder: Path, train: Sequence[Row], held_out: Sequence[Row], *, field: str = 'label'):
    """Writes all files of a data set; subsets only if they are smaller than the whole."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / 'train.jsonl', train)
    write_rows(folder / 'held_out.jsonl', held_out)
    for n in (n for n in SIZES if n < len(train)):
        for seed in SEEDS:
            write_rows(train_path(folder, n, seed), subset(train, n, seed=seed, field=field))


def train_path(folder: Path, n: int | None, seed: int) -> Path:
    """The file of a subset; `None` is all rows."""
    return folder / ('train.jsonl' if n is None else f'train_{n}_seed{seed}.jsonl')


def write_rows(path: Path, rows: Iterable[Row]):
    """JSON lines in UTF-8."""
    path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows), encoding='utf-8')


def read_rows(path: Path) -> list[Row]:
    """The rows of JSON lines. Only `\\n` ends a line."""
    return [json.loads(line) for line in path.read_text(encoding='utf-8').split('\n') if line]
