"""
# What `benchmarks/fuzz.py` damages, and who reads it then

A project with two runs, of characters and of BERT's kind with word pieces, an encoder published from the second, their
tokens, and the plan of a sweep. `FORMATS` says which files a format is, and which commands read them: those that people
use, in the process, as `labml-mlm` calls them.
"""
import contextlib
import hashlib
import json
import os
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import matplotlib.pyplot  # noqa: F401  as torch's compiler: imported once, not in each case
import torch._dynamo  # noqa: F401
from fuzz_mutations import mutate, seal

import labml_mlm.cli.embed  # noqa: F401
import labml_mlm.cli.fill_mask  # noqa: F401
import labml_mlm.evaluation.evaluate  # noqa: F401
import labml_mlm.inference.loading  # noqa: F401
import labml_mlm.launch.train_files  # noqa: F401
import labml_mlm.report.command  # noqa: F401
import labml_mlm.runs.plot  # noqa: F401
from labml_mlm.cli.main import main
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.sweep.plan import PlanFile, PlannedRun, make_plan
from labml_mlm.sweep.runner import Runner

TEXT = 'the quick brown fox jumps over the lazy dog\n' * 60
SIZES = ['recipe=none', 'transformer.n_layers=1', 'd_model=8', 'transformer.n_heads=2', 'batch_size=8', 'seq_len=16',
         'text_path=text.txt']
WORDS = ['tokenizer=wordpiece', 'vocab_size=60']
SWEEP = ['text.txt', 'recipe=none', 'seq_len=16,32']
# Codes that the commands may end with; the last is that of an interrupted one
CODES = 0, 1, 2, 130


class Format(NamedTuple):
    """A format of files."""
    # For `mutate`
    kind: str
    # Patterns in the project
    files: tuple[str, ...]
    readers: tuple[str, ...]


_RUN, _LOOK = 'logs/char/feed', ('runs', 'runs --json', 'info', 'info --json', 'diff', 'report')
_MODEL = 'evaluate', 'fill-mask', 'embed', 'resume', 'init_from'
_WORDS = 'logs/words/bead/checkpoints/*'
FORMATS = {
    'checkpoint.json': Format('json', (f'{_RUN}/checkpoints/*/checkpoint.json', f'{_WORDS}/checkpoint.json'),
                              (*_LOOK, *_MODEL, *_MODEL, 'sync')),
    'log.jsonl': Format('jsonl', (f'{_RUN}/log.jsonl',), (*_LOOK, 'export-metrics', 'plot', 'sync', 'resume')),
    'samples.jsonl': Format('jsonl', (f'{_RUN}/samples.jsonl',), ('samples', 'samples --json', 'report', 'resume')),
    'run_log.jsonl': Format('jsonl', (f'{_RUN}/run_log.jsonl',), (*_LOOK, 'sync', 'resume')),
    'configs.json': Format('json', (f'{_RUN}/configs.json',), (*_LOOK, 'sync', 'resume', 'resume', 'evaluate')),
    'run.yaml': Format('yaml', (f'{_RUN}/run.yaml', f'{_RUN}/configs.yaml', f'{_RUN}/indicators.yaml'),
                       (*_LOOK, 'sync', 'resume')),
    'text.json': Format('json', (f'{_RUN}/text.json',), ('info', 'evaluate other', 'resume other')),
    'baselines': Format('json', (f'{_RUN}/baselines.json', 'data/tokens/*.baselines.json'),
                        ('info', 'report', 'resume', 'train')),
    'delivered': Format('json', (f'{_RUN}/delivered.json',), ('sync upstream',)),
    'tokens': Format('tokens', ('data/tokens/*.tokens',), ('train', 'resume', 'evaluate')),
    'cache': Format('json', ('data/tokens/*[0-9a-f].json', 'data/tokens/*.tokenizer.json'),
                    ('train', 'resume', 'evaluate')),
    'tokenizer.json': Format('json', (f'{_WORDS}/tokenizer.json', 'encoder/tokenizer.json'), (*_MODEL, 'text')),
    'safetensors': Format('safetensors', (f'{_RUN}/checkpoints/*/*.safetensors', 'encoder/model.safetensors'), _MODEL),
    'sweep': Format('json', ('sweeps/*.json',), ('sweep', 'sweep --json')),
    'config.json': Format('json', ('encoder/config.json',), ('evaluate', 'fill-mask', 'embed', 'init_from')),
}


def make_project(folder: Path):
    """The project, in an empty folder. Everything is trained in processes of their own."""
    (folder / '.labml.yaml').write_text('app_url: http://localhost:1/api/v1/default\napp_open_browser: false\n')
    (folder / 'text.txt').write_text(TEXT)
    (folder / 'other.txt').write_text(TEXT[::-1])
    more = ['epochs=2', 'checkpoint_interval=200', 'keep_checkpoints=2']
    _call(folder, ['train', *SIZES, *more, '--name', 'char'], uuid='feed')
    _call(folder, ['train', *SIZES, *WORDS, *more, 'transformer=bert', 'n_prompts=0', '--name', 'words'], uuid='bead')
    _call(folder, ['export', 'bead', 'encoder'])
    (folder / _RUN / 'delivered.json').write_text(json.dumps({'http://localhost:1/': {'loss.train': 640., 'lr': 640.}}))
    file = PlanFile(folder, make_plan(SWEEP))
    file.path.parent.mkdir()
    runs = [PlannedRun('feed', {'seq_len': '16'})._asdict(), PlannedRun('beef', {'seq_len': '32'})._asdict()]
    file.path.write_text(json.dumps({'format': 1, 'tag': file.tag, 'plan': file._asked, 'runs': runs}))
    (folder / 'output.txt').unlink()
    missing = [pattern for wanted in FORMATS.values() for pattern in wanted.files if not any(folder.glob(pattern))]
    if missing:
        raise SystemExit(f'the project has no {", ".join(missing)}')


def damage(project: Path, name: str, rng: random.Random) -> Path:
    """Damages a file of a format, and returns its path; what has checksums of it may be made to fit."""
    wanted = FORMATS[name]
    [*paths] = (path for pattern in [rng.choice(wanted.files)] for path in sorted(project.glob(pattern)))
    path = paths[int(rng.random() * len(paths))]
    data = path.read_bytes()
    is_sealed = name == 'checkpoint.json'
    if is_sealed:
        metadata = json.loads(data)
        metadata.pop('sha256')
        data = json.dumps(metadata).encode()
    data = mutate(data, wanted.kind, rng)
    is_hostile = rng.random() < 0.8
    if is_sealed and is_hostile:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            data = seal(json.loads(data))
    path.write_bytes(data)
    metadata = path.with_name('checkpoint.json')
    if not is_sealed and is_hostile and metadata.exists():
        about = json.loads(metadata.read_bytes())
        about.pop('sha256')
        about['files'][path.name] = {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
        metadata.write_bytes(seal(about))
    return path


def target_of(path: Path, project: Path) -> str:
    """What a command is given for the run or the encoder that a file is of."""
    parts = path.relative_to(project).parts
    return './encoder' if parts[0] == 'encoder' else parts[2] if parts[0] == 'logs' else 'feed'


def read(reader: str, target: str):
    """Calls a reader in the folder of the project; it may end the process."""
    name, _, option = reader.partition(' ')
    _READERS[name](target, [option] if option.startswith('--') else [], option)


def _command(*arguments: str) -> Callable:
    def call(target: str, options: list[str], _: str):
        main([argument.format(target) for argument in arguments] + options)
    return call


def _stop(*_):
    raise KeyboardInterrupt


def _train(*arguments: str) -> Callable:
    """Trains up to the first step: values of a damaged file may ask for any number of them."""
    def call(target: str, _: list[str], option: str):
        more = ['text_path=other.txt'] if option else []
        with mock.patch.object(MLMConfigs, 'training_step', _stop):
            main(['train', *(argument.format(target) for argument in arguments), *more])
    return call


def _sync(_: str, __: list[str], option: str):
    def post(url: str, updates: Sequence[dict], **__) -> dict:
        json.dumps(updates)
        if option == 'upstream':
            return {}
        track = updates[0].get('track', {})
        return {'received': updates[0]['received'] | {name: series['step'][-1] for name, series in track.items()}}

    with mock.patch('labml_mlm.tracking.sync.post_updates', post):
        main(['sync', '--all'])


def _sweep(_: str, options: list[str], __: str):
    with mock.patch.object(Runner, '_call', lambda *_, **__: 1):
        main(['sweep', *SWEEP, *options])


def _evaluate(target: str, _: list[str], option: str):
    text = ['--text', 'text.txt'] if target.startswith('.') else []
    if option == 'other':
        Path('text.txt').write_text(TEXT[::-1])
    main(['evaluate', target, '--json', *text])


# By the first word of what `FORMATS` has
_READERS = {
    'runs': _command('runs'), 'info': _command('info', '{}'), 'diff': _command('diff', 'feed', 'bead'),
    'report': _command('report', 'feed', 'bead', '-o', 'report.html'), 'samples': _command('samples', '{}'),
    'export-metrics': _command('export-metrics', '{}', '-o', 'metrics.csv'),
    'plot': _command('plot', '{}', '-o', 'plot.png'), 'text': _command('text', 'text.txt', '--tokenizer', '{}'),
    'fill-mask': _command('fill-mask', '{}', 'the quick [MASK] fox', '--json'),
    'embed': _command('embed', '{}', 'text.txt', '-o', 'vectors.npy'), 'evaluate': _evaluate, 'sync': _sync,
    'sweep': _sweep, 'resume': _train('--resume', '{}', 'epochs=3'), 'train': _train(*SIZES, *WORDS, '--name', 'new'),
    'init_from': _train('text.txt', 'recipe=none', 'init_from={}', 'seq_len=16', '--name', 'new'),
}


def _call(folder: Path, arguments: Sequence[str], *, uuid: str = ''):
    """`labml-mlm` in a process of its own, that is to end well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            enter(folder, folder / 'output.txt')
            if uuid:
                os.environ['RUN_UUID'] = uuid
            main(arguments)
            sys.stdout.flush()
            code = 0
        except BaseException:
            traceback.print_exc()
        # The stack is that of the caller
        os._exit(code)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        said = (folder / 'output.txt').read_text()
        raise SystemExit(f'labml-mlm {" ".join(arguments)} has ended with {code}: {said}')


def enter(folder: Path, output: Path):
    """Makes a folder that of this process, with a home there, and lets all that it prints go into a file."""
    os.chdir(folder)
    os.environ['HOME'] = str(folder)
    handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(handle, stream)
    sys.stdout, sys.stderr = (open(stream, 'w', 1, errors='replace', closefd=False) for stream in (1, 2))  # noqa: SIM115
