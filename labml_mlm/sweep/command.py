"""
# `labml-mlm sweep`
"""
import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from labml_mlm.common.arguments import Parser
from labml_mlm.common.exit import exit_with
from labml_mlm.common.table import print_table
from labml_mlm.common.untrusted import to_json
from labml_mlm.sweep.runs import Sweep, sweep
from labml_mlm.sweep.table import printable_rows, rows_of

_ABOUT = (
    'Train all combinations of values, one after another, each in a process of its own. It is `labml-mlm train` with '
    'several values: commas separate those of an item of one number or one name, as in seq_len=32,64; of texts, paths, '
    'lists and schedules the argument is repeated. All combinations are checked before the first run. The same command '
    'goes on where it ended.')


def add_sweep(command: Callable[..., Parser]):
    """Adds the command. `command(name, function, about)` returns its parser."""
    parser = command('sweep', sweep_command, _ABOUT)
    parser.is_intermixed = True
    parser.add_argument('arguments', metavar='FILE|name=value', nargs='*',
                        help='texts to train on and values of items, as for `labml-mlm train`')
    parser.add_argument('--script', metavar='FILE', help='a script that trains, in place of `labml-mlm train`')
    parser.add_argument('--seeds', type=int, metavar='N',
                        help='train each combination with N seeds: that of the item, and those after it')
    parser.add_argument('--random', type=int, metavar='N', help='draw N of the combinations')
    parser.add_argument('--random-seed', type=int, default=0, metavar='N', help='the seed of that draw (0)')
    parser.add_argument('--tag', metavar='NAME',
                        help='the name of the sweep, and the tag of its runs on the app; by default, of its arguments')
    parser.add_argument('--json', action='store_true',
                        help='print the result as JSON; what the runs print goes to standard error')


def sweep_command(parsed: argparse.Namespace):
    """Trains the combinations, and prints a table of them."""
    def say(line: str):
        print(line, file=sys.stderr if parsed.json else sys.stdout, flush=True)

    done = sweep(parsed.arguments, script=parsed.script, seeds=parsed.seeds, n_random=parsed.random,
                 random_seed=parsed.random_seed, tag=parsed.tag, say=say,
                 output=sys.stderr if parsed.json else None)
    rows = rows_of(done.outcomes, done.varied)
    if parsed.json:
        print(to_json({'tag': done.tag, 'file': str(done.path), 'varied': done.varied,
                       'combinations': [row.as_json() for row in rows],
                       'runs': [outcome._asdict() for outcome in done.outcomes]}), flush=True)
    elif done.n_completed:
        print()
        table = printable_rows(rows, done.varied)
        print_table(table, numbers=range(len(done.varied), len(table[0])))
    _end(done)


def _end(done: Sweep):
    """Ends the process with what is left to do, if there is something."""
    n, again = len(done.outcomes), f'The same command goes on: {_how_to_call()}'
    if done.signal is not None:
        exit_with(128 + done.signal, f'Interrupted: {done.n_completed:,} of {n:,} runs are complete. {again}')
    if failed := done.failed:
        named = ', '.join(outcome.uuid for outcome in failed[:3]) + (', …' if len(failed) > 3 else '')
        exit_with(1, f'{len(failed):,} of {n:,} runs have failed: {named}. {again}')


def _how_to_call() -> str:
    name = 'python -m labml_mlm' if Path(sys.argv[0]).name == '__main__.py' else Path(sys.argv[0]).name
    return f'{name} {shlex.join(sys.argv[1:])}'
