"""The tests of `tests/gpu` on the device: what a GPU computes is right."""
import collections
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from gpu_part import Part

ROOT = Path(__file__).parent.parent
# A line of `pytest -v`: the name of a test and what came of it
_OUTCOME = re.compile(r'(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED)( .*)?')
# On the CPU some of them, as a test of the script
_CHOICE = {'cuda': ['-m', 'gpu', 'tests/gpu'], 'cpu': ['-k', 'noticed and cpu', 'tests/gpu/test_waiting.py']}


def run(part: Part):
    """
    Figures are how many passed, and the names of those that did not, kept test by test, as the time may be up before
    the last one. Raises `RuntimeError` if there are any.
    """
    if importlib.util.find_spec('pytest') is None:
        part.add('tests', "none: pytest is not installed: pip install -e '.[test]'")
        return
    command = [sys.executable, '-m', 'pytest', '-n', '0', '-v', '--color=no', '--tb=short', '-p', 'no:cacheprovider',
               '--show-capture=no', *_CHOICE[part.device]]
    counts: collections.Counter[str] = collections.Counter()
    wrong, lines = [], []
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, 'PYTHONUNBUFFERED': '1'}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            lines.append(line)
            if not (found := _OUTCOME.fullmatch(line.rstrip())):
                continue
            name, outcome = found[1], found[2].lower()
            if outcome in ('failed', 'error'):
                wrong.append(name)
                part.add('not passed', wrong, name)
            counts[outcome] += 1
            part.keep('outcomes', counts)
    part.add('outcomes', counts, ', '.join(f'{n} {kind}' for kind, n in counts.items()))
    if process.returncode or not counts['passed']:
        print(''.join(lines)[-8000:], flush=True)
        raise RuntimeError(f'{len(wrong)} tests did not pass' if wrong else
                           f'pytest ended with {process.returncode} and {counts["passed"]} tests passed')
