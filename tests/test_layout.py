"""The order of DESIGN: a file imports from files above it only."""
import ast
from pathlib import Path

import pytest

import labml_mlm

ORDER = ['errors', 'exits', 'files', 'lock', 'compat', 'rendezvous', 'lost', 'distributed', 'interrupt', 'masking',
         'schedule', 'text_files', 'documents', 'corpus', 'segments', 'words', 'tokenizer', 'vocabulary', 'subwords',
         'units', 'text', 'shuffle', 'data', 'packs', 'token_file', 'token_cache', 'attention', 'encoder', 'model',
         'parallel', 'engine', 'muon', 'optimizer', 'checkpoint', 'log_file', 'sample_file', 'runs', 'curves',
         'state', 'saver', 'trainer', 'screen', 'samples', 'metrics', 'delivery', 'tracking', 'text_configs',
         'token_configs', 'mask_configs', 'items', 'overrides', 'record', 'run_configs', 'configs', 'ending',
         'resume', 'launch', 'pretrained', 'fill_mask', 'evaluate', 'app', 'commands', '__main__']
APP = ['guard', 'store', 'transactions', 'updates', 'pages', 'server']
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
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == '.py' or (path / '__init__.py').exists()}
    assert found == {*ORDER, '__init__'}
    assert {path.stem for path in (PACKAGE / 'app').glob('*.py')} == {*APP, '__init__'}


@pytest.mark.parametrize('name', [*ORDER, *(f'app/{name}' for name in APP)])
def test_imports_from_above_only(name):
    folder, _, stem = name.rpartition('/')
    path = PACKAGE / name
    for parts in imported(path / '__init__.py' if path.is_dir() else path.with_suffix('.py')):
        assert parts[0] not in ('torchtext', 'torchvision')
        if parts[0] == 'labml_mlm':
            if folder and parts[1] == folder:
                assert parts[2] in APP[:APP.index(stem)], f'{name} imports {parts[2]}'
            else:
                assert parts[1] in ORDER[:ORDER.index(folder or stem)], f'{name} imports {parts[1]}'


def test_public_names():
    for name in labml_mlm.__all__:
        assert getattr(labml_mlm, name).__name__ == name
    with pytest.raises(AttributeError, match='nothing'):
        labml_mlm.nothing  # noqa: B018
