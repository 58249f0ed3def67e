"""
# Preparation of a run

Everything is checked and built before labml's experiment starts, so a run that cannot work leaves no folder behind.
"""
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from labml import experiment, lab, logger
from labml.internal.experiment import experiment_singleton
from labml.logger import Text

from labml_mlm.cli.resume import Resumption, run_of_job
from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.common.overrides import parse_overrides
from labml_mlm.common.project import set_project
from labml_mlm.common.schema import chosen_value, config_items
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.snapshot import default_values, identify_old_texts, identify_text
from labml_mlm.distributed.process_group import ranks
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.published.start import Source, find_source
from labml_mlm.runs.run import Run
from labml_mlm.tracking import console
from labml_mlm.tracking.uploader import AppUploader
from labml_mlm.training.state import restore_state
from labml_mlm.vocabulary.adapt import Vocabulary, find_vocabulary


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
        self.source: Source | None = None
        self.vocabulary: Vocabulary | None = None
        with ranks().synchronize_errors():
            script = set_project()
            overrides, resume_name = split_arguments(arguments)
            if resume_name is None:
                self.source = self._find_source(overrides)
            # Which items a transformer has depends on it
            values = parse_overrides(conf, overrides, chosen=self.source.values if self.source else {})
            if ranks().size > 1 and 'device.cuda_device' in values:
                raise UserError('device.cuda_device: with several ranks, each has a GPU of its own')
        ranks().check_same({**default_values(conf), **values, '--resume': resume_name, 'torch': torch.__version__})
        try:
            values, uuid, is_resumed = self._find(name, resume_name, values)
            self._build(name, script, values, uuid)
            if is_resumed:
                self._restore()
            elif self.source is not None:
                raise UserError('init_from sets the weights of the built-in `model`, and yours would ignore it')
            if ranks().is_main and not self.resumption:
                self.run = Run(experiment_singleton().run.run_path)
        except BaseException:
            self.unlock()
            raise

    def _find_source(self, overrides: Sequence[str]) -> Source | None:
        """What the run goes on from; `None` if it begins anew."""
        given = [value for name, _, value in (override.partition('=') for override in overrides) if name == 'init_from']
        name = [chosen_value(self.conf, 'init_from'), *given][-1]
        return find_source(name, lab.get_experiments_path(), self.conf) if name else None

    def _find(self, name: str, resume_name: str | None, values: dict[str, Any]) -> tuple[dict[str, Any], str, bool]:
        """The values and the uuid of the run, and whether it is resumed; the same at all ranks."""
        uuid = None
        with ranks().synchronize_errors():
            if ranks().is_main:
                values, uuid = self._find_at_main(name, resume_name, values)
                self.uploader.probe()
        values, uuid, is_resumed, self.conf._saved_tokenizer = ranks().broadcast(
            (values, uuid, self.resumption is not None, self.conf._saved_tokenizer))
        if is_resumed:
            # Its checkpoint has the weights
            self.source, self.conf._initialize = None, lambda model: None
        elif self.source is not None:
            with ranks().synchronize_errors():
                if str(self.source.path.absolute()) != values['init_from']:
                    # A run that is being trained: the main rank has found another checkpoint
                    self.source = find_source(values['init_from'], lab.get_experiments_path(), self.conf)
            self.conf._initialize = self._initialize
        return values, uuid, is_resumed

    def _initialize(self, model: TransformerMLM):
        """Gives a new model the weights of what the run goes on from, and says what was left out."""
        loaded = self.source.load_weights(model, self.vocabulary)
        logger.log([('Going on from ', Text.title), self.source.about])
        if self.vocabulary is not None:
            logger.log(self.vocabulary.about)
        if not loaded.has_head:
            logger.log('It has no head for masked language modelling: a new one is trained', Text.warning)
        if loaded.unused:
            logger.log(f'Not used: {", ".join(loaded.unused)}', Text.warning)
        self.source = None

    def _find_at_main(self, name: str, resume_name: str | None, values: dict[str, Any]) -> tuple[dict[str, Any], str]:
        folder = lab.get_experiments_path()
        # If torchrun has restarted all ranks
        before = run_of_job(folder / name)
        resume_name = before or resume_name
        if resume_name is None:
            if self.source is not None:
                if not {'tokenizer', 'tokenizer_path'} & set(values):
                    self.conf._saved_tokenizer = self.source.tokenizer
                values = self.source.run_values(values, self.conf)
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
            if self.source is not None:
                self.vocabulary = find_vocabulary(self.conf, self.source.tokenizer, n_rows=self.source.n_tokens)
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
        ranks().check_same(identify_text(self.conf) | identify_old_texts(self.conf))

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
