"""A training script that takes no time: it writes the folder of a run."""
import pytest

from labml_mlm.sweep import plan

SCRIPT = '''
import json, os, pathlib, sys, time

values = dict(argument.split('=', 1) for argument in sys.argv[1:] if '=' in argument)
resumed = sys.argv[sys.argv.index('--resume') + 1] if '--resume' in sys.argv else None
uuid = resumed or os.environ['RUN_UUID']
run = pathlib.Path('logs/test') / uuid
with open('calls', 'a') as f:
    f.write(json.dumps([uuid, sys.argv[1:]]) + '\\n')
if resumed is None:
    run.mkdir(parents=True)
    (run / 'configs.json').write_text(json.dumps({
        'experiment': 'test', 'time': 0, 'given': values, 'defaults': {}, 'computed': {}, 'text': {}, 'tokenizer': None,
        'versions': {}, 'resumed': []}))
else:
    values = json.loads((run / 'configs.json').read_text())['given']


def end(status):
    (run / 'run_log.jsonl').write_text(json.dumps({'status': status}) + '\\n')


def log(loss):
    (run / 'log.jsonl').write_text(json.dumps({'track': {'loss.valid': [[1, [loss]]], 'accuracy.valid': [[1, [0.5]]]},
                                               'time': 0}) + '\\n')


mode = pathlib.Path(f'mode-{values["x"]}')
if mode.exists() and mode.read_text() == 'fail':
    end('crashed')
    sys.exit(3)
if mode.exists() and mode.read_text() == 'wait':
    try:
        print('waiting', flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        end('interrupted')
        sys.exit(130)
log(float(values['x']) + float(values.get('seed', 1)) / 10)
end('completed')
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project with the script `fast.py`, whose item `x` is its loss; `mode-X` says that it fails, or waits."""
    (tmp_path / '.labml.yaml').touch()
    (tmp_path / 'fast.py').write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unchecked(monkeypatch):
    """Combinations are taken as they are given, without a process that checks them."""
    def combinations(asked):
        found = plan.grid.grid(plan.grid.axes(asked.overrides, whole=()))
        return plan.grid.with_seeds(found, range(1, asked.seeds + 1)) if asked.seeds else found

    monkeypatch.setattr(plan, 'combinations', combinations)
