"""
# `labml-mlm info` and `labml-mlm diff`
"""
import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labml_mlm.common.project import logs_path
from labml_mlm.common.table import print_table, size_text
from labml_mlm.common.untrusted import to_json
from labml_mlm.run_commands.beside_curve import beside_curve, rows_beside
from labml_mlm.run_commands.facts import describe, differences
from labml_mlm.runs.log_lines import Skipped, say_skipped
from labml_mlm.runs.run import find_run


def info(parsed: argparse.Namespace):
    """What a run is, how it went, and how to resume it."""
    run, _ = find_run(logs_path(parsed.path), parsed.run)
    skipped = Skipped()
    facts = {**describe(run, skipped), 'expected': beside_curve(run)}
    say_skipped(skipped)
    if parsed.json:
        print(to_json(facts))
        return
    rows = [['run', f'{facts["uuid"]}, of {facts["name"]}'],
            ['comment', facts['comment'] or '-'], ['tags', ', '.join(facts['tags']) or '-'],
            ['folder', f'{facts["path"]}, {size_text(facts["bytes"])}'], ['script', _script(facts)],
            ['status', _status(facts)], ['time', _times(facts)], ['text', _text(facts['text'])],
            ['tokenizer', _tokenizer(facts['tokenizer'])],
            ['model', '-' if facts['parameters'] is None else f'{facts["parameters"]:,} parameters'],
            ['best', _figures(facts['best'])], ['last', _figures(facts['last'])],
            ['guesses', _guesses(facts['baselines'])], *rows_beside(facts['expected']),
            ['to resume', facts['resume'] or '-']]
    print_table(rows, numbers=())
    print()
    if facts['configs']:
        print_table([['item', 'value', 'default'], *([name, _shown(item['value']), _shown(item['default'])]
                                                     for name, item in facts['configs'].items())], numbers=())
    else:
        print('All items are as by default')
    print()
    if facts['checkpoints']:
        print_table([['checkpoint', 'size', 'validation', ''], *map(_checkpoint, facts['checkpoints'])], numbers=(0, 1))
    else:
        print('There is no checkpoint yet')


def diff(parsed: argparse.Namespace):
    """How two runs differ."""
    logs = logs_path(parsed.path)
    first, second = (find_run(logs, name)[0] for name in parsed.run)
    skipped = Skipped()
    found = differences(first, second, skipped=skipped)
    say_skipped(skipped)
    if parsed.json:
        print(to_json({'runs': [first.uuid, second.uuid], **found}))
        return
    rows = [[name, *map(_shown, values)] for part in found.values() for name, values in part.items()]
    if not rows:
        print('Nothing differs')
        return
    print_table([['', first.uuid[:12], second.uuid[:12]], *rows], numbers=())


def _script(facts: Mapping[str, Any]) -> str:
    if not facts['script']:
        return '-'
    return facts['script'] + ('' if Path(facts['script']).exists() else ', which is not there any more')


def _status(facts: Mapping[str, Any]) -> str:
    return facts['status'] + (f': {facts["details"]}' if facts['details'] else '')


def _times(facts: Mapping[str, Any]) -> str:
    parts = [f'began {_date(facts["started"])}']
    if facts['ended']:
        parts.append(f'ended {_date(facts["ended"])}')
    if facts['seconds'] is not None:
        parts.append(f'{facts["seconds"] / 60:.1f} minutes of training, {facts["tokens"]:,} tokens in '
                     f'{facts["steps"]:,} steps')
    if facts['resumed']:
        parts.append(f'resumed at {" and ".join(f"{tokens:,}" for tokens in facts["resumed"])} tokens')
    return '; '.join(parts)


def _date(seconds: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M', time.localtime(seconds))


def _text(text: Mapping[str, Any]) -> str:
    parts = [text['path'] or text.get('source') or '-']
    if text.get('characters'):
        parts.append(f'{text["characters"]:,} characters')
    if text.get('sha256'):
        parts.append(f'SHA-256 {text["sha256"][:12]}…')
    if text['valid_path']:
        parts.append(f'validated on {text["valid_path"]}')
    return ', '.join(parts)


def _tokenizer(tokenizer: Mapping[str, Any]) -> str:
    n_tokens = tokenizer['n_tokens']
    return str(tokenizer['name'] or tokenizer['kind'] or '-') + ('' if n_tokens is None else f', {n_tokens:,} tokens')


def _figures(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return '-'
    shown = (f'{name} {_shown(value)}' for name, value in figures.items() if name != 'step')
    return f'{", ".join(shown)} at {figures["step"]:,} tokens'


def _guesses(baselines: Mapping[str, Mapping[str, float]]) -> str:
    return ', '.join(f'{name} {figures["loss"]:.4f} (accuracy {figures["accuracy"]:.4f})'
                     for name, figures in baselines.items()) or '-'


def _checkpoint(saved: Mapping[str, Any]) -> list[str]:
    valid = saved['valid'] or {}
    figures = ', '.join(f'{name} {value:.4f}' for name, value in valid.items() if type(value) is float)
    notes = [saved['error'], saved['is_best'] and 'the best', saved['is_before_decay'] and 'before the decay']
    return [f'{saved["step"]:,}', size_text(saved['bytes']), figures or '-', ', '.join(filter(None, notes))]


def _shown(value: Any) -> str:
    """A value of an item as it is given, or a figure."""
    if value is None:
        return '-'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f'{value:.4f}' if 0.001 <= abs(value) < 1e6 and not value.is_integer() else f'{value:g}'
    if isinstance(value, list):
        return ','.join(map(str, value)) or '(none)'
    return str(value) or '(none)'
