"""
# The runs of a sweep, one after another
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from labml_mlm.sweep import grid
from labml_mlm.sweep.plan import PlanFile, PlannedRun, make_plan
from labml_mlm.sweep.runner import Interrupted, Outcome, Runner
from labml_mlm.sweep.table import time_text


class Sweep(NamedTuple):
    """What became of a sweep."""
    tag: str
    # The items that differ among its runs
    varied: list[str]
    # In the order of the plan
    outcomes: list[Outcome]
    # The file with its plan
    path: Path
    # The signal that has ended it, if one has
    signal: int | None = None

    @property
    def n_completed(self) -> int:
        """Runs that are complete."""
        return sum(outcome.status == 'completed' for outcome in self.outcomes)

    @property
    def failed(self) -> list[Outcome]:
        """Runs that were started now, and have not come to their end."""
        return [outcome for outcome in self.outcomes if outcome.code is not None and outcome.status != 'completed']


def sweep(arguments: Sequence[str], *, script: str | None = None, seeds: int | None = None,
          n_random: int | None = None, random_seed: int = 0, tag: str | None = None, output: IO | None = None,
          say: Callable[[str], None] = print) -> Sweep:
    """
    Trains all combinations of the values in `arguments`, one after another, in the current folder. Called again, it
    goes on where it ended: runs that are complete stay as they are, one that was interrupted is resumed.

    * `arguments` are `[FILE …] name=value …`, as for `labml-mlm train`, with several values where a grid is wanted
    * `script` is a training script in place of `labml-mlm train`
    * `seeds` is how many seeds each combination is trained with
    * `n_random` is how many combinations are drawn, by `random_seed`
    * `tag` is the name of the sweep, and the tag of its runs on the app
    * `output` is where the runs print to, in place of standard output
    * `say` is called with a line on each run

    Before the first run, all combinations are checked: raises `UserError` if one cannot be trained.
    """
    plan = make_plan(arguments, script=script, seeds=seeds, n_random=n_random, random_seed=random_seed)
    # Values come with each run, and a run that is resumed has its own
    runner = Runner(plan.files, script=script, output=output)
    file = PlanFile(runner.logs.parent, plan, tag)
    runner.tag = file.tag
    with file.locked():
        planned = file.read()
        if is_new := planned is None:
            say('Checking all combinations …')
            planned = file.create()
        varied = grid.varied([run.values for run in planned])
        outcomes = {run.uuid: runner.outcome(run.uuid, run.values) for run in planned}
        to_do = [run for run in planned if outcomes[run.uuid].status != 'completed']
        say(f'{len(planned):,} runs of the sweep {file.tag}'
            + ('' if is_new else f', of which {len(planned) - len(to_do):,} are complete'))
        number = None
        for run in to_do:
            try:
                outcomes[run.uuid] = _train(runner, run, varied, place=planned.index(run) + 1, n=len(planned), say=say)
            except Interrupted as e:
                outcomes[run.uuid], number = runner.outcome(run.uuid, run.values), e.number
                break
    return Sweep(file.tag, varied, list(outcomes.values()), file.path, number)


def _train(runner: Runner, run: PlannedRun, varied: Sequence[str], *, place: int, n: int,
           say: Callable[[str], None]) -> Outcome:
    """Trains a run, or the rest of it, and says how it went."""
    about = grid.shown(run.values, [*varied, grid.SEED])
    is_begun = runner.find(run.uuid) is not None
    say(f'\n[{place}/{n}] {about}' + (f' goes on: {run.uuid}' if is_begun else ''))
    outcome = (runner.resume if is_begun else runner.train)(run.values, uuid=run.uuid)
    if outcome.status != 'completed':
        where = '' if outcome.path else f': there is no run {run.uuid} in {runner.logs}'
        say(f'[{place}/{n}] {about} has failed, with exit code {outcome.code}{where}')
    else:
        loss = '' if outcome.loss is None else f', loss.valid {outcome.loss:.4f}'
        say(f'[{place}/{n}] {about} is complete{loss}, in {time_text(outcome.seconds)}')
    return outcome
