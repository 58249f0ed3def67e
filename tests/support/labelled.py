"""Labelled texts for tests: short ones of few words, whose labels follow from their words."""
import json
import random
from pathlib import Path
from typing import Any

from support.published import WORDS


def texts(n: int, *, seed: int = 0) -> list[str]:
    """So many different texts of different lengths."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        found[' '.join(rng.choice(WORDS) for _ in range(rng.randint(2, 12)))] = None
    return list(found)


def animal(text: str) -> str:
    """One of two labels."""
    return 'fox' if 'fox' in text else 'none'


def several(text: str) -> list[str]:
    """Any of three."""
    return [word for word in ('dog', 'fox', 'lazy') if word in text]


def share(text: str) -> float:
    """A number."""
    return 3 + 2 * text.count('the') + len(text) / 64


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


def write_texts(path: Path, n: int, label: Any = animal, *, seed: int = 0) -> Path:
    """Texts and their labels."""
    return write_rows(path, [{'text': text, 'label': label(text)} for text in texts(n, seed=seed)])


def write_tagged(path: Path, n: int, *, seed: int = 0) -> Path:
    """Words in columns: `fox` begins an animal, and a `dog` behind it belongs to it."""
    lines = []
    for text in texts(n, seed=seed):
        words = text.split()
        for word, before in zip(words, ['', *words], strict=False):
            label = 'B-ANIMAL' if word == 'fox' else 'I-ANIMAL' if (before, word) == ('fox', 'dog') else 'O'
            lines.append(f'{word}\t{label}\n')
        lines.append('\n')
    path.write_text(''.join(lines))
    return path
