"""
# A run goes on

`Resumption` is a run that is to go on: its values with the changes that it may make, its state, and its folder as it
was at the checkpoint. Nothing on the disk changes before all of that is known to work.
"""

import contextlib
from pathlib import Path
from typing import Any

from labml import logger
from labml.configs import BaseConfigs
from labml.logger import Text

from labml_mlm.common.errors import UserError
from labml_mlm.configs.schema import items_of
from labml_mlm.configs.snapshot import (
    PATHS,
    absolute,
    as_json,
    check_same,
    differing_versions,
    retyped,
    saved_tokenizer,
    values_of,
)
from labml_mlm.distributed.process_group import job
from labml_mlm.runs import checkpoint
from labml_mlm.runs import metrics_log as log_file
from labml_mlm.runs import run as runs

# Under what name a job keeps it
_RUN_OF_JOB = 'labml_mlm/run'


class Resumption:
    """
    ## A run that is to go on

    * `logs` is labml's folder of experiments
    * `name` is a run as `runs.find` has it
    * `experiment` is that of the script
    * `is_restarted`: does the job that has begun it go on? It may begin again then, if it has no checkpoint

    It is this process's until `run.unlock()`. Raises `UserError` if there is no such run, if it is none of this project
    and script, if it was not noted down, and if another process trains it.
    """

    def __init__(self, logs: Path, name: str, *, experiment: str, is_restarted: bool = False):
        self.is_restarted = is_restarted
        self.run, self._path = runs.find(logs, name, experiment=experiment)
        self.checkpoint: checkpoint.Checkpoint | None = None
        self.changes: list[str] = []
        if self.run.path.parent.parent != logs.resolve():
            raise UserError(f'the run in {self.run.path} is none of this project, whose runs are in {logs}')
        if self.run.experiment != experiment:
            raise UserError(f'the run {self.run.uuid} is one of the experiment {self.run.experiment}, '
                            f'and this script is {experiment}')
        record = self.run.record
        if record is None:
            raise UserError(f'the run {self.run.uuid} cannot go on: it has no configs.json that can be read')
        self.record = record
        self.run.lock()

    def values(self, conf: BaseConfigs, new: dict[str, Any]) -> dict[str, Any]:
        """
        The run's own values, then the `new` ones, by dotted name; what those change is in `changes` then.

        Raises `UserError` for a change that a run cannot make.
        """
        items, allowed = items_of(conf), _may_change(conf)
        missing = [name for name in self.record['given'] if name not in items]
        if missing:
            raise UserError(f'the run was given `{missing[0]}`, which the configs of this script do not have')
        values = values_of(conf, self.record)
        # What was trained on the text is not trained anew
        with contextlib.suppress(UserError, AttributeError):
            saved = saved_tokenizer(self.record['tokenizer'], self.run.path)
            if saved.to_dict() == self.record['tokenizer']:
                conf._saved_tokenizer = saved
        for name, value in new.items():
            value = absolute(value) if name in PATHS and value else value
            before = self._ways_to_say(name)
            if as_json(value) in before:
                continue
            if name not in allowed:
                raise UserError(f'`{name}={value}`: in this run it is {before[0]}, and a run cannot change it. '
                                f'It can change {", ".join(allowed)}')
            self.changes.append(f'{name}: {before[0]} → {value}' + (f' ({allowed[name]})' if allowed[name] else ''))
            values[name] = retyped(items[name], value)
        return values

    def find_checkpoint(self, conf: Any):
        """
        Looks for what configs that were built go on from: the checkpoint that was named, or the last one that is whole.

        Raises `UserError` if text or vocabulary are other ones, or if no checkpoint can be used.
        """
        check_same(conf, self.record)
        if self._path is not None:
            self.checkpoint = checkpoint.read(self._path)
            self.checkpoint.check()
        else:
            self.checkpoint, wrong = checkpoint.last_of(self.run.checkpoints)
            if wrong and self.checkpoint is None:
                raise UserError(f'no checkpoint of the run {self.run.uuid} can be used: {"; ".join(wrong)}')
            for message in wrong:
                logger.log(f'{message}. The checkpoint before it is used', Text.warning)
        if self.checkpoint is None and not self.is_restarted and log_file.summary(self.run.log).loss is not None:
            raise UserError(f'the run {self.run.uuid} has metrics of a validation, and no checkpoint to go on from: '
                            f'{self.run.checkpoints} is empty. A new run would begin again')

    def take_up(self, conf: Any):
        """Makes the run's folder what it was at the checkpoint, and says what goes on."""
        run, step, n_bytes = self.run, 0, 0
        if self.checkpoint is not None:
            step, n_bytes = self.checkpoint.step, self.checkpoint.document['log_bytes']
        checkpoint.clean(run.checkpoints)
        # Before the metrics are cut: a later checkpoint would want them
        later = {at: path for at, path in checkpoint.folders(run.checkpoints).items() if at > step}
        for path in later.values():
            checkpoint.remove(path)
        if missing := log_file.cut(run.log, n_bytes):
            logger.log(f'{run.log} lacks {missing:,} bytes that it had at the checkpoint: its metrics are not complete',
                       Text.warning)
        try:
            run.samples.cut(step)
        except OSError as e:
            logger.log(f'Cannot take back the samples: {e}', Text.warning)
        run.note_resumed(self.changes)
        where = f'from {self.checkpoint.path}' if self.checkpoint else 'from the beginning: it has no checkpoint yet'
        logger.log([('Going on', Text.title), f' with {run.uuid} {where}'])
        if later:
            logger.log(f'Later checkpoints are removed: {", ".join(f"{at:,}" for at in later)}', Text.warning)
        for change in self.changes:
            logger.log(change, Text.highlight)
        if differing := differing_versions(conf, self.record):
            logger.log(f'Not as when the run was started: {", ".join(differing)}. Losses may differ in their last bits',
                       Text.meta)

    def continued(self, record: dict, *, tokens: int) -> dict:
        """The record of the run as it is now, with how it was started and how often it went on."""
        return {**record, **{name: self.record[name] for name in ('time', 'text', 'versions')},
                'resumed': [*self.record['resumed'], {'time': record['time'], 'tokens': tokens}]}

    def _ways_to_say(self, name: str) -> list[Any]:
        """What an item of the run is, in all ways that it can be said: as given or by default, and computed."""
        record = self.record
        said = record['given'][name] if name in record['given'] else record['defaults'].get(name)
        values = [said, record['computed'].get(name)]
        if name == 'text' and record['text']['source'] is not None:
            values += ['auto', record['text']['source']]
        return [value for value in values if value is not None] or [None]


def _may_change(conf: BaseConfigs) -> dict[str, str]:
    tables = [vars(class_).get('_may_change', {}) for class_ in reversed(type(conf).__mro__)]
    return {name: meaning for table in tables for name, meaning in table.items()}


def note_run_of_job(uuid: str):
    """From here on `run_of_job` knows the run, even after torchrun has started all ranks anew."""
    if job() is not None:
        job().set(_RUN_OF_JOB, uuid)


def run_of_job(folder: Path) -> str | None:
    """
    The uuid of the run that this job of torchrun's has begun before it started all ranks anew, if it has.

    * `folder` is that of the experiment

    Raises `UserError` if it is not there.
    """
    store = job()
    if store is None or not store.check([_RUN_OF_JOB]):
        return None
    uuid = store.get(_RUN_OF_JOB).decode()
    if runs.Run(folder / uuid).record is None:
        raise UserError(f'the run {uuid}, which this job has begun, is not in {folder}: to start anew on another '
                        'machine takes a folder that all of them share')
    return uuid

