import pytest

from labml_mlm import MLMConfigs
from labml_mlm.items.schema import computed_values, given_values


def run(conf):
    """As a run does: it sets, and computes."""
    with conf._in_run():
        conf._set_values({'d_model': 24, 'transformer.n_layers': 1})
        conf._initialize = 'of the run'
        return conf.seq_len, conf.d_model, conf.progress


def test_trained_configs_keep_what_they_have_computed():
    conf = MLMConfigs()
    conf.seq_len = 16
    assert run(conf)[:2] == (16, 24)
    assert (conf.seq_len, conf.d_model) == (16, 24)
    assert conf.progress is conf.progress


def test_they_are_what_they_were_given_when_they_are_trained_again():
    conf = MLMConfigs()
    conf.seq_len = 16
    conf.set_values({'masking_prob': 0.2})
    assert conf.inner_iterations == 1
    first = run(conf)
    # Set before, computed before, or set by the run
    with conf._in_run():
        assert computed_values(conf) == {}
        assert given_values(conf) == {'masking_prob': 0.2}
        assert conf._initialize is None
        assert conf.seq_len == 16
        assert conf.progress is not first[2]


@pytest.mark.parametrize('set_it', [lambda conf: setattr(conf, 'seq_len', 8),
                                    lambda conf: conf.set_values({'seq_len': 8})])
def test_they_can_be_set_after_a_run(set_it):
    conf = MLMConfigs()
    run(conf)
    set_it(conf)
    assert conf.seq_len == 8
    assert conf.d_model == 128


def test_a_run_that_fails_leaves_nothing():
    conf = MLMConfigs()
    with pytest.raises(ValueError), conf._in_run():
        conf._set_values({'d_model': 24})
        raise ValueError
    with conf._in_run():
        assert conf.d_model == 128


def test_objects_that_were_given_are_the_same():
    conf, metrics = MLMConfigs(), object()
    conf.valid_metrics = metrics
    run(conf)
    with conf._in_run():
        assert conf.valid_metrics is metrics
