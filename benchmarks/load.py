"""
# The app under load

    python benchmarks/load.py [--runs 1000] [--points 100000] [--writers 50] [--readers 20] [--seconds 60] [--quick]

Fills a store with `runs` runs of `points` steps and six indicators each. Then `writers` of them go on, each with an
update a second, as a run sends them, while `readers` people look at pages, one after another, with a second between
two. The time of a page is that of all that a browser asks for it at once. It prints those times, the CPU that each
page takes of the server where nobody else asks, how many values were lost, and the memory of the server; the exit
code is 1 if one was lost or a request failed.

Only the first run is sent step by step: the others are copies of its rows. With the default sizes it takes three
minutes and 150 MB of disk.
"""
import argparse
import base64
import json
import os
import platform
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from app import CHUNK, NAMES, Server, first_update, steps_update
from labml_db import Key

from labml_mlm.app.encoding import decode, encode

# Seconds between two updates of a run, and between two pages of a reader
_INTERVAL, _PAUSE = 1., 1.
# Steps in an update
_STEPS = 10
# Requests of each kind whose CPU is measured
_ROUNDS = 10
# What a browser asks of a server at a time
_CONNECTIONS = 6
# Points of a curve that upstream keeps as they are: more are merged
_KEPT = 1024
# Times that an update is sent again that was not answered
_TRIES = 5


def uuid_of(number: int) -> str:
    """The uuid of a run."""
    return f'{number:032x}'


def fill(store: Path, *, n_runs: int, n_points: int):
    """Makes a store: one run by the app, the others by copies of all rows that belong to it."""
    server, first = Server(store), uuid_of(0)
    server.update(first, first_update(0))
    for begin in range(0, n_points, CHUNK):
        server.update(first, steps_update(begin, min(CHUNK, n_points - begin)))
    server.stop()
    connection = sqlite3.connect(store)
    with connection:
        indexes = connection.execute('SELECT name, value FROM indexes WHERE key = ?', [first]).fetchall()
        rows = dict(_rows(connection, [value for _, value in indexes]))
        for number in range(1, n_runs):
            names = {first: uuid_of(number), 'run 0': f'run {number}'} | {
                key: f'{key.partition(":")[0]}:{number:x}-{i}' for i, key in enumerate(rows)}
            connection.executemany('INSERT INTO models VALUES (?, ?)', [
                (names[key], _renamed(data, names)) for key, data in rows.items()])
            connection.executemany('INSERT INTO indexes VALUES (?, ?, ?)', [
                (name, uuid_of(number), names.get(value, value)) for name, value in indexes])
        _list_all(connection, n_runs)
    connection.close()


def _rows(connection: sqlite3.Connection, keys: list[str]) -> Iterator[tuple[str, str]]:
    """The models with these keys, and those that they name."""
    for key in keys:
        for data, in connection.execute('SELECT data FROM models WHERE key = ?', [key]):
            yield key, data
            named = [inner for inner in json.loads(data).values() if isinstance(inner, dict) and '$key' in inner]
            yield from _rows(connection, [inner['$key'] for inner in named])


def _renamed(data: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        data = data.replace(f'"{old}"', f'"{new}"')
    return data


def _list_all(connection: sqlite3.Connection, n_runs: int):
    """Adds the copies to the lists that have the first run."""
    keys = dict(connection.execute("SELECT key, value FROM indexes WHERE name = 'RunIndex'").fetchall())
    uuids = [uuid_of(number) for number in range(n_runs)]
    for kind, name in (('Project', 'runs'), ('Folder', 'run_uuids')):
        for key, data in connection.execute('SELECT key, data FROM models WHERE key GLOB ?', [f'{kind}:*']).fetchall():
            found = decode(data)
            if uuids[0] not in found.get(name, ()):
                continue
            like = found[name]
            found[name] = {uuid: Key(keys[uuid]) for uuid in uuids} if isinstance(like, dict) else set(uuids)
            connection.execute('UPDATE models SET data = ? WHERE key = ?', [encode(found), key])


def pages(uuid: str, other: str) -> dict[str, list[tuple[str, dict | None]]]:
    """What a browser asks for each page."""
    metrics = {'get_all': False}
    return {
        'list of runs': [('runs/null?folder_name=default', None)],
        'run': [(f'run/{uuid}', None), (f'run/status/{uuid}', None), (f'metrics/preferences/{uuid}', None),
                (f'metrics/{uuid}', metrics), (f'custom_metrics/{uuid}', None), (f'logs/stdout/{uuid}', {'page': -1})],
        'all metrics': [(f'run/{uuid}', None), (f'metrics/preferences/{uuid}', None),
                        (f'metrics/{uuid}', {'get_all': True})],
        'comparison': [(f'compare/preferences/{uuid}', None), (f'compare/metrics/{uuid}?current={uuid}', metrics),
                       (f'compare/metrics/{other}?current={uuid}', metrics)],
    }


def cpu_times(server: Server, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of CPU that the server takes for each page and for an update, where nobody else asks for anything."""
    seconds, last = {}, arguments.runs - 1
    for name, asked in pages(uuid_of(last), uuid_of(0)).items():
        for _ in range(2):
            # The second time, as on all days but the first
            before = server.cpu_seconds()
            for path, body in asked * _ROUNDS:
                server.request(path, body)
        seconds[name] = (server.cpu_seconds() - before) / _ROUNDS
    before = server.cpu_seconds()
    for i in range(_ROUNDS):
        server.update(uuid_of(last), steps_update(arguments.points + _STEPS * i, _STEPS))
    seconds['an update'] = (server.cpu_seconds() - before) / _ROUNDS
    return seconds


class Load:
    """Runs that go on, and people who look at pages, for some seconds."""

    def __init__(self, server: Server, arguments: argparse.Namespace):
        self.server, self.arguments = server, arguments
        self.end = time.monotonic() + arguments.seconds
        # Seconds of each page, and of each update
        self.pages: dict[str, list[float]] = {name: [] for name in pages('', '')}
        self.updates: list[float] = []
        # The last step that the app has acknowledged, by run, and requests that failed
        self.sent: dict[str, int] = {}
        self.failed: list[str] = []
        self._browsers = ThreadPoolExecutor(max(1, _CONNECTIONS * arguments.readers))

    def run(self):
        """Returns when all have ended."""
        threads = [threading.Thread(target=self._write, args=[number]) for number in range(self.arguments.writers)]
        threads += [threading.Thread(target=self._read, args=[number]) for number in range(self.arguments.readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._browsers.shutdown()

    def _write(self, number: int):
        uuid, begin = uuid_of(number), self.arguments.points
        if number == 0:
            # One run is new: its curves are short enough that the app keeps each point
            uuid, begin = uuid_of(self.arguments.runs), 0
            self.server.update(uuid, first_update(self.arguments.runs))
        # Runs do not send at the same moment
        time.sleep(_INTERVAL * number / self.arguments.writers)
        while (began := time.monotonic()) < self.end:
            update = steps_update(begin, _STEPS)
            for _ in range(_TRIES):
                try:
                    self.server.update(uuid, update)
                except (OSError, ValueError) as e:
                    self.failed.append(f'update: {e}')
                    continue
                begin += _STEPS
                self.sent[uuid] = update['track'][NAMES[0]]['step'][-1]
                break
            self.updates.append(time.monotonic() - began)
            time.sleep(max(0., _INTERVAL - self.updates[-1]))

    def _read(self, number: int):
        rng = random.Random(number)
        time.sleep(_PAUSE * number / max(1, self.arguments.readers))
        while time.monotonic() < self.end:
            uuids = [uuid_of(rng.randrange(self.arguments.runs)) for _ in range(2)]
            name = rng.choice(list(self.pages))
            began = time.monotonic()
            wait([self._browsers.submit(self._ask, path, body) for path, body in pages(*uuids)[name]])
            self.pages[name].append(time.monotonic() - began)
            time.sleep(_PAUSE)

    def _ask(self, path: str, body: dict | None):
        try:
            self.server.request(path, body)
        except (OSError, ValueError) as e:
            self.failed.append(f'{path}: {e}')

    def n_lost(self) -> int:
        """Curves that do not end where the app has acknowledged it, and points of the new run that are not as sent."""
        lost = 0
        for uuid, step in self.sent.items():
            path = f'default/track?run_uuid={uuid}&labml_version=0.5.3'
            received = self.server.request(path, [{'lives': []}])['received']
            lost += sum(received.get(name) != step for name in NAMES)
        new = uuid_of(self.arguments.runs)
        # Steps are of 2,048 tokens
        sent = 2048 * np.arange(1, self.sent[new] // 2048 + 1)
        for curve in self.server.request(f'metrics/{new}', {'get_all': True})['series'] if len(sent) <= _KEPT else ():
            steps = np.frombuffer(base64.b64decode(curve['last_step']), np.float32)
            lost += len(np.setxor1d(steps, sent)) + len(steps) - len(np.unique(steps))
        return lost


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    for name, default in (('runs', 1000), ('points', 100_000), ('writers', 50), ('readers', 20), ('seconds', 60)):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--quick', action='store_true', help='small sizes: does it work?')
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.runs, arguments.points, arguments.writers, arguments.readers, arguments.seconds = 5, 2000, 3, 2, 2
    if arguments.writers > arguments.runs:
        parser.error('--writers: they are runs, and there are fewer of them')
    with tempfile.TemporaryDirectory() as folder:
        store, began = Path(folder) / 'store.sqlite', time.monotonic()
        fill(store, n_runs=arguments.runs, n_points=arguments.points)
        filled, size = time.monotonic() - began, store.stat().st_size
        server = Server(store)
        try:
            n_listed = len(server.request('runs/null?folder_name=default')['runs'])
            cpu = cpu_times(server, arguments)
            before, load = server.cpu_seconds(), Load(server, arguments)
            load.run()
            share = (server.cpu_seconds() - before) / arguments.seconds
            n_lost = load.n_lost()
            memory = server.peak_memory()
        finally:
            server.stop()
    print(f'Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {len(os.sched_getaffinity(0))} CPUs; '
          f'{n_listed:,} runs of {arguments.points:,} steps and {len(NAMES)} indicators, {size / 1e6:.0f} MB, made in '
          f'{filled:.0f} s')
    print(f'{arguments.writers} runs write and {arguments.readers} people look for {arguments.seconds} s\n')
    print(f'{"":16}{"CPU":>10}{"number":>8}{"p50":>10}{"p99":>10}{"slowest":>10}')
    for name, seconds in {**load.pages, 'an update': load.updates}.items():
        if seconds:
            p50, p99, slowest = (1000 * value for value in np.quantile(seconds, [0.5, 0.99, 1]))
            print(f'{name:16}{1000 * cpu[name]:7,.1f} ms{len(seconds):8,}{p50:7,.0f} ms{p99:7,.0f} ms'
                  f'{slowest:7,.0f} ms')
    slowest = max((name for name in load.pages if load.pages[name]), key=lambda name: max(load.pages[name]))
    print(f'\nThe slowest page is that of: {slowest}. Requests that failed: {len(load.failed)}. Values lost: {n_lost}. '
          f'The server took {share:.0%} of a CPU, and {memory / 1e6:.0f} MB of memory at most')
    for message in sorted(set(load.failed))[:5]:
        print(message)
    raise SystemExit(bool(n_lost or load.failed))


if __name__ == '__main__':
    main()
