"""
# Writes `docs/configs.md` from the declarations of all items

    python scripts/configs_page.py
"""
from collections.abc import Iterator
from pathlib import Path

from labml_mlm import MLMConfigs
from labml_mlm.budget.configs import BudgetConfigs
from labml_mlm.configs import masking, mlm, model, old_text, optimization, text, tokenizer, tokens, training
from labml_mlm.items.help import allowed_text, is_for_people, show
from labml_mlm.items.schema import NO_DEFAULT, ConfigField, config_items

PATH = Path(__file__).parent.parent / 'docs/configs.md'
# By the class that declares an item, in the order of a run
SECTIONS = {'Text': text.TextConfigs, 'Tokenizer': tokenizer.TokenizerConfigs,
            'Tokens and batches': tokens.TokenConfigs, 'Old text': old_text.OldTextConfigs,
            'Masking': masking.MaskConfigs, 'Model': model.ModelConfigs,
            'Optimization': optimization.OptimizationConfigs, 'Length of a run': BudgetConfigs,
            'Training': training.TrainingConfigs,
            'Precision, prompts, and what a step uses': mlm.MLMConfigs}
HEAD = """\
# Configs

Every item of `MLMConfigs`, with its default and what it can be. Override it by name, `python experiments/char_mlm.py
seq_len=64`; nested items by their dotted name. `python experiments/char_mlm.py --help` shows the most important items
with the defaults of a script, and `--help all` all of them. Items that only Python can set, or that have a single
option, are listed last.

This page is written by `python scripts/configs_page.py`.
"""


def page() -> str:
    """The whole page."""
    items = config_items(MLMConfigs())
    parts, shown = [HEAD], set()
    for title, class_ in SECTIONS.items():
        names = [name for name, item in items.items() if is_for_people(item)
                 and name.partition('.')[0] in vars(class_)['_declared']]
        shown.update(names)
        parts += [f'## {title}\n', '\n'.join(_table([items[name] for name in names])) + '\n']
    rest = [item for name, item in items.items() if name not in shown and not item.declaration.refused]
    rest = [item for item in rest if item.declaration.help]
    parts += ['## Internal items\n', 'Parts of a run, for options of your own.\n', '\n'.join(_table(rest)) + '\n']
    aliases = [(alias, name) for name, item in items.items() for alias in item.declaration.aliases]
    parts += ['## Earlier names\n', 'They still work, and mean the items next to them.\n',
              '\n'.join(['| earlier | now |', '|---|---|', *(f'| `{old}` | `{new}` |' for old, new in aliases)]) + '\n']
    return '\n'.join(parts)


def _table(items: list[ConfigField]) -> Iterator[str]:
    yield '| item | default | what it is | allowed |'
    yield '|---|---|---|---|'
    for item in items:
        default = '' if item.default is NO_DEFAULT or item.default in ('', []) else f'`{show(item.default)}`'
        allowed = allowed_text(item) if item.is_settable else 'an object'
        cells = f'`{item.name}`', default, item.declaration.help, allowed
        yield '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'


if __name__ == '__main__':
    PATH.write_text(page(), encoding='utf-8')
