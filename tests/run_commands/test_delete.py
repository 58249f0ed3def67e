import functools
import io
import sys

import pytest
from support.project import outcome
from support.runs import SNAPSHOT


@pytest.fixture
def command(make, tmp_path, monkeypatch, capsys):
    """`labml-mlm` in a project with the runs `abcd` and `cafe`, whose app does not answer."""
    (tmp_path / '.labml.yaml').write_text('app_url: http://localhost:1/api/v1/default\n')
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    make('abcd', minute=1, snapshot=SNAPSHOT)
    make('cafe', 'other', minute=2, snapshot=SNAPSHOT)
    return functools.partial(outcome, capsys)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_is_deleted_without_an_answer(command, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.StringIO('y\n'))
    code, out, err = command('delete', 'abcd', 'cafe')
    assert (code, out) == (2, '')
    assert err == 'nobody can be asked here whether to delete abcd, cafe: --yes deletes without a question\n'
    for answer in ('n\n', '\n', '', 'yesterday\n'):
        monkeypatch.setattr(sys, 'stdin', Terminal(answer))
        code, out, err = command('delete', 'abcd', 'cafe')
        assert code == 0 and out.endswith('Nothing is deleted\n')
    assert len(list(tmp_path.glob('logs/*/*'))) == 2


def test_a_person_sees_what_goes(command, tmp_path, monkeypatch):
    (tmp_path / 'logs/test/abcd/big').write_bytes(bytes(2_000_000))
    monkeypatch.setattr(sys, 'stdin', Terminal('y\n'))
    code, out, err = command('delete', 'abcd')
    assert code == 0
    assert out.splitlines()[0].split() == ['abcd', 'test', '2026-11-04', '08:01', 'killed', '2.0', 'MB']
    assert 'Delete this run for ever? [y/N]' in out
    assert out.endswith('The run abcd is deleted: 2.0 MB\n')
    assert err == 'Not taken off the labml app at http://localhost:1: Connection refused\n'
    assert [path.name for path in tmp_path.glob('logs/*/*')] == ['cafe']


def test_several_runs_once_each(command, tmp_path):
    code, out, _ = command('delete', 'ab', 'last', 'abcd', '--yes')
    assert code == 0 and out.splitlines()[-1].startswith('That frees ')
    assert not list(tmp_path.glob('logs/*'))


def test_one_wrong_run_and_none_is_deleted(command, tmp_path, make):
    running = make('beef', snapshot=SNAPSHOT)
    running.lock()
    for name, message in (('beef', 'the run beef is running'), ('nope', 'there is no run nope')):
        code, out, err = command('delete', 'abcd', name, '--yes')
        assert (code, out) == (2, '')
        assert message in err and len(err.splitlines()) == 1
    running.unlock()
    assert len(list(tmp_path.glob('logs/*/*'))) == 3


def test_a_project_without_an_app(command, tmp_path):
    (tmp_path / '.labml.yaml').write_text('')
    code, _, err = command('delete', 'abcd', '--yes')
    assert code == 0 and ('labml app' not in err or 'localhost' not in err)


def test_the_app_loses_the_run_too(command, tmp_path, app, make):
    uuid = 'deadbeefdeadbeef'
    make(uuid, snapshot=SNAPSHOT)
    (tmp_path / '.labml.yaml').write_text(f'app_url: {app.app_url}\n')
    assert command('sync', uuid)[0] == 0
    assert app.ask(f'run/{uuid}')['run_uuid'] == uuid
    code, out, err = command('delete', uuid, 'abcd', '--yes')
    assert (code, err) == (0, '')
    assert out.splitlines()[-1] == f'Taken off the labml app: {uuid}'
    assert uuid not in [run['run_uuid'] for run in app.ask('runs/null')['runs']]
