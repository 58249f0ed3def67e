"""
# Configs of training

Epochs, validations, signals and checkpoints. The base of any run that has a `step`.
"""
import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import torch
from labml import logger, tracker
from labml.configs import option
from labml.internal.experiment import experiment_singleton, has_experiment
from labml.logger import Text
from labml_helpers.train_valid import BatchIndex, Trainer

from labml_mlm.budget.configs import BudgetConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.common.runtime import keep_freed_memory
from labml_mlm.configs.optimization import OptimizationConfigs
from labml_mlm.configs.snapshot import take_snapshot
from labml_mlm.data.loader import TrainLoader, loader_length
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.declarations import Item, at_least
from labml_mlm.notebook.page import NotebookView
from labml_mlm.probing.configs import ProbeConfigs
from labml_mlm.screen import console
from labml_mlm.screen.live_view import LiveView
from labml_mlm.screen.plain_view import PlainView
from labml_mlm.screen.progress_view import ProgressView
from labml_mlm.training.checkpointer import Checkpointer
from labml_mlm.training.loop import TrainingLoop, ValidationLoop
from labml_mlm.training.metrics import OldMetrics, StepMetrics, Throughput, ValidMetrics
from labml_mlm.training.progress import work_left
from labml_mlm.training.signals import SignalHandler, Stopped
from labml_mlm.training.state import rng_state, set_rng_state
from labml_mlm.training.valid_masking import RepeatedMasking

# Items of labml_helpers that this training loop does without
_OWN_LOOP = Item(refused='training goes by `epochs` and `inner_iterations`, and tracks every step')
_OWN_CHECKPOINTS = Item(refused='checkpoints go by `checkpoint_interval` and `keep_checkpoints`')


class TrainingConfigs(OptimizationConfigs, BudgetConfigs, ProbeConfigs):
    """
    ## Configurations of validations, signals and checkpoints
    """
    inner_iterations: Annotated[int, Item('Validations per epoch', at_least(1))] = 1
    checkpoint_interval: Annotated[int | None, Item('Steps between two checkpoints; `none` saves at validations only',
                                                    at_least(1), unit='optimizer steps', may_change=True)] = 500
    patience: Annotated[int | None, Item(
        'Validations in a row that are not the best so far after which training ends; `none` trains to the end',
        at_least(1), may_change=True)] = None
    keep_checkpoints: Annotated[int, Item('How many of the last checkpoints to keep, in addition to the best',
                                          at_least(1), may_change=True)] = 2
    is_output_sent: Annotated[bool, Item('Send what is printed, samples among it, to the labml app',
                                         may_change=True)] = True
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
    progress_view: Annotated[ProgressView, Item('Shows the progress of training')] = 'by_output'

    verbose: Annotated[bool, Item("Show labml's own lines, too: each item that is prepared, and the commit of the "
                                  'project', may_change=True)] = False

    training_loop: Annotated[Any, _OWN_LOOP]
    loop_count: Annotated[Any, _OWN_LOOP]
    loop_step: Annotated[Any, _OWN_LOOP]
    is_loop_on_interrupt: Annotated[Any, _OWN_LOOP]
    log_new_line_interval: Annotated[Any, _OWN_LOOP]
    log_write_interval: Annotated[Any, _OWN_LOOP]
    is_save_models: Annotated[Any, _OWN_CHECKPOINTS]
    save_models_interval: Annotated[Any, _OWN_CHECKPOINTS]

    _is_built = False
    # At which this process began to train
    _first_step: int | None = None

    @functools.cached_property
    def _valid_masking(self) -> RepeatedMasking:
        return RepeatedMasking(self.valid_mlm)

    @functools.cached_property
    def _old_masking(self) -> RepeatedMasking:
        return RepeatedMasking(self.valid_mlm)

    def _start_validation(self):
        """The same masks each time."""
        self._valid_masking.restart()

    @property
    def _guesses(self) -> dict[str, float]:
        """Losses of guesses without a model, by name."""
        return {}

    @property
    def _is_last_of_epoch(self) -> bool:
        """Is the present step the last one of an epoch?"""
        return bool(loader_length(self.train_loader)) and self.progress.left_in_epoch(self.train_loader) == 1

    @property
    def _is_complete(self) -> bool:
        """Has the run reached its end?"""
        return self._is_out_of_patience or \
            self.progress.epoch >= self.progress.end(self.train_loader, **self._run_length)

    @property
    def _is_out_of_patience(self) -> bool:
        """Has it become no better for too long?"""
        return self.patience is not None and self.progress.validations_since_best >= self.patience

    def init(self):
        """Builds everything that a run needs."""
        self._check_budget()
        if not self.progress.steps:
            # A resumed run has its random numbers from the checkpoint
            torch.manual_seed(self.seed)
        # These may fail on one machine only; after them, ranks may wait for each other
        self._check_old_texts()
        if self.device.type == 'cuda' and self.device.index is not None:
            # Pinned memory and streams are those of the present one
            torch.cuda.set_device(self.device)
        if self.device.type == 'cpu':
            keep_freed_memory()
        _ = self.train_loader, self.valid_loader, self.old_loader
        ranks().check_errors()
        self._check_loader_fits_budget()
        _ = self.trainer, self.validator, self.old_validator, self.interrupt, self.throughput, self.step_metrics
        _ = self.skipped_steps, self.max_skipped_steps, self.checkpointer, self.epochs, self.inner_iterations
        # labml saves all configs whenever a run computes one more
        _ = self.patience, self.old_metrics, self.mode, self.is_output_sent, self.verbose
        self._check_loaders()
        self._check_layer_decay()
        self._check_prober()
        self._is_built = True

    def _check_loaders(self):
        if isinstance(self.valid_loader, Iterator):
            raise UserError(f'valid_loader, a {type(self.valid_loader).__name__}, can be iterated over only once, and '
                            'there is more than one validation: use an object with `__iter__`, such as a DataLoader')
        budget = self._budgets[-1]
        if isinstance(self.trainer, Trainer) and (budget != 'epochs' or self.epochs != int(self.epochs)):
            raise UserError(f"{budget}={getattr(self, budget)} is for the built-in `trainer`: labml_helpers' `Trainer` "
                            'trains whole epochs')

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
            run = experiment_singleton().run
            self.checkpointer.metadata = {'configs': take_snapshot(self, experiment=run.name, script=run.python_file)}
        # A custom loader may draw from any generator, and must give all ranks the same batches
        if ranks().size > 1:
            set_rng_state(ranks().broadcast(rng_state()))
        self.progress.start()
        self._first_step = self.progress.steps
        with self.interrupt:
            tracker.set_global_step(self.progress.tokens)
            end = self.progress.end(self.train_loader, **self._run_length)
            try:
                with _closed_after(self.progress_view.epochs(self.progress.epoch, end)) as epochs:
                    self._run_epochs(epochs)
            except Stopped:
                ranks().finish_delayed_max()
                self.checkpointer.save(self)
                raise
            finally:
                # A second Ctrl-C does not wait for the disk
                if sys.exc_info()[0] is not KeyboardInterrupt:
                    self.checkpointer.finish()
            ranks().finish_delayed_max()

    def _run_epochs(self, epochs: Iterable[int]):
        for epoch in epochs:
            self.valid_metrics.clear()
            self.old_metrics.clear()
            self.run_step()
            if self.progress.epoch == epoch and not self._is_out_of_patience:
                # A custom `run_step` does not count rounds
                self.progress.end_validation(self.valid_metrics.to_minimize)
                self.progress.end_epoch(left_out=self._left_of_epoch)
                self.checkpointer.save(self, valid=self.valid_metrics.values)
            if self._is_out_of_patience:
                logger.log(f'No better for {self.progress.validations_since_best} validations: patience='
                           f'{self.patience}', Text.meta)
                break

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
        self.skipped_steps.check(self.max_skipped_steps)
        self.checkpointer.step(self)
        self.interrupt.check()

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[None]:
        """Says that the model is compiled. As long as this process has not trained, a signal ends that at once."""
        has_trained = self._first_step is not None and self.progress.steps > self._first_step
        at_once = contextlib.nullcontext() if has_trained else self.interrupt.at_once()
        with self.progress_view.work('Compiling the model'), at_once:
            yield

    def run_step(self):
        """The rest of an epoch: training, validation and samples, `inner_iterations` times."""
        for _ in range(self.progress.round, self.inner_iterations):
            if self._is_out_of_patience:
                return
            self.throughput.restart()
            with self.mode.update(is_train=True), tracker.namespace('train'):
                self.trainer()
            self.step_metrics.finish()
            self._validate()
            self._probe()
            tracker.save()
            self.sample()
            self.progress.end_validation(self.valid_metrics.to_minimize)
            self.progress.end_round(self.inner_iterations, left_out=self._left_of_epoch)
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

    def _probe(self):
        """Tracks how useful the features of the model are."""
        if self.prober is not None:
            n_validations = self.progress.epoch * self.inner_iterations + self.progress.round + 1
            for name, accuracy in self.prober(self.model, n_validations=n_validations).items():
                tracker.add(name, accuracy)


@contextlib.contextmanager
def _closed_after(epochs: Iterable[int]) -> Iterator[Iterable[int]]:
    """Inside, the epochs of a view; it is taken off the screen before an error is shown."""
    try:
        yield epochs
    finally:
        if hasattr(epochs, 'close'):
            epochs.close()


@option(TrainingConfigs.checkpointer, 'run_folder')
def _checkpointer(c: TrainingConfigs):
    folder = experiment_singleton().run.checkpoint_path if has_experiment() and ranks().is_main else None
    return Checkpointer(folder, interval=c.checkpoint_interval, keep=c.keep_checkpoints,
                        is_sharded=c.parallel.is_sharded)


@option(TrainingConfigs.progress_view, 'by_output')
def _view_by_output(c: TrainingConfigs):
    if console.is_notebook():
        return NotebookView(lambda: work_left(c), guesses=lambda: c._guesses)
    if not ranks().is_main:
        # They show nothing
        return ProgressView()
    if not console.is_live():
        return PlainView(lambda: work_left(c))
    return LiveView(lambda: work_left(c), guesses=lambda: c._guesses)


@option(TrainingConfigs.progress_view, 'labml')
def _labml_view():
    return ProgressView()


@option(TrainingConfigs.trainer, 'resumable')
def _trainer(c: TrainingConfigs):
    return TrainingLoop(loader=c.train_loader, step=c.step, after_step=c._after_step, progress=c.progress,
                        inner_iterations=c.inner_iterations, state_modules=c.state_modules, view=c.progress_view,
                        is_track_time=c.is_track_time, end_step=lambda: c._end_step)


@option(TrainingConfigs.validator, 'all_windows')
def _validator(c: TrainingConfigs):
    return ValidationLoop(loader=c.valid_loader, step=c.step, start=c._start_validation,
                          before_step=c.interrupt.check, state_modules=[*c.state_modules, c.valid_metrics],
                          view=c.progress_view, is_track_time=c.is_track_time)


@option(TrainingConfigs.old_validator, 'all_windows')
def _old_validator(c: TrainingConfigs):
    if c.old_loader is None:
        return None
    return ValidationLoop(loader=c.old_loader, step=c.old_step, start=c._old_masking.restart,
                          before_step=c.interrupt.check, state_modules=[c.old_metrics], view=c.progress_view,
                          is_track_time=c.is_track_time, keeps_rng=True)
