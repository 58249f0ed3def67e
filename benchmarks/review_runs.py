"""
# The sides of `reviews.py` that are ours

Each is a command as one would give it, in a labml project of its own in the folder of the results. Its figures are read
from the run's `log.jsonl`. Runs are named by what they are: pre-training that was interrupted is resumed, and each is
done once for all sizes and seeds.
"""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from labelled_files import digest, read_rows, write_rows
from review_sides import TAGGED, Job, Outcome, Setting, score

from labml_mlm.common.errors import UserError
from labml_mlm.runs.metrics_log import read_curves
from labml_mlm.runs.run import Run

ROOT = Path(__file__).parent.parent
# Sources of Python are unlabelled text of their own
_CODE = 'packages', *TAGGED
# Whole words, 20 epochs of some half a million tokens; the rest is that of `subword_mlm.py`
_OWN = 'masking=word', 'optimizer=muon', 'lr_schedule=warmup_linear', 'n_prompts=0'
_LONG = *_OWN, 'epochs=20'
_GO_ON = 'masking=word', 'epochs=3', 'n_prompts=0'
# How pre-training differs, by its name; `untrained` is for its tokenizer
PRETRAINING = {
    'untrained': ('subword_mlm', (*_OWN, 'max_steps=1')),
    'own': ('subword_mlm', _LONG),
    'own-nsp': ('subword_mlm', (*_LONG, 'sentence_pairs=nsp')),
    'own-sop': ('subword_mlm', (*_LONG, 'sentence_pairs=sop')),
    'minilm-on': ('domain_mlm', _GO_ON),
}


def project(setting: Setting) -> Path:
    """A labml project without an app."""
    folder = setting.folder / 'project'
    folder.mkdir(parents=True, exist_ok=True)
    # Nothing listens on port 1
    (folder / '.labml.yaml').write_text('app_url: http://localhost:1/api/v1/default\napp_open_browser: false\n')
    return folder


def run(setting: Setting, script: str, uuid: str, items: tuple[str, ...]) -> Run:
    """Trains a run with this uuid, or goes on with it; not if it is complete. Raises `UserError` if it fails."""
    folder = project(setting)
    found = Run(folder.absolute() / 'logs' / script / uuid)
    if (found.final_status() or {}).get('status') == 'completed':
        return found
    shutil.copy(ROOT / 'experiments' / f'{script}.py', folder)
    # Of an item that is there twice, the last one counts
    values = dict(item.split('=', 1) for item in items)
    given = ('--resume', uuid) if found.path.exists() else [f'{name}={value}' for name, value in values.items()]
    result = subprocess.run([sys.executable, f'{script}.py', *given], cwd=folder, capture_output=True, text=True,
                            env={**os.environ, 'RUN_UUID': uuid, 'PYTHONPATH': str(ROOT)})
    if result.returncode:
        raise UserError(f'{script}.py {" ".join(given)}: {result.stderr.strip()[-1000:]}')
    return found


def _suffix(items: tuple[str, ...]) -> str:
    """Tells runs with items of the command line from those without."""
    return f'-{digest(" ".join(items)) % 16 ** 6:06x}' if items else ''


def seconds(found: Run) -> float:
    """From the start of the experiment to its end: training, validations and checkpoints."""
    return found.final_status()['time'] - found.snapshot['time']


def _training_seconds(found: Run) -> float:
    """Of all training steps, with what they wait for batches."""
    speeds = read_curves(found.log, ['tokens_per_second'])['tokens_per_second']
    steps = [0, *(step for step, _ in speeds)]
    return sum((step - before) / speed for before, (step, speed) in zip(steps, speeds, strict=False))


def pretrain(setting: Setting, data_set: str, name: str) -> Run:
    """Pre-training of this name on the unlabelled texts beside a data set."""
    text = 'unlabelled_code' if data_set in _CODE else 'unlabelled'
    script, items = PRETRAINING[name]
    start = (f'init_from={setting.published()}',) if name.startswith('minilm') else ()
    unit = () if data_set in _CODE else ('text_unit=paragraph',)
    return run(setting, script, f'{text}-{name}{_suffix(setting.pretraining)}',
               (*start, f'text_path={(setting.folder / text).absolute()}', *unit, *items, *setting.pretraining))


def start_items(job: Job, name: str) -> tuple[str, ...]:
    """The items that say what is fine-tuned."""
    if name == 'minilm':
        return (f'init_from={job.setting.published()}',)
    found = pretrain(job.setting, job.data_set, 'untrained' if name == 'random' else name)
    if name != 'random':
        return (f'init_from={found.path}',)
    # The same sizes and the same tokenizer as those of pre-training
    sizes = [item for item in job.setting.pretraining if item.startswith(('d_model=', 'transformer'))]
    return 'tokenizer=file', f'tokenizer_path={found.path / "tokenizer.json"}', *sizes


def fine_tune(job: Job, name: str, recipe: tuple[str, ...] = ()) -> Outcome:
    """
    The side `name`, with the defaults, or with the items of a `recipe`.

    What it is measured on is what it is validated on; so the figure is that of the last epoch, not of the best.
    """
    is_tagged = job.data_set in TAGGED
    script = 'tag' if is_tagged else 'classify'
    uuid = '-'.join([name, *['turns'] * bool(recipe), job.data_set, job.label, str(job.n or 'all'), str(job.seed)])
    uuid += _suffix(job.setting.pretraining + job.setting.fine_tuning)
    # One that was interrupted
    shutil.rmtree(project(job.setting) / 'logs' / script / uuid, ignore_errors=True)
    found = run(job.setting, script, uuid, (
        *start_items(job, name), f'text_path={job.train.absolute()}',
        f'valid_path={job.held_out[job.data_set].absolute()}', f'text_field={"tokens" if is_tagged else "text"}',
        f'label_field={job.label}', f'seed={job.seed}', *['task=regression'] * job.is_regression, *recipe,
        *job.setting.fine_tuning))
    indicator = 'spearman.valid' if job.is_regression else 'accuracy.valid'
    curve = [value for _, value in read_curves(found.log, [indicator])[indicator]]
    if not curve:
        raise UserError(f'{found.log} has no {indicator}')
    values = {job.data_set: curve[-1]}
    values |= {other: _transferred(job, found, job.held_out[other]) for other in job.others}
    # They are large, and there are many runs
    shutil.rmtree(found.path / 'checkpoints')
    return Outcome(values, seconds(found), max(curve), _training_seconds(found))


def _transferred(job: Job, found: Run, path: Path) -> float:
    """How right a run is on another data set, by `labml-mlm predict` on its texts."""
    texts = project(job.setting) / 'texts.jsonl'
    write_rows(texts, ({'text': row['text']} for row in read_rows(path)))
    result = subprocess.run([sys.executable, '-m', 'labml_mlm', 'predict', found.path, texts], capture_output=True,
                            text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)}, cwd=project(job.setting))
    if result.returncode:
        raise UserError(f'labml-mlm predict {found.path}: {result.stderr.strip()[-1000:]}')
    return score(job, path, [json.loads(line)['label'] for line in result.stdout.splitlines()])


def same_recipe(job: Job) -> tuple[str, ...]:
    """The items with which our run does what `transformers_loop.py` does."""
    n_steps = job.epochs * -(-len(read_rows(job.train)) // 32)
    return ('pooling=mean', 'batch_size=32', f'epochs={job.epochs}', 'optimizer.learning_rate=5e-5',
            'optimizer.weight_decay=0.01', 'lr_schedule=warmup_linear', f'lr_warmup_steps={round(n_steps / 10)}',
            'grad_norm_clip=1')
