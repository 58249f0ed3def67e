"""Threads and memory, in processes of their own: libgomp reads the environment when torch is imported."""
import os
import platform
import subprocess
import sys

import pytest

VARIABLES = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'KMP_LIBRARY'
OF_MEMORY = 'MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES'
SHOW = 'import os, sys; print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)'


def shown(code, **env):
    kept = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, *OF_MEMORY)}
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


# Page faults of eight tensors of 16 MB, where such ones were freed before
FAULTS = """
import resource
from labml_mlm.common.runtime import keep_freed_memory
import torch
keep_freed_memory()
for i in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2 ** 22) for _ in range(8)]
    tensors.clear()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif('glibc' not in platform.libc_ver(), reason='the memory of glibc')
def test_freed_memory_is_kept_unless_a_person_says_otherwise():
    [faults], [faults_of_person] = shown(FAULTS), shown(FAULTS, MALLOC_MMAP_THRESHOLD_='65536')
    # Each tensor has 4,096 pages
    assert int(faults) < 100 and int(faults_of_person) >= 8 * 4096
