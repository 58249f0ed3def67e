"""
# Configs that are trained again

labml computes an item once, and keeps it: the trained model, the progress of the run. The same object may be trained
again, as when a cell of a notebook is run twice. It is then what it was before the first run: what it was given, and
nothing that was computed from it. Objects that it was given, such as a `model`, are the same ones.
"""
from typing import Any

from labml.configs import BaseConfigs

# What labml computes, in its own names
_COMPUTED: dict[str, Any] = {'_Configs__cached': {}, '_Configs__cached_configs': {}, '_Configs__order': {},
                             '_Configs__n_calculated': 0, '_Configs__update_callback': None}


def given_state(conf: BaseConfigs) -> dict[str, Any]:
    """The state of configs, as they were given; it changes with them no more."""
    return {name: _copied(value) for name, value in (vars(conf) | _COMPUTED).items()}


def restore_given(conf: BaseConfigs, state: dict[str, Any]):
    """Makes configs what they were at `given_state`."""
    vars(conf).clear()
    vars(conf).update({name: _copied(value) for name, value in state.items()})


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, dict | list | set) else value
