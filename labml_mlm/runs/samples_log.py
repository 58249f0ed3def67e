"""
# The samples of a run: `samples.jsonl` in its folder

A line for each validation, always with the same prompts and the same masks, to read how a model learns.
"""
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.files import open_ordinary, write_atomically
from labml_mlm.common.untrusted import is_integer, is_list_of, is_number, parse_json, to_json
from labml_mlm.runs.log_lines import bounded_lines

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
        return self.read_counted()[0]

    def read_counted(self) -> tuple[list[ValidationSamples], int]:
        """The same, and how many whole lines are damaged."""
        validations, n_damaged = [], 0
        with contextlib.suppress(OSError), open_ordinary(self.path) as f:
            for _, line in bounded_lines(f):
                validation = _from_json(line and parse_json(line.decode(errors='replace')))
                if validation is not None:
                    validations.append(validation)
                # The last line may be one that a program writes now
                n_damaged += validation is None and (line is None or line.endswith(b'\n'))
        return validations, n_damaged

    def add(self, validation: ValidationSamples):
        """Adds a validation, in place of those at its step and later. Raises `OSError` if it cannot be written."""
        self._write([*self._until(validation.step - 1), validation])

    def truncate(self, step: int):
        """Removes what came after `step`, for a run that resumes there, and leftovers of a kill. Raises `OSError`."""
        for path in self.path.parent.glob(f'.{self.path.name}.*'):
            path.unlink()
        # Readers take another kind of file for none; what is to be continued must be one
        with contextlib.suppress(FileNotFoundError):
            open_ordinary(self.path).close()
        kept = self._until(step)
        if len(kept) < len(self.read()):
            self._write(kept)

    def _until(self, step: int) -> list[ValidationSamples]:
        return [validation for validation in self.read() if validation.step <= step]

    def _write(self, validations: Sequence[ValidationSamples]):
        lines = [to_json(as_dict(validation), ensure_ascii=False) + '\n' for validation in validations]
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


def _from_json(line: Any) -> ValidationSamples | None:
    """A validation from what `as_dict` gave; `None` for anything else."""
    if not isinstance(line, dict) or not is_integer(line.get('step')) or not isinstance(line.get('samples'), list):
        return None
    figures = [line.get(name) for name in ('loss', 'accuracy')]
    if not all(figure is None or type(figure) is float or is_number(figure) for figure in figures) or not all(
            map(_is_sample, line['samples'])):
        return None
    samples = [Sample(sample['tokens'], sample['places'], sample['filled'], sample['is_right'])
               for sample in line['samples']]
    return ValidationSamples(line['step'], *figures, samples)


def _is_sample(sample: Any) -> bool:
    if not isinstance(sample, dict):
        return False
    tokens, places, filled = (sample.get(name) for name in ('tokens', 'places', 'filled'))
    right = sample.get('is_right')
    return (is_list_of(str, tokens) and is_list_of(int, places) and is_list_of(str, filled) and isinstance(right, list)
            and all(value is None or type(value) is bool for value in right)
            and len(places) == len(filled) == len(right) and all(0 <= place < len(tokens) for place in places))
