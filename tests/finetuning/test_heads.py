import math

import numpy as np
import pytest
import torch
from support.labelled import several, share, write_tagged
from torch import nn
from torch.nn import functional

from labml_mlm import TaggingConfigs
from labml_mlm.finetuning.heads import AnyLabels, Number, OneLabel, TagHead, TextHead
from labml_mlm.labelled.examples import NO_LABEL
from labml_mlm.training.engine import Engine


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def head(pooling='mean', n_logits=3, **options):
    return TextHead(8, n_logits, pooling=pooling, dropout=0.1, generator=generator(), **options).eval()


def hidden_states(lengths, n=8):
    """Hidden states, `[seq_len, batch_size, d_model]`, with large values at padding, and the padding mask."""
    hidden = torch.randn(max(lengths), len(lengths), n, generator=generator())
    padding_mask = torch.arange(max(lengths))[:, None] >= torch.tensor(lengths)
    return hidden.masked_fill(padding_mask[..., None], 1e6), padding_mask


@pytest.mark.parametrize('pooling', ['mean', 'cls'])
def test_padding_does_not_matter(pooling):
    hidden, padding_mask = hidden_states([5, 2, 1])
    together = head(pooling)(hidden, padding_mask)
    for i, length in enumerate([5, 2, 1]):
        torch.testing.assert_close(head(pooling)(hidden[:length, i:i + 1], None)[0], together[i])


def test_mean_is_that_of_the_tokens():
    hidden, _ = hidden_states([4])
    model = head()
    torch.testing.assert_close(model(hidden, None), model.output(hidden.mean(dim=0)))


def test_cls_is_the_pooler_of_the_first_token_whose_weights_are_taken_over_and_trained():
    pooler = nn.Linear(8, 8).requires_grad_(False)
    model = head('cls', pooler=pooler.state_dict())
    hidden, padding_mask = hidden_states([4, 2])
    torch.testing.assert_close(model(hidden, padding_mask), model.output(torch.tanh(pooler(hidden[0]))))
    assert all(p.requires_grad for p in model.parameters())
    assert model.pooler.weight is not pooler.weight


def test_new_layers_are_those_of_bert_and_follow_the_generator():
    one, twin, other = (TextHead(64, 64, pooling='cls', dropout=0., generator=generator(seed)) for seed in (1, 1, 2))
    for layer in (one.output, one.pooler):
        assert layer.bias.eq(0).all() and layer.weight.abs().max() <= 0.04
        assert layer.weight.std().item() == pytest.approx(0.0176, abs=0.001)
    assert torch.equal(one.output.weight, twin.output.weight)
    assert not torch.equal(one.output.weight, other.output.weight)


def test_one_label_is_cross_entropy():
    logits, labels = torch.randn(6, 3, generator=generator()), torch.tensor([[0, 2, 1, 1, 0, 2]])
    loss_sum, predicted = OneLabel()(logits, labels)
    torch.testing.assert_close(loss_sum, functional.cross_entropy(logits, labels[0], reduction='sum'))
    assert predicted.tolist() == [logits.argmax(dim=1).tolist()]
    weights = torch.tensor([1., 0.5, 4.])
    torch.testing.assert_close(OneLabel(weights)(logits, labels)[0],
                               functional.cross_entropy(logits, labels[0], weights, reduction='sum'))


def test_tags_count_where_there_is_one():
    logits = torch.randn(3, 2, 4, generator=generator())
    labels = torch.tensor([[NO_LABEL, 1], [3, NO_LABEL], [0, NO_LABEL]])
    loss_sum, predicted = OneLabel()(logits, labels)
    of_tags = torch.stack([logits[0, 1], logits[1, 0], logits[2, 0]])
    torch.testing.assert_close(loss_sum, functional.cross_entropy(of_tags, torch.tensor([1, 3, 0]), reduction='sum'))
    assert torch.equal(predicted, logits.argmax(dim=-1))


def test_any_labels_are_binary_cross_entropies():
    logits, labels = torch.randn(5, 3, generator=generator()), torch.randint(2, (3, 5), generator=generator()).float()
    loss_sum, predicted = AnyLabels()(logits, labels)
    expected = sum(functional.binary_cross_entropy(logits.sigmoid()[:, i], labels[i], reduction='sum')
                   for i in range(3))
    torch.testing.assert_close(loss_sum, expected)
    assert torch.equal(predicted, (logits.sigmoid() > 0.5).float().T)


def test_numbers_are_learned_in_standard_units_and_predicted_in_their_own():
    labels = torch.tensor([[10., 14., 30.]])
    criterion = Number(mean=18., std=8.)
    loss_sum, predicted = criterion(torch.tensor([[-1.], [0.], [2.]]), labels)
    torch.testing.assert_close(loss_sum, torch.tensor(0. + 0.25 + 0.25))
    assert predicted.tolist() == [[10., 18., 34.]]


@pytest.mark.parametrize('labels, expected', [
    ([0, 1], [1., 1.]),
    ([0, 0, 0, 1], [2 / 3, 2.]),
    ([0, 1, 2, 2, 2, 2], [2., 2., 0.5]),
])
def test_balanced_weights(labels, expected):
    weight = OneLabel.balanced(np.array(labels)).weight
    np.testing.assert_allclose(weight, expected, rtol=1e-6)
    # All labels together count as much as without weights
    assert weight[labels].sum().item() == pytest.approx(len(labels))


def test_weights_count_in_training_only():
    """A validation has the same loss as one of the trained model, whose weights are not known."""
    criterion, labels = OneLabel.balanced(np.array([0, 0, 0, 1])), torch.tensor([[0, 1]])
    logits = torch.zeros(2, 2)
    assert criterion.train()(logits, labels)[0].item() == pytest.approx(math.log(2) * (2 / 3 + 2))
    assert criterion.eval()(logits, labels)[0].item() == pytest.approx(math.log(2) * 2)


@pytest.mark.parametrize('labels, expected', [
    ([[1, 0], [0, 1]], [1., 1.]),
    ([[1, 1], [0, 1], [0, 1], [0, 0]], [3., 1 / 3]),
    # All texts have the second one
    ([[1, 1], [0, 1], [0, 1]], [2., 1.]),
])
def test_balanced_weights_of_any_labels(labels, expected):
    np.testing.assert_allclose(AnyLabels.balanced(np.array(labels, np.float32)).weight, expected, rtol=1e-6)


@pytest.mark.parametrize('criterion, labels', [(OneLabel(), torch.empty(1, 0).long()), (Number(), torch.empty(1, 0)),
                                               (AnyLabels(), torch.empty(3, 0))])
@pytest.mark.parametrize('pooling', ['mean', 'cls'])
def test_a_rank_may_have_no_text(criterion, labels, pooling):
    model = head(pooling, 1 if isinstance(criterion, Number) else 3)
    loss_sum, predicted = criterion(model(torch.empty(4, 0, 8), torch.empty(4, 0).bool()), labels)
    loss_sum.backward()
    assert loss_sum == 0 and predicted.shape == labels.shape
    assert model.output.weight.grad.eq(0).all()


def test_a_rank_may_have_no_words():
    model = TagHead(8, 3, dropout=0., generator=generator())
    loss_sum, predicted = OneLabel()(model(torch.empty(4, 0, 8), None), torch.empty(4, 0).long())
    assert loss_sum == 0 and predicted.shape == (4, 0)


@pytest.mark.parametrize('values', [
    {}, {'class_weights': 'balanced'}, {'label': several, 'class_weights': 'balanced'}, {'label': share},
    {'pooling': 'mean', 'add_special_tokens': True}, {'pooling': 'cls', 'add_special_tokens': True}])
def test_micro_batches_have_the_gradients_of_the_whole_batch(fine_tune, values):
    conf = fine_tune(head_dropout=0., **values)
    conf.model.train()
    batch = next(iter(conf.train_loader))
    assert batch.key_padding is not None
    found = []
    for n in (1, 2, 4, 8):
        engine = Engine(conf.model, precision=torch.float32, is_compiled=False, gradient_accumulation_steps=n,
                        shape=(64, 8), n_positions=None)
        conf.model.zero_grad()
        output = engine.forward_backward(batch.tokens, batch.labels, *batch._replace(segment_ids=None).context)
        found.append((output, [p.grad.clone() for p in conf.model.parameters()]))
    (whole, gradients), *others = found
    expected = conf.model(batch.tokens, batch.labels, padding_mask=batch.key_padding)
    torch.testing.assert_close(whole.loss, expected.loss.detach())
    assert max(gradient.abs().max() for gradient in gradients) > 1e-3
    for output, of_other in others:
        assert output.n_masked == batch.labels.numel()
        torch.testing.assert_close(output.loss, whole.loss)
        assert output.n_correct == whole.n_correct
        for one, other in zip(gradients, of_other, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_text_has_the_logits_of_its_own_in_any_batch(fine_tune):
    conf = fine_tune()
    conf.model.eval()
    examples = conf.train_loader.windows
    batch = examples.batch(np.arange(9))
    together = conf.model.predict(batch.tokens, padding_mask=batch.key_padding)
    for i in range(9):
        alone = examples.batch(np.array([i]))
        torch.testing.assert_close(conf.model.predict(alone.tokens)[0], together[i], rtol=1e-5, atol=1e-6)


def test_tags_of_words_do_not_depend_on_the_batch(fine_tune, tmp_path):
    conf = fine_tune(TaggingConfigs, text_path=str(write_tagged(tmp_path / 'a.conll', 40)))
    conf.model.eval()
    examples = conf.train_loader.windows
    batch = examples.batch(np.arange(9))
    together = conf.model(batch.tokens, batch.labels, padding_mask=batch.key_padding)
    alone = [conf.model(one.tokens, one.labels) for one in (examples.batch(np.array([i])) for i in range(9))]
    torch.testing.assert_close(sum(one.loss_sum for one in alone), together.loss_sum)
    assert sum(one.n_labels for one in alone) == together.n_labels == (batch.labels != NO_LABEL).sum()
