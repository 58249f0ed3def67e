"""
# The samples of a run: `samples.jsonl` in its folder

A line for each validation, always with the same prompts and the same masks, to read how a model learns.
"""
import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.files import write_atomically

# In place of a token that is not known, in a prompt that has a mask in it
MASK_TEXT = '[MASK]'


class Sample(NamedTuple):
    """A prompt, and the model's predictions."""
    # The original tokens, `[seq_len]`, or `[MASK]`
    tokens: list[str]
    # The masked positions, `[n_masked]`
    positions: list[int]
    # The predictions there
    filled: list[str]
    # Are they right? Two tokens may look the same. `None` where the prompt itself has a mask
    is_right: list[bool | None]


class ValidationSamples(NamedTuple):
    """The samples of a validation."""
    # labml's global step: training tokens
    step: int
    # Of the whole validation set, if known
    loss: float | None
    accuracy: float | None
    samples: list[Sample]


class SamplesLog:
    """
    ## Samples of a run in a file

    A line is `{"step": …, "loss": …, "accuracy": …, "samples": [{"tokens": […], "places": […], "filled": […],
    "is_right": […]}, …]}`.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[ValidationSamples]:
        """All validations, by ascending step. Damaged lines are left out."""
        validations = []
        with contextlib.suppress(FileNotFoundError), open(self.path, encoding='utf-8', errors='replace') as f:
            for line in f:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    validations.append(_from_json(json.loads(line)))
        return validations

    def add(self, validation: ValidationSamples):
        """Adds a validation, in place of those at its step and later. Raises `OSError` if it cannot be written."""
        self._write([*self._until(validation.step - 1), validation])

    def truncate(self, step: int):
        """Removes what came after `step`, for a run that resumes there, and leftovers of a kill."""
        for path in self.path.parent.glob(f'.{self.path.name}.*'):
            path.unlink()
        kept = self._until(step)
        if len(kept) < len(self.read()):
            self._write(kept)

    def _until(self, step: int) -> list[ValidationSamples]:
        return [validation for validation in self.read() if validation.step <= step]

    def _write(self, validations: Sequence[ValidationSamples]):
        lines = [json.dumps(as_dict(validation), ensure_ascii=False) + '\n' for validation in validations]
        write_atomically(self.path, ''.join(lines).encode(errors='replace'))


def as_dict(validation: ValidationSamples) -> dict[str, Any]:
    """For JSON, which has no NaN."""
    loss = validation.loss if validation.loss is None or math.isfinite(validation.loss) else None
    return {**validation._asdict(), 'loss': loss,
            'samples': [{'places' if name == 'positions' else name: value for name, value in sample._asdict().items()}
                        for sample in validation.samples]}


def printable(token: str) -> str:
    """A token on one line, with nothing in it that cannot be seen."""
    return ''.join('↵' if c == '\n' else c if c.isprintable() else '·' for c in token)


def _from_json(line: dict[str, Any]) -> ValidationSamples:
    samples = [Sample(sample['tokens'], sample['places'], sample['filled'], sample['is_right'])
               for sample in line['samples']]
    return ValidationSamples(line['step'], line['loss'], line['accuracy'], samples)
