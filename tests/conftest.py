import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Models of tests are too small for more threads; torch reads this when it is imported
os.environ['OMP_NUM_THREADS'] = '1'
# Those of child processes with more
os.environ.setdefault('GOMP_SPINCOUNT', '1000')

import torch
from hypothesis import HealthCheck, settings
from labml import tracker
from labml.internal.lab import lab_singleton
from support.app_server import AppServer
from support.exports import exports, make, models, texts  # noqa: F401  fixtures
from support.fake_app import fake_app, start_fake_app  # noqa: F401  fixtures
from support.fine_tuned import fine_tuned, fine_tuned_runs, make_fine_tuned  # noqa: F401  fixtures
from support.hugging_face import needs_transformers  # noqa: F401  a fixture
from support.minicons import needs_minicons  # noqa: F401  a fixture
from support.project import SHAKESPEARE, SMALL_VALUES, TEXT, ForkServer, Project
from support.stop import train  # noqa: F401  a fixture
from support.trained import assert_refused, command, fill_mask, run, trained  # noqa: F401  fixtures

from labml_mlm import MLMConfigs

# No example fails because the machine is busy; CI has the same examples each time
settings.register_profile('tests', deadline=None, suppress_health_check=[HealthCheck.too_slow],
                          derandomize='LABML_MLM_SAME_EXAMPLES' in os.environ)
settings.load_profile('tests')
# Tests of the screen choose these themselves; a CI's or a person's own would change the output
for name in ('CI', 'NO_COLOR', 'FORCE_COLOR', 'COLUMNS', 'LINES'):
    os.environ.pop(name, None)
# As in a terminal, even under `nohup` or in the background of a script
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session')
def shakespeare() -> Path:
    if not SHAKESPEARE.exists():
        pytest.skip('Tiny Shakespeare is missing: ../shared/data/tiny_shakespeare.txt')
    return SHAKESPEARE


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks those that start scripts. The longest first, so that no core waits for one at the end."""
    for item in items:
        if 'project' in item.fixturenames:
            item.add_marker('end_to_end')

    def minutes(item: pytest.Item) -> float:
        long = item.get_closest_marker('long')
        return 0. if long is None else long.kwargs.get('minutes', 1.)

    items.sort(key=minutes, reverse=True)


@pytest.fixture(scope='session')
def fork_server():
    server = ForkServer()
    yield server
    server.process.stdin.close()
    server.process.wait()


@pytest.fixture
def project(tmp_path, fork_server) -> Iterator[Project]:
    project = Project(tmp_path, fork_server)
    yield project
    for job in project.jobs:
        job.end()
    if project.is_forked:
        # The test has failed, and the run may have ended meanwhile
        with contextlib.suppress(ProcessLookupError):
            os.kill(project.pid, signal.SIGKILL)
        project.wait()


@pytest.fixture(autouse=True)
def data_path(tmp_path_factory, monkeypatch):
    """A data path, with its token cache, for each test, rather than this project's."""
    path = tmp_path_factory.mktemp('data')
    monkeypatch.setattr(lab_singleton(), 'data_path', path)
    return path


@pytest.fixture
def text_path(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def build(text_path):
    def build(class_=MLMConfigs, **values):
        conf = class_()
        conf._set_values({'text_path': text_path, **SMALL_VALUES, **values})
        conf.init()
        return conf
    return build


@pytest.fixture
def tracked(monkeypatch):
    """The tracked values by name, without namespaces; with them, those that arrive from a GPU."""
    values = {}

    def add(name, value):
        values.setdefault(name, []).append(value.item() if isinstance(value, torch.Tensor) else value)

    def save(step=None, late=None):
        for name, value in (late or {}).items():
            add(name, value)

    monkeypatch.setattr(tracker, 'add', add)
    monkeypatch.setattr(tracker, 'save', save)
    return values


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    if os.geteuid() or os.system(f'mount -t tmpfs -o size=512k tmpfs {disk} 2>/dev/null'):
        pytest.skip('cannot mount a file system here: that takes root')
    yield disk
    os.system(f'umount -l {disk}')


@pytest.fixture(scope='session')
def app(tmp_path_factory):
    """A labml app that all tests share."""
    server = AppServer(tmp_path_factory.mktemp('app') / 'store.sqlite')
    yield server
    server.stop()


@pytest.fixture
def start_app(tmp_path):
    """Starts labml apps, one at a time, on one store."""
    servers = []

    def start(*arguments, **kwargs):
        servers.append(AppServer(tmp_path / 'store.sqlite', *arguments, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)
