"""Windows and steps of an epoch, and how long a step takes."""
import pytest
from support.project import SMALL_VALUES

from labml_mlm import MLMConfigs
from labml_mlm.text_facts import epoch
from labml_mlm.text_facts.epoch import epoch_facts
from labml_mlm.tokenization.character import CharacterTokenizer

LINE = 'the quick brown fox jumps over the lazy dog\n'


@pytest.fixture
def tokenizer(monkeypatch):
    monkeypatch.setattr(epoch, '_SECONDS', 0.)
    return CharacterTokenizer(sorted(set(LINE)))


@pytest.fixture
def configs():
    def configs(**values):
        conf = MLMConfigs()
        conf._set_values({**SMALL_VALUES, **values})
        return conf
    return configs


def test_steps_are_those_of_a_run(configs, tokenizer, build):
    run = build(text=LINE * 300)
    found = epoch_facts(configs(), tokenizer, n_tokens=300 * len(LINE), sample=(LINE * 300,))
    assert (found.windows, found.steps) == (run.train_loader.n_windows, len(run.train_loader))
    assert found.minutes == found.steps * found.seconds_per_step / 60 > 0
    assert (found.seq_len, found.batch_size, found.device) == (16, 8, 'cpu')


def test_special_tokens_are_in_the_windows(configs, tokenizer):
    assert epoch_facts(configs(add_special_tokens=True, valid_fraction=0.), tokenizer, n_tokens=14_000,
                       sample=(LINE,)).windows == 1000


def test_text_shorter_than_a_batch_has_no_epoch(configs, tokenizer):
    found = epoch_facts(configs(), tokenizer, n_tokens=100, sample=(LINE,))
    assert (found.steps, found.minutes) == (0, None)


@pytest.mark.parametrize('values', [{'sentence_pairs': 'nsp', 'seq_len': 32}, {'packing': 'documents'},
                                    {'masking': 'word'}, {'valid_path': 'gone.txt', 'old_path': 'gone.txt'},
                                    {'max_minutes': 5.}, {'seq_len_schedule': '8:0.5,16'}])
def test_runs_of_all_kinds_are_measured(configs, tokenizer, values):
    found = epoch_facts(configs(**values), tokenizer, n_tokens=100_000, sample=((LINE[:-1] + '. ') * 30,))
    assert found.seconds_per_step > 0
