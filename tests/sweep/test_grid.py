import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.sweep import grid


def combinations(*overrides, whole=()):
    return grid.grid(grid.axes(overrides, whole=whole))


def test_commas_and_repeated_arguments_span_a_grid():
    assert combinations('a=1,2', 'b=x', 'c=3,4') == [
        {'a': '1', 'b': 'x', 'c': '3'}, {'a': '1', 'b': 'x', 'c': '4'},
        {'a': '2', 'b': 'x', 'c': '3'}, {'a': '2', 'b': 'x', 'c': '4'}]
    assert combinations('a=1', 'a=2,3') == [{'a': '1'}, {'a': '2'}, {'a': '3'}]


def test_commas_of_whole_values_stay():
    assert combinations('betas=0.9,0.98', 'betas=0.9,0.999', whole=['betas']) == [
        {'betas': '0.9,0.98'}, {'betas': '0.9,0.999'}]


def test_an_empty_value_is_one_where_there_are_no_commas():
    assert combinations('path=') == [{'path': ''}]


@pytest.mark.parametrize(('overrides', 'message'), [
    (['a=1,'], '`a=1,`: between two commas there must be a value'),
    (['a=1,2,1'], '`a=1` is there twice'),
    (['a=1', 'a=1'], '`a=1` is there twice'),
])
def test_wrong_values_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        combinations(*overrides)


def test_a_draw_depends_on_its_seed_alone():
    every = combinations('a=1,2,3,4', 'b=1,2,3,4')
    first, again, other = (grid.draw(every, 5, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 5 and all(one in every for one in first)
    assert grid.draw(every, 16, seed=3) == every
    with pytest.raises(UserError, match='--random 17: there are only 16 combinations'):
        grid.draw(every, 17, seed=0)


def test_what_varies_leaves_out_seeds_and_constants():
    every = grid.with_seeds(combinations('a=1,2', 'b=x'), [5, 6])
    assert [one['seed'] for one in every] == ['5', '6', '5', '6']
    assert grid.varied(every) == ['a']
    assert grid.shown(every[0], ['a', 'seed']) == 'a=1 seed=5'


def test_each_value_is_there_among_the_first():
    every = combinations('a=1,2,3', 'b=1,2')
    ordered = grid.new_values_first(every)
    assert sorted(map(str, ordered)) == sorted(map(str, every))
    assert {one['a'] for one in ordered[:4]} == {'1', '2', '3'} and {one['b'] for one in ordered[:4]} == {'1', '2'}
