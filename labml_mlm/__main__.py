"""The command `labml-mlm`: what was trained, and what to do with it."""
import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labml_mlm import exits, log_file, runs
from labml_mlm.compat import logs_of
from labml_mlm.errors import UserError
from labml_mlm.tracking import forget_output

if TYPE_CHECKING:
    from labml_mlm.fill_mask import Filled, FillMask

_RUN = 'a run: its uuid or the beginning of it, its folder or that of a checkpoint, or `last` for the newest'
# Lines of standard input that are filled in together
_LINES = 256


def main(arguments: Sequence[str] | None = None):
    """
    Runs a command, from `arguments` or the command line.

    Exits with 2 and one message for what is wrong in the arguments or in a text, with 1 if the machine fails, with 130
    after Ctrl-C.
    """
    parsed = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            # A text in a terminal of another encoding is no reason to stop
            stream.reconfigure(errors='replace')
    forget_output()
    with exits.exits(is_user_code=False):
        try:
            parsed.command(parsed)
            sys.stdout.flush()
        except KeyboardInterrupt:
            exits.leave(130, 'Interrupted')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='labml-mlm', description='What was trained, and what to do with it.')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    def command(name: str, function, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(command=function)
        added.add_argument('--path', type=Path, default=Path(), metavar='FOLDER',
                           help='a folder in the labml project, in place of the current one')
        added.add_argument('--json', action='store_true', help='print JSON')
        return added

    command('runs', _runs, 'List the runs of the labml project that one stands in.')

    fill_mask = command('fill-mask', _fill_mask, 'Fill in every [MASK] of a text, or of each line of standard input.')
    fill_mask.add_argument('run', metavar='RUN', help=_RUN)
    fill_mask.add_argument('text', metavar='TEXT', nargs='*', help='a text with [MASK] in it; without one, lines of '
                                                                   'standard input')
    fill_mask.add_argument('--top', type=_at_least_1, default=5, metavar='N', help='predictions for each [MASK] (5)')

    evaluate = command('evaluate', _evaluate, 'Loss, masked accuracy and perplexity on a text, beside the unigram '
                                              'baseline.')
    evaluate.add_argument('run', metavar='RUN', help=_RUN)
    evaluate.add_argument('--text', action='append', metavar='FILE',
                          help='a text in UTF-8; may be given again. Without it, what the run was validated on')
    evaluate.add_argument('--pseudo', action='store_true', help='also pseudo-perplexity: each token masked in turn, '
                                                                'which takes as many times longer as seq_len says')
    for parser_ in (fill_mask, evaluate):
        parser_.add_argument('--checkpoint', default='best', metavar='WHICH',
                             help='`best` by validation loss (unless given), `last`, or a step')
    return parser


def _runs(parsed: argparse.Namespace):
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        # Numbers to the right, texts to the left
        cells = [cell.rjust(width) if 3 <= i <= 5 else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        print('  '.join(cells).rstrip())


def _described(run: runs.Run) -> dict:
    summary = log_file.summary(run.log)
    return {'uuid': run.uuid, 'name': run.experiment, 'started': run.began, 'step': summary.step,
            'loss.valid': summary.loss, 'accuracy.valid': summary.accuracy, 'status': run.status,
            'path': str(run.path)}


def _fill_mask(parsed: argparse.Namespace):
    from labml_mlm.fill_mask import MASK_TEXT, FillMask

    if len(parsed.text) > 1:
        raise UserError('the text has to be one argument: put it in quotes')
    if MASK_TEXT in parsed.run:
        raise UserError(f'the run comes before the text: labml-mlm fill-mask RUN {parsed.run!r}')
    fill_mask = FillMask.load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {fill_mask.pretrained.about}', file=sys.stderr)
    trained_on = longest = fill_mask.pretrained.configs.seq_len
    number = 0
    for texts in [parsed.text] if parsed.text else _chunks():
        filled, error = _filled(fill_mask, texts, parsed.top)
        for answer in filled:
            _print_filled(answer, is_json=parsed.json)
        sys.stdout.flush()
        number += len(filled)
        if error is not None:
            raise error if parsed.text else UserError(f'line {number + 1}: {error}')
        if (length := max(len(fill_mask.ids(text)) for text in texts)) > 2 * longest:
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


def _evaluate(parsed: argparse.Namespace):
    import torch

    from labml_mlm import evaluate
    from labml_mlm.pretrained import load
    from labml_mlm.text import read_file

    pretrained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    conf = pretrained.configs
    print(f'Using {pretrained.about}', file=sys.stderr)
    if parsed.text:
        texts = [torch.from_numpy(pretrained.tokenizer.encode(read_file(path))) for path in parsed.text]
        batches = list(itertools.chain.from_iterable(
            evaluate.windows(text, seq_len=conf.seq_len, batch_size=conf.valid_batch_size) for text in texts))
    else:
        try:
            batches = pretrained.validation_batches()
        except UserError as e:
            raise UserError(f'{e}. --text FILE evaluates on another text') from None
    n_tokens = sum(batch.numel() for batch in batches)
    is_shown = sys.stderr.isatty()

    def progress(done: int):
        if is_shown:
            print(f'\r{done / n_tokens:6.1%}', end='\r' if done == n_tokens else '', file=sys.stderr, flush=True)

    result = evaluate.evaluate(pretrained, batches, is_pseudo=parsed.pseudo, progress=progress)
    if parsed.json:
        print(json.dumps(result._asdict()))
        return
    unknown = sum(int((batch == conf.no_mask_tokens[0]).sum()) for batch in batches) if conf.no_mask_tokens else 0
    print(f'{result.n_tokens:,} tokens, {result.n_masked:,} of them masked'
          + (f'; {unknown:,} are not in the vocabulary' if unknown else ''))
    print(f'{"":9}{"loss":>9}{"accuracy":>11}{"perplexity":>13}')
    print(f'{"model":9}{result.loss:9.4f}{result.accuracy:11.4f}{result.perplexity:13.3f}')
    print(f'{"unigram":9}{result.unigram_loss:9.4f}{result.unigram_accuracy:11.4f}{result.unigram_perplexity:13.3f}')
    if result.pseudo_perplexity is not None:
        print(f'Pseudo-perplexity {result.pseudo_perplexity:.3f}')


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text}: it has to be a whole number, at least 1')
    return int(text)


def _number(value: float | None) -> str:
    if value is None:
        return '-'
    return f'{value:,}' if isinstance(value, int) else f'{value:.4f}'


if __name__ == '__main__':
    main()
