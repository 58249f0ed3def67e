import math
import re
import warnings

import pytest
import torch
from labml import monit
from labml.configs import option
from labml_nn.optimizers.configs import OptimizerConfigs
from labml_nn.transformers import MultiHeadAttention, TransformerConfigs
from support.project import SMALL_VALUES, TEXT
from torch.nn import functional

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.configs.overrides import parse_overrides
from labml_mlm.configs.schema import config_items
from labml_mlm.optim import schedules as schedule


def train_steps(conf, n):
    with conf.mode.update(is_train=True):
        for index, batch in zip(range(n), conf.train_loader, strict=False):
            conf.step(batch, index)


def validate(conf):
    conf.valid_mlm.generator.manual_seed(0)
    # labml_helpers' trainer wants a loop around it
    for _ in monit.loop(range(1)):
        with conf.mode.update(is_train=False):
            conf.validator()
    return conf.valid_metrics.loss, conf.valid_metrics.accuracy


def test_two_validations_of_the_same_weights_are_equal(build, tracked):
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


def test_validation_is_one_sum_over_one_count(build, tracked):
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
    assert tracked == {'loss.': [loss], 'accuracy.': [accuracy]}


def test_a_step_tracks_its_own_numbers(build, tracked):
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


def test_the_same_seed_gives_the_same_losses(build, tracked):
    losses = []
    for seed in (3, 3, 4):
        tracked.clear()
        train_steps(build(seed=seed, **{'transformer.dropout': 0.1}), 5)
        losses.append(tracked['loss.'])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_learning_rate_of_torchs_optimizer_follows_the_schedule(build, tracked):
    conf = build(lr_warmup_steps=4, min_lr_ratio=0.1, epochs=1)
    n_steps = len(conf.train_loader)
    train_steps(conf, n_steps)
    rates = [rate / 2e-3 for rate in tracked['lr']]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0.1 < rates[-1] < 0.2


def test_learning_rate_of_labml_nns_optimizer_is_its_own(build, tracked):
    conf = build(**{'optimizer.optimizer': 'Noam', 'optimizer.learning_rate': 1.0, 'optimizer.warmup': 3})
    train_steps(conf, 5)
    assert tracked['lr'] == pytest.approx([16 ** -0.5 * min(n ** -0.5, n * 3 ** -1.5) for n in range(1, 6)])


def test_constant_schedule(build, tracked):
    train_steps(build(lr_schedule='constant'), 3)
    assert tracked['lr'] == pytest.approx([2e-3] * 3)


@pytest.mark.parametrize('name, expected', [
    ('warmup_linear', lambda step: schedule.warmup_linear(step, warmup_steps=4, total_steps=62, min_ratio=0.1)),
    ('wsd', lambda step: schedule.warmup_stable_decay(step, warmup_steps=4, total_steps=62, min_ratio=0.1,
                                                      decay_fraction=0.25)),
    ('inverse_sqrt', lambda step: schedule.inverse_sqrt(step, warmup_steps=4)),
    ('noam', lambda step: schedule.noam(step, warmup_steps=4, d_model=16)),
])
def test_schedules_by_name(build, tracked, name, expected):
    conf = build(lr_schedule=name, lr_warmup_steps=4, min_lr_ratio=0.1, lr_decay_fraction=0.25, epochs=2)
    assert len(conf.train_loader) == 31
    assert conf.lr_schedule(20) == pytest.approx(expected(20))
    train_steps(conf, 31)
    assert tracked['lr'] == pytest.approx([2e-3 * expected(step) for step in range(31)])


@pytest.mark.parametrize('name, shape', [('linear', lambda over: 1 - over),
                                         ('cosine', lambda over: (1 + math.cos(math.pi * over)) / 2)])
def test_share_of_masked_tokens_by_progress(build, tracked, name, shape):
    conf = build(masking_schedule=name, masking_prob=0.1, masking_prob_start=0.5, epochs=1)
    twin, n_steps = build(), len(conf.train_loader)
    conf.run()
    # The last batch of 247 windows has 7
    assert tracked['masking_prob'] == pytest.approx([0.1 + 0.4 * shape(8 * i / 247) for i in range(n_steps)])
    # Validation knows nothing of it
    for c in (conf, twin):
        c.valid_mlm.generator.manual_seed(0)
    assert all(torch.equal(conf.valid_mlm(x)[0], twin.valid_mlm(x)[0]) for x in conf.valid_loader)


def test_what_is_constant_is_not_tracked(build, tracked):
    conf = build(masking_prob=0.4)
    train_steps(conf, 2)
    assert not {'masking_prob', 'seq_len'} & set(tracked)
    assert conf.mlm.masking_prob == 0.4


def test_short_sequences_first(build, tracked):
    conf = build(seq_len_schedule='4:0.25,8:0.5,16', epochs=2)
    seen = []
    conf.engine.model.register_forward_pre_hook(
        lambda _, inputs: seen.append(tuple(inputs[0].shape)) if conf.mode.is_train else None)
    conf.run()
    assert tracked['seq_len'] == [shape[0] for shape in seen] == [4] * 16 + [8] * 15 + [16] * 31
    # As many tokens in each, but for the last batch of an epoch
    assert {seq_len * batch_size for seq_len, batch_size in seen} == {16 * 8, 16 * 7}


def test_short_sequences_in_batches_as_large(build, tracked):
    conf = build(seq_len_schedule='4:0.5,16', epochs=1, is_token_budget_constant=False)
    assert [tuple(batch.shape) for batch in conf.train_loader] == [(4, 8)] * 16 + [(16, 8)] * 14 + [(16, 7)]


class MuonByDefault(MLMConfigs):
    optimizer = 'muon'


@pytest.mark.parametrize('class_, given, name, rate', [
    (MLMConfigs, [], 'AdamW', 2e-3), (MLMConfigs, ['optimizer=muon'], 'MuonAdamW', 1e-2),
    (MuonByDefault, [], 'MuonAdamW', 1e-2), (MuonByDefault, ['optimizer=mlm'], 'AdamW', 2e-3),
    (MuonByDefault, ['optimizer.learning_rate=0.5'], 'MuonAdamW', 0.5),
])
def test_defaults_of_an_optimizer_are_those_of_its_option(build, class_, given, name, rate):
    conf = build(class_, lr_schedule='constant', **parse_overrides(class_(), given))
    assert type(conf.optimizer).__name__ == name
    assert {group['lr'] for group in conf.optimizer.param_groups} == {rate}


def test_muon_is_for_weights_of_linear_layers(build, tracked):
    """labml_nn's relative attention has biases that look like matrices."""
    conf = build(optimizer='muon', lr_warmup_steps=5, **{'transformer.encoder_attn': 'relative',
                                                         'transformer.n_layers': 2})
    names = {id(p): name for name, p in conf.model.named_parameters()}
    moved = [names[id(p)] for p in conf.optimizer.parts[0].param_groups[0]['params']]
    assert len(moved) == 2 * 6
    assert all(name.startswith('encoder.layers') and name.endswith('weight') for name in moved)
    assert sum(len(group['params']) for group in conf.optimizer.param_groups) == len(list(conf.model.parameters()))
    train_steps(conf, 31)
    assert sum(tracked['loss.'][-5:]) / 5 < tracked['loss.'][0] - 0.2


def test_help_of_another_option(project):
    out = project.run('optimizer=muon', '--help').stdout
    assert 'optimizer.learning_rate = 0.01\n' in out
    assert 'optimizer.learning_rate = 0.002\n' in project.run('--help').stdout


def test_help_shows_the_defaults_of_the_option():
    plain, muon = (config_items(class_()) for class_ in (MLMConfigs, MuonByDefault))
    for items, expected in ((plain, ['mlm', 'FusedAdamW', 2e-3]), (muon, ['muon', 'Muon', 1e-2])):
        names = ['optimizer', 'optimizer.optimizer', 'optimizer.learning_rate']
        assert [items[item].default for item in names] == expected


@pytest.mark.parametrize('masking', ['word', 'span'])
def test_whole_words_are_masked_in_training_only(build, tracked, masking):
    conf = build(masking=masking, seq_len=64, masking_prob=0.3, randomize_prob=0., no_change_prob=0.)
    for x in conf.train_loader:
        is_masked = conf.mlm(x)[1] != 0
        # Of a word, which are the letters between two spaces or ends, all or nothing
        for text, chosen in zip(x.T, is_masked.T, strict=True):
            letters = ''.join(conf.tokenizer.tokens[token] for token in text.tolist())
            for word in re.finditer(r'\w+', letters):
                assert len(set(chosen[word.start():word.end()].tolist())) == 1
    assert conf.valid_mlm.units is None
    train_steps(conf, 2)
    assert all(math.isfinite(loss) for loss in tracked['loss.'])


class WordlessTokenizer:
    """All that is asked of one, without word boundaries."""

    def __init__(self, tokenizer):
        for name in ('n_tokens', 'special', 'tokens', 'encode', 'decode'):
            setattr(self, name, getattr(tokenizer, name))


@pytest.mark.parametrize('masking', ['word', 'span'])
def test_words_of_a_tokenizer_that_knows_none(build, masking):
    conf = MLMConfigs()
    conf._set_values({'text_path': build().text_path, **SMALL_VALUES, 'masking': masking})
    conf.tokenizer = WordlessTokenizer(build().tokenizer)
    with pytest.raises(UserError, match='where words begin: your tokenizer has no `words`'):
        _ = conf.mlm


@pytest.mark.parametrize('given, message', [
    ('seq_len_schedule=5:0.5,16', 'sequences of seq_len=16 cannot be cut into equal parts of 5; 1, 2, 4, 8, 16'),
    ('seq_len_schedule=4:0.5,8', 'the last length has to be seq_len=16'),
    ('seq_len_schedule=4:0.5,8:0.2,16', 'have to grow'),
    ('seq_len_schedule=short', '`short` is no stage'),
    ('masking_schedule=linaer', 'Did you mean `linear`?'),
    ('masking=words', 'Did you mean `word`?'),
    ('masking_prob_start=30', 'from 0 to 1'),
    ('lr_decay_fraction=2', 'from 0 to 1'),
    ('lr_schedule=wds', 'Did you mean `wsd`?'),
    ('optimizer.matrices=1', 'those of the encoder'),
    ('optimizer.muon_momentum=1', 'muon_momentum'),
])
def test_what_is_wrong_with_a_schedule_is_said_by_the_command(project, given, message):
    result = project.train(given)
    assert (result.returncode, result.stderr.count('\n')) == (2, 1), result.stderr
    assert message in result.stderr
    assert not project.runs


def test_help_shows_what_there_is_to_choose(project):
    out = project.run('--help').stdout
    for item in ('masking', 'masking_schedule', 'masking_prob_start', 'seq_len_schedule', 'is_token_budget_constant',
                 'lr_decay_fraction', 'optimizer.muon_momentum'):
        assert re.search(rf'^ *{re.escape(item)}\b', out, re.MULTILINE), item
    out = ' '.join(out.split())
    for option_ in ('token, word, span', 'constant, linear, cosine', 'wsd', 'inverse_sqrt', 'noam', 'Muon'):
        assert option_ in out


def test_gradients_are_clipped(build, tracked):
    conf = build(grad_norm_clip=1e-3, **{'optimizer.optimizer': 'SGD', 'optimizer.learning_rate': 1.0,
                                         'optimizer.momentum': 0., 'lr_schedule': 'constant'})
    before = torch.cat([p.detach().flatten() for p in conf.model.parameters()])
    train_steps(conf, 1)
    after = torch.cat([p.detach().flatten() for p in conf.model.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_padding_of_a_loader_of_ones_own_is_not_attended_to(build, tracked):
    losses = []
    for n_padding in (0, 8):
        tracked.clear()
        conf = build(is_padded=True)
        x = conf.tokenizer.encode('jumps over the lazy')
        x = torch.cat([torch.from_numpy(x).long(), torch.zeros(n_padding, dtype=torch.long)])[:, None]
        # Masks in the same places, whatever the length
        conf.mlm.masking_prob, conf.mlm.randomize_prob, conf.mlm.no_change_prob = 1., 0., 0.
        train_steps_with(conf, x)
        losses.append(tracked['loss.'][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def train_steps_with(conf, x):
    with conf.mode.update(is_train=True):
        conf.step(x, 0)


def test_items_follow_one_another(build):
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
def test_every_attention_trains(build, tracked, name, glu_variant):
    conf = build(**{'transformer.encoder_attn': name, 'transformer.ffn.glu_variant': glu_variant})
    train_steps(conf, 2)
    assert all(p.grad is None or p.grad.isfinite().all() for p in conf.model.parameters())
    assert len(tracked['loss.']) == 2


def test_defaults_do_not_leak_into_base_classes(build):
    class Longer(MLMConfigs):
        seq_len: int = 99

    assert Longer().seq_len == 99
    build()
    assert MLMConfigs().seq_len == 32
    transformer, optimizer = TransformerConfigs(), OptimizerConfigs()
    assert (transformer.dropout, transformer.ffn.d_model) == (0.1, 512)
    assert type(transformer.encoder_attn) is MultiHeadAttention
    optimizer.parameters = list(transformer.encoder_attn.parameters())
    assert type(optimizer.optimizer) is torch.optim.SGD
    assert optimizer.learning_rate == 0.01
    assert isinstance(TransformerConfigs().ffn.activation, torch.nn.ReLU)


def test_overriding_warns_of_nothing():
    # labml warns when an option is registered twice
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        conf = MLMConfigs()
        _ = conf.transformer.n_layers


def shown(conf, capsys):
    capsys.readouterr()
    conf.sample()
    return capsys.readouterr().out


def test_prompts(build, capsys):
    assert shown(build(), capsys).count('masked') == 3
    assert shown(build(n_prompts=0), capsys).count('masked') == 0
    # The first batch of validation
    assert len(build(n_prompts=10_000).sampler.masked) == min(64, len(TEXT) // 10 // 16)
    conf = build(prompt=['zebra', 'the fox'], valid_masking_prob=1.)
    assert shown(conf, capsys).count('masked') == 2
    assert [(labels != 0).sum() for _, labels in conf.sampler.masked] == [5, 7]


def test_a_vocabulary_larger_than_the_tokenizers(build, tracked, capsys):
    conf = build(n_tokens=5000)
    train_steps(conf, 1)
    assert shown(conf, capsys).count('filled') == 3


def test_sample_leaves_training_as_it_is(build, tracked, capsys):
    conf, twin = build(**{'transformer.dropout': 0.1}), build(**{'transformer.dropout': 0.1})
    assert shown(conf, capsys) == shown(conf, capsys)
    losses = []
    for c in (conf, twin):
        tracked.clear()
        torch.manual_seed(1)
        train_steps(c, 2)
        losses.append(tracked['loss.'])
    assert losses[0] == losses[1]


@pytest.mark.parametrize('values, message', [
    ({'d_model': 30, 'transformer.n_heads': 4}, 'not divisible'),
    ({'seq_len': 100_000}, 'too short'),
    ({'batch_size': 100_000}, 'A longer text'),
    ({'n_tokens': 7}, 'n_tokens=7 is fewer than'),
    ({'randomize_prob': 0.6, 'no_change_prob': 0.6}, 'at most 1'),
    ({'mask_token': 500}, 'not in the vocabulary'),
    ({'text': 'file', 'text_path': ''}, 'text=file needs a file: text_path=PATH'),
    ({'text_path': '/nowhere/at/all.txt'}, '/nowhere/at/all.txt cannot be read: No such file'),
    ({'text': 'folder', 'text_path': ''}, 'text=folder needs a folder: text_path=PATH'),
    ({'text': 'folder', 'text_path': '/nowhere'}, 'there is no folder /nowhere'),
    ({'text': 'file', 'text_path': '/'}, '/ is a folder, and not one text file: text=folder takes it'),
    ({'text_errors': 'ignore'}, 'text_errors=ignore: it can be strict, skip, replace'),
    ({'text_unit': 'paragraphs'}, 'text_unit=paragraphs: it can be file, paragraph. Did you mean `paragraph`'),
    ({'prompt': ['a', '']}, 'the prompts have 1, 0 tokens'),
    ({'mask_token': 0}, 'they have to differ'),
    ({'seq_len_schedule': '3:0.5,16'}, 'cannot be cut into equal parts of 3'),
    ({'seq_len_schedule': '6:0.5,6000', 'seq_len': 6000, 'transformer.src_embed': 'learned_pos', 'batch_size': 1,
      'text': 'python_topics'}, 'seq_len=6000 is longer than the positions'),
    ({'text_path': '~nobody_of_that_name/x'}, 'cannot read ~nobody_of_that_name/x'),
])
def test_what_cannot_work_is_said_before_training(build, values, message):
    with pytest.raises(UserError, match=message):
        build(**values)


def test_sequences_longer_than_positions(build, tmp_path):
    path = tmp_path / 'long.txt'
    path.write_text(TEXT * 20)
    with pytest.raises(UserError, match='seq_len=6000 is longer than the positions of this model allow: 5000'):
        build(text_path=str(path), seq_len=6000, batch_size=1, **{'transformer.encoder_attn': 'sdpa'})


class OwnConfigs(MLMConfigs):
    # How often the text is repeated
    repeats: int = 2


@option(OwnConfigs.text, 'repeated')
def _repeated(c: OwnConfigs):
    return TEXT * c.repeats


def test_a_subclass_with_an_item_and_an_option():
    conf = OwnConfigs()
    conf._set_values({**SMALL_VALUES, **parse_overrides(conf, ['text=repeated', 'repeats=3'])})
    assert conf.text == TEXT * 3
    with pytest.raises(UserError, match='tiny_shakespeare, python_topics, python_sources, file, folder, repeated'):
        parse_overrides(conf, ['text=repeatd'])
    with pytest.raises(UserError, match='`repeats=x`: it has to be an integer'):
        parse_overrides(conf, ['repeats=x', 'text=repeated'])


class OwnLoader:
    """Sentences of different lengths, padded."""

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
    return OwnLoader(c.tokenizer)


@option(PaddedConfigs.valid_loader, 'sentences')
def _valid_sentences(c: PaddedConfigs):
    return OwnLoader(c.tokenizer)


def test_loaders_of_ones_own(build, tracked, capsys):
    conf = build(PaddedConfigs, train_loader='sentences', valid_loader='sentences', n_prompts=4)
    train_steps(conf, 4)
    validate(conf)
    assert conf.valid_metrics.loss > 0
    shown(conf, capsys)
    # Prompts come without their padding, in the order of the batch
    assert [len(masked) for masked, _ in conf.sampler.masked] == [19, 10, 12, 1]


def test_running_without_the_launcher_is_seeded(build, tracked, monkeypatch):
    losses = []
    for _ in range(2):
        tracked.clear()
        conf = MLMConfigs()
        path = build().text_path
        conf._set_values({'text_path': path, **SMALL_VALUES, 'epochs': 1, 'n_prompts': 0, 'transformer.dropout': 0.2})
        tracked.clear()
        conf.run()
        losses.append(tracked['loss.'])
    assert len(losses[0]) > 10
    assert losses[0] == losses[1]
