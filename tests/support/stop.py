"""A signal at a chosen moment, and runs that end with one."""
import pytest
from labml.internal.monitor import monitor_singleton

from labml_mlm import MLMConfigs
from labml_mlm.budget.configs import BUDGETS
from labml_mlm.runs.checkpoint_folder import CheckpointFolder
from labml_mlm.training.signals import Stopped
from labml_mlm.training.state import restore_state


class StopAt:
    """A signal after a number of training steps, or in the validation after them."""

    def __init__(self, conf, steps, is_in_validation=False):
        self.conf, self.steps, self.is_in_validation = conf, steps, is_in_validation
        conf.interrupt.check = self.check

    def check(self):
        if self.conf.progress.steps >= self.steps and self.conf.mode.is_train != self.is_in_validation:
            raise Stopped


@pytest.fixture
def train(build, tracked):
    """
    Trains two epochs of 31 batches, each in a round of 15 and one of 16, to the end or until `stop`, the arguments of
    `StopAt`. Returns what was tracked, without speed, and the configs.
    """
    def train(folder, values, class_=MLMConfigs, *, stop=None, resume=False):
        length = {} if set(BUDGETS) & set(values) else {'epochs': 2}
        conf = build(class_, **{'inner_iterations': 2, 'n_prompts': 0, 'checkpoint_interval': None, **length, **values})
        conf.checkpointer.folder = folder
        tracked.clear()
        # labml's monitor is still in the loop that was stopped
        monitor_singleton().clear()
        if resume:
            restore_state(conf, CheckpointFolder(folder).last()[0])
        if stop is None:
            conf.run()
        else:
            StopAt(conf, *stop)
            with pytest.raises(Stopped):
                conf.run()
        return {name: list(values) for name, values in tracked.items() if name != 'tokens_per_second'}, conf
    return train
