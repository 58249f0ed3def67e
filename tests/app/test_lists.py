"""The list of runs, also of a store in which something of one run is damaged."""
import json
import sqlite3
import subprocess
import sys

import pytest

GOOD, BAD = 'a' * 32, 'b' * 32


def listed(app):
    return {run['run_uuid']: run for run in app.ask('runs/null')['runs']}


def introduce(app, uuid):
    app.update(uuid, {'name': 'char_mlm', 'computer': 'c' * 16, 'comment': 'mine', 'tags': ['char', 'first'],
                      'lives': []})
    app.update(uuid, {'lives': [], 'track': {'loss': {'step': [1], 'value': [2.]}}})


@pytest.fixture
def damage(start_app):
    """A function that changes the row of a model of the run `BAD`, and the app on that store."""
    server = start_app()
    for uuid in (GOOD, BAD):
        introduce(server, uuid)
    server.stop()

    def damage(kind, change):
        with sqlite3.connect(server.store) as store:
            rows = dict(store.execute("SELECT key, data FROM models WHERE key LIKE ?", [f'{kind}:%']))
            [[run, run_data]] = store.execute("SELECT key, data FROM models WHERE key LIKE 'Run:%' AND data LIKE ?",
                                              [f'%"{BAD}"%']).fetchall()
            [[metrics]] = store.execute("SELECT value FROM indexes WHERE name = 'MetricsIndex' AND key = ?",
                                        [BAD]).fetchall()
            key = {'Run': run, 'Status': json.loads(run_data)['status']['$key'], 'MetricsModel': metrics}[kind]
            store.execute('UPDATE models SET data = ? WHERE key = ?', [change(rows[key]), key])
        store.close()
        return start_app()
    return damage


def test_tags_stand_behind_the_comment(app, uuid):
    introduce(app, uuid)
    assert listed(app)[uuid]['comment'] == 'mine #first'


@pytest.mark.parametrize('kind, change', [
    ('Run', lambda data: data[:-5]), ('Run', lambda data: '5'), ('Run', lambda data: data.replace('"mine"', 'NaN')),
    ('Run', lambda data: data.replace('"char_mlm"', '[]')), ('Run', lambda data: data.replace('"status"', '"other"')),
    ('Status', lambda data: '[]'), ('Status', lambda data: '[' * 100_000),
])
def test_damaged_row_costs_its_own_run(damage, kind, change):
    app = damage(kind, change)
    runs = listed(app)
    assert runs.keys() == {GOOD, BAD}
    assert runs[GOOD]['comment'] == 'mine #first' and runs[GOOD]['run_status']['status'] == 'in progress'
    assert runs[BAD]['name'].startswith('damaged') and 'cannot be read' in runs[BAD]['comment']
    # The others are as they were, and the damaged one can be deleted
    assert app.ask(f'run/{GOOD}')['name'] == 'char_mlm' and app.points(GOOD) == {((1.,), (2.,))}
    app.update(GOOD, {'lives': [], 'track': {'loss': {'step': [2], 'value': [3.]}}})
    app.ask('runs', {'run_uuids': [BAD]}, method='PUT')
    assert listed(app).keys() == {GOOD}
    # It can report again
    introduce(app, BAD)
    assert listed(app)[BAD]['name'] == 'char_mlm'


def test_run_with_a_damaged_curve_is_listed_and_can_be_deleted(damage):
    app = damage('MetricsModel', lambda data: data[:-5])
    assert listed(app)[BAD]['name'] == 'char_mlm'
    status, _ = app.status_of(f'/api/v1/metrics/{BAD}', b'{"get_all": true}', method='POST',
                              headers={'Content-Type': 'application/json'})
    assert status == 400 and app.points(GOOD)
    app.ask('runs', {'run_uuids': [BAD, GOOD]}, method='PUT')
    assert listed(app) == {}


def test_damaged_list_of_runs_is_said(start_app):
    server = start_app()
    server.stop()
    with sqlite3.connect(server.store) as store:
        store.execute("UPDATE models SET data = '[' WHERE key LIKE 'Project:%'")
    store.close()
    before = server.store.read_bytes()
    result = subprocess.run([sys.executable, '-m', 'labml_mlm', 'app', '--port', '0', '--store', server.store],
                            capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, '')
    assert 'its list of runs cannot be read' in result.stderr and 'Traceback' not in result.stderr
    assert '.recover' in result.stderr and result.stderr.count('\n') == 1
    assert server.store.read_bytes() == before


def test_archived_runs_are_listed_apart(app, uuid):
    introduce(app, uuid)
    app.ask('runs/archive', {'run_uuids': [uuid]})
    assert uuid not in listed(app)
    assert [run['run_uuid'] for run in app.ask('runs/null?folder_name=archive')['runs']] == [uuid]
    assert uuid in {run['run_uuid'] for run in app.ask('runs/null?folder_name=all')['runs']}
