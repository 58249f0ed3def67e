"""
# Resuming a run

`Resumption` is a run to be resumed: its values with the changes that it may make, its checkpoint, and its folder as it
was then. Nothing on the disk changes before all of that is known to work.
"""
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labml import logger
from labml.configs import BaseConfigs
from labml.logger import Text

from labml_mlm.budget.resumed import fitted_steps, new_budget
from labml_mlm.common.errors import UserError
from labml_mlm.configs.same_text import check_same_old_texts, check_same_probe, check_same_text
from labml_mlm.configs.snapshot import (
    PATHS,
    absolute,
    as_json,
    differing_versions,
    restored_values,
    retyped,
    saved_tokenizer,
    with_current_names,
)
from labml_mlm.distributed.process_group import job_store
from labml_mlm.items.help import show
from labml_mlm.items.schema import config_items
from labml_mlm.reading.listing import as_paths
from labml_mlm.runs import checkpoint, checkpoint_folder, metrics_log
from labml_mlm.runs.run import Run, find_run
from labml_mlm.runs.text_files import read_files

# Keys of the job's runs in its store, by their number in a process
_RUN_OF_JOB = 'labml_mlm/run/{}'
# How many runs this process has looked for there: a script may train some, one after the other
_n_looked_for = 0


class Resumption:
    """
    ## A run to be resumed

    * `logs` is labml's folder of experiments
    * `name` is a run, as `find_run` takes it
    * `experiment` is that of the script
    * `is_restarted`: has torchrun restarted the job that began the run? It may begin again then, if it has no
      checkpoint

    It is locked for this process until `run.unlock()`. Raises `UserError` if there is no such run, if it belongs to
    another project or script, if it has no snapshot, and if another process trains it.
    """

    def __init__(self, logs: Path, name: str, *, experiment: str, is_restarted: bool = False):
        self.is_restarted = is_restarted
        self.run, self._path = find_run(logs, name, experiment=experiment)
        self.checkpoint: checkpoint.Checkpoint | None = None
        self.changes: list[str] = []
        # The steps that were counted or measured for it
        self.fitted: dict[str, Any] | None = None
        # The names of what changes
        self.changed: set[str] = set()
        if self.run.path.parent.parent != logs.resolve():
            raise UserError(f'the run in {self.run.path} is not in this project, whose runs are in {logs}')
        if experiment not in (self.run.experiment, self.run.script_experiment):
            raise UserError(f'the run {self.run.uuid} belongs to the experiment {self.run.experiment}, '
                            f'and this script is {experiment}')
        snapshot = self.run.snapshot
        if snapshot is None:
            raise UserError(f'the run {self.run.uuid} cannot be resumed: it has no configs.json that can be read')
        self.snapshot = snapshot
        self.run.lock()

    def values(self, conf: BaseConfigs, new: dict[str, Any]) -> dict[str, Any]:
        """
        The run's own values, changed by the `new` ones, by dotted name. Notes the changes in `changes`.

        Raises `UserError` for a change that a resumed run cannot make.
        """
        self.snapshot = with_current_names(conf, self.snapshot)
        items = config_items(conf, chosen=self.snapshot['given'])
        may_change = [name for name, item in items.items() if item.declaration.may_change]
        missing = [name for name in self.snapshot['given'] if name not in items]
        if missing:
            raise UserError(f'the run was given `{missing[0]}`, which the configs of this script do not have')
        values, changed = restored_values(conf, self.snapshot), {}
        # A tokenizer is not trained again
        with contextlib.suppress(UserError):
            saved = saved_tokenizer(self.snapshot['tokenizer'] or {}, self.run.path)
            if saved.to_dict() == self.snapshot['tokenizer']:
                conf._saved_tokenizer = saved
        for name, value in new.items():
            before = self._present_values(name)
            if name == 'init_from' and _is_run_of(before[0], value):
                continue
            value = absolute(value) if name in PATHS and value else value
            if as_json(retyped(items[name], value)) in [as_json(retyped(items[name], one)) for one in before]:
                continue
            if name not in may_change:
                raise UserError(f'`{name}={_shown(value)}`: in this run it is {_shown(before[0])}, and cannot change. '
                                f'These can change: {", ".join(may_change)}')
            meaning = items[name].declaration.may_change
            self.changes.append(f'{name}: {_shown(before[0])} → {_shown(value)}'
                                + ('' if meaning is True else f' ({meaning})'))
            self.changed.add(name)
            values[name] = retyped(items[name], value)
            changed[name] = value
        _check_paths({name: value for name, value in values.items()
                      if name not in changed and items[name].declaration.is_path})
        for replaced in new_budget(values, self.snapshot['given'], changed):
            self.changes.append(f'{replaced} no longer counts')
        self.fitted = fitted_steps(self.snapshot.get('fitted'), changed)
        return values

    def n_weights(self) -> int | None:
        """As many numbers as the largest checkpoint may have, at a byte each; `None` without one."""
        sizes = []
        for path in self.run.checkpoints.steps().values():
            with contextlib.suppress(OSError):
                sizes.append((path / 'model.safetensors').stat().st_size)
        return max(sizes, default=None)

    def find_checkpoint(self, conf: Any):
        """
        Finds the checkpoint to resume from, for configs that were built: the one that was named, or the last intact
        one.

        Raises `UserError` if text or vocabulary differ, or if no checkpoint can be used.
        """
        files = read_files(self.run.path)
        check_same_text(conf, self.snapshot, files)
        check_same_old_texts(conf, self.snapshot, files)
        check_same_probe(conf, self.snapshot, files, changed=self.changed)
        if self._path is not None:
            self.checkpoint = checkpoint.read(self._path)
            self.checkpoint.verify()
        else:
            self.checkpoint, wrong = self.run.checkpoints.last()
            if wrong and self.checkpoint is None:
                raise UserError(f'no checkpoint of the run {self.run.uuid} can be used: {"; ".join(wrong)}')
            for message in wrong:
                logger.log(f'{message}. The checkpoint before it is used', Text.warning)
        if self.checkpoint is not None and self.checkpoint.metadata.get('log_bytes') is None:
            raise UserError(f'{self.checkpoint.path} does not say how long the metrics were: no run can be resumed '
                            'from it')
        if self.checkpoint is None and not self.is_restarted and metrics_log.summarize(self.run.log).loss is not None:
            raise UserError(f'the run {self.run.uuid} has metrics of a validation, but no checkpoint to resume from: '
                            f'{self.run.checkpoints.path} is empty. Start a new run instead')

    def rewind(self, conf: Any):
        """Makes the run's folder what it was at the checkpoint, and prints what is resumed."""
        run, step, n_bytes = self.run, 0, 0
        if self.checkpoint is not None:
            step, n_bytes = self.checkpoint.step, self.checkpoint.metadata['log_bytes']
        run.checkpoints.recover()
        # Before the metrics are truncated: a later checkpoint needs them
        later = {at: path for at, path in run.checkpoints.steps().items() if at > step}
        for path in later.values():
            checkpoint_folder.remove(path)
        if self.checkpoint is not None and conf._has_decay_begun and _has_peak_rate(self.checkpoint):
            # The run has become shorter, and decays from here on
            checkpoint.mark_before_decay(run.checkpoints.steps()[step])
        if missing := metrics_log.truncate(run.log, n_bytes):
            logger.log(f'{run.log} lacks {missing:,} bytes that it had at the checkpoint: its metrics are incomplete',
                       Text.warning)
        try:
            run.samples.truncate(step)
        except OSError as e:
            logger.log(f'Cannot truncate the samples: {e}', Text.warning)
        run.log_resumed(self.changes)
        where = f'from {self.checkpoint.path}' if self.checkpoint else 'from the beginning: it has no checkpoint yet'
        logger.log([('Resuming', Text.title), f' {run.uuid} {where}'])
        if later:
            logger.log(f'Later checkpoints are removed: {", ".join(f"{at:,}" for at in later)}', Text.warning)
        for change in self.changes:
            logger.log(change, Text.highlight)
        if differing := differing_versions(conf, self.snapshot):
            logger.log(f'Changed since the run was started: {", ".join(differing)}. Losses may differ in their last '
                       f'bits', Text.meta)

    def merged_snapshot(self, snapshot: dict, *, tokens: int) -> dict:
        """The present `snapshot`, with how the run was started and when it was resumed."""
        # Only the probe may be another one
        text = {**self.snapshot['text'], 'probe_sha256': snapshot['text'].get('probe_sha256')}
        return {**snapshot, **{name: self.snapshot[name] for name in ('time', 'versions')}, 'text': text,
                'script_experiment': self.snapshot.get('script_experiment'),
                'resumed': [*self.snapshot['resumed'], {'time': snapshot['time'], 'tokens': tokens}]}

    def _present_values(self, name: str) -> list[Any]:
        """All ways to write the value that an item has in the run: as given or by default, and as computed."""
        snapshot = self.snapshot
        written = snapshot['given'][name] if name in snapshot['given'] else snapshot['defaults'].get(name)
        values = [written, snapshot['computed'].get(name)]
        if name == 'text' and (source := snapshot['text'].get('source')) is not None:
            values += ['auto', source]
        return [value for value in values if value is not None] or [None]


def _shown(value: Any) -> Any:
    """A value for a message: paths as they are given."""
    return show(value) if isinstance(value, list) and value and isinstance(value[0], str) else value


def _check_paths(given: Mapping[str, Any]):
    """Raises `UserError` for a text of the run that is not where it was. `given` are the paths of some items."""
    for name, value in given.items():
        paths = [os.path.expanduser(path) for path in as_paths(value, item=name)]
        for path in paths:
            if not os.path.exists(path):
                here = os.path.basename(path)
                present = here if len(paths) == 1 and os.path.exists(here) else 'PATH'
                raise UserError(f'{name}={path} of the run is not there any more. If it was moved, say where it is '
                                f'now: {name}={present}')


def _has_peak_rate(saved: checkpoint.Checkpoint) -> bool:
    """Was the learning rate of the step after a checkpoint the highest?"""
    schedule = saved.metadata['schedule']
    return 'base_lrs' in schedule and schedule.get('_last_lr') == schedule['base_lrs']


def _is_run_of(path: str | None, name: str) -> bool:
    """Is `path` a checkpoint of the run that `name` means, by its folder, its name, its uuid or the beginning of it?"""
    if not path or not name or Path(path).parent.name != 'checkpoints':
        return False
    run = Path(path).parents[1]
    return absolute(name) == str(run) or os.sep not in name and (run.name.startswith(name) or run.parent.name == name)


def set_run_of_job(uuid: str):
    """From here on `run_of_job` knows the run, even after torchrun has restarted all ranks."""
    if job_store() is not None:
        job_store().set(_RUN_OF_JOB.format(_n_looked_for), uuid)


def run_of_job(folder: Path) -> str | None:
    """
    The uuid of the run that this job began before torchrun restarted all ranks; `None` if there is none. Each call is
    for the next run of this process.

    * `folder` is that of the experiment

    Raises `UserError` if the run is not there.
    """
    global _n_looked_for
    _n_looked_for += 1
    store, key = job_store(), _RUN_OF_JOB.format(_n_looked_for)
    if store is None or not store.check([key]):
        return None
    uuid = store.get(key).decode()
    if Run(folder / uuid).snapshot is None:
        raise UserError(f'the run {uuid} of this job is not in {folder}: to restart on another machine, all machines '
                        'must share the folder')
    return uuid
