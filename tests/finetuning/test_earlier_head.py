import pytest
import torch
from support.labelled import animal, several, share

from labml_mlm.finetuning.earlier_head import take_over
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.published.start import TrainedHead


def head_of(conf, labels=None):
    """The head of a model, as a checkpoint has it."""
    kind, names = labels or conf._labels
    return TrainedHead(kind, names, {name: weight.clone() for name, weight in conf.model.state_dict().items()
                                     if name.startswith(('generator.', 'criterion.'))})


def randomize(model):
    for p in model.generator.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(7))


def logits(conf):
    batch = next(iter(conf.valid_loader))
    return conf.model.eval().predict(batch.tokens, padding_mask=batch.key_padding)


@pytest.mark.parametrize('label, pooling', [(animal, 'mean'), (several, 'mean'), (animal, 'cls')])
def test_head_of_the_same_labels_is_taken_over(fine_tune, label, pooling):
    options = {'label': label, 'pooling': pooling, 'add_special_tokens': pooling == 'cls'}
    before, after = fine_tune(**options), fine_tune(**options)
    randomize(before.model)
    assert not torch.allclose(logits(before), logits(after))
    said = take_over(after.model, head_of(before), after._labels)
    assert torch.equal(logits(before), logits(after))
    names = ', '.join(map(repr, after._labels.names))
    assert said == f'Its head, for {names}{" (any of them)" * (label is several)}, is trained further'


def test_rows_of_the_last_layer_follow_the_names(fine_tune):
    before, after = fine_tune(label=several), fine_tune(label=several)
    randomize(before.model)
    # As if their order had been another one
    earlier = head_of(before, LabelSet('multiple', ('fox', 'lazy', 'dog')))
    take_over(after.model, earlier, after._labels)
    assert torch.equal(logits(after), logits(before)[:, [2, 0, 1]])


def test_numbers_are_predicted_as_before_in_other_units(fine_tune):
    before, after = fine_tune(label=share), fine_tune(label=lambda text: 1000 - 30 * share(text))
    randomize(before.model)
    take_over(after.model, head_of(before), after._labels)
    one, other = (conf.model.criterion.predicted(logits(conf)) for conf in (before, after))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    assert after.model.criterion.mean > 500 > before.model.criterion.mean


@pytest.mark.parametrize('label, said', [
    (lambda text: 'abc'[len(text) % 3], "Its head is for 'a', 'b', 'c': a new one is trained"),
    (several, "Its head is for 'dog', 'fox', 'lazy' (any of them): a new one is trained"),
    (share, 'Its head is for numbers: a new one is trained')])
def test_head_of_other_labels_is_not_used(fine_tune, label, said):
    before, after = fine_tune(label=label), fine_tune()
    new = logits(after)
    assert take_over(after.model, head_of(before), after._labels) == said
    assert torch.equal(logits(after), new)


def test_head_of_words_is_not_used_for_texts(fine_tune):
    after = fine_tune()
    tags = TrainedHead('tags', after._labels.names, head_of(after).state)
    assert take_over(after.model, tags, after._labels) == \
        "Its head is for 'fox', 'none' (of words): a new one is trained"


def test_head_of_another_pooling_is_not_used(fine_tune):
    before, after = fine_tune(pooling='cls', add_special_tokens=True), fine_tune(add_special_tokens=True)
    new = logits(after)
    assert take_over(after.model, head_of(before), after._labels) == \
        'Its head is for another pooling: a new one is trained'
    assert torch.equal(logits(after), new)
