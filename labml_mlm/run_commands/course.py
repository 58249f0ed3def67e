"""
# The course of a run: what decides it, and how it went

Two runs learn alike, up to their seeds, if text, vocabulary, size and all items are the same but for those of `FREE`,
which change nothing that is learned. `conditions` are these, by the snapshot of a run; `read_metrics` is what came of
it.
"""
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.files import read_ordinary
from labml_mlm.common.untrusted import is_list_of, is_number, parse_json
from labml_mlm.runs.log_lines import Skipped
from labml_mlm.runs.metrics_log import read_values
from labml_mlm.runs.run import Run
from labml_mlm.runs.text_name import text_name

# What says how long a run is; schedules end with it
LENGTHS = 'epochs', 'max_steps', 'max_tokens', 'max_minutes'
# Items that two runs may differ in, and yet learn alike
FREE = frozenset((
    *LENGTHS, 'recipe', 'seed', 'transformer.seed',
    # The text and the vocabulary are compared by what is in them
    'text', 'text_path', 'text_glob', 'text_field', 'text_format', 'text_errors', 'valid_path', 'default_text',
    'tiny_shakespeare_url', 'corpus', 'tokenizer', 'tokenizer_path', 'token_pattern', 'vocab_size', 'max_token_length',
    'tokenizer_sample',
    # When it is looked at and saved, and when it ends early
    'inner_iterations', 'valid_batch_size', 'patience', 'checkpoint_interval', 'keep_checkpoints', 'checkpointer',
    'prompt', 'n_prompts', 'sampler', 'baselines', 'is_track_baselines', 'probe_path', 'probe_text_field',
    'probe_label_field', 'probe_every', 'prober', 'progress_view', 'verbose', 'is_track_time', 'is_output_sent',
    # How the same sums are computed
    'device', 'device.cuda_device', 'device.use_cuda', 'compile', 'parallel', 'packed_attention',
    'gradient_accumulation_steps', 'max_skipped_steps'))
VALIDATED = 'accuracy.valid', 'loss.valid'
# Bytes of labml's log of a run
_MAX_LOG = 2 ** 24


class Conditions(NamedTuple):
    """What decides how a run learns."""
    recipe: str | None
    # Its `name` for people, `characters`, and the hashes of it and of that of `valid_path`
    text: dict[str, Any]
    # `name`, `n_tokens`, and a hash of all that is in it
    tokenizer: dict[str, Any]
    # Of the model
    parameters: int | None
    # The values of all items but those of `FREE`
    items: dict[str, Any]


class Metrics(NamedTuple):
    """What the log of a run says."""
    # The figures of `VALIDATED`, by training tokens, ascending
    validations: dict[int, dict[str, float]]
    # Training tokens, ascending, and the seconds of training until then, without validations
    training: list[tuple[int, float]]


def conditions(snapshot: Mapping[str, Any]) -> Conditions:
    """Those of a run, by its snapshot."""
    values, text, tokenizer = _values(snapshot), snapshot['text'], snapshot['tokenizer']
    content = json.dumps(tokenizer, sort_keys=True).encode()
    return Conditions(
        values.get('recipe'),
        {'name': text_name(snapshot), **{name: text.get(name) for name in ('characters', 'sha256', 'valid_sha256')}},
        {'name': values.get('tokenizer'), 'n_tokens': values.get('n_tokens'),
         'sha256': tokenizer and hashlib.sha256(content).hexdigest()},
        snapshot.get('parameters'), {name: value for name, value in values.items() if name not in FREE})


def unknown_items(snapshot: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Items of a run that are not among the `known` ones, and that were given another value than their default."""
    defaults = snapshot['defaults']
    return {name: value for name, value in snapshot['given'].items()
            if name not in FREE and name not in known and value != defaults.get(name)}


def planned_length(snapshot: Mapping[str, Any]) -> tuple[str, float] | None:
    """One of `LENGTHS` but minutes, and its value; `None` if the snapshot does not say it."""
    values = {**snapshot['defaults'], **snapshot['given']}
    names = [name for name in LENGTHS if is_number(values.get(name)) and values[name] > 0]
    # As `BudgetConfigs` chooses
    chosen = [name for name in names if name in snapshot['given']] or names[1:] or names
    if len(chosen) != 1:
        return None
    [name] = chosen
    if name != 'max_minutes':
        return name, values[name]
    steps = (snapshot.get('fitted') or {}).get('max_steps')
    return ('max_steps', steps) if is_number(steps) and steps > 0 else None


def changed_when_resumed(run: Run, snapshot: Mapping[str, Any]) -> str | None:
    """What a run was resumed with that its steps before were not, in words; `None` if there is nothing."""
    resumed = []
    try:
        lines = read_ordinary(run.path / 'run_log.jsonl', max_bytes=_MAX_LOG).splitlines()
        resumed = [entry['details'] for entry in map(parse_json, lines)
                   if isinstance(entry, dict) and entry.get('status') == 'resumed'
                   and is_list_of(str, entry.get('details'))]
    except OSError:
        pass
    # A line `NAME: before → now (what that means)`, or `NAME no longer counts`
    changes = [change for details in resumed for change in details
               if (name := change.replace(':', ' ').partition(' ')[0]) not in FREE or name in LENGTHS]
    if changes:
        return f'it was resumed with {"; ".join(change.partition(" (")[0] for change in changes)}'
    if len(resumed) < len(snapshot['resumed']):
        return 'it was resumed, and its folder does not say whether with the same items'
    return None


def read_metrics(log: Path, skipped: Skipped | None = None) -> Metrics:
    """What a log says, also while it is written. Damaged lines are left out, and counted in `skipped`."""
    validations: dict[int, dict[str, float]] = {}
    speeds: dict[int, float] = {}
    for step, name, value in read_values(log, skipped):
        if name in VALIDATED:
            validations.setdefault(int(step), {})[name] = value
        elif name == 'tokens_per_second' and step >= 1 and 0 < value < math.inf:
            speeds[int(step)] = value
    training, tokens, seconds = [], 0, 0.
    for step, speed in sorted(speeds.items()):
        # Steps that are missing had about the speed of the next one
        tokens, seconds = step, seconds + (step - tokens) / speed
        training.append((tokens, seconds))
    return Metrics(dict(sorted(validations.items())), training)


def interpolated(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value at `at`, between the points around it, which are ascending; beyond them it is that of the nearest."""
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x0 <= at <= x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0) if x1 > x0 else y0
    return points[0][1] if at < points[0][0] else points[-1][1]


def _values(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """All items; what is computed stands in place of the name of how it is computed."""
    values, computed = {**snapshot['defaults'], **snapshot['given']}, snapshot['computed']
    return {name: computed[name] if isinstance(value, str) and computed.get(name) is not None else value
            for name, value in values.items()}
