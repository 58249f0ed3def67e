"""What the pages get before a person has chosen."""
INDICATORS = ['loss.train', 'accuracy.train', 'lr', 'tokens_per_second']
LATER = ['loss.valid', 'accuracy.valid', 'baseline.unigram']
DRAWN = {'loss.train', 'loss.valid', 'accuracy.train', 'accuracy.valid'}


def config(name, computed, *, is_given):
    return {'name': name, 'computed': computed, 'value': computed, 'is_explicitly_specified': is_given, 'order': 1,
            'options': [], 'type': 'int'}


def introduce(app, uuid, **more):
    configs = {'epochs': config('epochs', 3, is_given=True), 'd_model': config('d_model', 64, is_given=False)}
    app.update(uuid, {'name': 'char_mlm', 'computer': 'c' * 16, 'lives': [], 'configs': configs, **more})


def track(app, uuid, names, step=1):
    app.update(uuid, {'lives': [], 'track': {name: {'step': [step], 'value': [1.]} for name in names}})


def drawn(app, uuid, path='metrics'):
    names = sorted(one['name'] for one in app.ask(f'metrics/{uuid}', {'get_all': True})['series'])
    marks = app.ask(f'{path}/preferences/{uuid}')['series_preferences']
    assert len(marks) == len(names)
    return {name for name, mark in zip(names, marks, strict=True) if mark == 1}


def test_chart_has_loss_and_accuracy_of_training_and_validation(app, uuid):
    """Those of validation come later."""
    introduce(app, uuid)
    track(app, uuid, INDICATORS)
    assert drawn(app, uuid) == {'loss.train', 'accuracy.train'}
    track(app, uuid, LATER)
    assert drawn(app, uuid) == DRAWN


def test_what_is_not_finite_is_drawn(app, uuid):
    introduce(app, uuid)
    track(app, uuid, INDICATORS)
    app.update(uuid, {'lives': [], 'track': {'loss.train': {'step': [2], 'value': [float('nan')]}}})
    assert drawn(app, uuid) == {'loss.train', 'accuracy.train', 'not_finite.loss.train'}


def test_run_without_these_indicators_has_what_upstream_draws(app, uuid):
    introduce(app, uuid)
    track(app, uuid, ['f1', 'z'])
    assert drawn(app, uuid) == {'f1'}


def test_what_a_person_draws_stays(app, uuid):
    introduce(app, uuid)
    track(app, uuid, INDICATORS)
    names = sorted(INDICATORS)
    app.ask(f'metrics/preferences/{uuid}', {'series_preferences': [1 if name == 'lr' else -1 for name in names],
                                            'series_names': names})
    track(app, uuid, LATER)
    assert drawn(app, uuid) == {'lr'}


def test_comparison_draws_the_same(app, uuid):
    """Also if it was looked at before the first validation."""
    other = f'{int(uuid, 16) ^ 1:032x}'
    for run in (uuid, other):
        introduce(app, run)
        track(app, run, INDICATORS)
    for names in ([], LATER):
        track(app, uuid, names, 2)
        app.ask(f'compare/metrics/{uuid}?current={uuid}', {'get_all': False})
        assert drawn(app, uuid, 'compare') == (DRAWN if names else {'loss.train', 'accuracy.train'})


def test_run_that_was_picked_for_a_comparison_has_the_same_curves(app, uuid):
    """Its page then sends no marks."""
    other = f'{int(uuid, 16) ^ 1:032x}'
    for run in (uuid, other):
        introduce(app, run)
        track(app, run, [*INDICATORS, *LATER])
    names = sorted([*INDICATORS, *LATER])
    picked = {'base_experiment': other, 'series_preferences': [], 'base_series_preferences': []}
    app.ask(f'compare/preferences/{uuid}', picked)
    preferences = app.ask(f'compare/preferences/{uuid}')
    for marks in (preferences['series_preferences'], preferences['base_series_preferences']):
        assert {name for name, mark in zip(names, marks, strict=True) if mark == 1} == DRAWN
    chosen = [-1] * (len(names) - 1) + [1]
    app.ask(f'compare/preferences/{uuid}', picked | {'series_preferences': chosen, 'series_names': names})
    assert app.ask(f'compare/preferences/{uuid}')['series_preferences'] == chosen


def test_configs_that_were_given_are_selected_until_a_person_selects_others(app, uuid):
    introduce(app, uuid)
    assert app.ask(f'run/{uuid}')['selected_configs'] == ['epochs']
    app.ask(f'run/{uuid}', {'selected_configs': ['d_model']})
    assert app.ask(f'run/{uuid}')['selected_configs'] == ['d_model']


def test_list_of_runs_can_be_searched_for_tags(app, uuid):
    introduce(app, uuid, comment='seq_len=64', tags=['char', 'sweep'])
    other = f'{int(uuid, 16) ^ 1:032x}'
    introduce(app, other, comment='hidden', tags=['char', 'mlm'])
    listed = {run['run_uuid']: run['comment'] for run in app.ask('runs/null')['runs']}
    # Parts of the name tell nothing apart
    assert listed[uuid] == 'seq_len=64 #sweep'
    assert listed[other] == 'hidden'
    assert app.ask(f'run/{uuid}')['tags'] == ['char', 'sweep']


def test_unknown_run_is_not_found(app):
    status, body = app.status_of('/api/v1/run/abcdefabcdef')
    assert (status, body) == (404, b'{}')


def test_output_is_text_in_the_page(app, uuid):
    introduce(app, uuid)
    for stream, page in (('stdout', 'stdout'), ('stderr', 'stderr'), ('logger', 'std_logger')):
        app.update(uuid, {'lives': [], stream: 'a < b <img src=x onerror=alert(1)> & \x1b[31mred\x1b[0m\n'})
        assert app.ask(f'logs/{page}/{uuid}', {'page': -1})['pages'] == {
            '0': 'a &lt; b &lt;img src=x onerror=alert(1)&gt; &amp; \x1b[31mred\x1b[0m\n'}
