"""
# A run, as configs

Epochs and validations, and how a run is interrupted, saved and gone on with. The base of any run that has a `step`.
"""

import sys

import torch
from labml import monit, tracker
from labml.configs import option
from labml.internal.experiment import experiment_singleton, has_experiment
from labml_helpers.train_valid import BatchIndex, Trainer
from torch import Tensor

from labml_mlm.common.errors import Range, at_least
from labml_mlm.configs.masking import MaskConfigs
from labml_mlm.configs.snapshot import record_of
from labml_mlm.distributed.parallel import Alone, Replicas, Shards
from labml_mlm.distributed.process_group import ranks
from labml_mlm.training.checkpointer import Saver
from labml_mlm.training.loop import InterruptibleTrainer, ResumableTrainer
from labml_mlm.training.metrics import StepMetrics, Throughput, ValidMetrics
from labml_mlm.training.progress import Progress
from labml_mlm.training.signals import Interrupt, Stopped
from labml_mlm.training.state import rng_state, set_rng_state

EXACTNESS_ENDS = 'steps from here on are not those of a run that never stopped'

# What labml's trainer has and this one does without
_OWN_LOOP = dict.fromkeys(
    ['training_loop', 'loop_count', 'loop_step', 'is_loop_on_interrupt', 'log_new_line_interval', 'log_write_interval'],
    'training goes by `epochs` and `inner_iterations`, and tracks every step')
_OWN_CHECKPOINTS = dict.fromkeys(['is_save_models', 'save_models_interval'],
                                 'checkpoints go by `checkpoint_interval` and `keep_checkpoints`')


class RunConfigs(MaskConfigs):
    """
    ## Configurations of rounds, checkpoints and interrupts
    """
    # What each of several ranks has of the model: `ddp` all of it, `fsdp` a slice of every parameter
    parallel: Alone = 'ddp'
    # Rounds of the training text
    epochs: int = 4
    # Validations in each epoch
    inner_iterations: int = 1
    # Metrics of labml_helpers to run along
    state_modules: list = []
    # Trains a round, from wherever the run is
    trainer: Trainer = 'resumable'
    # Runs a validation
    validator: Trainer = 'all_windows'
    # Sums of a validation
    valid_metrics: ValidMetrics
    # Metrics of training steps
    step_metrics: StepMetrics
    # Optimizer steps between two checkpoints; none for validations only
    checkpoint_interval: int | None = 500
    # Checkpoints that are kept, the last ones, beside the best
    keep_checkpoints: int = 2
    # Writes checkpoints
    saver: Saver = 'run_folder'
    interrupt: Interrupt
    progress: Progress
    throughput: Throughput

    _ranges = {'epochs': Range(1, 10 ** 9), 'inner_iterations': at_least(1), 'checkpoint_interval': at_least(1),
               'keep_checkpoints': at_least(1)}
    _refused = {**_OWN_LOOP, **_OWN_CHECKPOINTS}
    _is_built = False
    # What may be another one when a run goes on, and what that means
    _may_change = {
        'epochs': 'the learning rate falls until the new end', 'batch_size': EXACTNESS_ENDS,
        'checkpoint_interval': '', 'keep_checkpoints': '', 'is_track_time': '', 'tiny_shakespeare_url': '',
        # The text itself is compared, and the tokenizer is the run's own
        'text': '', 'text_path': '', 'valid_path': '', 'tokenizer_path': '',
    }

    def init(self):
        """Builds all that a run needs."""
        if not self.progress.steps:
            # A run that goes on has its random numbers from the checkpoint
            torch.manual_seed(self.seed)
        # What may be wrong on one machine only; from here on ranks may wait for each other
        _ = self.device, self.train_loader, self.valid_loader
        ranks().check()
        _ = self.trainer, self.validator, self.interrupt, self.throughput, self.step_metrics, self.saver
        _ = self.epochs, self.inner_iterations
        self._is_built = True

    def run(self):
        """
        Trains, from wherever the run is. A signal ends it after the step in which it came, with a checkpoint and
        `KeyboardInterrupt`.
        """
        if not self._is_built:
            self.init()
        if not self.saver.about and has_experiment() and ranks().is_main:
            self.saver.about = {'configs': record_of(self, experiment=experiment_singleton().run.name)}
        # A loader of somebody's own may draw from any generator, and has to give all ranks the same
        if ranks().size > 1:
            set_rng_state(ranks().of_main(rng_state()))
        self.progress.start()
        with self.interrupt:
            tracker.set_global_step(self.progress.tokens)
            try:
                for epoch in monit.loop(range(self.progress.epoch, self.epochs), is_track=False):
                    self.valid_metrics.clear()
                    self.run_step()
                    if self.progress.epoch == epoch:
                        # A `run_step` of the user's own
                        self.progress.end_epoch()
                        self.saver.save(self, valid=self.valid_metrics.values)
            except Stopped:
                ranks().settle()
                self.saver.save(self)
                raise
            finally:
                # A second signal does not wait for the disk
                if sys.exc_info()[0] is not KeyboardInterrupt:
                    self.saver.finish()
            ranks().settle()

    def run_step(self):
        """The rest of an epoch: training, validation and samples, `inner_iterations` times."""
        for _ in range(self.progress.round, self.inner_iterations):
            self.throughput.restart()
            with self.mode.update(is_train=True), tracker.namespace('train'):
                self.trainer()
            self.step_metrics.finish()
            with self.mode.update(is_train=False), tracker.namespace('valid'):
                self.validator()
            tracker.save()
            self.sample()
            self.progress.end_round(self.inner_iterations)
            self.saver.save(self, valid=self.valid_metrics.values)
            self.interrupt.check()


@option(RunConfigs.parallel, 'ddp')
def _ddp():
    return Alone() if ranks().size == 1 else Replicas()


@option(RunConfigs.parallel, 'fsdp')
def _fsdp():
    return Alone() if ranks().size == 1 else Shards(ranks())


@option(RunConfigs.saver, 'run_folder')
def _saver(c: RunConfigs):
    folder = experiment_singleton().run.checkpoint_path if has_experiment() and ranks().is_main else None
    return Saver(folder, interval=c.checkpoint_interval, keep=c.keep_checkpoints, is_sharded=c.parallel.is_sharded)


@option(RunConfigs.trainer, 'resumable')
def _trainer(c: RunConfigs):
    def after_step():
        c.saver.step(c)
        c.interrupt.check()

    return ResumableTrainer(name='Train', mode=c.mode, data_loader=c.train_loader, inner_iterations=c.inner_iterations,
                            state_modules=c.state_modules, is_track_time=c.is_track_time, step=c.step,
                            progress=c.progress, after_step=after_step)


@option(RunConfigs.validator, 'all_windows')
def _validator(c: RunConfigs):
    def step(batch: Tensor, batch_index: BatchIndex):
        c.interrupt.check()
        if batch_index.idx == 0:
            # The same masks each time
            c.valid_mlm.generator.manual_seed(0)
        c.step(batch, batch_index)

    # One inner iteration: each validation covers the whole validation set
    return InterruptibleTrainer(name='Valid', mode=c.mode, data_loader=c.valid_loader, inner_iterations=1,
                                state_modules=[*c.state_modules, c.valid_metrics], is_track_time=c.is_track_time,
                                step=step)

