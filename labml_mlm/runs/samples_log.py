"""
# How the prompts were filled in: `samples.jsonl` in the folder of a run

A line for each validation, with the same prompts and the same masks each time, so that one can read how a model learns.
"""

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.files import write_atomically


class Sample(NamedTuple):
    """A prompt, and what a model fills in."""
    # Its tokens as they were, `[seq_len]`
    tokens: list[str]
    # Which of them were masked, `[n_masked]`
    places: list[int]
    # What the model predicts there
    filled: list[str]
    # Whether that is right; two tokens may look the same
    is_right: list[bool]


class Validation(NamedTuple):
    """The samples of a validation."""
    # labml's global step: training tokens
    step: int
    # Of the whole validation text, if it is known
    loss: float | None
    accuracy: float | None
    samples: list[Sample]


class SampleFile:
    """
    ## Samples of a run in a file

    A line is `{"step": …, "loss": …, "accuracy": …, "samples": [{"tokens": […], "places": […], "filled": […],
    "is_right": […]}, …]}`.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[Validation]:
        """All of it, by steps ascending; lines that were damaged are left out."""
        validations = []
        with contextlib.suppress(FileNotFoundError), open(self.path, encoding='utf-8', errors='replace') as f:
            for line in f:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    validations.append(_from_json(json.loads(line)))
        return validations

    def add(self, validation: Validation):
        """One more, in place of what there is of its step and of later ones. Raises `OSError` if it cannot be kept."""
        self._write([*self._until(validation.step - 1), validation])

    def cut(self, step: int):
        """Leaves out what came after a step, as the run goes on from there, and what a kill has left of a file."""
        for path in self.path.parent.glob(f'.{self.path.name}.*'):
            path.unlink()
        kept = self._until(step)
        if len(kept) < len(self.read()):
            self._write(kept)

    def _until(self, step: int) -> list[Validation]:
        return [validation for validation in self.read() if validation.step <= step]

    def _write(self, validations: Sequence[Validation]):
        lines = [json.dumps(as_dict(validation), ensure_ascii=False) + '\n' for validation in validations]
        write_atomically(self.path, ''.join(lines).encode(errors='replace'))


def as_dict(validation: Validation) -> dict[str, Any]:
    """For JSON, which has no numbers that are none."""
    loss = validation.loss if validation.loss is None or math.isfinite(validation.loss) else None
    return {**validation._asdict(), 'loss': loss, 'samples': [sample._asdict() for sample in validation.samples]}


def visible(token: str) -> str:
    """A token in one line, with one column a character."""
    return ''.join('↵' if c == '\n' else c if c.isprintable() else '·' for c in token)


def _from_json(line: dict[str, Any]) -> Validation:
    return Validation(line['step'], line['loss'], line['accuracy'], [Sample(**sample) for sample in line['samples']])

