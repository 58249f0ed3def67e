import math
import warnings
from typing import Annotated

import pytest
import torch
from labml import monit
from labml.configs import option
from support.project import SMALL_VALUES, TEXT
from torch.nn import functional

from labml_mlm import Item, MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.items.overrides import parse_overrides


def validate(conf):
    # labml shows the progress of a validation within a loop only
    for _ in monit.loop(range(1)):
        with conf.mode.update(is_train=False):
            conf.validator()
    return conf.valid_metrics.loss, conf.valid_metrics.accuracy


def test_two_validations_of_the_same_weights_are_equal(build, tracked, train_steps):
    conf = build(**{'transformer.dropout': 0.5})
    before = validate(conf)
    assert validate(conf) == before
    train_steps(conf, 3)
    after = validate(conf)
    assert after != before
    assert validate(conf) == after
    assert not conf.model.training


@pytest.mark.parametrize('values', [{'masking_prob': 0.4}, {'batch_size': 5}, {'seed': 7},
                                    {'randomize_prob': 0., 'no_change_prob': 0.}])
def test_validation_masks_do_not_depend_on_training(build, values):
    conf, other = build(), build(**values)
    for c in (conf, other):
        c.valid_mlm.generator.manual_seed(0)
    for x, y in zip(conf.valid_loader, other.valid_loader, strict=True):
        assert torch.equal(conf.valid_mlm(x)[0], other.valid_mlm(y)[0])


def test_validation_loss_is_the_mean_over_all_masked_tokens(build, tracked, train_steps):
    conf = build(valid_batch_size=3)
    train_steps(conf, 20)
    tracked.clear()
    loss, accuracy = validate(conf)
    conf.valid_mlm.generator.manual_seed(0)
    masked, labels = zip(*(conf.valid_mlm(x) for x in conf.valid_loader), strict=True)
    with torch.no_grad():
        logits = conf.model.predict(torch.cat(masked, dim=1)).flatten(0, 1)
    labels = torch.cat(labels, dim=1).flatten()
    assert loss == pytest.approx(functional.cross_entropy(logits, labels, ignore_index=0).item(), rel=1e-5)
    n_correct = ((logits.argmax(-1) == labels) & (labels != 0)).sum().item()
    assert n_correct > 0
    assert accuracy == n_correct / (labels != 0).sum().item()
    # A token is a character
    assert tracked == {'loss.': [loss], 'accuracy.': [accuracy],
                       'bits_per_char.': [pytest.approx(loss / math.log(2))]}


def test_a_training_step_tracks_its_metrics(build, tracked):
    conf, twin = build(), build()
    x = next(iter(conf.train_loader))
    with conf.mode.update(is_train=True):
        conf.step(x, 0)
    output = twin.model(*twin.mlm(x))
    assert tracked['loss.'] == [output.loss.item()]
    assert tracked['accuracy.'] == [pytest.approx((output.n_correct / output.n_masked).item())]
    assert tracked['lr'] == [pytest.approx(2e-3 / 100)]
    assert tracked['tokens_per_second'][0] > 0
    assert set(tracked) == {'loss.', 'accuracy.', 'lr', 'tokens_per_second'}


def test_the_same_seed_gives_the_same_losses(build, tracked, train_steps):
    losses = []
    for seed in (3, 3, 4):
        tracked.clear()
        train_steps(build(seed=seed, **{'transformer.dropout': 0.1}), 5)
        losses.append(tracked['loss.'])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_sequence_length_follows_its_schedule_with_a_constant_token_budget(build, tracked):
    conf = build(seq_len_schedule='4:0.25,8:0.5,16', epochs=2)
    seen = []
    conf.engine.model.register_forward_pre_hook(
        lambda _, inputs: seen.append(tuple(inputs[0].shape)) if conf.mode.is_train else None)
    conf.run()
    assert tracked['seq_len'] == [shape[0] for shape in seen] == [4] * 16 + [8] * 15 + [16] * 31
    # The same number of tokens in each batch, except for the last one of an epoch
    assert {seq_len * batch_size for seq_len, batch_size in seen} == {16 * 8, 16 * 7}


def test_sequence_length_follows_its_schedule_with_a_constant_batch_size(build, tracked):
    conf = build(seq_len_schedule='4:0.5,16', epochs=1, is_token_budget_constant=False)
    assert [tuple(batch.shape) for batch in conf.train_loader] == [(4, 8)] * 16 + [(16, 8)] * 14 + [(16, 7)]


def test_padding_of_a_custom_loader_is_never_attended_to(build, tracked):
    losses = []
    for n_padding in (0, 8):
        tracked.clear()
        conf = build(is_padded=True)
        x = conf.tokenizer.encode('jumps over the lazy')
        x = torch.cat([torch.from_numpy(x).long(), torch.zeros(n_padding, dtype=torch.long)])[:, None]
        # All tokens are masked, whatever the length
        conf.mlm.masking_prob, conf.mlm.randomize_prob, conf.mlm.no_change_prob = 1., 0., 0.
        with conf.mode.update(is_train=True):
            conf.step(x, 0)
        losses.append(tracked['loss.'][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_items_follow_other_items(build):
    conf = build(**{'transformer.ffn.d_ff': 24, 'seed': 5})
    assert conf.transformer.d_model == 16
    assert conf.transformer.seed == 5
    assert conf.transformer.ffn.d_ff == 24
    assert build().transformer.ffn.d_ff == 32
    assert conf.n_tokens == conf.tokenizer.n_tokens == 5 + len(set(TEXT))
    assert (conf.padding_token, conf.mask_token, conf.no_mask_tokens) == (0, 4, [])
    assert conf.mlm.no_mask_tokens == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('name', ['mha', 'relative', 'sdpa', 'sdpa_rotary'])
@pytest.mark.parametrize('glu_variant', ['none', 'SwiGLU'])
def test_every_attention_trains(build, tracked, name, glu_variant, train_steps):
    conf = build(**{'transformer.encoder_attn': name, 'transformer.ffn.glu_variant': glu_variant})
    train_steps(conf, 2)
    assert all(p.grad is None or p.grad.isfinite().all() for p in conf.model.parameters())
    assert len(tracked['loss.']) == 2


def test_configs_cause_no_warnings():
    # labml warns of options that are registered twice
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        conf = MLMConfigs()
        _ = conf.transformer.n_layers


def shown(conf, capsys):
    capsys.readouterr()
    conf.sample()
    return capsys.readouterr().out


def test_prompts_are_given_or_from_the_validation_set(build, capsys):
    assert shown(build(), capsys).count('masked') == 3
    assert shown(build(n_prompts=0), capsys).count('masked') == 0
    # At most the first validation batch
    assert len(build(n_prompts=10_000).sampler.masked) == min(64, len(TEXT) // 10 // 16)
    conf = build(prompt=['zebra', 'the fox'], valid_masking_prob=1.)
    assert shown(conf, capsys).count('masked') == 2
    assert [(labels != 0).sum() for _, labels in conf.sampler.masked] == [5, 7]


def test_vocabulary_may_be_larger_than_that_of_the_tokenizer(build, tracked, capsys, train_steps):
    conf = build(n_tokens=5000)
    train_steps(conf, 1)
    assert shown(conf, capsys).count('filled') == 3


def test_samples_do_not_affect_training(build, tracked, capsys, train_steps):
    conf, twin = build(**{'transformer.dropout': 0.1}), build(**{'transformer.dropout': 0.1})
    assert shown(conf, capsys) == shown(conf, capsys)
    losses = []
    for c in (conf, twin):
        tracked.clear()
        torch.manual_seed(1)
        train_steps(c, 2)
        losses.append(tracked['loss.'])
    assert losses[0] == losses[1]


class CustomConfigs(MLMConfigs):
    repeats: Annotated[int, Item('Repetitions of the text')] = 2


@option(CustomConfigs.text, 'repeated')
def _repeated(c: CustomConfigs):
    return TEXT * c.repeats


def test_subclass_adds_an_item_and_an_option():
    conf = CustomConfigs()
    conf._set_values({**SMALL_VALUES, **parse_overrides(conf, ['text=repeated', 'repeats=3'])})
    assert conf.text == TEXT * 3
    with pytest.raises(UserError, match='tiny_shakespeare, python_topics, python_sources, file, folder, repeated'):
        parse_overrides(conf, ['text=repeatd'])
    with pytest.raises(UserError, match='`repeats=x`: it must be an integer'):
        parse_overrides(conf, ['repeats=x', 'text=repeated'])


class CustomLoader:
    """Padded sentences of different lengths."""

    def __init__(self, tokenizer):
        sentences = ['the quick brown fox', 'jumps over', 'the lazy dog', 'o'] * 4
        # `[16, 19]`
        self.ids = torch.zeros(16, 19, dtype=torch.long)
        for row, sentence in zip(self.ids, sentences, strict=True):
            row[:len(sentence)] = torch.from_numpy(tokenizer.encode(sentence))

    def __len__(self):
        return 4

    def __iter__(self):
        return (batch.T for batch in self.ids.split(4))


class PaddedConfigs(MLMConfigs):
    is_padded: bool = True


@option(PaddedConfigs.train_loader, 'sentences')
def _train_sentences(c: PaddedConfigs):
    return CustomLoader(c.tokenizer)


@option(PaddedConfigs.valid_loader, 'sentences')
def _valid_sentences(c: PaddedConfigs):
    return CustomLoader(c.tokenizer)


def test_custom_loaders(build, tracked, capsys, train_steps):
    conf = build(PaddedConfigs, train_loader='sentences', valid_loader='sentences', n_prompts=4)
    train_steps(conf, 4)
    validate(conf)
    assert conf.valid_metrics.loss > 0
    shown(conf, capsys)
    # Prompts are without padding, in the order of the batch
    assert [len(masked) for masked, _ in conf.sampler.masked] == [19, 10, 12, 1]


def test_run_without_the_launcher_is_seeded(build, tracked):
    losses = []
    for _ in range(2):
        conf = MLMConfigs()
        path = build().text_path
        conf._set_values({'text_path': path, **SMALL_VALUES, 'epochs': 1, 'n_prompts': 0, 'transformer.dropout': 0.2})
        tracked.clear()
        conf.run()
        losses.append(tracked['loss.'])
    assert len(losses[0]) > 10
    assert losses[0] == losses[1]
