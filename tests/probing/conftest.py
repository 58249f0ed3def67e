import json
from pathlib import Path

import numpy as np
import pytest

_WORDS = ['quick', 'brown', 'lazy', 'dog', 'over', 'the', 'jumps']


def sentences(n, *, seed=0):
    """Different sentences, half of them with `fox` in them."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        words = list(rng.choice(_WORDS, 6))
        words.insert(rng.integers(7), 'fox' if i % 2 else 'hen')
        yield ' '.join(words), 'fox' if i % 2 else 'none'


def write_rows(path, rows):
    """Labelled texts as JSON lines."""
    path.write_text(''.join(json.dumps({'text': text, 'label': label}) + '\n' for text, label in rows))
    return path


@pytest.fixture(scope='session')
def labelled(tmp_path_factory) -> Path:
    """A file of labelled texts."""
    return write_rows(tmp_path_factory.mktemp('labelled') / 'rows.jsonl', sentences(120))
