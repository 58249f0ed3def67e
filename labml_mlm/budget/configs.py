"""
# Configs of the length of a run

How long a run trains is said by one of `epochs`, `max_steps`, `max_tokens` and `max_minutes`. Each becomes a number of
optimizer steps before training, so that schedules, the last validation and the last checkpoint fit it:

* `epochs=2.5` is 2 epochs, and half of the batches of a third one, but at least one step.
* `max_tokens` is the first step at which so many tokens were trained on, as `tokens_per_second` counts them: without
  padding and special tokens. It is counted, not estimated, whatever the lengths of documents and sequences are.
* `max_minutes` is what the run does in that time at a speed that is measured before it. It is an estimate: the run does
  not stop by the clock. The steps are kept with the run, so a resumed one does not measure again.
"""
import math
from collections.abc import Mapping
from typing import Annotated, Any

from labml import logger
from labml.internal.experiment import has_experiment
from labml.logger import Text

from labml_mlm.budget.count import steps_for_tokens
from labml_mlm.budget.speed import measure, shown
from labml_mlm.common.errors import UserError
from labml_mlm.data.loader import TrainLoader, loader_length
from labml_mlm.items.declarations import ABOVE_ZERO, DeclaredConfigs, Item, Range, at_least
from labml_mlm.items.schema import is_given, is_own
from labml_mlm.optim.schedules import seq_len_schedule
from labml_mlm.screen.console import warn
from labml_mlm.screen.long_work import long_work

# The first is there by default
BUDGETS = 'epochs', 'max_steps', 'max_tokens', 'max_minutes'

_NEW_END = 'the learning rate decays to the new end'


def check_one(budgets: Mapping[str, float]):
    """Raises `UserError` for more than one budget, by name."""
    if len(budgets) > 1:
        given = ' and '.join(f'{name}={budget}' for name, budget in budgets.items())
        raise UserError(f'{given}: only one of {", ".join(BUDGETS)} says how long a run is')


class BudgetConfigs(DeclaredConfigs):
    """
    ## Configurations of the length of a run
    """
    epochs: Annotated[int | float, Item('Number of epochs; the last one may be a part, as in 0.5',
                                        Range(0, 10 ** 9, is_open=True), may_change=_NEW_END)] = 4
    max_steps: Annotated[int | None, Item('Number of training steps, in place of `epochs`; a training loader without a '
                                          'length needs it', at_least(1), may_change=_NEW_END)] = None
    max_tokens: Annotated[int | None, Item('Number of tokens to train on, in place of `epochs`: the run ends with the '
                                           'step that reaches it', at_least(1), may_change=_NEW_END)] = None
    max_minutes: Annotated[float | None, Item(
        'Minutes of training, validations included, in place of `epochs`: the speed is measured before training, and '
        'fixes the number of steps', ABOVE_ZERO, may_change=_NEW_END)] = None

    # One of an earlier version may have `epochs` and `max_steps`
    _is_resumed = False
    # The steps that were counted or measured, and for which budget: `{'max_minutes': 2.0, 'max_steps': 2900}`
    _fitted: dict[str, Any] | None = None
    # Are they those of the run that is resumed?
    _is_fit_saved = False

    @property
    def _budgets(self) -> list[str]:
        """What was given of `BUDGETS`, or else stands in the class; one, but for runs of earlier versions."""
        names = [name for name in BUDGETS if getattr(self, name) is not None]
        return [name for name in names if is_given(self, name)] or names[1:] or ['epochs']

    def _check_budget(self):
        """Raises `UserError` if there is more than one budget."""
        if self._is_resumed:
            return
        check_one({name: getattr(self, name) for name in self._budgets})
        if not any(is_given(self, name) for name in BUDGETS):
            # Of a class of the user's, which is what its body says
            for class_ in filter(is_own, type(self).__mro__):
                check_one({name: getattr(self, name) for name in BUDGETS
                           if name in vars(class_) and getattr(self, name) is not None})

    def _check_loader_fits_budget(self):
        """Raises `UserError` for a budget that the training loader cannot have."""
        names = self._budgets
        if loader_length(self.train_loader) is None and 'epochs' in names:
            raise UserError('the training loader has no length, so the run has no epochs to count: give max_steps in '
                            'place of epochs')
        if 'max_tokens' in names and not isinstance(self.train_loader, TrainLoader):
            raise UserError('max_tokens is for the built-in training loader: how many tokens the batches of yours have '
                            'is not known before training. Give max_steps')

    @property
    def _run_length(self) -> dict[str, int | None]:
        """
        `epochs`, if the run ends with a whole one, or else `max_steps`: the step at which it ends. Runs of earlier
        versions may have both, and end with the one that comes first.
        """
        names = self._budgets
        length = {'epochs': None, 'max_steps': None}
        if 'epochs' in names:
            is_whole = self.epochs == int(self.epochs) and not self.progress.left_out
            length |= {'epochs': int(self.epochs)} if is_whole else \
                {'max_steps': self.progress.steps_at(self.train_loader, epochs=self.epochs)}
        if 'max_steps' in names:
            length['max_steps'] = min(self.max_steps, length['max_steps'] or self.max_steps)
        if fitted := [name for name in names if name in ('max_tokens', 'max_minutes')]:
            length['max_steps'] = self._fit(fitted[0])
        return length

    @property
    def _end_step(self) -> int | None:
        """The step at which the run ends, if that may be within an epoch."""
        return self._run_length['max_steps']

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
    def _left_of_epoch(self) -> float:
        """The fraction of the present epoch that is left out, as the run ends here."""
        end, length = self._end_step, loader_length(self.train_loader)
        if end is None or not length or self.progress.steps < end:
            return 0.
        if 'epochs' in self._budgets:
            # Exactly, as a part of an epoch is some whole steps
            return max(0., self.progress.epoch + 1 - self.progress.left_out - self.epochs)
        return self.progress.left_in_epoch(self.train_loader) / length

    def _fit(self, name: str) -> int:
        """The number of steps of a budget of tokens or minutes, fixed when it is first asked for."""
        budget = getattr(self, name)
        if self._fitted is None or self._fitted.get(name) != budget:
            fit = self._count_steps if name == 'max_tokens' else self._measure_steps
            self._fitted = {name: budget, 'max_steps': fit(budget)}
        return self._fitted['max_steps']

    def _resume_length(self, fitted: dict[str, Any] | None):
        """These are configs of a resumed run, with the steps that were counted or measured for it, if there are any."""
        self._is_resumed, self._fitted, self._is_fit_saved = True, fitted, fitted is not None

    def _forget_count(self):
        """Steps that were counted from the beginning are counted again from where the run is now."""
        if self._fitted is not None and 'max_tokens' in self._fitted and not self._is_fit_saved:
            self._fitted = None

    def _count_steps(self, max_tokens: int) -> int:
        """Those from where the run is, in addition to those so far."""
        lengths = None
        if self.seq_len_schedule and not self.is_token_budget_constant:
            lengths = seq_len_schedule(self.seq_len_schedule, seq_len=self.seq_len)
        return steps_for_tokens(self.train_loader, max_tokens, progress=self.progress, length_at=lengths)

    def _measure_steps(self, max_minutes: float) -> int:
        with long_work('Measuring the speed'):
            speed = measure(self)
        n_steps = speed.steps_in(60 * max_minutes)
        if has_experiment():
            validation = f' and {shown(speed.validation)} a validation' if speed.validation else ''
            logger.log(f'max_minutes={max_minutes:g}: {shown(speed.step)} a step{validation}, so {n_steps:,} '
                       f'step{"s" * (n_steps > 1)}', Text.meta)
        return n_steps

    def _warn_of_warm_up(self):
        """Says if a run of so many steps ends before its learning rate is at the peak."""
        if self._has_warm_up and self.lr_warmup_steps >= (end := self._n_steps) > self.progress.steps:
            warn(f'lr_warmup_steps={self.lr_warmup_steps} is not less than the {end:,} step{"s" * (end > 1)} of the '
                 'run: the learning rate only rises')
