"""
# `labml-mlm fill-mask`

Texts come as arguments, as lines of standard input, or from a person at a prompt. An argument that cannot be filled in
ends the command before it prints anything. A line is told by its number, and the rest goes on.
"""
import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from labml_mlm.cli.commands import read_blocks
from labml_mlm.cli.fillings import print_candidates, print_predictions, print_together
from labml_mlm.common.errors import UserError
from labml_mlm.common.untrusted import to_json

if TYPE_CHECKING:
    from labml_mlm.inference.masks import MaskedText, Masks

_TOP = 5
_PROMPT = '> '
# A mask where the run should be
_MASK = re.compile(r'\[mask\]|<mask>', re.IGNORECASE)


def fill_mask(parsed: argparse.Namespace):
    """Texts with every mask filled in."""
    _check(parsed)
    from labml_mlm.inference.loading import load
    from labml_mlm.inference.masks import Masks

    trained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {trained.about}', file=sys.stderr)
    masks = Masks(trained)
    filler = _Filler(parsed, masks)
    if parsed.text:
        _fill_arguments(filler, parsed.text)
    elif sys.stdin is not None and sys.stdin.isatty():
        print(f'A text with {" or ".join(masks.names)} in it; Ctrl-D ends', file=sys.stderr)
        for line in _typed():
            if (error := filler.add(line)) is not None:
                print(error, file=sys.stderr)
            filler.print()
    else:
        _fill_lines(filler)


def _check(parsed: argparse.Namespace):
    """Raises `UserError` for options that do not go together, and if the run is missing."""
    if _MASK.search(parsed.run):
        raise UserError(f'the run comes before the text: labml-mlm fill-mask RUN {parsed.run!r}')
    if parsed.candidates and parsed.joint:
        raise UserError('--candidates compares words for one mask, and --joint fills in several: leave one of them out')
    if parsed.beam and not parsed.joint:
        raise UserError('--beam is for --joint')
    if parsed.top and parsed.candidates:
        raise UserError('--top is for predictions, and --candidates prints all that are given: leave it out')


def _fill_arguments(filler: '_Filler', texts: Sequence[str]):
    for text in texts:
        if (error := filler.add(text)) is not None:
            is_word = len(texts) > 1 and not _MASK.search(text)
            raise UserError(f'{error}{": put a text with spaces in quotes" * is_word}')
    filler.print()


def _fill_lines(filler: '_Filler'):
    n = n_refused = 0
    for lines in read_blocks():
        for line in lines:
            n += 1
            if (error := filler.add(line, place=f'line {n:,}: ')) is not None:
                n_refused += 1
                print(f'line {n:,}: {error}', file=sys.stderr)
        filler.print()
    if not n:
        raise UserError('there is no text: give one with [MASK] in it, or lines of such texts on standard input')
    if n_refused:
        raise UserError(f'{n_refused:,} of {n:,} lines could not be filled in')


def _typed() -> Iterator[str]:
    """Lines that a person types at a prompt."""
    with contextlib.suppress(ImportError):
        # With this, lines can be edited, and there is a history
        import readline  # noqa: F401
    # Output may go to a file
    is_shown = sys.stdout.isatty()
    while True:
        if not is_shown:
            print(_PROMPT, end='', file=sys.stderr, flush=True)
        try:
            yield input(_PROMPT if is_shown else '')
        except EOFError:
            print(file=sys.stderr)
            return
        except UnicodeDecodeError as e:
            print(f'this is not {e.encoding.upper()}', file=sys.stderr)


class _Filler:
    """
    Fills in some texts at a time in the way that was asked for, and prints them in their order.

    * `parsed` are the arguments
    """

    def __init__(self, parsed: argparse.Namespace, masks: 'Masks'):
        from labml_mlm.inference.candidates import Candidates
        from labml_mlm.inference.fill_mask import Separately
        from labml_mlm.inference.joint import BEAM, Together

        if parsed.candidates:
            self._way, self._print = Candidates(masks, _candidates(parsed.candidates)), print_candidates
        elif parsed.joint:
            self._way = Together(masks, top=parsed.top or _TOP, beam=parsed.beam or BEAM)
            self._print = print_together
        else:
            self._way, self._print = Separately(masks, top=parsed.top or _TOP), print_predictions
        self._masks = masks
        self._is_json = parsed.json
        # Texts, each with what is to be filled in, or `None`
        self._waiting: list[tuple[str, Any]] = []
        self._longest = masks.pretrained.configs.seq_len

    def add(self, text: str, *, place: str = '') -> UserError | None:
        """Takes one more text; returns what is wrong with it. `place` begins notes on it."""
        try:
            if not text.strip():
                raise UserError(f'it is blank: give a text with {" or ".join(self._masks.names)} in it')
            masked = self._masks.read(text)
            self._waiting.append((text, self._way.prepare(masked)))
        except UserError as e:
            self._waiting.append((text, None))
            return e
        self._note(masked, place)
        return None

    def print(self):
        """Prints those that came since the last time; in JSON, `null` for what was wrong."""
        filled = iter(self._way.fill([prepared for _, prepared in self._waiting if prepared is not None]))
        for text, prepared in self._waiting:
            answer = None if prepared is None else next(filled)
            if self._is_json:
                print(to_json({'text': text, 'filled': None} if answer is None else _as_json(answer)))
            elif answer is not None:
                self._print(answer)
        self._waiting = []
        sys.stdout.flush()

    def _note(self, masked: 'MaskedText', place: str):
        from labml_mlm.inference.fill_mask import unknown_text

        if masked.unknown:
            print(f'Note: {place}{unknown_text(self._masks.pretrained, masked.unknown)}', file=sys.stderr)
        if len(masked.ids) > 2 * self._longest:
            print(f'Note: a text has {len(masked.ids):,} tokens, and the model was trained on {self._longest:,} at a '
                  'time: it predicts worse in long texts', file=sys.stderr)
            self._longest = float('inf')


def _candidates(given: Sequence[str]) -> list[str]:
    """One option has candidates with commas between them; of several, each is one candidate, as it is."""
    return [candidate.strip(' ') for candidate in given[0].split(',')] if len(given) == 1 else list(given)


def _as_json(answer: Any) -> Any:
    """Named tuples as dictionaries."""
    if isinstance(answer, tuple) and hasattr(answer, '_asdict'):
        return {name: _as_json(value) for name, value in answer._asdict().items()}
    return [_as_json(value) for value in answer] if isinstance(answer, list | tuple) else answer
