"""
# The commands of `labml-mlm`

Each takes the arguments that `main` has parsed. Modules that take long to import are imported where they are needed.
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
from labml_mlm.common.project import app_url, logs_path
from labml_mlm.runs.metrics_log import summarize
from labml_mlm.runs.run import Run, find_run
from labml_mlm.runs.run import list_runs as runs_in
from labml_mlm.runs.samples_log import Sample, as_dict, printable
from labml_mlm.tracking.client import Undelivered
from labml_mlm.tracking.sync import sync as sync_run

if TYPE_CHECKING:
    from labml_mlm.inference.fill_mask import Filled, FillMask

# Lines of standard input that are filled in together
_LINES = 256


def list_runs(parsed: argparse.Namespace):
    """The runs of a project."""
    found = [_describe(run) for run in runs_in(logs_path(parsed.path))]
    if parsed.json:
        print(json.dumps(found))
        return
    if not found:
        print(f'There is no run in {logs_path(parsed.path)} yet')
        return
    rows = [['uuid', 'name', 'started', 'step', 'loss.valid', 'accuracy.valid', 'status']]
    for run in found:
        rows.append([run['uuid'], run['name'], time.strftime('%Y-%m-%d %H:%M', time.localtime(run['started'])),
                     *(_number(run[name]) for name in ('step', 'loss.valid', 'accuracy.valid')), run['status']])
    _print_table(rows, numbers=range(3, 6))


def _print_table(rows: Sequence[Sequence[str]], *, numbers: Container[int]):
    """Columns of `numbers` are aligned to the right, texts to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) if i in numbers else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        print('  '.join(cells).rstrip())


def _describe(run: Run) -> dict:
    summary = summarize(run.log)
    return {'uuid': run.uuid, 'name': run.experiment, 'started': run.started, 'step': summary.step,
            'loss.valid': summary.loss, 'accuracy.valid': summary.accuracy, 'status': run.status,
            'path': str(run.path)}


def samples(parsed: argparse.Namespace):
    """How the prompts of a run were filled in at each of its validations."""
    run, _ = find_run(logs_path(parsed.path), parsed.run)
    validations = run.samples.read()
    if parsed.json:
        print(json.dumps([as_dict(validation) for validation in validations]))
        return
    if not validations:
        raise UserError(f'the run {run.uuid} has no samples: they come with each validation of a run with prompts')
    # A resumed run may have other prompts
    tables: dict[tuple, list[list[str]]] = {}
    for validation in validations:
        for sample in validation.samples:
            key = tuple(sample.tokens), tuple(sample.positions)
            if key not in tables:
                tables[key] = [['step', 'loss.valid', 'right', 'masked  ' + _shown(sample, is_filled=False)]]
            right = f'{sum(sample.is_right)}/{len(sample.positions)}'
            tables[key].append([_number(validation.step), _number(validation.loss), right,
                                'filled  ' + _shown(sample, is_filled=True)])
    for i, ((tokens, _), rows) in enumerate(tables.items()):
        print(end='\n' if i else '')
        _print_table([*rows, ['', '', '', 'text    ' + ''.join(map(printable, tokens))]], numbers=range(3))


def _shown(sample: Sample, *, is_filled: bool) -> str:
    """A sample in one line, filled in, or with `_` where it is masked."""
    words = list(map(printable, sample.tokens))
    for position, token in zip(sample.positions, sample.filled, strict=True):
        words[position] = printable(token) if is_filled else '_' * len(words[position])
    return ''.join(words)


def plot(parsed: argparse.Namespace):
    """Loss and accuracy of runs as an image."""
    from labml_mlm.runs.plot import draw

    logs = logs_path(parsed.path)
    found = {run.uuid: run for run, _ in (find_run(logs, name) for name in parsed.run)}
    draw(list(found.values()), parsed.output)
    print(f'{parsed.output} has the curves of {", ".join(found)}')


def fill_mask(parsed: argparse.Namespace):
    """Texts with every `[MASK]` filled in."""
    from labml_mlm.inference.fill_mask import MASK_TEXT, FillMask

    if len(parsed.text) > 1:
        raise UserError('the text must be one argument: put it in quotes')
    if MASK_TEXT in parsed.run:
        raise UserError(f'the run comes before the text: labml-mlm fill-mask RUN {parsed.run!r}')
    filler = FillMask.load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {filler.pretrained.about}', file=sys.stderr)
    trained_on = longest = filler.pretrained.configs.seq_len
    number = 0
    for texts in [parsed.text] if parsed.text else _read_lines():
        filled, error = _fill(filler, texts, parsed.top)
        for answer in filled:
            _print_filled(answer, is_json=parsed.json)
        sys.stdout.flush()
        number += len(filled)
        if error is not None:
            raise error if parsed.text else UserError(f'line {number + 1}: {error}')
        if (length := max(len(filler.ids(text)) for text in texts)) > 2 * longest:
            longest = float('inf')
            print(f'Note: a text has {length:,} tokens, and the model was trained on {trained_on} at a time: '
                  'it predicts worse in long texts', file=sys.stderr)
    if not number:
        raise UserError('there is no text: give one with [MASK] in it, or lines of such texts on standard input')


def _fill(filler: 'FillMask', texts: list[str], top: int) -> 'tuple[list[Filled], UserError | None]':
    """The texts filled in, up to the first invalid one, and its error."""
    for i, text in enumerate(texts):
        try:
            filler.ids(text)
        except UserError as e:
            return filler(texts[:i], top=top), e
    return filler(texts, top=top), None


def _print_filled(filled: 'Filled', *, is_json: bool):
    if is_json:
        print(json.dumps({'text': filled.text, 'filled': filled.filled,
                          'masks': [[prediction._asdict() for prediction in mask] for mask in filled.masks]}))
        return
    print(filled.filled)
    for mask in filled.masks:
        print('   ', *(f'{prediction.token!r} {prediction.probability:.3f}' for prediction in mask), sep='  ')


def _read_lines() -> Iterator[list[str]]:
    """Lines of standard input, some at a time; one by one where a person types them."""
    if sys.stdin is None:
        return
    if hasattr(sys.stdin, 'reconfigure'):
        sys.stdin.reconfigure(encoding='utf-8', errors='strict')
    n = 1 if sys.stdin.isatty() else _LINES
    try:
        while lines := list(itertools.islice(sys.stdin, n)):
            yield [line.rstrip('\r\n') for line in lines]
    except UnicodeDecodeError:
        raise UserError('standard input is not UTF-8') from None


def evaluate(parsed: argparse.Namespace):
    """How well a model predicts a text."""
    from labml_mlm.inference import evaluate as evaluation
    from labml_mlm.inference.pretrained import load

    pretrained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {pretrained.about}', file=sys.stderr)
    if parsed.text:
        # Its tokens are needed until the end
        scratch = tempfile.TemporaryDirectory(prefix='labml_mlm-')
        batches = evaluation.read_batches(parsed.text, pretrained, Path(scratch.name))
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
    logs = logs_path(parsed.path)
    url = app_url(parsed.path, parsed.url)
    if parsed.all and parsed.run:
        raise UserError('--all sends all runs: leave out the run')
    found = runs_in(logs) if parsed.all else [find_run(logs, parsed.run or 'last')[0]]
    sent, errors = {}, []
    for run in found:
        try:
            n = sent[run.uuid] = sync_run(run, url)
        except Undelivered as e:
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
