"""
# Training speed with and without a labml app

    python benchmarks/watched.py [--rounds 5] [name=value ...]

Trains runs of one epoch in alternation: `alone`, and `watched` by a labml app on the same machine. Prints the tokens
per second of both and their ratio for each round, and the median and the spread of the ratios. A difference smaller
than the spread cannot be told from noise. Takes about five minutes.
"""
import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from labml_mlm import MLMConfigs
from labml_mlm.common.exit import exit_on_error
from labml_mlm.items.overrides import parse_overrides

SCRIPT = 'from labml_mlm import MLMConfigs, train\n\ntrain(MLMConfigs(), name="watched")\n'


def train(folder: Path, app_url: str, overrides: list[str]) -> float:
    """Trains a run. Returns its tokens per second."""
    (folder / 'train.py').write_text(SCRIPT)
    (folder / '.labml.yaml').write_text(f'app_url: {app_url}\napp_open_browser: false\n')
    result = subprocess.run([sys.executable, 'train.py', 'text=python_topics', 'epochs=1', 'n_prompts=0', *overrides],
                            cwd=folder, capture_output=True, text=True, check=True)
    return float(re.search(r'\(([\d,]+) tokens/s in training\)', result.stdout)[1].replace(',', ''))


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=5)
    arguments, overrides = parser.parse_known_args()
    # Reports invalid overrides before a run starts
    parse_overrides(MLMConfigs(), overrides)
    speeds = {'alone': [], 'watched': []}
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([sys.executable, '-m', 'labml_mlm', 'app', '--port', '0', '--store',
                                   f'{folder}/store.sqlite'], stdout=subprocess.PIPE, text=True)
        try:
            url = re.search(r'at (http://[^,]*),', server.stdout.readline())[1]
            # Nothing listens on port 1
            urls = {'alone': 'http://localhost:1', 'watched': f'{url}/api/v1/default'}
            for _ in range(arguments.rounds):
                for side, app_url in urls.items():
                    speeds[side].append(train(Path(folder), app_url, overrides))
        finally:
            server.terminate()
            server.wait()
    print(f'Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs; '
          'tokens/s of each round, and the ratio\n')
    ratios = [watched / alone for alone, watched in zip(*speeds.values(), strict=True)]
    print(f'{"round":>5}{"alone":>10}{"watched":>10}{"ratio":>8}')
    for i, (alone, watched, ratio) in enumerate(zip(*speeds.values(), ratios, strict=True)):
        print(f'{i + 1:5}{alone:10,.0f}{watched:10,.0f}{ratio:8.3f}')
    print(f'\nMedian ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}')


if __name__ == '__main__':
    with exit_on_error():
        main()
