"""
# Preparation of a run

Everything is checked and built before labml's experiment starts, so a run that cannot work leaves no folder behind.
"""
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from labml import experiment, lab, logger
from labml.internal.experiment import experiment_singleton
from labml.logger import Text

from labml_mlm.common.errors import UserError
from labml_mlm.common.project import set_project
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.same_text import identify_texts
from labml_mlm.configs.snapshot import default_values
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.items.python_values import check_python_values, checked_values
from labml_mlm.items.schema import chosen_value, config_items
from labml_mlm.items.unread import given_names, refuse_unread
from labml_mlm.launch import session
from labml_mlm.launch.options import Options, default_tags, given_comment, split_arguments
from labml_mlm.launch.resume import Resumption, run_of_job
from labml_mlm.model.pairs import PARTS
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.published.start import Source, find_source
from labml_mlm.runs.run import Run, check_experiment_name, check_uuid
from labml_mlm.screen import console
from labml_mlm.screen.long_work import long_work
from labml_mlm.tracking.uploader import AppUploader
from labml_mlm.training.state import restore_state
from labml_mlm.vocabulary.adapt import Vocabulary, find_vocabulary


class PreparedRun:
    """
    ## A run that was checked and built, new or resumed, with nothing on the disk yet

    * `conf` are its configs
    * `name` is that of the script's experiment, which `--name` replaces
    * `arguments` are those of the command line
    * `folder` is in the project, if no script of the user's calls
    * `values` are those that are given in Python as the command line gives them, which wins, and `resume` is the run to
      resume
    * `given` are the names of the items that are given for it, in Python and as arguments

    Only the main rank has the run's folder, and it broadcasts what the others need. Raises `UserError` for anything
    wrong in the arguments or the text.
    """

    def __init__(self, conf: MLMConfigs, name: str, arguments: Sequence[str], folder: Path | None = None, *,
                 values: Mapping[str, Any] = MappingProxyType({}), resume: str | Path | None = None):
        self.conf = conf
        # That of the experiment, and that of the script's
        self.name = self.script_name = name
        self.uploader = AppUploader()
        self.resumption: Resumption | None = None
        self.run: Run | None = None
        self.source: Source | None = None
        self.vocabulary: Vocabulary | None = None
        with ranks().synchronize_errors():
            check_experiment_name(name)
            script = set_project(folder)
            if ranks().is_main:
                session.give_home()
            check_python_values(conf)
            overrides, options = split_arguments(arguments)
            if options.resume is None and resume is not None:
                options = options._replace(resume=_name_of_run(resume))
            self.name = options.name or name
            if options.resume is None:
                # The defaults of a run depend on its recipe
                conf._set_values(checked_values(conf, {name: values[name] for name in values if name == 'recipe'})
                                 | parse_overrides(conf, [item for item in overrides if item.startswith('recipe=')]))
                self.source = self._find_source(overrides, values)
            # Which items a transformer has depends on it
            chosen = self.source.values if self.source else {}
            values = checked_values(conf, values, chosen=chosen)
            values |= parse_overrides(conf, overrides, chosen={**chosen, **values})
            # What has an effect or is refused; `init_from` with a message of its own
            self.given = (given_names(conf) | set(values)) - {'init_from'}
            if ranks().size > 1 and 'device.cuda_device' in values:
                raise UserError('device.cuda_device: with several ranks, each has a GPU of its own')
        same = {f'--{option}': value for option, value in options._asdict().items()}
        ranks().check_same({**default_values(conf), **values, **same, 'torch': torch.__version__})
        arguments = values
        try:
            values, uuid, is_resumed = self._find(options.resume, values)
            self._build(script, values, uuid)
            self._describe(options, arguments)
            if is_resumed:
                self._restore()
            elif self.source is not None:
                raise UserError('init_from sets the weights of the built-in `model`, and yours would ignore it')
            if ranks().is_main and not self.resumption:
                self.run = Run(experiment_singleton().run.run_path)
        except BaseException:
            self.unlock()
            raise

    def _find_source(self, overrides: Sequence[str], values: Mapping[str, Any]) -> Source | None:
        """What the run goes on from; `None` if it begins anew."""
        given = [value for name, _, value in (override.partition('=') for override in overrides) if name == 'init_from']
        name = [chosen_value(self.conf, 'init_from'), *filter(None, [values.get('init_from')]), *given][-1]
        return find_source(str(name), lab.get_experiments_path(), self.conf) if name else None

    def _find(self, resume_name: str | None, values: dict[str, Any]) -> tuple[dict[str, Any], str, bool]:
        """The values and the uuid of the run, and whether it is resumed; the same at all ranks."""
        uuid = None
        with ranks().synchronize_errors():
            if ranks().is_main:
                values, uuid = self._find_at_main(resume_name, values)
                self.uploader.probe()
        fitted = self.resumption.fitted if self.resumption else None
        values, uuid, is_resumed, self.name, self.conf._saved_tokenizer, self.given, fitted = ranks().broadcast(
            (values, uuid, self.resumption is not None, self.name, self.conf._saved_tokenizer, self.given, fitted))
        if is_resumed:
            self.conf._resume_length(fitted)
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
        # Fine-tuning has a head of its own
        is_mlm = self.conf._objective == 'mlm'
        if is_mlm and not loaded.has_head:
            logger.log('It has no head for masked language modelling: a new one is trained', Text.warning)
        if is_mlm and not loaded.has_pairs:
            logger.log('It has no whole head for pairs of sentences: what it lacks is new', Text.warning)
        # There, a head for pairs is one for pre-training, and its pooler may be of use
        if unused := [name for name in loaded.unused if is_mlm or not name.startswith(PARTS)]:
            logger.log(f'Not used: {", ".join(unused)}', Text.warning)
        self.conf._earlier_head, self.conf._earlier_pooler = self.source.head, loaded.pooler
        self.source = None

    def _find_at_main(self, resume_name: str | None, values: dict[str, Any]) -> tuple[dict[str, Any], str]:
        folder = lab.get_experiments_path()
        # If torchrun has restarted all ranks
        before = run_of_job(folder / self.name)
        resume_name = before or resume_name
        if resume_name is None:
            _check_logs(folder / self.name)
            if self.source is not None:
                if not {'tokenizer', 'tokenizer_path'} & set(values):
                    self.conf._saved_tokenizer = self.source.tokenizer
                values = self.source.run_values(values, self.conf)
            uuid = os.environ.get('RUN_UUID') or experiment.generate_uuid()
            try:
                check_uuid(uuid)
            except UserError as e:
                raise UserError(f'RUN_UUID of the environment: {e}') from None
            return values, uuid
        self.resumption = Resumption(folder, resume_name, experiment=self.script_name, is_restarted=before is not None)
        self.run = self.resumption.run
        self.name = self.run.experiment
        values = self.resumption.values(self.conf, values)
        self.conf._n_weights = self.resumption.n_weights()
        # The run was given the rest by another version perhaps
        self.given = self.resumption.changed
        if ranks().size > 1:
            # Only a single process chooses its device
            values.pop('device.cuda_device', None)
        return values, self.run.uuid

    def _build(self, script: str, values: dict[str, Any], uuid: str):
        """Creates labml's experiment and builds the configs."""
        is_screen = ranks().is_main and not console.is_plain()
        with ranks().synchronize_errors():
            is_quiet = not values.get('verbose', chosen_value(self.conf, 'verbose'))
            with console.silent(is_silent=is_quiet):
                experiment.create(name=self.name, python_file=script, uuid=uuid,
                                  writers={'screen'} if is_screen else set())
                experiment.configs(self.conf, values)
            # labml would save all configs each time that an item is computed, and the run has no folder yet
            self.conf._set_update_callback(None)
            with console.silent_sections(is_silent=is_quiet):
                self._init()
            refuse_unread(self.conf, self.given)
        ranks().check_same(identify_texts(self.conf))

    def _describe(self, options: Options, arguments: dict[str, Any]):
        """Gives labml's experiment the comment and the tags of the run."""
        run = experiment_singleton().run
        if self.resumption:
            run.comment, run.tags = self.run.comment, self.run.tags
        else:
            run.comment = options.comment
            if run.comment is None:
                run.comment = given_comment(self.conf, given=self.given, arguments=arguments)
            run.tags = list(options.tags or default_tags(self.conf))

    def _init(self):
        """Builds the configs."""
        if self.source is not None:
            with long_work('Adapting the vocabulary'):
                self.vocabulary = find_vocabulary(self.conf, self.source.tokenizer, n_rows=self.source.n_tokens)
            if self.vocabulary is None:
                self.conf._n_weights = self.source.n_weights
        try:
            self.conf.init()
        except AttributeError as e:
            # labml's message for an item without a value
            missing = re.search(r'cannot calculate config `(\w+)`', str(e))
            if missing is None:
                raise
            full = next(item for item in config_items(self.conf) if item.rpartition('.')[2] == missing[1])
            raise UserError(f'`{full}` has no value: give {full}=VALUE') from None

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


def _check_logs(folder: Path):
    """Refuses a run whose folder could not be made in `folder`, before its text is read."""
    there = next(path for path in (folder, *folder.parents) if os.path.isdir(path))
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f'no run can be started in {folder}: this user cannot write to {there}')


def _name_of_run(resume: str | Path) -> str:
    if not isinstance(resume, str | Path) or not str(resume):
        raise UserError('resume must be a run: its uuid, its folder, or last')
    return str(resume)
