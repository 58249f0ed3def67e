"""
# The model card

`README.md` of an exported folder: what the model is, what it was trained on, how well it did, and how to use it. The
licence is left to the person.
"""
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.common.schema import chosen_value
from labml_mlm.configs.snapshot import PATHS
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.runs.metrics_log import read_curves
from labml_mlm.runs.plot import draw
from labml_mlm.runs.run import Run, is_run

CARD, CURVES = 'README.md', 'curves.png'


class Note(NamedTuple):
    """A line for people; `why` may have paths of this machine, and is not for the card."""
    text: str
    why: str = ''

    def __str__(self) -> str:
        return f'{self.text}: {self.why}' if self.why else self.text


def model_card(trained: Pretrained, config: dict, notes: list[Note]) -> tuple[str, bytes | None]:
    """The card, with `notes`, and its picture of the curves if there are any and matplotlib is here."""
    picture, reason = _picture(trained)
    parts = [_front_matter(config), f'# {_name(trained)}', _about(trained, config), _figures(trained)]
    if picture is not None:
        parts.append(f'![Loss and masked accuracy over training]({CURVES})')
    elif reason:
        parts.append(f'There is no picture of the curves: {reason}')
    parts += [_use(config), '## Export\n\n' + '\n'.join(f'* {note.text}' for note in notes), _configs(trained)]
    return '\n\n'.join(filter(None, parts)) + '\n', picture


def _front_matter(config: dict) -> str:
    return ('---\n# license: to be chosen by whoever publishes this model\nlibrary_name: transformers\n'
            f'pipeline_tag: fill-mask\ntags:\n- {config["model_type"]}\n- labml\n- labml_mlm\n---')


def _run(trained: Pretrained) -> Run | None:
    """Its run; `None` for a checkpoint alone, and what was published."""
    if trained.checkpoint is None or not is_run(trained.checkpoint.path.parents[1]):
        return None
    return Run(trained.checkpoint.path.parents[1])


def _name(trained: Pretrained) -> str:
    if trained.checkpoint is None:
        return trained.source.resolve().name if trained.source else 'A masked language model'
    run, experiment = _run(trained), trained.checkpoint.metadata['configs']['experiment']
    return f'{experiment} {run.uuid[:8]}' if run else experiment


def _about(trained: Pretrained, config: dict) -> str:
    rows = {'Architecture': ', '.join(config['architectures']),
            'Parameters': f'{sum(p.numel() for p in trained.model.parameters()):,}',
            'Vocabulary': f'{trained.tokenizer.n_tokens:,} tokens', 'Hidden size': trained.configs.d_model,
            'Layers': len(trained.model.encoder.layers)}
    if trained.checkpoint is not None:
        snapshot = trained.checkpoint.metadata['configs']
        text, given = snapshot['text'], snapshot['given']
        rows['Text'] = _shown('text_path', given.get('text_path')) or text['source'] or given.get('text') or 'unknown'
        if text['sha256']:
            rows |= {'Size of the text': f'{text["characters"]:,} characters', 'SHA-256 of the text': text['sha256']}
        if given.get('init_from'):
            rows['Went on from'] = _shown('init_from', given['init_from'])
        rows |= {'Sequence length in training': f'{trained.configs.seq_len} tokens',
                 'Training': f'{trained.checkpoint.step:,} tokens',
                 'Versions': ', '.join(f'{name} {value}' for name, value in
                                       {'labml_mlm': config['labml_mlm'], **snapshot['versions']}.items())}
    table = '\n'.join(f'| {name} | {str(value).replace("|", chr(92) + "|")} |' for name, value in rows.items())
    return 'A masked language model, trained with labml_mlm.\n\n| | |\n|---|---|\n' + table


def _shown(name: str, value: Any) -> Any:
    """The value of an item; of a path the name, as its folders are of no use elsewhere."""
    return Path(value).name if value and name in PATHS else value


def _figures(trained: Pretrained) -> str:
    valid = trained.checkpoint.valid if trained.checkpoint else None
    if valid is None:
        return ''
    masking = chosen_value(trained.configs, 'valid_mlm')
    how = f'that `valid_mlm={masking}` chooses'
    if masking == 'bert':
        how = (f'to be predicted, {trained.configs.valid_masking_prob:.0%} of all: of those 80% are `[MASK]`, 10% '
               'another token, and 10% themselves')
    return (f'## Figures\n\nOn the validation text, over the tokens {how}.\n\n'
            f'| loss, nats per masked token | masked accuracy |\n|---|---|\n'
            f'| {valid["loss"]:.4f} | {valid["accuracy"]:.4f} |')


def _picture(trained: Pretrained) -> tuple[bytes | None, str]:
    """The curves of the run as PNG, or why there are none."""
    run = _run(trained)
    if run is None:
        return None, ''
    if not any(read_curves(run.log, ['loss.train', 'loss.valid']).values()):
        return None, 'the run has no log'
    with tempfile.TemporaryDirectory(prefix='labml_mlm-') as folder:
        try:
            draw([run], Path(folder) / CURVES)
        except UserError as e:
            return None, str(e)
        return (Path(folder) / CURVES).read_bytes(), ''


def _use(config: dict) -> str:
    remote = ', trust_remote_code=True' if 'auto_map' in config else ''
    return ("## Use\n\n```python\nfrom transformers import pipeline\n\n"
            f"fill_mask = pipeline('fill-mask', 'path/to/this/folder'{remote})\n```")


def _configs(trained: Pretrained) -> str:
    if trained.checkpoint is None:
        return ''
    given = trained.checkpoint.metadata['configs']['given']
    if not given:
        return ''
    lines = '\n'.join(f'{name}={_shown(name, value)}' for name, value in given.items())
    return f'## Configs\n\nWhat was given in place of defaults:\n\n```\n{lines}\n```'
