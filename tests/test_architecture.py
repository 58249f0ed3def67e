"""The folders of the package, and what imports what."""
import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.project import ROOT

import labml_mlm

PACKAGE = Path(labml_mlm.__file__).parent
CONTRACTS = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['importlinter']['contracts']
FOLDERS = CONTRACTS[0]['layers']


def test_imports_run_one_way():
    """The contracts in `pyproject.toml`."""
    result = subprocess.run([sys.executable, '-c', 'from importlinter.cli import lint_imports_command as c; c()'],
                            cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_folders():
    found = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').exists()}
    assert found == set(FOLDERS) and 8 <= len(found) <= 34
    assert {path.name for path in PACKAGE.glob('*.py')} == {'__init__.py', '__main__.py'}


@pytest.mark.parametrize('folder', FOLDERS)
def test_folder(folder):
    """Two to ten files, and an `__init__` that says what they are for, in at most ten lines."""
    files = {path.stem for path in (PACKAGE / folder).glob('*.py')} - {'__init__'}
    assert 2 <= len(files) <= 12
    tree = ast.parse((PACKAGE / folder / '__init__.py').read_text())
    assert 3 <= len(ast.get_docstring(tree).splitlines()) <= 10
    # Names in it exist
    module = getattr(labml_mlm, folder, None) or __import__(f'labml_mlm.{folder}', fromlist=['_'])
    for name in getattr(module, '__all__', []):
        assert getattr(module, name) is not None
    assert f'| `{folder}` |' in (ROOT / 'docs/architecture.md').read_text()


def test_tests_mirror_the_folders():
    mirrored = {path.name for path in Path(__file__).parent.iterdir() if any(path.glob('test_*.py'))}
    # Those for a GPU are of all of them
    assert mirrored - {'gpu'} == set(FOLDERS)


def test_public_names():
    assert {'FillMask', 'MLM', 'MLMConfigs', 'MLMTransformerConfigs', 'TransformerMLM', 'load', 'metrics',
            'train'} <= set(labml_mlm.__all__)
    for name in labml_mlm.__all__:
        assert getattr(labml_mlm, name).__name__ == name
    with pytest.raises(AttributeError, match='nothing'):
        labml_mlm.nothing  # noqa: B018


def test_editors_know_the_public_names():
    """What is imported for type checkers alone is what there is, from where it is."""
    [block] = [node for node in ast.parse((PACKAGE / '__init__.py').read_text()).body if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == 'TYPE_CHECKING'
    imported = {alias.asname: (alias.name, node.module) for node in block.body for alias in node.names}
    assert sorted(imported) == sorted(dir(labml_mlm)) == sorted(labml_mlm.__all__)
    for name, (original, module) in imported.items():
        assert (name, getattr(labml_mlm, name).__module__) == (original, module)


@pytest.mark.parametrize('arguments', [[], ['--help'], ['--version'], ['runs'], ['completion', 'bash']])
def test_commands_that_do_without_torch(arguments, tmp_path):
    (tmp_path / '.labml.yaml').touch()
    code = ('import sys, labml_mlm.__main__\ntry:\n    labml_mlm.__main__.main(sys.argv[1:])\nexcept SystemExit:\n'
            '    pass\nprint("torch" in sys.modules)')
    result = subprocess.run([sys.executable, '-c', code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == 'False', result.stderr
