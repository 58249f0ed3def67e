"""
Runs are started, tracked, edited, killed, resumed, sent and deleted in any order, with the writers of a run and the
code of the app's server, in this process. Beside them is a model of what must be there: it is, on disk and on the app.
"""
import asyncio
import contextlib
import json
import math
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from labml.internal.tracker.indicators.numeric import Scalar
from support.app_server import numbers
from support.runs import SNAPSHOT

from labml_mlm.app import server
from labml_mlm.common.errors import UserError
from labml_mlm.launch import resume
from labml_mlm.launch.resume import Resumption
from labml_mlm.run_commands.deletion import delete_run, find_deletable
from labml_mlm.runs.metrics_log import MetricsWriter, read_values
from labml_mlm.runs.run import Run, list_runs
from labml_mlm.runs.samples_log import Sample, ValidationSamples
from labml_mlm.tracking.client import Undelivered
from labml_mlm.tracking.removal import remove_from_app
from labml_mlm.tracking.sync import sync

URL = 'http://app/api/v1/default/track?'
# Tokens of a step: curves of evenly spaced points are kept as they are
STEP = 10
TRAIN, VALID = 'loss.train', 'loss.valid'
# Means of one value have no -0
VALUES = st.lists(st.floats(-9, 9, width=16).map(lambda value: value + 0.), min_size=2, max_size=4)
SHOWN = {'running': 'in progress', 'completed': 'completed', 'killed': 'crashed'}


class InProcessApp:
    """The app of `labml-mlm app`, without a socket. It can be started again on its store."""

    def __init__(self, path: Path):
        self.path = path
        self.application = server._build_app(lambda: None, None)
        # Answers that are still lost on the way
        self.n_lost = 0
        self.start()

    def start(self):
        self.store = server.Store(self.path)
        self.store.drive(server.db.models, [*server.db.indexes, server.updates.LivesIndex])
        self.application.state.known = self.store.known
        assert server._create_projects(self.store.transaction)
        self.guarded = server.Transactions(self.application, self.store.transaction)

    def ask(self, path: str, body=None, method: str | None = None) -> dict:
        """The answer to a request. Raises `Undelivered` for an error of HTTP."""
        path, _, query = path.partition('?')
        data = b'' if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = []

        async def receive():
            return {'type': 'http.request', 'body': data, 'more_body': False}

        async def send(message):
            sent.append(message)

        scope = {'type': 'http', 'asgi': {'version': '3.0'}, 'http_version': '1.1', 'scheme': 'http', 'path': path,
                 'method': method or ('GET' if body is None else 'POST'), 'query_string': query.encode(),
                 'raw_path': path.encode(), 'root_path': '', 'server': ('app', 80), 'client': ('127.0.0.1', 1),
                 'headers': [(b'host', b'app'), (b'content-type', b'application/json')]}
        asyncio.run(self.guarded(scope, receive, send))
        if sent[0]['status'] >= 400:
            raise Undelivered(f'{sent[0]["status"]}', is_refusal=True, status=sent[0]['status'])
        return json.loads(b''.join(message.get('body', b'') for message in sent[1:]))

    def exchange(self, request, *, timeout: float) -> dict:
        """In place of `client.exchange`."""
        answer = self.ask(request.full_url.removeprefix('http://app'), request.data, request.get_method())
        if self.n_lost:
            self.n_lost -= 1
            raise Undelivered('the answer is lost')
        return answer

    def listed(self) -> dict[str, dict]:
        return {run['run_uuid']: run for run in self.ask('/api/v1/runs/null?folder_name=default')['runs']}

    def curves(self, uuid: str) -> dict[str, list[tuple[float, float]]]:
        series = self.ask(f'/api/v1/metrics/{uuid}', {'get_all': True})['series']
        return {one['name']: list(zip(numbers(one['last_step']), numbers(one['value']), strict=True)) for one in series}


class Expected:
    """What must be there of a run."""

    def __init__(self, run: Run):
        self.run = run
        self.writer: MetricsWriter | None = None
        self.status = 'running'
        # Values on the disk by indicator, and what of it a kill has left out
        self.values: dict[str, list[tuple[int, float]]] = {TRAIN: [], VALID: []}
        self.step = 0
        # By the step of a checkpoint, what was there at that time
        self.checkpoints: dict[int, dict] = {}
        self.samples: list[int] = []
        self.n_resumed = 0
        # Comment and curves on the app; `None` where it does not have the run, or perhaps has more
        self.comment: str | None = None
        self.curves: dict[str, list[tuple[int, float]]] | None = None

    def copy_of_values(self) -> dict[str, list[tuple[int, float]]]:
        return {name: list(values) for name, values in self.values.items()}


class AnyOrder(RuleBasedStateMachine):
    runs = Bundle('runs')

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.logs = self.folder / 'logs'
        self.logs.mkdir()
        self.app = InProcessApp(self.folder / 'store.sqlite')
        self.expected: dict[str, Expected] = {}
        # Those that the app may have, though the answer is lost
        self.n_started = 0
        self.stack = contextlib.ExitStack()
        for name in ('client', 'removal'):
            self.stack.enter_context(mock.patch(f'labml_mlm.tracking.{name}.exchange', self.app.exchange))
        self.stack.enter_context(mock.patch.object(resume, 'differing_versions', lambda *_: []))

    def teardown(self):
        for found in self.expected.values():
            if found.writer is not None:
                self._leave(found)
        self.app.store.close()
        self.stack.close()
        shutil.rmtree(self.folder)

    def _write(self, found: Expected, name: str, value: float):
        indicator = Scalar(name, is_print=False)
        indicator.collect_value(value)
        found.writer.write(global_step=found.step, indicators={name: indicator})
        found.values[name].append((found.step, value))

    def _leave(self, found: Expected):
        """The process that trains a run has ended."""
        found.writer.finish()
        found.writer.close()
        found.writer = None
        found.run.unlock()

    def _of(self, uuid: str, *, is_running: bool) -> Expected | None:
        found = self.expected.get(uuid)
        return found if found and (found.status == 'running') == is_running else None

    # Few, so that much happens to each
    @precondition(lambda self: len(self.expected) < 2)
    @rule(target=runs, name=st.sampled_from(['one', 'two']))
    def start(self, name):
        self.n_started += 1
        uuid = f'{self.n_started:032x}'
        run = Run(self.logs / name / uuid)
        run.path.mkdir(parents=True)
        (run.path / 'run.yaml').write_text('trial_date: 2026-11-14\ntrial_time: "08:00:07"\n')
        run.snapshot = {**SNAPSHOT, 'experiment': name}
        run.lock()
        found = self.expected[uuid] = Expected(run)
        found.writer = MetricsWriter(run.log)
        return uuid

    @rule(uuid=runs, values=VALUES, is_bad=st.booleans())
    def track(self, uuid, values, is_bad):
        if found := self._of(uuid, is_running=True):
            # After the first points, from which the app takes their distance
            for value in [*values, math.nan] if is_bad and found.step >= 2 * STEP else values:
                found.step += STEP
                self._write(found, TRAIN, value)
            found.writer.finish()

    @rule(uuid=runs, loss=st.floats(0, 9, width=16), keep=st.integers(1, 3))
    def validate_and_save(self, uuid, loss, keep):
        found = self._of(uuid, is_running=True)
        if found and found.step and found.step not in found.checkpoints:
            self._write(found, VALID, loss)
            n_bytes = found.writer.sync().result()
            found.run.samples.add(ValidationSamples(found.step, loss, 0.5, [Sample(['a'], [0], ['b'], [False])]))
            found.samples.append(found.step)
            found.run.checkpoints.write(found.step, tensors={'model': {'w': torch.tensor([float(found.step)])}},
                                        metadata={'valid': {'loss': loss}, 'log_bytes': n_bytes})
            found.checkpoints[found.step] = found.copy_of_values()
            found.run.checkpoints.prune(keep=keep)
            _, best = min((dict(values[VALID])[step], -step) for step, values in found.checkpoints.items())
            kept = {*sorted(found.checkpoints)[-keep:], -best}
            found.checkpoints = {step: values for step, values in found.checkpoints.items() if step in kept}

    @rule(uuid=runs, rest=st.sampled_from([None, b'', b'{"tr', b'{"track": {"loss.train": [[9']),
          is_resumed=st.booleans())
    def end(self, uuid, rest, is_resumed):
        """Of a run that is killed, a line is written in part, and a checkpoint."""
        found = self._of(uuid, is_running=True)
        if found and rest is None:
            self._leave(found)
            with open(found.run.path / 'run_log.jsonl', 'a') as f:
                f.write(json.dumps({'status': 'completed', 'rank': 0, 'details': None, 'time': 1e9}) + '\n')
            found.status = 'completed'
        elif found:
            self._leave(found)
            with open(found.run.log, 'ab') as f:
                f.write(rest)
            leftover = found.run.checkpoints.path / f'.{found.step + 1}.tmp'
            leftover.mkdir(parents=True, exist_ok=True)
            (leftover / 'model.safetensors').write_bytes(b'half')
            found.status = 'killed'
        if found and is_resumed:
            self._resume(found)

    @rule(uuid=runs)
    def resume(self, uuid):
        if found := self._of(uuid, is_running=False):
            self._resume(found)

    def _resume(self, found: Expected):
        again = Resumption(self.logs, found.run.uuid, experiment=found.run.experiment)
        again.checkpoint, wrong = again.run.checkpoints.last()
        assert wrong == []
        assert (again.checkpoint and again.checkpoint.step) == max(found.checkpoints, default=None)
        found.step = again.checkpoint.step if again.checkpoint else 0
        with contextlib.redirect_stdout(None):
            again.rewind(SimpleNamespace(_has_decay_begun=False))
        again.run.snapshot = again.merged_snapshot({**SNAPSHOT, 'experiment': found.run.experiment}, tokens=found.step)
        found.run, found.status, found.writer = again.run, 'running', MetricsWriter(again.run.log)
        found.values = {name: list(values) for name, values in found.checkpoints.get(
            found.step, {TRAIN: [], VALID: []}).items()}
        found.samples = [step for step in found.samples if step <= found.step]
        found.n_resumed += 1

    @rule(uuid=runs, n_lost=st.sampled_from([0, 0, 0, 1, 2]))
    def send(self, uuid, n_lost):
        if (found := self.expected.get(uuid)) is None:
            return
        self.app.n_lost = n_lost
        try:
            sync(Run(found.run.path), URL)
        except Undelivered:
            assert n_lost
            # It may have some of it
            found.comment, found.curves = found.comment if found.comment is not None else '', None
            return
        finally:
            self.app.n_lost = 0
        found.comment = found.comment or ''
        found.curves = found.copy_of_values()
        assert sync(Run(found.run.path), URL)[0] in (0, sum(map(len, found.values.values())))
        assert self.app.ask(f'/api/v1/run/status/{uuid}')['run_status']['status'] == SHOWN[found.status]

    @rule(uuid=runs, text=st.text(max_size=5))
    def edit(self, uuid, text):
        found = self.expected.get(uuid)
        if found and found.comment is not None:
            self.app.ask(f'/api/v1/run/{uuid}', {'comment': text})
            # As lone surrogates are stored, which no page can have
            found.comment = text.encode(errors='replace').decode()

    @rule(uuid=runs, is_from_app_alone=st.booleans())
    def delete(self, uuid, is_from_app_alone):
        """Runs that are trained stay on the disk."""
        found = self.expected.get(uuid)
        if is_from_app_alone:
            had = remove_from_app([uuid], URL)
            assert bool(had) == bool(found and found.comment is not None)
            if found:
                found.comment = found.curves = None
        elif found is None:
            with pytest.raises(UserError):
                find_deletable(self.logs, uuid)
        elif found.status == 'running':
            with pytest.raises(UserError, match='is running'):
                find_deletable(self.logs, uuid)
        else:
            delete_run(find_deletable(self.logs, uuid))
            remove_from_app([uuid], URL)
            del self.expected[uuid]

    @precondition(lambda self: self.n_started)
    @rule()
    def restart_app(self):
        self.app.store.close()
        self.app.start()

    @invariant()
    def disk_has_what_must_be_there(self):
        runs = {run.uuid: run for run in list_runs(self.logs)}
        assert runs.keys() == self.expected.keys()
        for uuid, found in self.expected.items():
            run, values = runs[uuid], {TRAIN: [], VALID: []}
            for step, name, value in read_values(run.log):
                values[name].append((step, value))
            np.testing.assert_equal(values, found.values)
            assert run.status == found.status
            assert list(run.checkpoints.steps()) == sorted(found.checkpoints)
            assert [validation.step for validation in run.samples.read()] == found.samples
            summary = run.summary()
            losses = [loss for _, loss in found.values[VALID]]
            last = max((values[-1][0] for values in found.values.values() if values), default=None)
            assert (summary.step, summary.loss, summary.n_damaged) == (last, min(losses, default=None), 0)

    @invariant()
    def app_has_what_was_sent(self):
        listed = self.app.listed()
        known = {uuid: found for uuid, found in self.expected.items() if found.comment is not None}
        assert listed.keys() == known.keys()
        for uuid, found in known.items():
            assert listed[uuid]['comment'] == found.comment
            if found.curves is not None:
                finite = {name: [(step, value) for step, value in values if math.isfinite(value)]
                          for name, values in found.curves.items()}
                bad = [(step, 1.) for step, value in found.curves[TRAIN] if not math.isfinite(value)]
                expected = {**finite, f'not_finite.{TRAIN}': bad}
                assert self.app.curves(uuid) == {name: values for name, values in expected.items() if values}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(settings.get_profile('tests'), max_examples=10, stateful_step_count=60,
                                 derandomize=True)
