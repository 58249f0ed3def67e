"""
# What the commands of `labml-mlm` do

Each takes the arguments that `__main__` has parsed. What takes long to import is imported where it is needed.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labml_mlm.common.errors import UserError
from labml_mlm.common.labml_compat import app_url_of, logs_of
from labml_mlm.runs import metrics_log as log_file
from labml_mlm.runs import run as runs
from labml_mlm.runs import samples_log as sample_file
from labml_mlm.tracking import sync as delivery

if TYPE_CHECKING:
    from labml_mlm.inference.fill_mask import Filled, FillMask

# Lines of standard input that are filled in together
_LINES = 256


def list_runs(parsed: argparse.Namespace):
    """The runs of a project."""
    found = [_described(run) for run in runs.runs_in(logs_of(parsed.path))]
    if parsed.json:
        print(json.dumps(found))
        return
    if not found:
        print(f'There is no run in {logs_of(parsed.path)} yet')
        return
    rows = [['uuid', 'name', 'started', 'step', 'loss.valid', 'accuracy.valid', 'status']]
    for run in found:
        rows.append([run['uuid'], run['name'], time.strftime('%Y-%m-%d %H:%M', time.localtime(run['started'])),
                     *(_number(run[name]) for name in ('step', 'loss.valid', 'accuracy.valid')), run['status']])
    _print_table(rows, numbers=range(3, 6))


def _print_table(rows: Sequence[Sequence[str]], *, numbers: Container[int]):
    """Columns of `numbers` to the right, texts to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) if i in numbers else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        print('  '.join(cells).rstrip())


def _described(run: runs.Run) -> dict:
    summary = log_file.summary(run.log)
    return {'uuid': run.uuid, 'name': run.experiment, 'started': run.began, 'step': summary.step,
            'loss.valid': summary.loss, 'accuracy.valid': summary.accuracy, 'status': run.status,
            'path': str(run.path)}


def samples(parsed: argparse.Namespace):
    """How the prompts of a run were filled in at each of its validations."""
    run, _ = runs.find(logs_of(parsed.path), parsed.run)
    validations = run.samples.read()
    if parsed.json:
        print(json.dumps([sample_file.as_dict(validation) for validation in validations]))
        return
    if not validations:
        raise UserError(f'the run {run.uuid} has no samples: they come with each validation of a run with prompts')
    # A run that goes on may have other prompts
    tables: dict[tuple, list[list[str]]] = {}
    for validation in validations:
        for sample in validation.samples:
            key = tuple(sample.tokens), tuple(sample.places)
            if key not in tables:
                tables[key] = [['step', 'loss.valid', 'right', 'masked  ' + _shown(sample, is_filled=False)]]
            right = f'{sum(sample.is_right)}/{len(sample.places)}'
            tables[key].append([_number(validation.step), _number(validation.loss), right,
                                'filled  ' + _shown(sample, is_filled=True)])
    for i, ((tokens, _), rows) in enumerate(tables.items()):
        print(end='\n' if i else '')
        _print_table([*rows, ['', '', '', 'text    ' + ''.join(map(sample_file.visible, tokens))]], numbers=range(3))


def _shown(sample: sample_file.Sample, *, is_filled: bool) -> str:
    """A sample in one line, filled in, or with `_` where it is masked."""
    words = list(map(sample_file.visible, sample.tokens))
    for place, token in zip(sample.places, sample.filled, strict=True):
        words[place] = sample_file.visible(token) if is_filled else '_' * len(words[place])
    return ''.join(words)


def plot(parsed: argparse.Namespace):
    """Loss and accuracy of runs as an image."""
    from labml_mlm.cli import plot as curves

    logs = logs_of(parsed.path)
    found = {run.uuid: run for run, _ in (runs.find(logs, name) for name in parsed.run)}
    curves.draw(list(found.values()), parsed.output)
    print(f'{parsed.output} has the curves of {", ".join(found)}')


def fill_mask(parsed: argparse.Namespace):
    """Texts with every `[MASK]` filled in."""
    from labml_mlm.inference.fill_mask import MASK_TEXT, FillMask

    if len(parsed.text) > 1:
        raise UserError('the text has to be one argument: put it in quotes')
    if MASK_TEXT in parsed.run:
        raise UserError(f'the run comes before the text: labml-mlm fill-mask RUN {parsed.run!r}')
    answering = FillMask.load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {answering.pretrained.about}', file=sys.stderr)
    trained_on = longest = answering.pretrained.configs.seq_len
    number = 0
    for texts in [parsed.text] if parsed.text else _chunks():
        filled, error = _filled(answering, texts, parsed.top)
        for answer in filled:
            _print_filled(answer, is_json=parsed.json)
        sys.stdout.flush()
        number += len(filled)
        if error is not None:
            raise error if parsed.text else UserError(f'line {number + 1}: {error}')
        if (length := max(len(answering.ids(text)) for text in texts)) > 2 * longest:
            longest = float('inf')
            print(f'Note: a text has {length:,} tokens, and the model was trained on {trained_on} at a time: '
                  'it predicts worse in long texts', file=sys.stderr)
    if not number:
        raise UserError('there is no text: give one with [MASK] in it, or lines of such texts on standard input')


def _filled(fill_mask: 'FillMask', texts: list[str], top: int) -> 'tuple[list[Filled], UserError | None]':
    """The texts filled in, up to the first that cannot be, and why that is."""
    for i, text in enumerate(texts):
        try:
            fill_mask.ids(text)
        except UserError as e:
            return fill_mask(texts[:i], top=top), e
    return fill_mask(texts, top=top), None


def _print_filled(filled: 'Filled', *, is_json: bool):
    if is_json:
        print(json.dumps({'text': filled.text, 'filled': filled.filled,
                          'masks': [[prediction._asdict() for prediction in mask] for mask in filled.masks]}))
        return
    print(filled.filled)
    for mask in filled.masks:
        print('   ', *(f'{prediction.token!r} {prediction.probability:.3f}' for prediction in mask), sep='  ')


def _chunks() -> Iterator[list[str]]:
    """Lines of standard input, some at a time; each at once where a person types them."""
    if sys.stdin is None:
        return
    if hasattr(sys.stdin, 'reconfigure'):
        sys.stdin.reconfigure(encoding='utf-8', errors='strict')
    n = 1 if sys.stdin.isatty() else _LINES
    try:
        while lines := list(itertools.islice(sys.stdin, n)):
            yield [line.rstrip('\r\n') for line in lines]
    except UnicodeDecodeError:
        raise UserError('standard input is not UTF-8 text') from None


def evaluate(parsed: argparse.Namespace):
    """How well a model knows a text."""
    from labml_mlm.inference import evaluate as evaluation
    from labml_mlm.inference.load import load

    pretrained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {pretrained.about}', file=sys.stderr)
    if parsed.text:
        # Its tokens are needed for as long as this runs
        scratch = tempfile.TemporaryDirectory(prefix='labml_mlm-')
        batches = evaluation.batches_of(parsed.text, pretrained, Path(scratch.name))
    else:
        try:
            batches = pretrained.validation_batches()
        except UserError as e:
            raise UserError(f'{e}. --text FILE evaluates on another text') from None
    is_shown = sys.stderr.isatty() and hasattr(batches, '__len__')

    def progress(done: int):
        if is_shown:
            end = '\r' if done == len(batches) else ''
            print(f'\r{done / len(batches):6.1%}', end=end, file=sys.stderr, flush=True)

    result = evaluation.evaluate(pretrained, batches, is_pseudo=parsed.pseudo, progress=progress)
    if parsed.json:
        print(json.dumps(result._asdict()))
        return
    print(f'{result.n_tokens:,} tokens, {result.n_masked:,} of them masked'
          + (f'; {result.n_unknown:,} are not in the vocabulary' if result.n_unknown else ''))
    print(f'{"":9}{"loss":>9}{"accuracy":>11}{"perplexity":>13}')
    print(f'{"model":9}{result.loss:9.4f}{result.accuracy:11.4f}{result.perplexity:13.3f}')
    print(f'{"unigram":9}{result.unigram_loss:9.4f}{result.unigram_accuracy:11.4f}{result.unigram_perplexity:13.3f}')
    if result.pseudo_perplexity is not None:
        print(f'Pseudo-perplexity {result.pseudo_perplexity:.3f}')


def _number(value: float | None) -> str:
    if value is None:
        return '-'
    return f'{value:,}' if isinstance(value, int) else f'{value:.4f}'


def sync(parsed: argparse.Namespace):
    """Sends runs to a labml app."""
    logs = logs_of(parsed.path)
    url = app_url_of(parsed.path, parsed.url)
    if parsed.all and parsed.run:
        raise UserError('--all are all runs: no run is named beside it')
    found = runs.runs_in(logs) if parsed.all else [runs.find(logs, parsed.run or 'last')[0]]
    sent, errors = {}, []
    for run in found:
        try:
            n = sent[run.uuid] = delivery.sync(run, url)
        except delivery.Undelivered as e:
            errors.append(f'the labml app at {url} has not taken the run {run.uuid}: {e}')
            if not e.is_refusal:
                break
            continue
        if not parsed.json:
            print(f'{run.uuid}  {run.experiment}  ' + (f'{n:,} values sent' if n else 'nothing new'), flush=True)
    if parsed.json:
        print(json.dumps(sent))
    elif not found:
        print(f'There is no run in {logs} yet')
    if errors:
        raise OSError('\n'.join(errors))


def app(parsed: argparse.Namespace):
    """Serves the labml app."""
    try:
        from labml_mlm.app import server
    except ImportError as e:
        raise UserError(f"the labml app is not installed ({e}): pip install 'labml_mlm[app]'") from None
    server.serve(host=parsed.host, port=parsed.port, store=parsed.store, allowed_hosts=parsed.allow_host)

