"""
# Guesses of a text, measured once

The result is kept beside the tokens of the text, under a hash of all that it depends on.
"""
import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from labml_mlm.baselines.counts import Counts, sampled
from labml_mlm.baselines.guesses import Guess, guess
from labml_mlm.baselines.masked import Masked
from labml_mlm.common.files import write_atomically
from labml_mlm.common.untrusted import is_number, json_of, to_json

# Of the guesses; another version measures them again
_VERSION = 1


def measure(tokens: Tensor, masked: Masked, *, is_maskable: np.ndarray, folder: Path | None = None) -> dict[str, Guess]:
    """
    What guesses that know a text reach on masked tokens, by name.

    * `tokens` are those of the text, `[n]`, of any integer type
    * `is_maskable` says which tokens may have to be guessed, `[n_tokens]`
    * `folder` is where the result is kept, if it is
    """
    parts = sampled(tokens)
    if folder is None:
        return guess(Counts(parts, is_maskable=is_maskable), masked)
    path = folder / f'{_key(parts, masked, is_maskable)}.baselines.json'
    with contextlib.suppress(TypeError, AttributeError):
        return from_json(json_of(path))
    found = guess(Counts(parts, is_maskable=is_maskable), masked)
    # The run does not depend on it
    with contextlib.suppress(OSError):
        write_atomically(path, to_json(as_json(found)).encode())
    return found


def as_json(guesses: Mapping[str, Guess]) -> dict[str, dict[str, float]]:
    """Guesses for JSON."""
    return {name: found._asdict() for name, found in guesses.items()}


def from_json(guesses: Mapping[str, Mapping[str, float]]) -> dict[str, Guess]:
    """Guesses from what `as_json` gave. Raises `TypeError` or `AttributeError` for anything else."""
    read = {name: Guess(**found) for name, found in guesses.items()}
    if not all(is_number(value) for found in read.values() for value in found):
        raise TypeError('a guess is of numbers')
    return read


def _key(parts: list[np.ndarray], masked: Masked, is_maskable: np.ndarray) -> str:
    digest = hashlib.sha256(str(_VERSION).encode())
    for part in (*parts, *masked, is_maskable):
        digest.update(f'{part.dtype} {len(part)}'.encode())
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()[:32]
