"""
# What a run is

`describe` gathers it from the folder of a run, for JSON; `differences` are those of two runs.
"""
import math
import os
import shlex
from collections.abc import Mapping
from typing import Any

from labml_mlm.common.errors import UserError
from labml_mlm.run_commands.deletion import size_of
from labml_mlm.runs import checkpoint
from labml_mlm.runs.log_lines import Skipped
from labml_mlm.runs.metrics_log import read_values
from labml_mlm.runs.run import Run

# Parts of a description that `differences` compares, beside configs and figures
_COMPARED = 'name', 'objective', 'script', 'class', 'text', 'tokenizer', 'parameters', 'tokens', 'steps', 'versions'


def describe(run: Run, skipped: Skipped | None = None) -> dict[str, Any]:
    """
    All that the folder of a run says, for JSON; what it does not say is `None`. `skipped` counts damaged lines.

    Raises `UserError` if its `configs.json` cannot be read, as that of another program's run.
    """
    snapshot = run.snapshot
    if snapshot is None:
        raise UserError(f'the run {run.uuid} has no configs.json of labml_mlm that can be read, in {run.path}')
    checkpoints, final = _checkpoints(run), run.final_status() or {}
    progress = next((saved['progress'] for saved in reversed(checkpoints) if saved['progress']), {})
    best, last = _figures(run, skipped)
    status = run.status
    return {
        'uuid': run.uuid, 'name': run.experiment, 'comment': run.comment, 'tags': run.tags,
        'path': str(run.path), 'bytes': size_of(run.path),
        'objective': snapshot.get('objective', 'mlm'), 'script': snapshot.get('script'), 'class': snapshot.get('class'),
        'status': status, 'details': None if status == 'running' else final.get('details'),
        'started': run.started, 'ended': None if status == 'running' else final.get('time'),
        # As of the last checkpoint
        'tokens': checkpoints[-1]['step'] if checkpoints else None, 'steps': progress.get('steps'),
        'seconds': progress.get('seconds'), 'resumed': [life['tokens'] for life in snapshot['resumed']],
        'configs': {name: {'value': value, 'default': snapshot['defaults'].get(name)}
                    for name, value in snapshot['given'].items() if value != snapshot['defaults'].get(name)},
        'text': _text(snapshot), 'tokenizer': _tokenizer(snapshot), 'parameters': snapshot.get('parameters'),
        'checkpoints': [{name: value for name, value in saved.items() if name != 'progress'} for saved in checkpoints],
        'best': best, 'last': last, 'baselines': run.baselines,
        'resume': _resume_command(run, snapshot, status, progress), 'versions': snapshot['versions'],
    }


def differences(first: Run, second: Run, *, skipped: Skipped | None = None) -> dict[str, dict[str, list]]:
    """
    What differs in two runs: `[first, second]` by name, in `configs`, in `about` (text, tokenizer, versions, …), and in
    `figures`, those of the best and the last validation. Raises what `describe` does.
    """
    described = [describe(run, skipped) for run in (first, second)]
    configs = [_values(run.snapshot) for run in (first, second)]
    about = [_flat({name: facts[name] for name in _COMPARED}) for facts in described]
    figures = [_flat({name: facts[name] for name in ('best', 'last')}) for facts in described]
    return {'configs': _differing(*configs), 'about': _differing(*about), 'figures': _differing(*figures)}


def _values(snapshot: dict) -> dict[str, Any]:
    values = {**snapshot['defaults'], **snapshot['given']}
    # A run that was resumed has the option in place of `auto`
    return values | ({'text': snapshot['text'].get('source') or values['text']} if 'text' in values else {})


def _checkpoints(run: Run) -> list[dict[str, Any]]:
    """By ascending step; damaged ones with the `error` alone."""
    best, found = run.checkpoints.best(), []
    for step, path in run.checkpoints.steps().items():
        about = {'step': step, 'bytes': size_of(path), 'path': str(path), 'valid': None, 'is_best': False,
                 'is_before_decay': False, 'error': None, 'progress': None}
        try:
            saved = checkpoint.read(path)
            about |= {'valid': saved.valid, 'is_best': best is not None and best.step == step,
                      'is_before_decay': saved.is_before_decay, 'progress': saved.metadata.get('progress')}
        except UserError as e:
            about['error'] = str(e)
        found.append(about)
    return found


def _figures(run: Run, skipped: Skipped | None) -> tuple[dict | None, dict | None]:
    """All figures of the best validation, and of the last."""
    validations: dict[int, dict[str, float]] = {}
    for step, name, value in read_values(run.log, skipped):
        if name.endswith(('.valid', '.old')):
            # JSON has no NaN
            validations.setdefault(step, {})[name] = value if math.isfinite(value) else None
    if not validations:
        return None, None
    losses = {step: figures['loss.valid'] for step, figures in validations.items()
              if figures.get('loss.valid') is not None}
    best = min(losses, key=losses.get, default=None)
    if run.is_fine_tuned and (saved := run.checkpoints.best()):
        # By the figure that it goes by
        best = saved.step
    return tuple(None if step is None else {'step': step, **validations.get(step, {})}
                 for step in (best, max(validations)))


def _text(snapshot: dict) -> dict[str, Any]:
    return {'path': snapshot['given'].get('text_path') or None, **snapshot['text'],
            'valid_path': snapshot['given'].get('valid_path') or None}


def _tokenizer(snapshot: dict) -> dict[str, Any]:
    values = {**snapshot['defaults'], **snapshot['computed'], **snapshot['given']}
    n_tokens = values.get('n_tokens')
    return {'name': values.get('tokenizer'), 'kind': (snapshot['tokenizer'] or {}).get('kind'),
            'n_tokens': n_tokens if isinstance(n_tokens, int) else None}


def _resume_command(run: Run, snapshot: dict, status: str, progress: Mapping[str, Any]) -> str | None:
    """The command that resumes a run from here; one that is complete is given more to do. `None` if nothing can."""
    script = snapshot.get('script')
    # Without a script, `labml-mlm train` resumes a run that is values alone
    if status == 'running' or not script and snapshot.get('own_code') != []:
        return None
    n = snapshot['versions'].get('ranks', 1)
    command = ['python'] if n == 1 else ['torchrun', f'--nproc_per_node={n}']
    if script:
        here = os.path.relpath(script)
        command.append(script if here.startswith('..') else here)
    else:
        command = ['labml-mlm', 'train'] if n == 1 else [*command, '-m', 'labml_mlm', 'train']
    command += ['--resume', run.uuid]
    values = {**snapshot['defaults'], **snapshot['computed'], **snapshot['given']}
    if status == 'completed' and progress:
        patience, bad = values.get('patience'), progress.get('validations_since_best', 0)
        if isinstance(patience, int) and bad >= patience:
            command.append(f'patience={2 * bad}')
        elif budget := next((name for name in ('max_tokens', 'max_minutes') if values.get(name)), None):
            command.append(f'{budget}={2 * values[budget]}')
        elif isinstance(values.get('max_steps'), int):
            command.append(f'max_steps={2 * progress["steps"]}')
        else:
            command.append(f'epochs={progress["epoch"] + 1}')
    return shlex.join(command)


def _flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f'{prefix}{name}.') if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list]:
    """Values of two mappings that differ; `None` where one has none."""
    return {name: [first.get(name), second.get(name)] for name in dict.fromkeys([*first, *second])
            if first.get(name) != second.get(name)}
