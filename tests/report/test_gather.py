import json

from support.runs import SNAPSHOT, log_metrics

from labml_mlm.report.gather import gather


def test_curves_are_sorted_and_damaged_lines_counted(make):
    run = make('feed', snapshot=SNAPSHOT)
    log_metrics(run, loss_train={20: 2., 10: 3.}, loss_valid={20: 2.5})
    with open(run.log, 'ab') as f:
        f.write(b'{"track": {"loss.train": [[30, [1.0, 2.0]]]}, "time": 0}\n{"track": broken}\n\xff\n')
        # It is being written
        f.write(b'{"track": {"loss')
    run.samples.path.write_text('{"step": 1}\n{"step": 20, "loss": 2.5, "accuracy": 0.1, "samples": []}\n{"step": 3')
    data = gather(run)
    assert data.curves == {'loss.train': [(10, 3.), (20, 2.), (30, 1.5)], 'loss.valid': [(20, 2.5)]}
    assert (data.n_damaged, data.n_damaged_samples) == (2, 1)
    assert [validation.step for validation in data.samples] == [20]


def test_baselines_by_panel(make):
    run = make('feed', snapshot=SNAPSHOT)
    track = {'baseline.unigram': [[1, [3.]], [2, [3.1]]], 'baseline.unigram.accuracy': [[1, [0.2]]],
             'baseline.both': [[1, [2.]]], 'loss.train': [[1, [4.]]]}
    run.log.write_text(json.dumps({'track': track, 'time': 0.}) + '\n')
    data = gather(run)
    assert data.baselines('loss') == {'unigram': 3.1, 'both': 2.}
    assert data.baselines('accuracy') == {'unigram': 0.2}


def test_a_text_that_was_given_in_python_is_not_shown(make):
    secret = 'nobody else has read this sentence'
    given = {'text': secret, 'seq_len': 16}
    assert gather(make('feed', snapshot=SNAPSHOT | {'given': given})).items == {
        'text': 'a text of 34 characters', 'seq_len': 16}
    assert gather(make('cafe', snapshot=SNAPSHOT | {'defaults': {'text': secret.replace(' ', '') * 3}})).items == {
        'text': 'a text of 87 characters'}
    assert gather(make('beef', snapshot=SNAPSHOT | {'given': {'text': 'tiny'}})).items == {'text': 'tiny'}


def test_the_text_of_a_resumed_run_is_that_of_others(make):
    resumed, other = (make(uuid, snapshot=SNAPSHOT | {'given': {'text': text}, 'text': {'source': 'file'}})
                      for uuid, text in (('feed', 'file'), ('cafe', 'auto')))
    assert gather(resumed).items == gather(other).items == {'text': 'file'}


def test_run_without_metrics(make):
    data = gather(make('feed', snapshot=SNAPSHOT))
    assert (data.curves, data.samples, data.n_damaged, data.n_damaged_samples) == ({}, [], 0, 0)
