import json
import math

import pytest
from support.curves import LENGTH, TEXT, expected_curve, log_course, snapshot_of, write_curve
from support.project import outcome

from labml_mlm.run_commands import expected_curve as expected_curves
from labml_mlm.run_commands.beside_curve import beside_curve, rows_beside

# As the curve has it, but for the last one
VALIDATIONS = {500: (0.25, 2.75), 1000: (0.3, 2.5), 1250: (0.33, 2.37)}


@pytest.fixture
def curves(tmp_path, monkeypatch):
    """The folder of curves, with one of `char`."""
    monkeypatch.setattr(expected_curves, 'FOLDER', tmp_path / 'curves')
    write_curve(tmp_path / 'curves', expected_curve())
    return tmp_path / 'curves'


@pytest.fixture
def beside(make, curves):
    """Where a run with a snapshot lies, as rows."""
    def beside(snapshot=None, validations=VALIDATIONS, **options):
        run = make('abcd', snapshot=snapshot or snapshot_of())
        if validations or options:
            log_course(run, validations, **options)
        return rows_beside(beside_curve(run))
    return beside


def reason(rows):
    """Why there is no accuracy to compare."""
    [_, text], *_ = rows
    assert text.startswith('no comparison with recipe=')
    return text.partition(': ')[2]


@pytest.mark.parametrize('accuracy, verdict', [
    (0.32, 'as expected'), (0.335, 'as expected'), (0.345, '1.0 points above, as seeds may differ'),
    (0.305, '1.0 points below, as seeds may differ'), (0.25, '6.5 points below'), (0.4, '6.5 points above'),
    (0.3149, 'as expected'), (math.nan, 'not finite'),
])
def test_the_last_validation_beside_the_band(beside, accuracy, verdict):
    rows = beside(validations=VALIDATIONS | {1250: (accuracy, 2.4)}, seconds=4.1)
    shown = 'nan' if math.isnan(accuracy) else f'{accuracy:.3f}'
    assert rows == [
        ['expected', f'accuracy.valid {shown} after 1,250 tokens; recipe=char has 0.315 to 0.335 there: {verdict}'],
        ['speed', '4100 s a million tokens; recipe=char has 2000 on 2 cores of a computer']]


def test_for_json(make, curves):
    run = make('abcd', snapshot=snapshot_of())
    log_course(run, VALIDATIONS | {1250: (0.25, 2.9)})
    facts = beside_curve(run)
    assert (facts['recipe'], facts['text'], facts['reason']) == ('char', 'plays.txt', None)
    assert facts['figures']['accuracy.valid'] == {
        'step': 1250, 'value': 0.25, 'low': pytest.approx(0.315), 'mean': pytest.approx(0.325),
        'high': pytest.approx(0.335), 'difference': pytest.approx(-0.065), 'verdict': 'below'}
    assert facts['figures']['loss.valid']['verdict'] == 'above'
    assert facts['speed'] == pytest.approx({'run': 2000, 'expected': 2000})


@pytest.mark.parametrize('change, expected', [
    ({'seq_len': 64}, 'seq_len=64 in place of 32'),
    ({'seq_len': 64, 'd_model': 64, 'own': 'x', 'transformer__ffn__d_ff': 128},
     'seq_len=64 in place of 32, d_model=64 in place of 128, transformer.ffn.d_ff=128 in place of 256 and 1 more'),
    ({'new': [1, 2]}, 'new=1,2'), ({'recipe': 'subword'}, 'it has no curve'),
    ({'text': TEXT | {'sha256': 'b'}}, 'its curve is that of plays.txt, and this is plays.txt'),
    ({'text': TEXT | {'sha256': 'b'}, 'text_path': ['/data/novels', '/b']},
     'its curve is that of plays.txt, and this is novels and 1 more'),
    ({'text': TEXT | {'valid_sha256': 'b'}}, 'its curve is that of plays.txt, and this is plays.txt'),
])
def test_what_is_not_fair_is_told_and_not_compared(beside, change, expected):
    rows = beside(snapshot_of(**change))
    assert reason(rows) == expected
    # Nor is the speed
    assert len(rows) == 1


@pytest.mark.parametrize('change, expected', [
    ({'tokenizer': {'kind': 'character', 'characters': 'abc'}}, 'another vocabulary, of 7 tokens in place of 7'),
    ({'parameters': 2000}, 'another model, of 2000 parameters in place of 1000'),
    ({'own_code': ['step', 'mlm']}, 'the script has code of its own (step, mlm)'),
    ({'own_code': None}, 'the run is of an earlier version'),
])
def test_another_model_is_not_compared(beside, change, expected):
    assert reason(beside(snapshot_of() | change)) == expected


@pytest.mark.parametrize('given, text', [
    ({'epochs': 1e308}, 'its schedules end after inf million tokens'),
    ({'epochs': 5e-324}, 'its schedules end after 0 tokens'), ({'recipe': ['char']}, 'it has no curve'),
    ({'text': [1], 'text_path': []}, 'as expected')])
def test_a_damaged_snapshot_is_no_end(beside, given, text):
    snapshot = snapshot_of()
    snapshot['given'] |= given
    assert text in beside(snapshot)[0][1]


def test_an_earlier_run_lacks_items(beside):
    snapshot = snapshot_of()
    del snapshot['defaults']['seq_len']
    assert reason(beside(snapshot)) == 'the run has no seq_len'


@pytest.mark.parametrize('given, end', [
    ({'epochs': 1}, '1,000'), ({'max_steps': 40_000_000}, '400.00 million'), ({'max_tokens': 3900}, '3,900')])
def test_accuracy_of_another_length_is_not_compared_and_speed_is(beside, given, end):
    rows = beside(snapshot_of(**given))
    assert reason(rows) == f'its schedules end after {end} tokens, those of the curve after 4,000'
    assert rows[1] == ['speed', '2000 s a million tokens; recipe=char has 2000 on 2 cores of a computer']


@pytest.mark.parametrize('given', [{'max_steps': 400}, {'max_tokens': 3990}, {'epochs': 4.01}, {'patience': 2},
                                   {'seed': 8, 'inner_iterations': 3, 'prompt': ['a']},
                                   # As it is computed
                                   {'transformer__ffn__d_ff': 256}])
def test_what_changes_nothing_is_compared(beside, given):
    assert beside(snapshot_of(**given))[0][1].endswith('there: as expected')


def test_the_curve_of_the_nearest_length(beside, curves):
    longer = LENGTH._replace(epochs=8, steps=800, tokens=8000)
    write_curve(curves, expected_curve(length=longer), 'char_longer')
    assert beside(snapshot_of(max_steps=800))[0][1].endswith('there: as expected')


def test_a_resumed_run(beside, make, curves):
    resumed = snapshot_of() | {'resumed': [{'time': 0., 'tokens': 500}]}
    assert reason(beside(resumed)) == 'it was resumed, and its folder does not say whether with the same items'
    for uuid, changes in (('cafe', []), ('beef', ['optimizer.learning_rate: 0.01 → 0.02'])):
        run = make(uuid, snapshot=resumed)
        (run.path / 'run_log.jsonl').write_text(json.dumps({'status': 'resumed', 'details': changes}) + '\n')
        log_course(run, VALIDATIONS)
        text = rows_beside(beside_curve(run))[0][1]
        assert text.endswith('it was resumed with optimizer.learning_rate: 0.01 → 0.02' if changes else 'as expected')


@pytest.mark.parametrize('validations, options', [({}, {}), ({}, {'until': 500}), ({200: (0.1, 3.)}, {})])
def test_a_run_without_a_validation_where_the_curve_is(beside, validations, options):
    rows = beside(validations=validations, **options)
    assert reason(rows) == 'there is no validation yet from 500 tokens on, where the curve begins'
    assert len(rows) == (2 if validations or options else 1)


def test_damaged_lines_are_left_out(beside):
    assert beside(damaged='{"track": {"accuracy.valid": [[1250, [true]]]}}\nno\n')[0][1].endswith('as expected')


def test_runs_without_a_recipe_of_pre_training(beside, make):
    assert beside(snapshot_of(None)) == [['expected', '-']]
    classifier = make('cafe', snapshot=snapshot_of('classify') | {'objective': 'classification'})
    assert beside_curve(classifier) is None


def test_info_tells_it(make, curves, tmp_path, monkeypatch, capsys):
    (tmp_path / '.labml.yaml').touch()
    monkeypatch.chdir(tmp_path)
    run = make('abcd', snapshot=snapshot_of(), statuses=['completed'])
    log_course(run, VALIDATIONS | {1250: (0.25, 2.9)}, damaged='no JSON\n')
    code, out, err = outcome(capsys, 'info', 'abcd')
    # Once, although the log is read twice
    assert (code, err) == (0, f'2 damaged lines skipped in {run.log}\n')
    assert 'recipe=char has 0.315 to 0.335 there: 6.5 points below\nspeed ' in out
    facts = json.loads(outcome(capsys, 'info', 'abcd', '--json')[1])
    assert facts['expected']['figures']['accuracy.valid']['verdict'] == 'below'
    run.lock()
    try:
        assert json.loads(outcome(capsys, 'info', 'abcd', '--json')[1])['expected'] == facts['expected']
    finally:
        run.unlock()
