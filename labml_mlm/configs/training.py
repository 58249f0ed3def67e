"""
# Configs of training

Epochs, validations, signals and checkpoints. The base of any run that has a `step`.
"""
import functools
import math
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from labml import logger, tracker
from labml.configs import option
from labml.internal.experiment import experiment_singleton, has_experiment
from labml.logger import Text
from labml_helpers.train_valid import BatchIndex, Trainer

from labml_mlm.common.declarations import Item, Range, at_least
from labml_mlm.common.errors import UserError
from labml_mlm.common.schema import is_given
from labml_mlm.configs.optimization import OptimizationConfigs
from labml_mlm.configs.snapshot import take_snapshot
from labml_mlm.data.loader import TrainLoader, loader_length
from labml_mlm.distributed.process_group import ranks
from labml_mlm.tracking.progress_view import ProgressView
from labml_mlm.training.checkpointer import Checkpointer
from labml_mlm.training.loop import TrainingLoop, ValidationLoop
from labml_mlm.training.metrics import OldMetrics, StepMetrics, Throughput, ValidMetrics
from labml_mlm.training.signals import SignalHandler, Stopped
from labml_mlm.training.state import rng_state, set_rng_state
from labml_mlm.training.valid_masking import RepeatedMasking

# Items of labml_helpers that this training loop does without
_OWN_LOOP = Item(refused='training goes by `epochs` and `inner_iterations`, and tracks every step')
_OWN_CHECKPOINTS = Item(refused='checkpoints go by `checkpoint_interval` and `keep_checkpoints`')


class TrainingConfigs(OptimizationConfigs):
    """
    ## Configurations of epochs, signals and checkpoints
    """
    epochs: Annotated[int, Item('Number of epochs', Range(1, 10 ** 9),
                                may_change='the learning rate decays to the new end')] = 4
    max_steps: Annotated[int | None, Item('Number of training steps, in place of `epochs`; a training loader without a '
                                          'length needs it', at_least(1),
                                          may_change='the learning rate decays to the new end')] = None
    inner_iterations: Annotated[int, Item('Validations per epoch', at_least(1))] = 1
    checkpoint_interval: Annotated[int | None, Item('Steps between two checkpoints; `none` saves at validations only',
                                                    at_least(1), unit='optimizer steps', may_change=True)] = 500
    keep_checkpoints: Annotated[int, Item('How many of the last checkpoints to keep, in addition to the best',
                                          at_least(1), may_change=True)] = 2
    is_track_time: Annotated[bool, Item('Track the time of training and validation', may_change=True)]
    state_modules: Annotated[list, Item('State modules of labml_helpers')] = []
    trainer: Annotated[Any, Item('Trains a round')] = 'resumable'
    validator: Annotated[Any, Item('Runs a validation')] = 'all_windows'
    old_validator: Annotated[Any, Item('Runs a validation on old_path; `None` without it')] = 'all_windows'
    valid_metrics: Annotated[ValidMetrics, Item('Sums over a validation')]
    old_metrics: Annotated[OldMetrics, Item('Sums over a validation on old_path')]
    step_metrics: Annotated[StepMetrics, Item('Metrics of training steps')]
    checkpointer: Annotated[Checkpointer, Item('Writes checkpoints', aliases=('saver',))] = 'run_folder'
    interrupt: Annotated[SignalHandler, Item('Handles signals')]
    throughput: Annotated[Throughput, Item('Tokens per second')]
    progress_view: Annotated[ProgressView, Item('Shows the progress of training')] = 'labml'

    training_loop: Annotated[Any, _OWN_LOOP]
    loop_count: Annotated[Any, _OWN_LOOP]
    loop_step: Annotated[Any, _OWN_LOOP]
    is_loop_on_interrupt: Annotated[Any, _OWN_LOOP]
    log_new_line_interval: Annotated[Any, _OWN_LOOP]
    log_write_interval: Annotated[Any, _OWN_LOOP]
    is_save_models: Annotated[Any, _OWN_CHECKPOINTS]
    save_models_interval: Annotated[Any, _OWN_CHECKPOINTS]

    _is_built = False

    @functools.cached_property
    def _valid_masking(self) -> RepeatedMasking:
        return RepeatedMasking(self.valid_mlm)

    @functools.cached_property
    def _old_masking(self) -> RepeatedMasking:
        return RepeatedMasking(self.valid_mlm)

    @property
    def _run_length(self) -> dict[str, int | None]:
        """
        `epochs` and `max_steps`: the run ends with the one that comes first. With `max_steps`, `epochs` counts only if
        it was given, too, and is `None` otherwise.
        """
        has_epochs = self.max_steps is None or is_given(self, 'epochs')
        return {'epochs': self.epochs if has_epochs else None, 'max_steps': self.max_steps}

    @property
    def _n_epochs(self) -> float:
        """Epochs of the whole run, the last one perhaps in part."""
        epochs, max_steps = self._run_length.values()
        of_steps = math.inf if max_steps is None else max_steps / len(self.train_loader)
        return of_steps if epochs is None else min(epochs, of_steps)

    @property
    def _n_steps(self) -> int:
        """Optimizer steps of the whole run."""
        epochs, max_steps = self._run_length.values()
        of_epochs = math.inf if epochs is None else epochs * len(self.train_loader)
        return of_epochs if max_steps is None else min(max_steps, of_epochs)

    @property
    def _is_complete(self) -> bool:
        """Has the run reached its end?"""
        return self.progress.epoch >= self.progress.end(self.train_loader, **self._run_length)

    def init(self):
        """Builds everything that a run needs."""
        if not self.progress.steps:
            # A resumed run has its random numbers from the checkpoint
            torch.manual_seed(self.seed)
        # These may fail on one machine only; after them, ranks may wait for each other
        self._check_old_texts()
        _ = self.device, self.train_loader, self.valid_loader, self.old_loader
        ranks().check_errors()
        _ = self.trainer, self.validator, self.old_validator, self.interrupt, self.throughput, self.step_metrics
        _ = self.checkpointer, self.epochs, self.inner_iterations
        self._check_length()
        self._check_layer_decay()
        self._is_built = True

    def _check_length(self):
        if loader_length(self.train_loader) is None and self._run_length['epochs'] is not None:
            raise UserError('the training loader has no length, so the run has no epochs to count: give max_steps in '
                            'place of epochs')
        if isinstance(self.valid_loader, Iterator):
            raise UserError(f'valid_loader, a {type(self.valid_loader).__name__}, can be iterated over only once, and '
                            'there is more than one validation: use an object with `__iter__`, such as a DataLoader')
        if self.max_steps is not None and isinstance(self.trainer, Trainer):
            raise UserError("max_steps is for the built-in `trainer`: labml_helpers' `Trainer` trains whole epochs")

    def run(self):
        """
        Trains, from wherever the run is. A signal ends it after the present step, with a checkpoint and
        `KeyboardInterrupt`.
        """
        if not self._is_built:
            self.init()
        if isinstance(self.trainer, Trainer):
            self._adapt_trainer()
        if not self.checkpointer.metadata and has_experiment() and ranks().is_main:
            self.checkpointer.metadata = {'configs': take_snapshot(self, experiment=experiment_singleton().run.name)}
        # A custom loader may draw from any generator, and must give all ranks the same batches
        if ranks().size > 1:
            set_rng_state(ranks().broadcast(rng_state()))
        self.progress.start()
        with self.interrupt:
            tracker.set_global_step(self.progress.tokens)
            end = self.progress.end(self.train_loader, **self._run_length)
            try:
                for epoch in self.progress_view.epochs(self.progress.epoch, end):
                    self.valid_metrics.clear()
                    self.old_metrics.clear()
                    self.run_step()
                    if self.progress.epoch == epoch:
                        # A custom `run_step` does not count rounds
                        self.progress.end_epoch()
                        self.checkpointer.save(self, valid=self.valid_metrics.values)
            except Stopped:
                ranks().finish_delayed_max()
                self.checkpointer.save(self)
                raise
            finally:
                # A second Ctrl-C does not wait for the disk
                if sys.exc_info()[0] is not KeyboardInterrupt:
                    self.checkpointer.finish()
            ranks().finish_delayed_max()

    def _adapt_trainer(self):
        """Makes labml_helpers' `Trainer` count steps, save checkpoints and handle signals. It resumes whole epochs."""
        trainer, loader = self.trainer, self.train_loader
        step = getattr(trainer.step, 'wrapped', trainer.step)

        def step_and_more(batch: Any, batch_idx: BatchIndex):
            step(batch, batch_idx)
            self.progress.end_step(loader)
            self._after_step()

        step_and_more.wrapped = step
        trainer.step = step_and_more
        if self.progress.batches:
            logger.log("labml_helpers' Trainer cannot resume within an epoch: the epoch starts again", Text.warning)
            self.progress.restart_epoch()
        # From the beginning of the present epoch
        trainer.set_data_loader(trainer.data_loader)
        if isinstance(loader, TrainLoader):
            loader.start_at(self.progress.epoch)

    def _after_step(self):
        self.checkpointer.step(self)
        self.interrupt.check()

    def run_step(self):
        """The rest of an epoch: training, validation and samples, `inner_iterations` times."""
        for _ in range(self.progress.round, self.inner_iterations):
            self.throughput.restart()
            with self.mode.update(is_train=True), tracker.namespace('train'):
                self.trainer()
            self.step_metrics.finish()
            self._validate()
            tracker.save()
            self.sample()
            self.progress.end_round(self.inner_iterations)
            self.checkpointer.save(self, valid=self.valid_metrics.values)
            self.interrupt.check()


    def _validate(self):
        """A validation, and before it one on old text."""
        with self.mode.update(is_train=False):
            if self.old_validator is not None:
                self.old_validator()
            with tracker.namespace('valid'):
                self.validator()
        with tracker.namespace('old'):
            self.old_metrics.track()


@option(TrainingConfigs.checkpointer, 'run_folder')
def _checkpointer(c: TrainingConfigs):
    folder = experiment_singleton().run.checkpoint_path if has_experiment() and ranks().is_main else None
    return Checkpointer(folder, interval=c.checkpoint_interval, keep=c.keep_checkpoints,
                        is_sharded=c.parallel.is_sharded)


@option(TrainingConfigs.progress_view, 'labml')
def _labml_view():
    return ProgressView()


@option(TrainingConfigs.trainer, 'resumable')
def _trainer(c: TrainingConfigs):
    return TrainingLoop(loader=c.train_loader, step=c.step, after_step=c._after_step, progress=c.progress,
                        inner_iterations=c.inner_iterations, state_modules=c.state_modules, view=c.progress_view,
                        is_track_time=c.is_track_time, max_steps=c.max_steps)


@option(TrainingConfigs.validator, 'all_windows')
def _validator(c: TrainingConfigs):
    # The same masks each time
    return ValidationLoop(loader=c.valid_loader, step=c.step, start=c._valid_masking.restart,
                          before_step=c.interrupt.check, state_modules=[*c.state_modules, c.valid_metrics],
                          view=c.progress_view, is_track_time=c.is_track_time)


@option(TrainingConfigs.old_validator, 'all_windows')
def _old_validator(c: TrainingConfigs):
    if c.old_loader is None:
        return None
    return ValidationLoop(loader=c.old_loader, step=c.old_step, start=c._old_masking.restart,
                          before_step=c.interrupt.check, state_modules=[c.old_metrics], view=c.progress_view,
                          is_track_time=c.is_track_time, keeps_rng=True)
