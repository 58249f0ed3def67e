"""
# Which run, and which checkpoint of it

A name may mean several runs, and some have no checkpoint. A run has several, and another process may be training it.
"""
from pathlib import Path
from typing import TYPE_CHECKING

from labml_mlm.common.errors import UserError
from labml_mlm.runs.checkpoint import Checkpoint, Damaged, read
from labml_mlm.runs.run import Run, find_runs

if TYPE_CHECKING:
    from torch import Tensor


def find_trained(logs: Path, name: str) -> tuple[Run, Path | None, str]:
    """
    What `find_run` finds, where the run must have a checkpoint: of the runs that `name` means, the newest that has one.
    And what is to be said of those that were passed over; the text is empty if there are none.

    Raises `UserError` if none has one, and what `find_run` does.
    """
    runs, at = find_runs(logs, name)
    if at is not None or len(runs) == 1:
        return runs[0], at, ''
    for i, run in enumerate(runs):
        if run.checkpoints.steps():
            newer = [run.uuid for run in runs[:i]]
            which = f'{", ".join(newer[:3])}{f" and {i - 3} more" if i > 3 else ""}'
            return run, None, f' (`{name}` is the run {run.uuid}: without a checkpoint are {which})' if newer else ''
    raise UserError(f'`{name}` is {len(runs)} runs, and none of them has a checkpoint yet')


def read_model(run: Run, at: Path | None, which: str) -> tuple[Checkpoint, str, dict[str, 'Tensor']]:
    """
    An intact checkpoint, what it is, and its model. Arguments and errors are those of `choose_checkpoint`.
    """
    # A run that is being trained may remove it at any time
    while True:
        chosen, about = choose_checkpoint(run, at, which)
        try:
            return chosen, about, chosen.load_tensors('model')
        except Damaged:
            if chosen.path.exists():
                raise


def choose_checkpoint(run: Run, at: Path | None, which: str) -> tuple[Checkpoint, str]:
    """
    An intact checkpoint, and what it is in words.

    * `at` is a checkpoint of the run, or `None`
    * `which` otherwise: the `best` by validation loss (the last, if there was no validation), the `last`, a step, or
      `start`, the best to go on from: that before the decay of the learning rate if there is one, or the best

    Raises `UserError` if there is none, or none is intact.
    """
    if at is not None:
        found = read(at)
        found.verify()
        return found, f'{at}'
    steps = run.checkpoints.steps()
    if not steps:
        raise UserError(f'the run {run.uuid} has no checkpoint yet, in {run.checkpoints.path}')
    if which not in ('best', 'last', 'start'):
        if which not in map(str, steps):
            raise UserError(f'the run {run.uuid} has no checkpoint {which}: it has {", ".join(map(str, steps))}')
        return choose_checkpoint(run, steps[int(which)], which)
    wrong = []
    if which == 'start':
        before = run.checkpoints.before_decay()
        if before is not None:
            return before, f'{before.path}, the last before the learning rate decays'
        which = 'best'
    if which == 'best' and (best := run.checkpoints.best()):
        try:
            best.verify()
            return best, f'{best.path}, the best by {best.about_valid}'
        except Damaged as e:
            if not best.path.exists():
                return choose_checkpoint(run, at, which)
            wrong = [str(e)]
    last, damaged = run.checkpoints.last()
    wrong = list(dict.fromkeys([*wrong, *damaged]))
    if last is None:
        raise UserError(f'no checkpoint of the run {run.uuid} can be used: {"; ".join(wrong)}')
    return last, f'{last.path}, the last' + (f' intact one: {"; ".join(wrong)}' if wrong else '')
