"""
# `labml-mlm predict`, and `labml-mlm evaluate` of fine-tuned runs

Texts are read, labelled and printed in blocks, so that a file may be of any size, and another program may use the first
answers while later texts are still to come. Each text has its line in the output, so that both can be put side by side.
"""
import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labml_mlm.cli.commands import read_blocks
from labml_mlm.common.errors import UserError
from labml_mlm.common.table import print_table
from labml_mlm.common.untrusted import to_json

if TYPE_CHECKING:
    from labml_mlm.inference.fine_tuned import FineTuned, Predicted
    from labml_mlm.labelled.rows import Row
    from labml_mlm.labelled.tagged import TaggedRow

STDIN = '-'
# Rows of a file that are labelled together
_ROWS = 1024
_PLAIN = '.txt'
# Numbers of lines that a message has
_MAX_NAMED = 5


def predict(parsed: argparse.Namespace):
    """The labels of texts as JSON lines."""
    from labml_mlm.inference.fine_tuned import FineTuned
    from labml_mlm.inference.loading import load

    trained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    if not isinstance(trained, FineTuned):
        raise UserError(f'{trained.about} predicts masked tokens, and no labels: fine-tune it first, with '
                        'init_from and labelled texts')
    print(f'Using {trained.about}', file=sys.stderr)
    result = _Predictions(trained)
    for rows in _read(trained, parsed):
        result.print(rows)
    if not result.n_texts:
        raise UserError(f'there is no text in {"standard input" if parsed.file == STDIN else parsed.file}')
    for message in result.messages():
        print(f'Note: {message}', file=sys.stderr)


class _Predictions:
    """
    ## Prints predictions, and counts what they could not take into account
    """

    def __init__(self, trained: 'FineTuned'):
        self.trained = trained
        self.n_texts = self.n_cut = self.n_words_lost = self.n_unknown = self.n_null = 0
        self._null_lines: list[int] = []

    def print(self, rows: list[Any]):
        """Prints a line for each of some rows."""
        from labml_mlm.labelled.rows import Rows
        from labml_mlm.labelled.tagged import Tagged

        is_tagger = self.trained.kind == 'tags'
        kept = [i for i, row in enumerate(rows) if (row.words if is_tagger else not row.is_blank)]
        found, counts = self.trained.predict_possible((Tagged if is_tagger else Rows)([rows[i] for i in kept], 0, ''))
        predicted = dict(zip(kept, found, strict=True))
        for i, row in enumerate(rows):
            answer = predicted.get(i)
            if answer is None:
                self.n_null += 1
                if self.n_null <= _MAX_NAMED:
                    self._null_lines.append(row.line)
            print(to_json(_as_json(self.trained.kind, row, answer), ensure_ascii=False))
        sys.stdout.flush()
        self.n_texts += len(rows)
        if counts is not None:
            self.n_cut += counts.n_cut
            self.n_words_lost += counts.n_words_lost
            self.n_unknown += counts.n_unknown

    def messages(self) -> Iterator[str]:
        """A sentence for each thing that was not as it should be."""
        if self.n_cut:
            yield (f'{self.n_cut:,} of {self.n_texts:,} texts are longer than {self.trained.configs.seq_len} tokens: '
                   'their ends were cut off')
        if self.n_words_lost:
            yield f'{self.n_words_lost:,} words were cut off, or have no token: their labels are null'
        if self.n_null:
            lines = ', '.join(f'{line:,}' for line in self._null_lines) + ', …' * (self.n_null > _MAX_NAMED)
            yield f'{self.n_null:,} of {self.n_texts:,} have no text, and null in place of labels: line {lines}'
        if self.n_unknown:
            yield f'{self.n_unknown:,} tokens are unknown to the tokenizer'


def _as_json(kind: str, row: 'Row | TaggedRow', predicted: 'Predicted | None') -> dict[str, Any]:
    """What is printed for a row; with `null` if it has no text."""
    if kind == 'tags':
        labels, probabilities = predicted or ([None] * len(row.words), [None] * len(row.words))
        return {'words': row.words, 'labels': labels,
                'probabilities': [p if p is None else _rounded(p) for p in probabilities]}
    label, probabilities = predicted or (None, None)
    if kind == 'number':
        return {'value': label if label is None else _rounded(label)}
    probabilities = probabilities and {name: _rounded(p) for name, p in probabilities.items()}
    return {'labels' if kind == 'multiple' else 'label': label, 'probabilities': probabilities}


def _rounded(value: float) -> float:
    """To the digits that fp32 has."""
    return float(f'{value:.7g}')


def _read(trained: 'FineTuned', parsed: argparse.Namespace) -> Iterator[list[Any]]:
    """The rows of the input, some at a time. Raises `UserError` for a file of another kind than the run has."""
    from labml_mlm.labelled.rows import ROW_SUFFIXES, Row, stream_rows
    from labml_mlm.labelled.tagged import TAGGED_SUFFIXES, TaggedRow, stream_tagged
    from labml_mlm.reading.files import text_suffix
    from labml_mlm.reading.lines import check_suffix, read_lines
    from labml_mlm.reading.rows import JSON_SUFFIXES

    conf, path, is_tagger = trained.configs, Path(parsed.file), trained.kind == 'tags'
    field, pair_field = parsed.field or conf.text_field, ''
    suffix = '' if parsed.file == STDIN else text_suffix(path)
    if trained.is_of_pairs:
        pair_field = parsed.pair_field or conf.pair_field
        if not suffix:
            raise UserError('the run was trained on pairs of texts: give a file of JSON lines, or a table')
    elif parsed.pair_field:
        raise UserError(f'--pair-field={parsed.pair_field}: the run was not trained on pairs of texts')
    if parsed.field and suffix not in (JSON_SUFFIXES if is_tagger else ROW_SUFFIXES):
        raise UserError(f'--field={parsed.field} is for JSON lines{"" if is_tagger else ", and for tables"}')
    if parsed.file == STDIN:
        number = itertools.count(1)
        return ([TaggedRow(line.split(), [], next(number)) if is_tagger else Row(line, None, line=next(number))
                 for line in lines] for lines in read_blocks())
    if is_tagger:
        check_suffix(path, TAGGED_SUFFIXES, what='words')
        return _blocks(stream_tagged(path, text_field=field, label_field=None))
    check_suffix(path, ROW_SUFFIXES if trained.is_of_pairs else (_PLAIN, *ROW_SUFFIXES),
                 what='pairs of texts' if trained.is_of_pairs else 'texts')
    if suffix == _PLAIN:
        return _blocks(Row(line.rstrip('\r\n'), None, line=number) for number, line in read_lines(path))
    return _blocks(stream_rows(path, text_field=field, label_field=None, pair_field=pair_field))


def _blocks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Some at a time; those before an error come before it."""
    rows, error = iter(rows), None
    while error is None:
        block: list[Any] = []
        try:
            for row in itertools.islice(rows, _ROWS):
                block.append(row)
        except UserError as e:
            error = e
        if block:
            yield block
        elif error is None:
            return
    raise error


def evaluate_labels(trained: 'FineTuned', parsed: argparse.Namespace):
    """The metrics of a fine-tuned model on its rows for validation, or on files with labels."""
    if parsed.pseudo:
        raise UserError('--pseudo is for models that predict masked tokens, and this one predicts labels')
    if len(parsed.text or []) > 1:
        raise UserError('a fine-tuned run is evaluated on one file with labels: give --text once')
    if parsed.text:
        batches = trained.labelled_batches(Path(parsed.text[0]))
    else:
        try:
            batches = trained.validation_batches()
        except UserError as e:
            raise UserError(f'{e}. --text FILE evaluates on another file with labels') from None
    for message in batches.windows.counts.messages():
        print(f'Note: {message}', file=sys.stderr)
    figures = trained.figures(batches)
    if parsed.json:
        # JSON has no NaN
        known = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        print(to_json({'n_texts': len(batches.windows), **known}))
        return
    print(f'{len(batches.windows):,} texts')
    print_table([[name, f'{value:.4f}'] for name, value in figures.items()], numbers=[1])
