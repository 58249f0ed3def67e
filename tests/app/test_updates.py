"""Updates of runs, sent to a running app over HTTP."""
import json

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


def test_values_that_are_not_finite_have_a_curve_of_their_own(app, uuid):
    """Upstream repeats the one before, or puts 0, which is a perfect loss."""
    app.update(uuid, INTRODUCTION)
    update = track([1, 2, 3, 4, 5], [float('nan'), 2, float('nan'), float('inf'), 5])
    answer = app.update(uuid, update)
    assert answer['received']['loss'] == 5
    assert app.points(uuid) == {((2, 5), (2, 5))}
    assert app.points(uuid, 'not_finite.loss') == {((1, 3, 4), (1, 1, 1))}
    # It has them: what was acknowledged is no loss, and no point is added twice
    app.update(uuid, update)
    answer = app.update(uuid, {**track([6, 7], [float('nan')] * 2), 'received': answer['received']})
    assert answer['received']['loss'] == 7
    app.update(uuid, {**track([8], [8]), 'received': answer['received']})
    assert app.points(uuid) == {((2, 5, 8), (2, 5, 8))}
    assert app.points(uuid, 'not_finite.loss') == {((1, 3, 4, 6, 7), (1,) * 5)}


def test_values_of_labml_clients_that_are_not_finite(app, uuid):
    app.update(uuid, {**{key: value for key, value in INTRODUCTION.items() if key != 'lives'},
                      'track': {'loss': {'step': [1, 2], 'value': [float('nan'), 2.]}}})
    assert app.points(uuid) == {((2,), (2,))}
    assert app.points(uuid, 'not_finite.loss') == {((1,), (1,))}


@pytest.mark.parametrize('name', ['grad.norm', 'param.weight', 'module.encoder', 'metric.f1', 'hp.lr'])
def test_indicators_of_any_name_are_kept(app, uuid, name):
    app.update(uuid, INTRODUCTION)
    assert app.update(uuid, track([1, 2], name=name))['received'] == {name: 2}
    assert app.points(uuid, name) == {((1, 2), (1, 2))}


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


@pytest.mark.parametrize('name', ['rank', 'world_size', 'main_rank'])
@pytest.mark.parametrize('value', ['10001', '3000000', '-1', '1.5', 'x', '', '%D9%A3', '0x1'])
def test_rank_without_bounds_is_refused(app, uuid, name, value):
    path = f'/api/v1/default/track?run_uuid={uuid}&labml_version=0.5.3&{name}={value}'
    body = json.dumps([{'name': 'test', 'lives': []}]).encode()
    code, answer = app.status_of(path, body, method='POST', headers={'Content-Type': 'application/json'})
    assert code == 400
    assert f'`{name}` must be from 0 to 10,000' in str(answer)
    assert uuid not in [run['run_uuid'] for run in app.ask('runs/null')['runs']]


@pytest.mark.parametrize('edit', [
    b'{"comment": NaN}', b'{"note": Infinity}', b'{"note": -Infinity}', b'{"name": 1e999}', b'{"name": 5}', b'[]', b'5',
    b'{"comment": null}', b'{"note": ["a"]}', b'{"favourite_configs": 5}', b'{"selected_configs": [5]}',
    json.dumps({'note': 'x' * 100_001}).encode(), json.dumps({'selected_configs': ['x'] * 10_001}).encode()])
def test_edit_that_no_page_could_show_is_refused(app, uuid, edit):
    app.ask(f'default/track?run_uuid={uuid}&labml_version=0.5.3', [INTRODUCTION])
    code, _ = app.status_of(f'/api/v1/run/{uuid}', edit, method='POST', headers={'Content-Type': 'application/json'})
    assert code == 400
    assert listed_runs(app)[uuid]['comment'] == ''
    app.ask(f'run/{uuid}', {'name': 'mine', 'comment': 'better', 'note': 'a\n\nnote', 'selected_configs': ['seq_len']})
    run = app.ask(f'run/{uuid}')
    assert (run['name'], run['comment'], run['note']) == ('mine', 'better', 'a\n\nnote')


@pytest.mark.parametrize('name, value', [('repo_remotes', 5), ('repo_remotes', [5]), ('tags', [{}]), ('tags', 'x')])
def test_lists_of_texts_are_such(app, uuid, name, value):
    body = json.dumps([{**INTRODUCTION, name: value}]).encode()
    path = f'/api/v1/default/track?run_uuid={uuid}&labml_version=0.5.3'
    assert app.status_of(path, body, method='POST', headers={'Content-Type': 'application/json'})[0] == 400
    assert uuid not in listed_runs(app)


@pytest.mark.parametrize('value', [1e308, -1e308, 3.4e38, 2.9e38, float('nan'), float('inf')])
def test_values_beyond_32_bits_do_not_break_a_page(app, uuid, value):
    path = f'default/track?run_uuid={uuid}&labml_version=0.5.3'
    app.ask(path, [INTRODUCTION])
    app.ask(path, [track([1, 2, 3], [value] * 3)])
    app.ask(path, [track([4, 5], [0.5, 0.25])])
    assert app.ask(f'metrics/{uuid}', {'get_all': True})['series']
    assert uuid in listed_runs(app)
    curves = [app.points(uuid, name) for name in ('loss', 'not_finite.loss')]
    assert sorted(step for points in curves for steps, _ in points for step in steps) == [1, 2, 3, 4, 5]
    assert all(abs(value) <= 3e38 for points in curves for _, values in points for value in values)


def test_session_of_labml_monitor(app, uuid):
    """Its configs are values, and processes have names."""
    path = f'default/computer?session_uuid={uuid}&computer_uuid={uuid}&labml_version=0.5.3'
    track = {'cpu.total': {'step': [1., 2.], 'value': [5., float('nan')]},
             'process.1.name': {'step': [1.], 'value': ['python']}, 'process.1.pid': {'step': [1.], 'value': [77]}}
    assert app.ask(path, [{'name': 'mine', 'configs': {'cpu.count': 2, 'os': 'linux'}, 'track': track}])['errors'] == []
    data = app.ask(f'session/{uuid}')
    assert {config['key']: config['value'] for config in data['configs']} == {'cpu.count': 2, 'os': 'linux'}
    assert app.ask(f'cpu/{uuid}')['series']
    status, _ = app.status_of(f'/api/v1/{path}', b'[{"track": {"cpu.total": {"step": [1], "value": [[]]}}}]',
                              method='POST', headers={'Content-Type': 'application/json'})
    assert status == 400
