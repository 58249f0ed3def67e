"""
# Threads and memory below torch

**Threads.** Between two parts of a step, OpenMP's threads wait for the next one in a loop. That is fast on a machine
that is idle; where other processes run, they wait for a core that one of these loops has. With libgomp, which torch has
on Linux, a short loop loses nothing on the one machine and half of the time on the other. libgomp reads the variable
when torch is imported, so this is done before.

**Memory.** A step on a CPU frees hundreds of tensors of a megabyte, and needs the same ones again in the next. glibc
may give the end of its memory back to the system whenever enough of it is free, and each page that is taken anew is
filled with zeros first. So training keeps what it had; its peak is a few percent higher.
"""
import ctypes
import os

# Rounds of a waiting thread before it sleeps; libgomp's default is 300,000
_SPIN_COUNT = 1000
# What says how threads wait, in OpenMP, and in the words of libgomp, LLVM and Intel: a person's own choice stays
_OF_PERSON = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'KMP_LIBRARY'
# Options of glibc's `mallopt` and their largest values: free memory from which its end is given back, and the size of
# an allocation from which it is mapped on its own
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2 ** 31 - 1), (-3, 2 ** 25)
_TUNABLES = 'MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES'


def wait_briefly():
    """Makes the threads of a torch that is not imported yet sleep soon, unless the environment says how they wait."""
    if not any(os.environ.get(name) for name in _OF_PERSON):
        os.environ['GOMP_SPINCOUNT'] = str(_SPIN_COUNT)


def keep_freed_memory():
    """Makes glibc keep freed memory for the next allocations, unless the environment tunes it. Other systems stay."""
    if any(os.environ.get(name) for name in _TUNABLES):
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if os.name == 'posix' else None
    if mallopt is not None:
        mallopt(*_TRIM_THRESHOLD)
        mallopt(*_MMAP_THRESHOLD)
