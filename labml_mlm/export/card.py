"""
# The model card

`README.md` of an exported folder: what the model is, what it was trained on, how well it did, and how to use it. The
licence is left to the person.
"""
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.configs.snapshot import PATHS
from labml_mlm.inference.fine_tuned import FineTuned
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.items.schema import chosen_value
from labml_mlm.runs.log_lines import say_skipped
from labml_mlm.runs.metrics_log import read_curves
from labml_mlm.runs.plot import draw
from labml_mlm.runs.run import Run, is_run

CARD, CURVES = 'README.md', 'curves.png'
# Labels that are named
_MAX_LABELS = 10
# Of labels, in words
_KINDS = {'single': 'classifier of texts', 'multiple': 'classifier of texts with any number of labels',
          'number': 'model that predicts a number for a text', 'tags': 'tagger of words'}


class Note(NamedTuple):
    """A line for people; `why` may have paths of this machine, and is not for the card."""
    text: str
    why: str = ''

    def __str__(self) -> str:
        return f'{self.text}: {self.why}' if self.why else self.text


def model_card(trained: Pretrained, config: dict, notes: list[Note]) -> tuple[str, bytes | None]:
    """The card, with `notes`, and its picture of the curves if there are any and matplotlib is here."""
    picture, reason = _picture(trained)
    parts = [_front_matter(trained, config), f'# {_name(trained)}', _about(trained, config), _figures(trained)]
    if picture is not None:
        parts.append(f'![Loss and {"" if _is_fine_tuned(trained) else "masked "}accuracy over training]({CURVES})')
    elif reason:
        parts.append(f'There is no picture of the curves: {reason}')
    parts += [_use(trained, config), '## Export\n\n' + '\n'.join(f'* {note.text}' for note in notes), _configs(trained)]
    return '\n\n'.join(filter(None, parts)) + '\n', picture


def _is_fine_tuned(trained: Pretrained) -> bool:
    return isinstance(trained, FineTuned)


def _pipeline(trained: Pretrained) -> str:
    """The task by which a pipeline of transformers runs it."""
    if not _is_fine_tuned(trained):
        return 'fill-mask'
    return 'token-classification' if trained.kind == 'tags' else 'text-classification'


def _front_matter(trained: Pretrained, config: dict) -> str:
    return ('---\n# license: to be chosen by whoever publishes this model\nlibrary_name: transformers\n'
            f'pipeline_tag: {_pipeline(trained)}\ntags:\n- {config["model_type"]}\n- labml\n- labml_mlm\n---')


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
    if _is_fine_tuned(trained):
        rows = {name.replace('SHA-256 of the text', 'SHA-256 of its rows'): value for name, value in rows.items()}
        rows |= _about_labels(trained)
    table = '\n'.join(f'| {name} | {str(value).replace("|", chr(92) + "|")} |' for name, value in rows.items())
    what = _KINDS[trained.kind] if _is_fine_tuned(trained) else 'masked language model'
    return f'A {what}, trained with labml_mlm.\n\n| | |\n|---|---|\n' + table


def _about_labels(trained: FineTuned) -> dict[str, Any]:
    conf, fields = trained.configs, {'Field of the text': 'text_field', 'Field of the label': 'label_field'}
    if trained.is_of_pairs:
        fields = {'Field of the text': 'text_field', 'Field of the second text': 'pair_field', **fields}
    more = len(trained.labels) - _MAX_LABELS
    names = ', '.join(trained.labels[:_MAX_LABELS]) + f' and {more:,} more' * (more > 0)
    labels = {'Labels': names} if trained.labels else {}
    return labels | {name: getattr(conf, item) for name, item in fields.items()}


def _shown(name: str, value: Any) -> Any:
    """The value of an item; of paths the names, as their folders are of no use elsewhere."""
    if name not in PATHS or not value:
        return value
    return ','.join(Path(path).name for path in ([value] if isinstance(value, str) else value))


def _figures(trained: Pretrained) -> str:
    valid = trained.checkpoint.valid if trained.checkpoint else None
    if valid is None:
        return ''
    if _is_fine_tuned(trained):
        figures = {name: value for name, value in valid.items() if isinstance(value, float)}
        return ('## Figures\n\nIn validation.\n\n' + ''.join(f'| {name} ' for name in figures) + '|\n'
                + '|---' * len(figures) + '|\n' + ''.join(f'| {value:.4f} ' for value in figures.values()) + '|')
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
            say_skipped(draw([run], Path(folder) / CURVES))
        except UserError as e:
            return None, str(e)
        return (Path(folder) / CURVES).read_bytes(), ''


def _use(trained: Pretrained, config: dict) -> str:
    remote = ', trust_remote_code=True' if 'auto_map' in config else ''
    if not _is_fine_tuned(trained):
        made, called = 'fill_mask', ''
    elif trained.kind == 'tags':
        # Only the first token of a word was trained
        made, remote = 'tag', f"{remote}, aggregation_strategy='first'"
        called = "\ntag('A text with some words.')"
    else:
        text = "{'text': 'A text', 'text_pair': 'and another.'}" if trained.is_of_pairs else "'A text.'"
        more = {'multiple': ', top_k=None', 'number': ''}.get(trained.kind, '')
        made, called = 'classify', f'\nclassify({text}, truncation=True{more})'
    return (f"## Use\n\n```python\nfrom transformers import pipeline\n\n"
            f"{made} = pipeline('{_pipeline(trained)}', 'path/to/this/folder'{remote}){called}\n```")


def _configs(trained: Pretrained) -> str:
    if trained.checkpoint is None:
        return ''
    given = trained.checkpoint.metadata['configs']['given']
    if not given:
        return ''
    lines = '\n'.join(f'{name}={_shown(name, value)}' for name, value in given.items())
    return f'## Configs\n\nWhat was given in place of defaults:\n\n```\n{lines}\n```'
