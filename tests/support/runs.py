"""Folders of runs, without training."""
import json

import pytest

from labml_mlm.runs.run import Run

SNAPSHOT = {'experiment': 'test', 'time': 0., 'given': {}, 'defaults': {}, 'computed': {}, 'text': {},
            'tokenizer': None, 'versions': {}, 'resumed': []}


@pytest.fixture
def make(tmp_path):
    """Makes the folder of a run in `logs` of `tmp_path`."""
    def make(uuid, experiment='test', *, minute=0, pid=2 ** 22 + 1, statuses=(), snapshot=None):
        path = tmp_path / 'logs' / experiment / uuid
        path.mkdir(parents=True)
        (path / 'run.pid').write_text(str(pid))
        # As labml pads it
        (path / 'run.yaml').write_text(f"trial_date: 2026-11- 4\ntrial_time: ' 8: {minute}: 7'\ntags: [a]\n")
        (path / 'run_log.jsonl').write_text(''.join(json.dumps({'status': status}) + '\n' for status in statuses))
        run = Run(path)
        if snapshot is not None:
            run.snapshot = snapshot
        return run
    return make


def log_metrics(run: Run, **curves: dict[int, float]):
    """Writes a metrics log: `{step: value}` by indicator, with `_` for a dot."""
    track = {name.replace('_', '.'): [[step, [value]] for step, value in curve.items()]
             for name, curve in curves.items()}
    run.log.write_text(json.dumps({'track': track, 'time': 0.}) + '\n')
