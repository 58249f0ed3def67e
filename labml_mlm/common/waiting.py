"""
# How threads wait for each other

Between two parts of a step, OpenMP's threads wait for the next one in a loop. That is fast on a machine that is idle;
where other processes run, they wait for a core that one of these loops has. With libgomp, which torch has on Linux, a
short loop loses nothing on the one machine and half of the time on the other.

libgomp reads the variable when torch is imported, so this is done before.
"""
import os

# Rounds of a waiting thread before it sleeps; libgomp's default is 300,000
_SPIN_COUNT = 1000
# What says how threads wait, in OpenMP, and in the words of libgomp, LLVM and Intel: a person's own choice stays
_OF_PERSON = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'KMP_LIBRARY'


def wait_briefly():
    """Makes the threads of a torch that is not imported yet sleep soon, unless the environment says how they wait."""
    if not any(os.environ.get(name) for name in _OF_PERSON):
        os.environ['GOMP_SPINCOUNT'] = str(_SPIN_COUNT)
