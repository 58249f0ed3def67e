"""
# The length of a resumed run

Schedules and checkpoints of a run know its steps alone, so those of its minutes or tokens are part of its snapshot. A
resumed run is as long as it was, unless it is given another budget.
"""
from collections.abc import Mapping
from typing import Any

from labml_mlm.budget.configs import BUDGETS, check_one
from labml_mlm.common.errors import UserError

# What decides how many tokens a step has, and may change
_OF_TOKENS = 'batch_size', 'seq_len_schedule', 'is_token_budget_constant', 'replay_fraction'


def new_budget(values: dict[str, Any], given: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """
    Leaves one budget in the `values` of a resumed run, and returns which ones no longer count, as `name=value`.

    * `given` are the values that the run was given, and `new` those that it is given now

    Raises `UserError` if more than one is new.
    """
    check_one({name: new[name] for name in _present(new)})
    names = _present(new) or _present(given)
    if not names:
        return []
    # Also those that were defaults at its time
    replaced = {name: values.pop(name) for name in BUDGETS if name in values and name not in names}
    return [f'{name}={value}' for name, value in replaced.items() if name in _present(given)]


def fitted_steps(saved: dict[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    The steps of a resumed run, as `BudgetConfigs` has them; `None` if there is nothing to keep.

    * `saved` are those of its snapshot
    * `new` are the values that it is given now

    More minutes are as many more steps. Raises `UserError` for minutes of a run whose speed is not known.
    """
    saved, name = saved or {}, next(iter(_present(new)), None)
    if name == 'max_minutes':
        if name not in saved:
            raise UserError(f'max_minutes={new[name]:g}: the speed of this run was not measured when it began, and a '
                            'resumed run knows steps alone: give max_steps')
        factor = new[name] / saved[name]
        return {name: new[name], 'max_steps': max(1, round(factor * saved['max_steps']))}
    if name is not None or not saved or 'max_tokens' in saved and any(item in new for item in _OF_TOKENS):
        return None
    return saved


def _present(values: Mapping[str, Any]) -> list[str]:
    return [name for name in BUDGETS if values.get(name) is not None]
