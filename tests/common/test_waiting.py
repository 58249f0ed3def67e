"""How threads wait, in processes of their own: libgomp reads it when torch is imported."""
import os
import subprocess
import sys

import pytest

VARIABLES = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'KMP_LIBRARY'
SHOW = 'import os, sys; print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)'


def shown(code, **env):
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run([sys.executable, '-c', code], env={**kept, **env}, text=True, check=True,
                          capture_output=True).stdout.split()


def test_threads_sleep_soon_from_the_import_on():
    assert shown(f'import labml_mlm; {SHOW}') == ['1000', 'False']


@pytest.mark.parametrize('name', VARIABLES)
def test_choice_of_a_person_stays(name):
    assert shown(f'import labml_mlm; {SHOW}', **{name: '7'})[0] == ('7' if name == 'GOMP_SPINCOUNT' else 'None')


def test_libgomp_reads_it():
    """As torch starts, with the import of a script in `experiments/`."""
    said = subprocess.run([sys.executable, '-c', 'from labml_mlm import MLMConfigs, train'], text=True, check=True,
                          env={**os.environ, 'GOMP_SPINCOUNT': '', 'OMP_DISPLAY_ENV': 'VERBOSE'}, capture_output=True)
    if 'GOMP_SPINCOUNT' not in said.stderr:
        pytest.skip("torch's OpenMP is not libgomp here")
    assert "GOMP_SPINCOUNT = '1000'" in said.stderr
