"""
# What the labml app can take

    python benchmarks/app.py [--runs 200] [--steps 100000] [--rounds 5]

In some two minutes: a store with `runs` runs of `steps` steps and six indicators each, and then how long the list of
runs and the metrics of one run take, and how many updates a second it takes from 16 runs at once, each of ten steps.
One run is sent step by step; the others get a copy of its curves in the store, as they would be the same work.
"""
import argparse
import json
import platform
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

NAMES = ['loss.train', 'accuracy.train', 'lr', 'tokens_per_second', 'loss.valid', 'accuracy.valid']
# As many as the default run has
N_CONFIGS = 80
N_CONCURRENT = 16
CHUNK = 1000


class Server:
    """`labml-mlm app` on a store."""

    def __init__(self, store: Path):
        self.process = subprocess.Popen([sys.executable, '-m', 'labml_mlm', 'app', '--port', '0', '--store', store],
                                        stdout=subprocess.PIPE, text=True)
        self.url = re.search(r'at (http://[^,]*),', self.process.stdout.readline())[1]

    def ask(self, path: str, body=None):
        """The JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f'{self.url}/api/v1/{path}', data, {'Content-Type': 'application/json'})
        with urllib.request.urlopen(request) as response:
            return json.loads(response.read())

    def update(self, uuid: str, update: dict):
        """What a run sends."""
        self.ask(f'default/track?run_uuid={uuid}&labml_version=0.5.3', [{'lives': [], **update}])

    def stop(self):
        """Waits for its end."""
        self.process.terminate()
        self.process.wait()


def introduction(number: int) -> dict:
    """The first update of a run."""
    configs = {f'item_{i}': {'name': f'item_{i}', 'computed': i, 'value': None, 'order': i, 'options': ['one', 'two'],
                             'type': "<class 'int'>", 'is_explicitly_specified': False} for i in range(N_CONFIGS)}
    return {'name': f'run {number}', 'python_file': 'train.py', 'computer': 'c' * 16, 'configs': configs,
            'status': {'status': 'completed', 'details': None, 'time': time.time()}}


def steps(begin: int, n: int) -> dict:
    """An update with `n` steps of each indicator, of 2,048 tokens each."""
    numbers = range(begin, begin + n)
    series = {'step': [2048 * (i + 1) for i in numbers], 'value': [1 / (i + 1) for i in numbers]}
    return {'track': dict.fromkeys(NAMES, series)}


def fill(server: Server, arguments: argparse.Namespace) -> float:
    """Introduces all runs and sends the steps of the first. Returns how many values a second it has taken."""
    for i in range(arguments.runs):
        server.update(f'{i:032x}', introduction(i))
        # Curves that are there, for the copy to replace
        server.update(f'{i:032x}', steps(0, 1))
    began = time.perf_counter()
    for begin in range(1, arguments.steps, CHUNK):
        server.update(f'{0:032x}', steps(begin, min(CHUNK, arguments.steps - begin)))
    return (arguments.steps - 1) * len(NAMES) / (time.perf_counter() - began)


def copy_curves(store: Path, n_runs: int):
    """Gives all runs the curves of the first."""
    with sqlite3.connect(store) as connection:
        keys = [connection.execute('SELECT value FROM indexes WHERE name = ? AND key = ?',
                                   ['MetricsIndex', f'{i:032x}']).fetchone()[0] for i in range(n_runs)]
        [data] = connection.execute('SELECT data FROM models WHERE key = ?', keys[:1]).fetchone()
        connection.executemany('UPDATE models SET data = ? WHERE key = ?', [(data, key) for key in keys[1:]])
    connection.close()


def updates_a_second(server: Server, arguments: argparse.Namespace) -> tuple[float, float]:
    """Of `N_CONCURRENT` runs that send as fast as they are answered, for five seconds; and the longest answer."""
    end, counts, longest = time.perf_counter() + 5, [], []

    def report(uuid: str):
        n, slowest, begin = 0, 0., arguments.steps
        while (now := time.perf_counter()) < end:
            server.update(uuid, steps(begin, 10))
            n, begin, slowest = n + 1, begin + 10, max(slowest, time.perf_counter() - now)
        counts.append(n)
        longest.append(slowest)

    threads = [threading.Thread(target=report, args=[f'{i % arguments.runs:032x}']) for i in range(N_CONCURRENT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / 5, max(longest)


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--runs', type=int, default=200)
    parser.add_argument('--steps', type=int, default=100_000)
    parser.add_argument('--rounds', type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / 'store.sqlite'
        server = Server(store)
        rate = fill(server, arguments)
        server.stop()
        copy_curves(store, arguments.runs)
        server = Server(store)
        seconds = {'list of runs': [], 'metrics of a run': [], 'an update of ten steps': []}
        paths = {'list of runs': ('runs/null', None), 'metrics of a run': (f'metrics/{1:032x}', {'get_all': True})}
        for i in range(arguments.rounds):
            for name, (path, body) in paths.items():
                began = time.perf_counter()
                server.ask(path, body)
                seconds[name].append(time.perf_counter() - began)
            began = time.perf_counter()
            server.update(f'{0:032x}', steps(arguments.steps + 10 * i, 10))
            seconds['an update of ten steps'].append(time.perf_counter() - began)
        per_second, longest = updates_a_second(server, arguments)
        server.stop()
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(f'Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; {arguments.runs} runs of '
          f'{arguments.steps:,} steps and {len(NAMES)} indicators, {size / 1e6:.1f} MB; {arguments.rounds} rounds, '
          'medians\n')
    for name, values in seconds.items():
        print(f'{name:24}{1000 * statistics.median(values):8.1f} ms')
    print(f'\n{N_CONCURRENT} runs at once: {per_second:.0f} updates/s of ten steps, the longest answer '
          f'{1000 * longest:.0f} ms\nOne run alone, sent in updates of {CHUNK:,} steps: {rate:,.0f} values/s')


if __name__ == '__main__':
    main()
