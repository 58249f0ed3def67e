"""
# Capacity of the labml app

    python benchmarks/app.py [--runs 200] [--steps 100000] [--rounds 5]

Fills a store with `runs` runs of `steps` steps and six indicators each. Measures how long the app takes for the list of
runs, for the metrics of one run and for one update, and how many updates per second it accepts from 16 concurrent runs.
Takes about two minutes. Only the first run is sent step by step; its curves are then copied to the others inside the
store.
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
# About the number of items of the default run
N_CONFIGS = 80
N_CONCURRENT = 16
# Steps per update when the store is filled
CHUNK = 1000


class Server:
    """`labml-mlm app` in its own process, on a store."""

    def __init__(self, store: Path):
        self.process = subprocess.Popen([sys.executable, '-m', 'labml_mlm', 'app', '--port', '0', '--store', store],
                                        stdout=subprocess.PIPE, text=True)
        self.url = re.search(r'at (http://[^,]*),', self.process.stdout.readline())[1]

    def request(self, path: str, body=None):
        """The JSON response."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f'{self.url}/api/v1/{path}', data, {'Content-Type': 'application/json'})
        with urllib.request.urlopen(request) as response:
            return json.loads(response.read())

    def update(self, uuid: str, update: dict):
        """Sends an update of a run."""
        self.request(f'default/track?run_uuid={uuid}&labml_version=0.5.3', [{'lives': [], **update}])

    def cpu_seconds(self) -> float:
        """Seconds of a CPU that the process has taken so far."""
        return sum(int(path.read_text().split()[0]) for path in
                   Path(f'/proc/{self.process.pid}/task').glob('*/schedstat')) / 1e9

    def peak_memory(self) -> int:
        """The most bytes that the process had in memory."""
        return 1024 * int(re.search(r'VmHWM:\s*(\d+)', Path(f'/proc/{self.process.pid}/status').read_text())[1])

    def stop(self):
        """Ends the process and waits for it."""
        self.process.terminate()
        self.process.wait()


def first_update(number: int) -> dict:
    """The update that registers a run."""
    configs = {f'item_{i}': {'name': f'item_{i}', 'computed': i, 'value': None, 'order': i, 'options': ['one', 'two'],
                             'type': "<class 'int'>", 'is_explicitly_specified': False} for i in range(N_CONFIGS)}
    return {'name': f'run {number}', 'python_file': 'train.py', 'computer': 'c' * 16, 'configs': configs,
            'status': {'status': 'completed', 'details': None, 'time': time.time()}}


def steps_update(begin: int, n: int) -> dict:
    """An update with `n` steps of each indicator, at 2,048 tokens per step."""
    numbers = range(begin, begin + n)
    series = {'step': [2048 * (i + 1) for i in numbers], 'value': [1 / (i + 1) for i in numbers]}
    return {'track': dict.fromkeys(NAMES, series)}


def fill(server: Server, arguments: argparse.Namespace) -> float:
    """Registers all runs and sends the steps of the first one. Returns the values accepted per second."""
    for i in range(arguments.runs):
        server.update(f'{i:032x}', first_update(i))
        # Creates the curves that `copy_curves` overwrites
        server.update(f'{i:032x}', steps_update(0, 1))
    began = time.perf_counter()
    for begin in range(1, arguments.steps, CHUNK):
        server.update(f'{0:032x}', steps_update(begin, min(CHUNK, arguments.steps - begin)))
    return (arguments.steps - 1) * len(NAMES) / (time.perf_counter() - began)


def copy_curves(store: Path, n_runs: int):
    """Gives all runs the curves of the first one."""
    with sqlite3.connect(store) as connection:
        keys = [connection.execute('SELECT value FROM indexes WHERE name = ? AND key = ?',
                                   ['MetricsIndex', f'{i:032x}']).fetchone()[0] for i in range(n_runs)]
        [data] = connection.execute('SELECT data FROM models WHERE key = ?', keys[:1]).fetchone()
        connection.executemany('UPDATE models SET data = ? WHERE key = ?', [(data, key) for key in keys[1:]])
    connection.close()


def concurrent_updates(server: Server, arguments: argparse.Namespace) -> tuple[float, float]:
    """
    Updates per second from `N_CONCURRENT` runs that each send the next one as soon as the last is answered, over five
    seconds; and the slowest response in seconds.
    """
    end, counts, slowest = time.perf_counter() + 5, [], []

    def send(uuid: str):
        n, longest, begin = 0, 0., arguments.steps
        while (now := time.perf_counter()) < end:
            server.update(uuid, steps_update(begin, 10))
            n, begin, longest = n + 1, begin + 10, max(longest, time.perf_counter() - now)
        counts.append(n)
        slowest.append(longest)

    threads = [threading.Thread(target=send, args=[f'{i % arguments.runs:032x}']) for i in range(N_CONCURRENT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / 5, max(slowest)


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
                server.request(path, body)
                seconds[name].append(time.perf_counter() - began)
            began = time.perf_counter()
            server.update(f'{0:032x}', steps_update(arguments.steps + 10 * i, 10))
            seconds['an update of ten steps'].append(time.perf_counter() - began)
        per_second, slowest = concurrent_updates(server, arguments)
        server.stop()
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(f'Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; {arguments.runs} runs of '
          f'{arguments.steps:,} steps and {len(NAMES)} indicators, {size / 1e6:.1f} MB; {arguments.rounds} rounds, '
          'medians\n')
    for name, values in seconds.items():
        print(f'{name:24}{1000 * statistics.median(values):8.1f} ms')
    print(f'\n{N_CONCURRENT} concurrent runs: {per_second:.0f} updates/s of ten steps, slowest response '
          f'{1000 * slowest:.0f} ms\nA single run, in updates of {CHUNK:,} steps: {rate:,.0f} values/s')


if __name__ == '__main__':
    main()
