"""The tests of `tests/gpu` on the device: what a GPU computes is right."""
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from gpu_part import Part

ROOT = Path(__file__).parent.parent
_OUTCOMES = 'passed', 'failed', 'error', 'skipped'
# On the CPU some of them, as a test of the script
_CHOICE = {'cuda': ['-m', 'gpu', 'tests/gpu'], 'cpu': ['-k', 'noticed and cpu', 'tests/gpu/test_waiting.py']}


def run(part: Part):
    """Figures are how many passed, and the names of those that did not. Raises `RuntimeError` if there are any."""
    if importlib.util.find_spec('pytest') is None:
        part.add('tests', "none: pytest is not installed: pip install -e '.[test]'")
        return
    command = [sys.executable, '-m', 'pytest', '-n', '0', '-q', '--tb=short', '-p', 'no:cacheprovider',
               '--show-capture=no', *_CHOICE[part.device]]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    counts = {kind: int(found[1]) for kind in _OUTCOMES if (found := re.search(rf'(\d+) {kind}', result.stdout))}
    part.add('outcomes', counts, ', '.join(f'{n} {kind}' for kind, n in counts.items()))
    wrong = re.findall(r'^(?:FAILED|ERROR) (.*)$', result.stdout, re.MULTILINE)
    if wrong:
        part.add('not passed', wrong, ''.join(f'\n    {name}' for name in wrong))
    if result.returncode or not counts.get('passed'):
        print(result.stdout[-6000:], result.stderr[-2000:], sep='\n', flush=True)
        raise RuntimeError(f'{len(wrong)} tests did not pass' if wrong else
                           f'pytest ended with {result.returncode} and {counts.get("passed", 0)} tests passed')
