"""What a run warns of before it trains, and where it does not."""
import pytest
import torch

from labml_mlm.screen import console

LINE = 'the quick brown fox jumps over the lazy dog\n'


@pytest.fixture
def warnings(build, monkeypatch):
    """The warnings of a run with some values; without them there is none."""
    def warnings(**values):
        found = []
        monkeypatch.setattr(console.logger, 'log', lambda *parts: found.append(parts[0]))
        monkeypatch.setattr(console, 'has_experiment', lambda: True)
        build(**{'lr_warmup_steps': 10, 'text': LINE * 400, **values})
        return found
    return warnings


def test_no_warning_without_a_reason(warnings):
    assert warnings() == []
    assert warnings(valid_path='', epochs=0.5, lr_schedule='wsd', min_lr_ratio=0.9, masking_schedule='linear',
                    seq_len_schedule='8:0.5,16') == []
    # There are 124 steps in an epoch
    assert warnings(lr_warmup_steps=123, epochs=1) == []


@pytest.mark.parametrize('values', [{'epochs': 1}, {'epochs': 0.5}, {'max_steps': 124}, {'max_tokens': 10_000}])
def test_warm_up_that_is_longer_than_the_run(warnings, values):
    [warning] = warnings(lr_warmup_steps=124, **values)
    assert warning.startswith('lr_warmup_steps=124 is not less than the ')
    for other in ({'lr_schedule': 'constant'}, {'lr_schedule': lambda step: 1.},
                  {'optimizer.optimizer': 'Noam', 'optimizer.warmup': 9}):
        assert warnings(lr_warmup_steps=124, **values, **other) == []


def test_validation_set_with_few_masked_tokens(warnings):
    # 15% of them
    [warning] = warnings(valid_tokens=torch.full((600,), 7))
    assert warning.startswith('The validation set has 600 tokens, of which some 90 are masked: ')
    assert warnings(valid_tokens=torch.full((700,), 7)) == []
    # What cannot be masked does not count
    [warning] = warnings(valid_tokens=torch.cat([torch.full((20,), 7), torch.full((2_000_000,), 1)]))
    assert 'some 3 are masked' in warning
    assert warnings(valid_tokens=torch.full((600,), 7), valid_masking_prob=0.5) == []


def test_validation_set_that_is_not_of_the_size_that_was_asked_for(warnings):
    documents = tuple(f'{i} {LINE}' * 100 for i in range(3))
    [warning] = warnings(text=documents)
    assert '33.3% of the text (4,601 of 13,803 tokens), and not valid_fraction=0.1' in warning
    assert 'valid_path=FILE' in warning
    [warning] = warnings(text=tuple(f'{i} {LINE * 2}' for i in range(60)) + (LINE * 400,), valid_fraction=0.2)
    assert 'not valid_fraction=0.2' in warning
    assert warnings(text=documents, valid_fraction=0.3) == []
    assert warnings(text=tuple(f'{i} {LINE}' for i in range(1000))) == []
    # A single document is cut where it should be
    assert warnings(text=LINE * 400, valid_fraction=0.3) == []


def test_validation_set_of_ones_own_is_as_large_as_it_is(warnings, text_path):
    assert warnings(text=tuple(f'{i} {LINE}' * 100 for i in range(3)), valid_path=text_path) == []
    assert warnings(text=tuple(f'{i} {LINE}' * 100 for i in range(3)), valid_tokens=torch.full((700,), 7)) == []


@pytest.mark.parametrize('values, warning', [
    ({'masking_schedule': 'linear', 'masking_prob': 0.3}, 'masking_prob_start and masking_prob are both 0.3: '),
    ({'masking_schedule': 'cosine', 'masking_prob': 0.2, 'masking_prob_start': 0.2}, 'masking_prob_start and '),
    ({'min_lr_ratio': 1.}, 'min_lr_ratio=1: '), ({'min_lr_ratio': 1., 'lr_schedule': 'warmup_linear'}, 'min_lr_ratio='),
    ({'lr_schedule': 'wsd', 'lr_decay_fraction': 0.}, 'lr_decay_fraction=0: '),
    ({'seq_len_schedule': '16'}, 'seq_len_schedule=16 has only one length'),
    ({'seq_len_schedule': '16:0.5,16'}, 'seq_len_schedule=16:0.5,16 has only one length')])
def test_schedule_that_ends_where_it_begins(warnings, values, warning):
    [found] = warnings(**values)
    assert found.startswith(warning)


def test_schedule_that_is_not_used_is_not_looked_at(warnings):
    assert warnings(masking_schedule='constant', masking_prob=0.3) == []
    assert warnings(seq_len_schedule='16:0.2,8:0.5,16') == []


def test_configs_for_something_else_than_a_run_say_nothing(build, capsys):
    build(min_lr_ratio=1.)
    assert 'min_lr_ratio' not in capsys.readouterr().out
