"""Updates of runs, sent to a running app over HTTP."""
import pytest

# The first update of a run
INTRODUCTION = {'name': 'an experiment', 'python_file': 'train.py', 'computer': 'c' * 16, 'lives': [],
                'configs': {'seq_len': {'name': 'seq_len', 'computed': 16}}}


def track(steps, values=None, name='loss'):
    """An update with points of one indicator; by default, each value equals its step."""
    return {'lives': [], 'track': {name: {'step': list(steps), 'value': [float(v) for v in values or steps]}}}


def listed_runs(app):
    return {run['run_uuid']: run for run in app.ask('runs/null')['runs']}


def delete(app, uuid):
    return app.ask('runs', {'run_uuids': [uuid]}, method='PUT')


def test_run_is_listed_after_its_first_update(app, uuid):
    answer = app.update(uuid, INTRODUCTION)
    assert answer['errors'] == [] and answer['is_new']
    assert answer['url'] == f'{app.url}/run/{uuid}'
    run = listed_runs(app)[uuid]
    assert run['name'] == 'an experiment' and run['run_status']['status'] == 'in progress'
    data = app.ask(f'run/{uuid}')
    # Otherwise the page shows a banner that asks to claim the run
    assert data['is_claimed'] and data['is_project_run']
    assert data['configs'] == [{'key': 'seq_len', 'name': 'seq_len', 'computed': 16}]
    app.update(uuid, {'lives': [], 'status': {'status': 'completed', 'details': None, 'time': 3.}})
    assert app.ask(f'run/status/{uuid}')['run_status']['status'] == 'completed'


def test_run_can_be_deleted(app, uuid):
    app.update(uuid, INTRODUCTION)
    assert delete(app, uuid) == {'is_successful': True}
    assert uuid not in listed_runs(app)


def test_repeated_steps_are_added_once(app, uuid):
    app.update(uuid, INTRODUCTION)
    assert app.update(uuid, track([1, 2, 3]))['received'] == {'loss': 3}
    # The answer was lost: first the same update again, then one with more steps
    assert app.update(uuid, track([1, 2, 3]))['received'] == {'loss': 3}
    app.update(uuid, track([2, 3, 4]), track([4, 5]))
    assert app.points(uuid) == {((1, 2, 3, 4, 5), (1, 2, 3, 4, 5))}


def test_resumed_run_truncates_its_curves(app, uuid):
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track(range(1, 11)), track([10], [7], 'late'))
    again = {**track(range(7, 9), [70, 80]), 'lives': [6]}
    for _ in range(2):  # an answer was lost
        assert app.update(uuid, again)['received'] == {'loss': 8}
        assert app.points(uuid) == {((*range(1, 9),), (*range(1, 7), 70, 80))}
        assert app.points(uuid, 'late') == set()
    # Two lives that are new to the app, the first of which has sent nothing
    app.update(uuid, {**track([5], [50]), 'lives': [6, 7, 4]})
    assert app.points(uuid) == {((1, 2, 3, 4, 5), (1, 2, 3, 4, 50))}
    # An earlier life is refused
    answer = app.update(uuid, {**track([9], [9]), 'lives': [6]})
    assert answer['errors'][0]['error'] == 'old_life'
    assert app.points(uuid) == {((1, 2, 3, 4, 5), (1, 2, 3, 4, 50))}
    # Restarted from the beginning
    app.update(uuid, {**track([1], [9]), 'lives': [6, 7, 4, 0]})
    assert app.points(uuid) == {((1,), (9,))}


def test_labml_clients_are_supported(app, uuid):
    """Their updates have neither `lives` nor `received`."""
    first = {key: value for key, value in INTRODUCTION.items() if key != 'lives'}
    app.update(uuid, {**first, 'track': {'loss': {'step': [1, 2], 'value': [1., 2.]}}})
    app.update(uuid, {'track': {'loss': {'step': [3], 'value': [3.]}}, 'stdout': 'hello\n'})
    assert app.points(uuid) == {((1, 2, 3), (1, 2, 3))}
    assert app.ask(f'logs/stdout/{uuid}', {'page': -1})['pages'] == {'0': 'hello\n'}


def test_app_with_an_older_store_adds_nothing(app, uuid):
    """It has less than it once acknowledged, so the update would leave a gap in the curve."""
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track([1, 2, 3]))
    answer = app.update(uuid, {**track([7, 8]), 'received': {'loss': 6}})
    assert answer['received'] == {'loss': 3}
    assert app.points(uuid) == {((1, 2, 3), (1, 2, 3))}
    app.update(uuid, {**track([4, 5, 6, 7, 8]), 'received': {'loss': 3}})
    assert app.points(uuid) == {((*range(1, 9),), (*range(1, 9),))}


def test_ranks_are_stored_separately(app, uuid):
    """With updates as labml's own clients send them, and as labml_mlm does."""
    for rank in range(2):
        for extension in ({}, {'lives': []}):
            name = f'{uuid[:20]}{len(extension)}'
            path = f'default/track?run_uuid={name}&labml_version=0.5.3&world_size=2&rank={rank}'
            app.ask(path, [{**INTRODUCTION, **extension}])
            app.ask(path, [{**track([1, 2, 3]), **extension}])
            stored = f'{name}_{rank}' if rank else f'{name}_0'
            assert app.points(stored) == {((1, 2, 3), (1, 2, 3))}


def test_deleted_run_can_report_again(app, uuid):
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track([1, 2]))
    delete(app, uuid)
    assert app.update(uuid, track([3]))['is_new']
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track([1, 2, 3]))
    assert app.points(uuid) == {((1, 2, 3), (1, 2, 3))}
    assert uuid in listed_runs(app)


def test_unknown_run_must_introduce_itself(app, uuid):
    """The app has lost its store: the sender must start again with the introduction."""
    answer = app.update(uuid, track([8, 9]))
    assert answer['is_new'] and answer['received'] == {}
    assert uuid not in listed_runs(app)


@pytest.mark.parametrize('body', [
    b'{', b'no JSON', b'\xff\xfe', b'[' * 100_000, b'5', b'"text"', b'[5]', b'[[]]', b'[{"track": 5}]',
    b'[{"track": {"loss": 5}}]', b'[{"track": {"loss": {"step": [1], "value": [1, 2]}}}]',
    b'[{"track": {"loss": {"step": ["1"], "value": [1]}}}]', b'[{"track": {"loss": {"step": [NaN], "value": [1]}}}]',
    b'[{"configs": {"a": 1}}]', b'[{"configs": {"a": {"name": "a"}}}]', b'[{"status": "completed"}]',
    b'[{"stdout": 5}]', b'[{"track": {"loss": {"step": [1e400], "value": [1]}}}]',
    b'[{"track": {"loss": {"step": [1' + b'0' * 400 + b'], "value": [1]}}}]',
    b'[{"name": "x", "note": ' + b'[' * 900 + b']' * 900 + b', "configs": {"a": {"name": "a", "computed": '
    + b'[' * 900 + b']' * 900 + b'}}}]',
    b'[{"status": {"status": "foo"}}]', b'[{"status": {"status": 5}}]', b'[{"status": {"status": [1]}}]',
    b'[{"status": {"time": "now"}}]', b'[{"status": {"time": NaN}}]', b'[{"began": Infinity}]',
    b'[{"received": {"loss": "1"}}]', b'[{"lives": [null]}]',
    b'[{"lives": 5}]', b'[{"name": {}}]', b'[{"tags": "mlm"}]',
])
def test_malformed_update_is_refused(app, uuid, body):
    path = f'/api/v1/default/track?run_uuid={uuid}&labml_version=0.5.3'
    status, answer = app.status_of(path, body, method='POST', headers={'Content-Type': 'application/json'})
    assert status == 400
    assert b'Traceback' not in answer and b'.py' not in answer and (b'error' in answer or b'detail' in answer)
    assert uuid not in listed_runs(app)


def test_lone_surrogate_is_replaced(app, uuid):
    """Otherwise the list of runs could not be sent to any page."""
    app.update(uuid, {**INTRODUCTION, 'name': 'half \ud800'})
    assert 'half ?' in [run['name'] for run in listed_runs(app).values()]


def test_values_that_are_not_finite_repeat_the_one_before(app, uuid):
    """As upstream does."""
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track([1, 2, 3, 4], [1, float('nan'), float('inf'), 4]))
    assert app.points(uuid) == {((1, 2, 3, 4), (1, 1, 1, 4))}


def test_configs_and_details_that_are_not_finite_become_strings(app, uuid):
    """Otherwise pages that show them would fail."""
    nan = float('nan')
    app.update(uuid, {**INTRODUCTION, 'configs': {'rate': {'name': 'rate', 'computed': nan}},
                      'status': {'status': 'completed', 'details': [float('inf')], 'time': 1.}})
    assert uuid in listed_runs(app)
    assert app.ask(f'run/{uuid}')['configs'][0]['computed'] == 'nan'
    app.ask(f'default/computer?session_uuid={uuid}&computer_uuid={uuid}&labml_version=0.5.3',
            [{'status': {'status': 'in progress', 'details': nan, 'time': 1.}}])
    assert app.ask('sessions/null')['sessions']


def test_run_uuid_that_upstream_refuses(app):
    assert app.update('short', INTRODUCTION)['errors'][0]['error'] == 'invalid_run_uuid'
