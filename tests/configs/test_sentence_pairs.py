"""Training on pairs of sentences beside masking."""
import json
import os
import random
import re
import signal

import pytest
import torch
from labml.configs import option
from support.project import SMALL, assert_clean_failure, values_of
from torch.nn import functional
from torch.utils.data import DataLoader

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch

WORDS = ['cat', 'dog', 'mat', 'tree', 'river', 'house', 'under', 'over', 'big', 'small', 'green', 'blue', 'ran', 'sat',
         'saw', 'ate', 'the', 'a', 'and', 'then']
BERT = {'transformer': 'bert', 'transformer.n_layers': 1, 'd_model': 16, 'transformer.n_heads': 2,
        'transformer.d_ff': 24, 'tokenizer': 'wordpiece', 'vocab_size': 100, 'seq_len': 32}
ROBERTA = {**BERT, 'transformer': 'roberta', 'tokenizer': 'bpe', 'vocab_size': 300}
MODERN = {**ROBERTA, 'transformer': 'modernbert'}
OWN = {'tokenizer': 'wordpiece', 'vocab_size': 100, 'seq_len': 32}


@pytest.fixture
def text_path(tmp_path):
    """Documents of some sentences each, one of them of one sentence."""
    rng = random.Random(1)
    path = tmp_path / 'documents.jsonl'
    documents = ['. '.join(' '.join(rng.choices(WORDS, k=rng.randint(3, 9))).capitalize()
                           for _ in range(rng.randint(4, 14))) + '.' for _ in range(40)]
    path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in [*documents, 'One sentence.']))
    return str(path)


def gradients(conf):
    return {name: p.grad.clone() for name, p in conf.model.named_parameters() if p.grad is not None}


def first_batch(conf):
    """Masked tokens and labels of the first batch, and the batch."""
    batch = conf.batch_reader(next(iter(conf.train_loader)), is_own=False)
    return *conf.mlm(batch.tokens.clone()), batch


@pytest.mark.parametrize('kind', ['nsp', 'sop'])
@pytest.mark.parametrize('values', [BERT, OWN, ROBERTA, MODERN],
                         ids=['bert', 'own', 'roberta', 'modernbert'])
def test_loss_is_the_sum_of_both(build, kind, values):
    conf = build(**values, sentence_pairs=kind)
    conf.model.eval()
    x, labels, batch = first_batch(conf)
    assert (batch.segment_ids is not None) == (conf.model.n_segments > 1)
    conf.model.train()
    conf.model.apply(lambda module: setattr(module, 'p', 0.) if isinstance(module, torch.nn.Dropout) else None)
    output = conf.engine.forward_backward(x, labels, *batch.context)
    found = gradients(conf)
    conf.optimizer.zero_grad()
    padding, _, segments, pair_labels = batch.context
    hidden = conf.model.encode(x, padding, segment_ids=segments)
    mlm = functional.cross_entropy(conf.model.generator(hidden).flatten(0, 1), labels.flatten(), ignore_index=0)
    logits = conf.model.next_sentence(torch.tanh(conf.model.pooler(hidden[0])))
    pairs = functional.cross_entropy(logits, pair_labels[0])
    assert output.loss.item() == pytest.approx(mlm.item(), rel=1e-5)
    assert output.pairs.loss.item() == pytest.approx(pairs.item(), rel=1e-5)
    assert output.pairs.n_correct == (logits.argmax(-1) == pair_labels[0]).sum() and output.pairs.n_pairs == 8
    assert torch.allclose(logits, conf.model.predict_pairs(x, padding_mask=padding, segment_ids=segments), atol=1e-6)
    (mlm + pairs).backward()
    expected = gradients(conf)
    assert {'pooler.weight', 'next_sentence.bias'} <= set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_accumulation_changes_nothing(build):
    one, other = (build(**OWN, sentence_pairs='nsp', gradient_accumulation_steps=n) for n in (1, 4))
    other.model.load_state_dict(one.model.state_dict())
    x, labels, batch = first_batch(one)
    outputs = [conf.engine.forward_backward(x, labels, *batch.context) for conf in (one, other)]
    for name in ('loss', 'n_correct'):
        for a, b in (outputs, [output.pairs for output in outputs]):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=0)
    for (name, a), b in zip(gradients(one).items(), gradients(other).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_losses_are_tracked_by_name_each_with_its_own_count(build, tracked, train_steps):
    conf = build(**BERT, sentence_pairs='nsp', valid_batch_size=3)
    train_steps(conf, 3)
    for total, mlm, pairs in zip(*(tracked[name] for name in ('loss.total.', 'loss.', 'loss.pairs.')), strict=True):
        assert total == pytest.approx(mlm + pairs)
    assert len(tracked['accuracy.pairs.']) == len(tracked['accuracy.']) == 3
    tracked.clear()
    for _ in conf.progress_view.epochs(0, 1):
        with conf.mode.update(is_train=False):
            conf.validator()
    loss_sum = n_pairs = n_correct = 0
    with torch.no_grad():
        for batch in conf.valid_loader:
            conf.valid_mlm.generator.manual_seed(0)
            n_pairs += batch.tokens.shape[1]
    conf.valid_mlm.generator.manual_seed(0)
    with torch.no_grad():
        for batch in conf.valid_loader:
            x, _ = conf.valid_mlm(batch.tokens)
            logits = conf.model.predict_pairs(x, padding_mask=batch.key_padding, segment_ids=batch.segment_ids)
            loss_sum += functional.cross_entropy(logits, batch.pair_labels[0], reduction='sum').item()
            n_correct += (logits.argmax(-1) == batch.pair_labels[0]).sum().item()
    assert tracked['loss.pairs.'] == [pytest.approx(loss_sum / n_pairs, rel=1e-5)]
    assert tracked['accuracy.pairs.'] == [n_correct / n_pairs]
    assert set(tracked) == {'loss.', 'accuracy.', 'bits_per_char.', 'loss.pairs.', 'accuracy.pairs.'}
    # That which the best checkpoint goes by
    assert conf.valid_metrics.to_minimize == tracked['loss.'][0]


@pytest.mark.parametrize('masking', ['token', 'word', 'span'])
def test_special_tokens_and_padding_are_never_masked_and_spans_end_with_a_text(build, masking):
    conf = build(**OWN, sentence_pairs='nsp', masking=masking, masking_prob=0.5)
    special = torch.tensor(conf.tokenizer.special.all)
    for batch in conf.train_loader:
        x, labels = conf.mlm(batch.tokens)
        is_special = torch.isin(batch.tokens, special) & (batch.tokens != conf.tokenizer.special.unk)
        assert torch.equal(x[is_special], batch.tokens[is_special]) and not labels[is_special].any()
        assert labels.any(dim=0).all()
        if masking == 'span':
            starts = conf.masking(batch.tokens, lambda shape, device: torch.full(shape, 0.99))
            # The [SEP] between and after, and what comes after each
            separators = batch.tokens == conf.tokenizer.special.sep
            assert starts[separators].all() and starts[1:][separators[:-1]].all()


def test_prompts_are_first_spans(build):
    conf = build(**BERT, sentence_pairs='sop')
    batch = next(iter(conf.valid_loader))
    sep = conf.tokenizer.special.sep
    first = batch.tokens[:, 0].tolist()
    assert conf.sampler.prompts[0].tolist() == first[1:first.index(sep)]
    assert len(conf.sampler.fill(conf.model, conf.device)) == 3


@pytest.mark.parametrize('values, message', [
    ({'sentence_pairs': 'nps'}, 'sentence_pairs=nps: it must be none, nsp or sop'),
    ({'sentence_pairs': 'nsp', 'packing': 'documents'}, 'sentence_pairs=nsp does not go with packing=documents'),
    ({'sentence_pairs': 'sop', 'seq_len_schedule': '8:0.5,16'}, 'does not go with seq_len_schedule=8:0.5,16'),
    ({'sentence_pairs': 'nsp', 'old_path': 'x'}, 'does not go with old_path=x'),
    ({'sentence_pairs': 'nsp', 'replay_path': 'x'}, 'does not go with replay_path=x'),
    ({'sentence_pairs': 'nsp', 'train_loader': DataLoader([torch.zeros(16, 8)])},
     'does not go with `train_loader` of your own'),
    ({'sentence_pairs': 'nsp', 'train_tokens': torch.arange(99)}, 'does not go with `train_tokens` of your own'),
    ({'sentence_pairs': 'nsp', 'add_special_tokens': False}, 'does not go with add_special_tokens=false'),
    ({'sentence_pairs': 'nsp', 'compile': True}, 'compile=true does not go with sentence_pairs=nsp'),
    ({'sentence_pairs': 'nsp', 'sentence_rule': 'x'}, 'sentence_rule=x: it must be unicode or line'),
    ({'sentence_pairs': 'nsp', 'sentence_rule': 'line', 'seq_len': 200},
     'no document of the text to train on has two sentences'),
    ({'sentence_rule': 'line'}, 'sentence_rule=line is for sentence_pairs=nsp and sop')])
def test_what_does_not_go_with_pairs_is_refused_by_name(build, values, message):
    with pytest.raises(UserError, match=message):
        build(**{**OWN, **values})


def test_tokenizer_without_pairs_is_refused(build):
    class Configs(MLMConfigs):
        pass

    @option(Configs.tokenizer, 'single')
    def _single(c: Configs):
        from labml_mlm.tokenization.character import CharacterTokenizer
        tokenizer = CharacterTokenizer.from_characters(c.corpus.characters)
        tokenizer.pair_template = None
        return tokenizer

    with pytest.raises(UserError, match='sentence_pairs=nsp needs a tokenizer that puts special tokens around and'):
        build(Configs, tokenizer='single', sentence_pairs='nsp')


def test_labels_of_pairs_from_a_loader_of_your_own_are_refused(build):
    batch = Batch(torch.full((16, 8), 7), pair_labels=torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(UserError, match='gives `pair_labels`, which are only those of sentence_pairs'):
        build().batch_reader(batch)


def test_weights_do_not_depend_on_the_head_for_pairs(build):
    with_head, without = build(**OWN, sentence_pairs='nsp').model, build(**OWN).model
    for name, weight in without.state_dict().items():
        assert torch.equal(weight, with_head.state_dict()[name])


def test_stopped_run_goes_on_to_the_bit(project, text_path):
    """In the middle of an epoch."""
    arguments = [f'text_path={text_path}', *SMALL, 'seq_len=24', 'batch_size=4', 'sentence_pairs=nsp', 'epochs=3',
                 'n_prompts=0', 'checkpoint_interval=7', 'transformer.dropout=0.1']
    folder = project.path / 'logs/test/stopped'
    project.fork(*arguments, env={'RUN_UUID': 'stopped'})
    project.until(lambda: list(folder.glob('checkpoints/[0-9]*')))
    os.kill(project.pid, signal.SIGTERM)
    assert project.wait().returncode == 128 + signal.SIGTERM
    n_before = len(values_of(folder / 'log.jsonl')['loss.train'])
    assert project.run('--resume', 'stopped').returncode == 0
    assert project.run(*arguments, env={'RUN_UUID': 'whole'}).returncode == 0
    whole, stopped = (values_of(project.path / f'logs/test/{name}/log.jsonl') for name in ('whole', 'stopped'))
    assert len(whole['loss.pairs.train']) > n_before
    for name in set(whole) - {'tokens_per_second'}:
        assert whole[name] == stopped[name], name


def test_run_says_what_it_leaves_out_and_evaluates(project, text_path):
    arguments = [f'text_path={text_path}', *SMALL, 'sentence_pairs=nsp', 'seq_len=48', 'n_prompts=1']
    result = project.run(*arguments, env={'RUN_UUID': 'feed'})
    assert (result.returncode, result.stderr) == (0, '')
    assert re.search(r'1 of \d+ documents of the (text to train on|validation text) are left out: they have one '
                     'sentence only\n', result.stdout)
    values = values_of(project.path / 'logs/test/feed/log.jsonl')
    names = {'loss.train', 'loss.pairs.train', 'loss.total.train', 'accuracy.train', 'accuracy.pairs.train',
             'loss.valid', 'accuracy.valid', 'loss.pairs.valid', 'accuracy.pairs.valid'}
    assert names <= set(values) and 'loss.total.valid' not in values
    assert_clean_failure(project.run(*arguments, 'valid_fraction=0.001'), 2,
                         'the validation text has only one document of two or more')
