"""Preferences of charts: what no page can show is refused, and not shown if the store has it."""
import json
import sqlite3

import pytest

# What a page sends of a chart
CHART = {'series_preferences': [1, -1], 'chart_type': 1, 'step_range': [-1, 50], 'focus_smoothed': False,
         'smooth_value': 0.25, 'smooth_function': 'left_exponential'}
WRONG = [
    {'series_preferences': ['x']}, {'series_preferences': 5}, {'series_preferences': [None]},
    {'series_preferences': [1.5]}, {'series_preferences': [[1]]}, {'series_preferences': [-2]},
    {'series_preferences': [10 ** 400]}, {'series_preferences': [1] * 10_001}, {'series_preferences': None},
    {'chart_type': 'log'}, {'chart_type': 2}, {'chart_type': []}, {'step_range': [1]}, {'step_range': 'ab'},
    {'step_range': [10 ** 400, 1]}, {'step_range': [True, 1]}, {'focus_smoothed': 'yes'}, {'smooth_value': 2},
    {'smooth_value': '0.5'}, {'smooth_function': 'none'}, {'smooth_function': []}, {'series_names': [5]}]
OF_COMPUTERS = 'battery', 'cpu', 'gpu', 'process', 'memory', 'disk', 'network'


def introduce(app, uuid):
    app.update(uuid, {'name': 'test', 'computer': 'c' * 16, 'lives': []})
    app.update(uuid, {'lives': [], 'track': {name: {'step': [1], 'value': [2.]} for name in ('loss', 'lr')}})


def code_of(app, path, content):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return app.status_of(f'/api/v1/{path}', body, method='POST', headers={'Content-Type': 'application/json'})[0]


def drawn(app, uuid):
    return {series['name'] for series in app.ask(f'metrics/{uuid}', {'get_all': False})['series']
            if not series['is_summary']}


@pytest.mark.parametrize('content', [*WRONG, [], 5, b'{"smooth_value": NaN}', b'{"step_range": [-Infinity, 1]}'])
def test_preferences_that_no_page_could_show_are_refused(app, uuid, content):
    introduce(app, uuid)
    chart = app.ask(f'custom_metrics/{uuid}/create', {'name': 'mine'})
    if isinstance(content, dict):
        content = CHART | content
    for path in ('metrics', 'compare'):
        assert code_of(app, f'{path}/preferences/{uuid}', content) == 400
    if not isinstance(content, bytes):
        assert code_of(app, f'custom_metrics/{uuid}', {'id': chart['id'], 'preferences': content}) == 400
    assert app.ask(f'custom_metrics/{uuid}')['metrics'] == [chart]
    assert 'loss' in drawn(app, uuid)


@pytest.mark.parametrize('content', [
    {'name': 5}, {'name': None}, {'name': 'x' * 100_001}, {'name': 'fine', 'description': ['x']}, [], b'{"name": NaN}'])
def test_charts_that_no_page_could_show_are_refused(app, uuid, content):
    introduce(app, uuid)
    chart = app.ask(f'custom_metrics/{uuid}/create', {'name': 'mine', 'description': 'of me'})
    assert code_of(app, f'custom_metrics/{uuid}/create', content) == 400
    edit = {'id': chart['id'], **content} if isinstance(content, dict) else content
    assert code_of(app, f'custom_metrics/{uuid}', edit) == 400
    assert app.ask(f'custom_metrics/{uuid}')['metrics'] == [chart]


@pytest.mark.parametrize('name', OF_COMPUTERS)
def test_preferences_of_a_computer_are_checked(app, uuid, name):
    for content in ({'series_preferences': ['x']}, {'chart_type': 'log'}, {'sub_series_preferences': {'gpu': ['x']}}):
        assert code_of(app, f'{name}/preferences/{uuid}', content) == 400


def test_what_a_page_sends_is_stored(app, uuid):
    introduce(app, uuid)
    other = uuid[:-1] + 'x'
    introduce(app, other)
    names = ['loss', 'lr']
    app.ask(f'metrics/preferences/{uuid}', CHART | {'series_names': names})
    assert app.ask(f'metrics/preferences/{uuid}') == CHART
    chart = app.ask(f'custom_metrics/{uuid}/create', {'name': 'New Chart', 'description': ''})
    changed = chart | {'name': 'mine', 'preferences': CHART | {'series_preferences': [-1, 1], 'series_names': names}}
    app.ask(f'custom_metrics/{uuid}', changed)
    [shown] = app.ask(f'custom_metrics/{uuid}')['metrics']
    assert (shown['name'], shown['preferences']) == ('mine', CHART | {'series_preferences': [-1, 1]})
    assert drawn(app, uuid) == {'loss', 'lr'}
    compared = CHART | {'base_experiment': other, 'base_series_preferences': [-1, 1], 'is_base_distributed': False,
                        'series_names': names, 'base_series_names': names, 'step_range': [None, -1]}
    app.ask(f'compare/preferences/{uuid}', compared)
    kept = app.ask(f'compare/preferences/{uuid}')
    assert kept == {name: value for name, value in compared.items() if not name.endswith('_names')}


@pytest.mark.parametrize('content', WRONG[:-1])
def test_what_the_store_has_does_not_break_a_page(start_app, content):
    """Defaults stand in its place."""
    uuid = 'a' * 32
    server = start_app()
    introduce(server, uuid)
    before = server.ask(f'metrics/preferences/{uuid}')
    server.ask(f'custom_metrics/{uuid}/create', {'name': 'mine'})
    server.ask(f'compare/preferences/{uuid}', CHART | {'series_names': ['loss', 'lr']})
    server.stop()
    with sqlite3.connect(server.store) as store:
        for kind, damage in (('MetricsPreferencesModel', content), ('ComparisonPreferencesModel', content),
                             ('CustomMetricModel', {'name': 5})):
            for key, data in store.execute('SELECT key, data FROM models WHERE key LIKE ?', [f'{kind}:%']).fetchall():
                store.execute('UPDATE models SET data = ? WHERE key = ?', [json.dumps(json.loads(data) | damage), key])
    store.close()
    app = start_app()
    assert 'loss' in drawn(app, uuid)
    [chart] = app.ask(f'custom_metrics/{uuid}')['metrics']
    [field] = content
    assert chart['name'] == '' and chart['preferences'][field] != content[field]
    assert app.ask(f'metrics/preferences/{uuid}').keys() == before.keys()
    assert app.ask(f'compare/metrics/{uuid}?current={uuid}', {'get_all': True})['series']
    app.update(uuid, {'lives': [], 'track': {'new': {'step': [2], 'value': [2.]}}})
    names = ['loss', 'lr', 'new']
    app.ask(f'metrics/preferences/{uuid}', CHART | {'series_preferences': [1, 1, 1], 'series_names': names})
    assert drawn(app, uuid) == {'loss', 'lr', 'new'}
