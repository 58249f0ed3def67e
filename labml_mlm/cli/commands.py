"""
# The commands of `labml-mlm`

Each takes the arguments that `main` has parsed. Modules that take long to import are imported where they are needed.
"""
import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from labml_mlm.common.errors import UserError
from labml_mlm.common.labml_compat import give_home
from labml_mlm.common.project import app_url, logs_path
from labml_mlm.common.table import print_table
from labml_mlm.common.untrusted import to_json
from labml_mlm.runs.log_lines import Skipped, say_skipped
from labml_mlm.runs.run import Run, find_run
from labml_mlm.runs.run import list_runs as runs_in
from labml_mlm.runs.samples_log import Sample, ValidationSamples, as_dict
from labml_mlm.runs.text_name import names_of, text_name, valid_text_name
from labml_mlm.screen import console
from labml_mlm.screen.sample_lines import sample_lines
from labml_mlm.tracking.client import Undelivered
from labml_mlm.tracking.sync import sync as sync_run

# Columns of the name of a text
_TEXT_WIDTH = 30
# Lines of standard input that are read together
_LINES = 256
# Columns of a sample, if the terminal has no more
_NARROWEST = 20


def list_runs(parsed: argparse.Namespace):
    """The runs of a project."""
    runs = runs_in(logs_path(parsed.path))
    found = [_describe(run) for run in runs]
    for run, about in zip(runs, found, strict=True):
        say_skipped(+Skipped({run.log: about['damaged_lines']}))
    if parsed.json:
        print(to_json(found))
        return
    if not found:
        print(f'There is no run in {logs_path(parsed.path)} yet')
        return
    rows = [['uuid', 'name', 'started', 'step', 'loss.valid', 'accuracy.valid', 'status', 'text']]
    for run in found:
        rows.append([run['uuid'], run['name'], time.strftime('%Y-%m-%d %H:%M', time.localtime(run['started'])),
                     *(_number(run[name]) for name in ('step', 'loss.valid', 'accuracy.valid')), run['status'],
                     _shortened(run['text'] or '-')])
    print_table(rows, numbers=range(3, 6))


def _describe(run: Run) -> dict:
    summary = run.summary()
    return {'uuid': run.uuid, 'name': run.experiment, 'started': run.started, 'step': summary.step,
            'loss.valid': summary.loss, 'accuracy.valid': summary.accuracy, 'status': run.status,
            'text': text_name(run.snapshot) if run.snapshot else None, 'path': str(run.path),
            'damaged_lines': summary.n_damaged}


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT_WIDTH else f'{text[:_TEXT_WIDTH - 1]}…'


def samples(parsed: argparse.Namespace):
    """How the prompts of a run were filled in at each of its validations."""
    run, _ = find_run(logs_path(parsed.path), parsed.run)
    validations, n_damaged = run.samples.read_counted()
    say_skipped(+Skipped({run.samples.path: n_damaged}))
    if parsed.json:
        print(to_json([as_dict(validation) for validation in validations]))
        return
    if not validations:
        raise UserError(f'the run {run.uuid} has no samples: they come with each validation of a run with prompts')
    # A resumed run may have other prompts
    tables: dict[tuple, list[tuple[ValidationSamples, Sample]]] = {}
    for validation in validations:
        for sample in validation.samples:
            tables.setdefault((tuple(sample.tokens), tuple(sample.positions)), []).append((validation, sample))
    for i, of_prompt in enumerate(tables.values()):
        print(end='\n' if i else '')
        _print_samples(of_prompt)


def _print_samples(of_prompt: Sequence[tuple[ValidationSamples, Sample]]):
    """How one prompt was filled in at some validations."""
    rows = [['step', 'loss.valid', 'right']]
    for validation, sample in of_prompt:
        n_right = '-' if None in sample.is_right else f'{sum(sample.is_right)}/{len(sample.positions)}'
        rows.append([_number(validation.step), _number(validation.loss), n_right])
    samples_ = [sample for _, sample in of_prompt]
    # What is left beside these columns
    width = console.columns() - sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) - len('masked  ')
    masked, *filled, true = sample_lines(samples_[0].tokens, samples_[0].positions,
                                         [sample.filled for sample in samples_], width=max(width, _NARROWEST))
    labelled = [('masked', masked), *(('filled', line) for line in filled)]
    if None not in samples_[0].is_right:
        rows.append([''] * 3)
        labelled.append(('true', true))
    print_table([[*row, f'{label:8}' + ''.join(part.text for part in line)]
                 for row, (label, line) in zip(rows, labelled, strict=True)], numbers=range(3))


def plot(parsed: argparse.Namespace):
    """Loss and accuracy of runs as an image."""
    from labml_mlm.runs.plot import draw

    logs = logs_path(parsed.path)
    found = {run.uuid: run for run, _ in (find_run(logs, name) for name in parsed.run)}
    say_skipped(draw(list(found.values()), parsed.output))
    print(f'{parsed.output} has the curves of {", ".join(found)}')


def text(parsed: argparse.Namespace):
    """What is in a text, before one trains on it."""
    from labml_mlm.text_facts.command import text as show_text

    show_text(parsed)


def read_blocks() -> Iterator[list[str]]:
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
    """How well a model predicts a text, or labels."""
    from labml_mlm.cli.predict import evaluate_labels
    from labml_mlm.evaluation import evaluate as evaluation
    from labml_mlm.inference.fine_tuned import FineTuned
    from labml_mlm.inference.loading import load

    pretrained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {pretrained.about}', file=sys.stderr)
    saved = pretrained.checkpoint and valid_text_name(pretrained.checkpoint.metadata['configs'])
    if name := names_of(parsed.text) if parsed.text else saved:
        print(f'The text is {name}', file=sys.stderr)
    if isinstance(pretrained, FineTuned):
        if parsed.field is not None:
            raise UserError(f'--field {parsed.field}: a fine-tuned run reads the fields that it was trained with')
        evaluate_labels(pretrained, parsed)
        return
    if parsed.field is not None and not parsed.text:
        raise UserError(f'--field {parsed.field} is for --text FILE')
    if parsed.text:
        # Its tokens are needed until the end
        scratch = tempfile.TemporaryDirectory(prefix='labml_mlm-')
        batches = evaluation.read_batches(parsed.text, pretrained, Path(scratch.name), field=parsed.field,
                                          say=lambda note: print(f'Note: {note}', file=sys.stderr))
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

    counts, missing = None, ''
    try:
        counts = evaluation.training_counts(pretrained)
    except (UserError, OSError) as e:
        missing = str(e)
    result = evaluation.evaluate(pretrained, batches, is_pseudo=parsed.pseudo, counts=counts, progress=progress)
    if parsed.json:
        print(to_json(result.as_dict()))
        return
    print(f'{result.n_tokens:,} tokens, {result.n_masked:,} of them masked'
          + (f'; {result.n_unknown:,} are not in the vocabulary' if result.n_unknown else ''))
    print(f'{"":10}{"loss":>9}{"accuracy":>11}{"perplexity":>13}')
    print(f'{"model":10}{result.loss:9.4f}{result.accuracy:11.4f}{result.perplexity:13.3f}')
    for name, found in result.baselines.items():
        print(f'{name:10}{found.loss:9.4f}{found.accuracy:11.4f}{evaluation.perplexity(found.loss):13.3f}')
    if result.pairs_loss is not None:
        print(f'{"pairs":10}{result.pairs_loss:9.4f}{result.pairs_accuracy:11.4f}')
    if result.bits_per_character is not None:
        print(f'Bits per character {result.bits_per_character:.4f}')
    if result.is_of_this_text:
        print(f'The unigram has the frequencies of this text itself, as those of the training text are not known: '
              f'{missing}')
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
    with console.silent():
        message = give_home()
    if message is not None:
        print(message, file=sys.stderr)
    sent, errors = {}, []
    for run in found:
        try:
            n, note, damage = sync_run(run, url)
        except Undelivered as e:
            errors.append(f'the labml app at {url} has not taken the run {run.uuid}: {e}')
            if not e.is_refusal:
                break
            continue
        except (OSError, UserError) as e:
            errors.append(f'the run {run.uuid} cannot be sent: {e}')
            continue
        sent[run.uuid] = n
        if damage:
            errors.append(f'the run {run.uuid} is damaged, and the rest of it is sent: {damage}')
        if not parsed.json:
            print(f'{run.uuid}  {run.experiment}  ' + (f'{n:,} values sent' if n else 'nothing new')
                  + (f' ({note})' if note else ''), flush=True)
    if parsed.json:
        print(to_json(sent))
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
