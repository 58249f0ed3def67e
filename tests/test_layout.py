"""The order of DESIGN: a file imports from files above it only."""
import ast
from pathlib import Path

import pytest

import labml_mlm

ORDER = ['errors', 'exits', 'files', 'lock', 'compat', 'interrupt', 'masking', 'schedule', 'tokenizer', 'text', 'data',
         'attention', 'model', 'optimizer', 'checkpoint', 'log_file', 'runs', 'state', 'saver', 'trainer', 'screen',
         'samples', 'metrics', 'delivery', 'tracking', 'text_configs', 'items', 'overrides', 'record',
         'run_configs', 'configs', 'resume', 'launch', 'pretrained', 'fill_mask', 'evaluate', 'commands', '__main__']
PACKAGE = Path(labml_mlm.__file__).parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            continue
        yield from (name.split('.') for name in names)


def test_every_file_is_in_the_order():
    assert sorted(path.stem for path in PACKAGE.glob('*.py')) == sorted([*ORDER, '__init__'])


@pytest.mark.parametrize('name', ORDER)
def test_imports_from_above_only(name):
    above = ORDER[:ORDER.index(name)]
    for parts in imported(PACKAGE / f'{name}.py'):
        assert parts[0] not in ('torchtext', 'torchvision')
        if parts[0] == 'labml_mlm':
            assert parts[1] in above, f'{name} imports {parts[1]}'


def test_public_names():
    for name in labml_mlm.__all__:
        assert getattr(labml_mlm, name).__name__ == name
    with pytest.raises(AttributeError, match='nothing'):
        labml_mlm.nothing  # noqa: B018
