import json
import math

import pytest
from support.curves import expected_curve, snapshot_of, write_curve

from labml_mlm import MLMConfigs
from labml_mlm.configs.snapshot import as_json, default_values
from labml_mlm.items.recipes import RECIPES
from labml_mlm.run_commands.course import FREE
from labml_mlm.run_commands.expected_curve import FOLDER, Length, curves_of, read_curve


def differing_items(curve):
    """What a recipe sets now, and its curve does not have so: `(curve, recipe)` by item."""
    conf = MLMConfigs()
    conf.recipe = curve.conditions.recipe
    items = curve.conditions.items
    # The name of an option, where the curve has what it computed, says nothing
    return {name: (items.get(name), as_json(value)) for name, value in default_values(conf).items()
            if name not in FREE and (name not in items or as_json(value) != items[name]
                                     and not (isinstance(value, str) and not isinstance(items[name], str)))}


def test_curves_of_the_package_fit_their_recipes():
    """A recipe that has changed needs another curve: `benchmarks/expected.py`."""
    for path in FOLDER.glob('*.json'):
        curve = read_curve(path)
        assert curve is not None and curve.conditions.recipe in RECIPES, path
        assert len(curve.seeds) >= 3 and len(curve.points) >= 20, path
        assert not differing_items(curve), path


def test_a_curve_that_does_not_fit_its_recipe():
    conf = MLMConfigs()
    conf.recipe = 'char'
    curve = expected_curve(snapshot_of(defaults={name: as_json(value) for name, value in default_values(conf).items()}))
    assert not differing_items(curve)
    for items in ({'lr_warmup_steps': 5}, {'optimizer': 'AdamW'}, {'masking_prob': 0.2}):
        other = curve._replace(conditions=curve.conditions._replace(items=curve.conditions.items | items))
        assert differing_items(other).keys() == items.keys()


def test_a_file_has_all_of_a_curve(tmp_path):
    curve = expected_curve()
    write_curve(tmp_path, curve)
    found = read_curve(tmp_path / 'char.json')
    assert found.points == [point._replace(
        accuracy=pytest.approx(point.accuracy), loss=pytest.approx(point.loss)) for point in curve.points]
    assert found._replace(points=curve.points) == curve


def test_bands_between_points():
    curve = expected_curve()
    assert curve.band('accuracy', 500) == curve.points[0].accuracy
    assert curve.band('accuracy', 1250) == pytest.approx((0.315, 0.325, 0.335))
    assert curve.band('loss', 1250) == pytest.approx((2.365, 2.375, 2.385))
    # Not before and not after, but for a step
    assert curve.band('accuracy', 490) is None and curve.band('accuracy', 4100) is None
    assert curve.band('accuracy', 4010) == curve.points[-1].accuracy
    assert curve.spread('accuracy') == pytest.approx(0.02)


def test_seconds_beyond_the_points_are_at_their_speed():
    curve = expected_curve()
    assert [curve.seconds(tokens) for tokens in (100, 500, 750, 4000, 5000)] == pytest.approx([0.2, 1, 1.5, 8, 10])


def test_length_in_any_unit():
    length = Length(4, 400, 4000)
    assert [length.ratio(*given) for given in (('epochs', 2), ('max_steps', 400), ('max_tokens', 6000))] == [
        0.5, 1, 1.5]


def test_curves_of_a_recipe(tmp_path):
    write_curve(tmp_path, expected_curve(), 'char')
    write_curve(tmp_path, expected_curve(snapshot_of(text={'sha256': 'other'})), 'char_other')
    write_curve(tmp_path, expected_curve(snapshot_of('subword')), 'subword')
    (tmp_path / 'char_damaged.json').write_text('{')
    assert [curve.conditions.text['sha256'] for curve in curves_of('char', tmp_path)] == ['abc', 'other']
    assert len(curves_of('subword', tmp_path)) == 1
    assert curves_of('domain', tmp_path) == curves_of('char', tmp_path / 'nowhere') == []


@pytest.mark.parametrize('change', [
    {'format': 2}, {'recipe': None}, {'text': {}}, {'tokenizer': None}, {'parameters': '1000'}, {'items': []},
    {'length': {'epochs': 4, 'steps': 0, 'tokens': 4000}}, {'length': {'epochs': 4}}, {'seeds': []}, {'seeds': ['1']},
    {'text': {'name': None, 'characters': 1, 'sha256': None, 'valid_sha256': None}},
    {'hardware': 5}, {'versions': None}, {'points': []}, {'points': [{}, {}]},
])
def test_damaged_files_are_none(tmp_path, change):
    write_curve(tmp_path, expected_curve())
    path = tmp_path / 'char.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_curve(path) is None
    assert read_curve(tmp_path / 'missing.json') is None


@pytest.mark.parametrize('change', [
    {'tokens': 500}, {'tokens': 5.5}, {'seconds': 0.5}, {'seconds': math.inf}, {'accuracy.valid': [0.3, 0.2, 0.4]},
    {'accuracy.valid': [0.3, 0.4]}, {'loss.valid': [0.1, 0.2, math.nan]},
])
def test_points_that_cannot_be(tmp_path, change):
    write_curve(tmp_path, expected_curve())
    path = tmp_path / 'char.json'
    found = json.loads(path.read_text())
    found['points'][1] |= change
    path.write_text(json.dumps(found))
    assert read_curve(path) is None
