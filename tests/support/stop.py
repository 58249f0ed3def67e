"""A signal at a chosen moment."""
from labml_mlm.training.signals import Stopped


class StopAt:
    """A signal after a number of training steps, or in the validation after them."""

    def __init__(self, conf, steps, is_in_validation=False):
        self.conf, self.steps, self.is_in_validation = conf, steps, is_in_validation
        conf.interrupt.check = self.check

    def check(self):
        if self.conf.progress.steps >= self.steps and self.conf.mode.is_train != self.is_in_validation:
            raise Stopped
