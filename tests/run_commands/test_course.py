import json

import pytest
from support.curves import log_course, snapshot_of

from labml_mlm import MLMConfigs
from labml_mlm.budget.configs import BUDGETS
from labml_mlm.items.schema import config_items
from labml_mlm.run_commands.course import (
    FREE,
    LENGTHS,
    Metrics,
    changed_when_resumed,
    conditions,
    interpolated,
    planned_length,
    read_metrics,
    unknown_items,
)


def test_free_items_are_there():
    """One that is renamed would be compared from then on."""
    assert LENGTHS == BUDGETS
    assert set(config_items(MLMConfigs())) >= FREE


def test_conditions_are_those_that_decide_what_is_learned():
    found = conditions(snapshot_of(seed=3, epochs=8))
    assert found == conditions(snapshot_of(text_path='/elsewhere/plays.txt', inner_iterations=2))
    assert found.recipe == 'char' and found.text == {'name': 'plays.txt', 'characters': 1100, 'sha256': 'abc',
                                                     'valid_sha256': None}
    # What is computed stands for how
    assert found.items == {'seq_len': 32, 'd_model': 128, 'n_tokens': 7, 'transformer.ffn.d_ff': 256}
    for other in (snapshot_of(seq_len=64), snapshot_of('subword'), snapshot_of(text={'sha256': 'b'}),
                  snapshot_of() | {'tokenizer': None}, snapshot_of() | {'parameters': 2}):
        assert conditions(other) != found


def test_unknown_items_are_those_that_were_given():
    snapshot = snapshot_of(defaults={'new': 1, 'newer': 2}, new=1, newer=3, own='x', seed=5, seq_len=64)
    assert unknown_items(snapshot, conditions(snapshot_of()).items) == {'newer': 3, 'own': 'x'}


@pytest.mark.parametrize('given, expected', [
    ({}, ('epochs', 4)), ({'epochs': 2.5}, ('epochs', 2.5)), ({'max_steps': 10}, ('max_steps', 10)),
    ({'max_tokens': 10}, ('max_tokens', 10)), ({'max_minutes': 2.}, None), ({'max_minutes': 2., 'max_steps': 10}, None),
    ({'epochs': 0}, None),
])
def test_planned_length(given, expected):
    assert planned_length(snapshot_of(**given)) == expected


def test_planned_length_of_a_class_and_of_minutes():
    assert planned_length(snapshot_of(defaults={'max_steps': 7})) == ('max_steps', 7)
    fitted = snapshot_of(max_minutes=2.) | {'fitted': {'max_minutes': 2., 'max_steps': 90}}
    assert planned_length(fitted) == ('max_steps', 90)


@pytest.mark.parametrize('details, expected', [
    ([], None), (['text_path: a.txt → b.txt', 'n_prompts: 3 → 0'], None),
    (['epochs: 4 → 8 (the learning rate decays to the new end)'], 'it was resumed with epochs: 4 → 8'),
    (['max_steps: None → 5', 'epochs no longer counts'],
     'it was resumed with max_steps: None → 5; epochs no longer counts'),
    (['masking_prob: 0.15 → 0.3'], 'it was resumed with masking_prob: 0.15 → 0.3'),
    (None, 'it was resumed, and its folder does not say whether with the same items'),
    ('damage', 'it was resumed, and its folder does not say whether with the same items'),
])
def test_what_a_run_was_resumed_with(make, details, expected):
    snapshot = snapshot_of() | {'resumed': [{'time': 0., 'tokens': 10}]}
    run = make('abcd', snapshot=snapshot)
    entries = [{'status': 'resumed', 'details': details}, {'status': 'completed', 'details': 'max_steps: 5'}]
    (run.path / 'run_log.jsonl').write_text(''.join(json.dumps(entry) + '\n' for entry in entries) + 'no JSON\n')
    assert changed_when_resumed(run, snapshot) == expected


def test_a_run_that_was_not_resumed(make):
    run = make('abcd')
    (run.path / 'run_log.jsonl').unlink()
    assert changed_when_resumed(run, snapshot_of()) is None


def test_seconds_are_those_of_training(make):
    run = make('abcd')
    log_course(run, {500: (0.2, 3.), 1000: (0.3, 2.5)}, until=1500, seconds=3.)
    found = read_metrics(run.log)
    assert found.validations == {500: {'accuracy.valid': 0.2, 'loss.valid': 3.},
                                 1000: {'accuracy.valid': 0.3, 'loss.valid': 2.5}}
    assert [tokens for tokens, _ in found.training] == list(range(10, 1501, 10))
    assert [seconds for _, seconds in found.training] == pytest.approx([0.003 * n for n in range(10, 1501, 10)])


def test_steps_that_are_missing_had_the_speed_of_the_next(make):
    run = make('abcd')
    track = {'tokens_per_second': [[-5, [10.]], [0, [10.]], [0.5, [10.]], [10, [10.]], [30, [5.]], [40, ['Infinity']],
                                   [50, [0.]], [60, [10.]]]}
    run.log.write_text(json.dumps({'track': track}) + '\n')
    assert read_metrics(run.log).training == [(10, 1.), (30, 5.), (60, 8.)]


def test_a_log_that_is_missing_or_damaged(make):
    run = make('abcd')
    assert read_metrics(run.log) == Metrics({}, [])
    log_course(run, {500: (0.2, 3.), 1000: (0.3, 2.5)}, damaged='{"track": \n')
    assert list(read_metrics(run.log).validations) == [500, 1000]


def test_interpolated():
    points = [(10, 1.), (20, 3.), (40, 4.)]
    assert [interpolated(points, at) for at in (5, 10, 15, 20, 30, 40, 50)] == [1., 1., 2., 3., 3.5, 4., 4.]
