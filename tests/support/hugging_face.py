"""Hugging Face's half of a test, in a Python of its own: no model of theirs loads beside labml-nn's torchvision."""
import functools
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

# The path of a Python that has torch and transformers, and neither labml nor this package
_VARIABLE = 'LABML_MLM_TRANSFORMERS_PYTHON'


def run_hugging_face(script: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """
    Runs a script of Python source there, in an empty folder, with `arguments` as `sys.argv[1:]`: paths must be
    absolute. Tensors go to and fro as safetensors. Fails, with what the script said, if it does.
    """
    result = _run(script, *arguments)
    assert result.returncode == 0, result.stderr
    return result


@functools.cache
def _missing() -> str:
    """Why a script cannot run; empty if it can."""
    python = os.environ.get(_VARIABLE)
    if not python:
        return f'{_VARIABLE} is not set: it is the path of a Python with torch, transformers and safetensors'
    try:
        result = _run('import safetensors.torch, transformers.models.bert.modeling_bert')
    except OSError as e:
        return f'{_VARIABLE}={python} cannot be run: {e}'
    return f'{_VARIABLE}={python} has no transformers: {result.stderr[-300:]}' if result.returncode else ''


def _run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    # This Python's packages must not be seen there, nor this folder's
    kept = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
    # Code of a folder, for `trust_remote_code`, is copied to the home of Hugging Face
    with tempfile.TemporaryDirectory() as home:
        return subprocess.run([os.environ[_VARIABLE], '-c', script, *map(str, arguments)], text=True, timeout=240,
                              env={**kept, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'HF_HOME': home},
                              capture_output=True, cwd=home)


@pytest.fixture(scope='session')
def needs_transformers():
    """Skips a test where there is no such Python, saying why."""
    if missing := _missing():
        pytest.skip(missing)
