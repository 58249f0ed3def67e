"""
# Preparation of a run

Everything is checked and built before labml's experiment starts, so a run that cannot work leaves no folder behind.
"""
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from labml import experiment, lab
from labml.internal.experiment import experiment_singleton

from labml_mlm.cli.resume import Resumption, run_of_job
from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.common.project import set_project
from labml_mlm.common.schema import config_items
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.overrides import parse_overrides
from labml_mlm.configs.snapshot import default_values, identify_text
from labml_mlm.distributed.process_group import ranks
from labml_mlm.runs.run import Run
from labml_mlm.tracking import console
from labml_mlm.tracking.uploader import AppUploader
from labml_mlm.training.state import restore_state


class PreparedRun:
    """
    ## A run that was checked and built, new or resumed, with nothing on the disk yet

    * `conf` are its configs
    * `name` is the experiment's
    * `arguments` are those of the command line

    Only the main rank has the run's folder, and it broadcasts what the others need. Raises `UserError` for anything
    wrong in the arguments or the text.
    """

    def __init__(self, conf: MLMConfigs, name: str, arguments: Sequence[str]):
        self.conf = conf
        self.uploader = AppUploader()
        self.resumption: Resumption | None = None
        self.run: Run | None = None
        with ranks().synchronize_errors():
            script = set_project()
            overrides, resume_name = split_arguments(arguments)
            values = parse_overrides(conf, overrides)
            if ranks().size > 1 and 'device.cuda_device' in values:
                raise UserError('device.cuda_device: with several ranks, each has a GPU of its own')
        ranks().check_same({**default_values(conf), **values, '--resume': resume_name, 'torch': torch.__version__})
        try:
            values, uuid, is_resumed = self._find(name, resume_name, values)
            self._build(name, script, values, uuid)
            if is_resumed:
                self._restore()
            if ranks().is_main and not self.resumption:
                self.run = Run(experiment_singleton().run.run_path)
        except BaseException:
            self.unlock()
            raise

    def _find(self, name: str, resume_name: str | None, values: dict[str, Any]) -> tuple[dict[str, Any], str, bool]:
        """The values and the uuid of the run, and whether it is resumed; the same at all ranks."""
        uuid = None
        with ranks().synchronize_errors():
            if ranks().is_main:
                values, uuid = self._find_at_main(name, resume_name, values)
                self.uploader.probe()
        values, uuid, is_resumed, self.conf._saved_tokenizer = ranks().broadcast(
            (values, uuid, self.resumption is not None, self.conf._saved_tokenizer))
        return values, uuid, is_resumed

    def _find_at_main(self, name: str, resume_name: str | None, values: dict[str, Any]) -> tuple[dict[str, Any], str]:
        folder = lab.get_experiments_path()
        # If torchrun has restarted all ranks
        before = run_of_job(folder / name)
        resume_name = before or resume_name
        if resume_name is None:
            return values, os.environ.get('RUN_UUID') or experiment.generate_uuid()
        self.resumption = Resumption(folder, resume_name, experiment=name, is_restarted=before is not None)
        self.run = self.resumption.run
        values = self.resumption.values(self.conf, values)
        if ranks().size > 1:
            # Only a single process chooses its device
            values.pop('device.cuda_device', None)
        return values, self.run.uuid

    def _build(self, name: str, script: str, values: dict[str, Any], uuid: str):
        """Creates labml's experiment and builds the configs."""
        is_screen = ranks().is_main and not console.is_plain()
        with ranks().synchronize_errors():
            experiment.create(name=name, python_file=script, writers={'screen'} if is_screen else set(), uuid=uuid)
            experiment.configs(self.conf, values)
            # labml would save all configs each time that an item is computed, and the run has no folder yet
            self.conf._set_update_callback(None)
            try:
                self.conf.init()
            except AttributeError as e:
                # labml's message for an item without a value
                missing = re.search(r'cannot calculate config `(\w+)`', str(e))
                if missing is None:
                    raise
                full = next(item for item in config_items(self.conf) if item.rpartition('.')[2] == missing[1])
                raise UserError(f'`{full}` has no value: give {full}=VALUE') from None
        ranks().check_same(identify_text(self.conf))

    def _restore(self):
        """Puts the state of a resumed run into what was built."""
        checkpoint = tensors = None
        with ranks().synchronize_errors():
            if self.resumption:
                self.resumption.find_checkpoint(self.conf)
                checkpoint = self.resumption.checkpoint
                tensors = checkpoint and {name: checkpoint.load_tensors(name) for name in ('model', 'optimizer')}
        if not ranks().broadcast(checkpoint is not None):
            return
        try:
            restore_state(self.conf, checkpoint, tensors)
        except UserError as e:
            # All ranks raise the same
            ranks().check_errors(e)
            raise

    def unlock(self):
        """Another process may train the run."""
        if self.run is not None:
            self.run.unlock()


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The overrides, and the run to resume if there is one. Raises `UserError` for unknown options."""
    overrides, name = [], None
    arguments = iter(arguments)
    for argument in arguments:
        option, equals, value = argument.partition('=')
        if option == '--resume':
            name = value if equals else next(arguments, '')
            if not name or name.startswith('-'):
                raise UserError('--resume needs a run: its uuid, its folder, or last')
        elif option.startswith('-'):
            raise UserError(f'`{argument}` is neither an override nor an option.'
                            f'{did_you_mean(option, ["--resume", "--help"])}')
        else:
            overrides.append(argument)
    return overrides, name
