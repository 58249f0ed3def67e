import pytest
from support.runs import SNAPSHOT, log_metrics

from labml_mlm.common.errors import UserError
from labml_mlm.run_commands.facts import describe, differences


def snapshot(**parts):
    return {**SNAPSHOT, 'defaults': {'epochs': 4, 'd_model': 128, 'patience': None}, **parts}


@pytest.fixture
def finished(make):
    """A run with two checkpoints, whose figures are in its log, too."""
    def finished(uuid='abcd', progress=None, status='completed', **parts):
        run = make(uuid, statuses=[status], snapshot=snapshot(**{'script': '/project/train.py', **parts}))
        for step, loss in ((10, 1.), (20, 1.5)):
            run.checkpoints.write(step, tensors={}, metadata={
                'valid': {'loss': loss}, 'progress': {'epoch': 4, 'steps': step // 10, 'validations_since_best': 1,
                                                      'seconds': 60., **(progress or {})}})
        log_metrics(run, loss_train={10: 2., 20: 1.}, loss_valid={10: 1., 20: 1.5}, accuracy_valid={10: 0.5, 20: 0.4})
        return run
    return finished


def test_best_and_last_figures(finished):
    facts = describe(finished())
    assert facts['best'] == {'step': 10, 'loss.valid': 1., 'accuracy.valid': 0.5}
    assert facts['last'] == {'step': 20, 'loss.valid': 1.5, 'accuracy.valid': 0.4}
    assert (facts['tokens'], facts['steps'], facts['seconds']) == (20, 2, 60.)
    assert [saved['is_best'] for saved in facts['checkpoints']] == [True, False]


def test_only_what_differs_from_the_defaults(finished):
    facts = describe(finished(given={'epochs': 4, 'd_model': 64, 'own': 'x'}))
    assert facts['configs'] == {'d_model': {'value': 64, 'default': 128}, 'own': {'value': 'x', 'default': None}}


@pytest.mark.parametrize('parts, status, expected', [
    ({}, 'completed', ' epochs=5'), ({}, 'interrupted', ''), ({'given': {'max_steps': 2}}, 'completed', ' max_steps=4'),
    ({'given': {'patience': 1}}, 'completed', ' patience=2'),
    ({'given': {'max_tokens': 100}}, 'completed', ' max_tokens=200'),
    ({'given': {'max_minutes': 0.5}}, 'completed', ' max_minutes=1.0'),
])
def test_how_to_resume(finished, parts, status, expected):
    assert describe(finished(status=status, **parts))['resume'] == f'python /project/train.py --resume abcd{expected}'


def test_how_to_resume_on_several_ranks(finished):
    resume = describe(finished(status='interrupted', versions={'ranks': 2}))['resume']
    assert resume == 'torchrun --nproc_per_node=2 /project/train.py --resume abcd'


@pytest.mark.parametrize('parts, expected', [
    ({}, None), ({'own_code': ['model']}, None), ({'own_code': []}, 'labml-mlm train --resume abcd'),
    ({'own_code': [], 'versions': {'ranks': 2}}, 'torchrun --nproc_per_node=2 -m labml_mlm train --resume abcd'),
])
def test_what_resumes_a_run_without_a_script(finished, parts, expected):
    assert describe(finished(status='interrupted', **{'script': None, **parts}))['resume'] == expected


def test_a_running_run_and_an_older_one_have_no_command(finished, make):
    run = finished()
    run.lock()
    assert (describe(run)['status'], describe(run)['resume']) == ('running', None)
    run.unlock()
    facts = describe(make('cafe', snapshot=SNAPSHOT))
    assert (facts['resume'], facts['script'], facts['parameters'], facts['best']) == (None, None, None, None)


def test_a_damaged_checkpoint_is_told(finished):
    run = finished()
    (run.checkpoints.path / '20/checkpoint.json').write_text('{}')
    first, second = describe(run)['checkpoints']
    assert first['error'] is None and 'is not a checkpoint' in second['error']


def test_differences_are_by_value(finished):
    first = finished('abcd', given={'d_model': 64, 'epochs': 4}, parameters=10)
    second = finished('cafe', given={'own': 1}, parameters=20, versions={'torch': '2.13'})
    log_metrics(second, loss_valid={10: 0.5})
    found = differences(first, second)
    # A value that is given as by default is no difference
    assert found['configs'] == {'d_model': [64, 128], 'own': [None, 1]}
    assert found['about'] == {'parameters': [10, 20], 'versions.torch': [None, '2.13']}
    assert found['figures']['best.loss.valid'] == [1., 0.5]
    assert found['figures']['last.step'] == [20, 10]


def test_a_resumed_run_has_the_same_text(finished):
    first, second = (finished(uuid, text={'source': 'file'}, given={'text': text})
                     for uuid, text in (('abcd', 'auto'), ('cafe', 'file')))
    assert differences(first, second)['configs'] == {}


def test_a_run_of_another_program_is_refused(make):
    with pytest.raises(UserError, match=r'the run beef has no configs\.json of labml_mlm that can be read'):
        describe(make('beef'))
