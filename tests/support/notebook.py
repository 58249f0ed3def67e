"""Notebooks that are executed by a kernel of their own."""
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from support.project import ROOT


def execute(notebook: NotebookNode, folder: Path, *, is_failing: bool = False) -> NotebookNode:
    """Executes a notebook in a folder; `is_failing` goes on after cells that raise."""
    client = NotebookClient(notebook, timeout=300, kernel_name='python3', allow_errors=is_failing,
                            resources={'metadata': {'path': str(folder)}})
    with _environment(PYTHONPATH=str(ROOT), HOME=str(folder), OMP_NUM_THREADS='1', IPYTHONDIR=str(folder / '.ipython')):
        return client.execute()


def cells(*sources: str) -> NotebookNode:
    """A notebook of cells of code."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def html_of(cell: NotebookNode) -> Sequence[str]:
    """The outputs of a cell that are HTML."""
    return [output.data['text/html'] for output in cell.outputs if 'text/html' in output.get('data', {})]


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (*values, '_')}
    os.environ.update(values)
    # As in a kernel that no shell has started
    os.environ.pop('_', None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
