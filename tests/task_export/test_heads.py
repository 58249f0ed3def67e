"""Which class represents a fine-tuned model, and what its config says."""
import pytest
import torch
from support.fine_tuned import MODELS
from torch import nn

from labml_mlm.common.errors import UserError
from labml_mlm.finetuning.heads import TagHead
from labml_mlm.task_export.heads import read_head, represent_task


@pytest.mark.parametrize('name', MODELS)
def test_each_model_has_its_class(fine_tuned, name):
    shown = represent_task(fine_tuned[name])
    assert shown.config['architectures'] == [MODELS[name][1]]
    is_ours = MODELS[name][1].startswith('Labml')
    assert bool(shown.code) == is_ours == bool(shown.why)
    assert set(shown.code) <= {'modeling_labml_mlm.py', 'modeling_labml_mlm_head.py'}
    assert shown.config['model_type'] == ('labml_mlm_head' if is_ours else
                                          {'own': 'esm'}.get(name.split(',')[0], name.split(',')[0]))


@pytest.mark.parametrize('name, problem, labels', [
    ('bert, cls', 'single_label_classification', ['bad', 'good']),
    ('roberta, cls, several', 'multi_label_classification', ['book', 'film', 'fox', 'odd', 'song']),
    ('own, cls, number', 'regression', ['rating']), ('bert, tags', None, ['B-PRAISE', 'O'])])
def test_labels_are_in_the_config(fine_tuned, name, problem, labels):
    config = represent_task(fine_tuned[name]).config
    assert config.get('problem_type') == problem
    assert config['id2label'] == {str(i): label for i, label in enumerate(labels)}
    assert config['label2id'] == {label: i for i, label in enumerate(labels)}
    assert config['num_labels'] == len(labels)


def test_custom_code_is_taken_on_demand(fine_tuned):
    shown = represent_task(fine_tuned['bert, cls'], is_custom=True)
    assert shown.config['architectures'] == ['LabmlMLMForSequenceClassification'] and not shown.why
    assert shown.config['encoder']['model_type'] == 'bert' and shown.config['pooling'] == 'cls'


@torch.no_grad()
def test_numbers_are_in_the_last_layer(fine_tuned):
    model = fine_tuned['own, cls, number'].model
    hidden = torch.randn(5, 3, 16)
    expected = model.criterion.predicted(model.generator(hidden, None))
    assert model.criterion.mean > 3 and not torch.allclose(model.generator(hidden, None).T, expected)
    torch.testing.assert_close(model.plain_head()(hidden, None).T, expected)


@pytest.mark.parametrize('name', MODELS)
def test_a_head_is_read_back(fine_tuned, name):
    shown = represent_task(fine_tuned[name])
    head, expected = read_head(fine_tuned[name], shown.weights, shown.names), fine_tuned[name].model.plain_head()
    assert all(torch.equal(tensor, expected.state_dict()[part]) for part, tensor in head.state_dict().items())


def test_a_small_gain_is_no_matter_without_a_head_for_tokens(make_fine_tuned):
    trained = make_fine_tuned(**MODELS['own, tags'][0])
    with torch.no_grad():
        trained.model.encoder.norm.weight[2] = 1e-6
    assert represent_task(trained).config['architectures'] == ['EsmForTokenClassification']


def test_other_heads_are_refused(make_fine_tuned):
    class Head(TagHead):
        pass

    trained = make_fine_tuned(**MODELS['own, tags'][0])
    trained.model.generator.__class__ = Head
    with pytest.raises(UserError, match='a head of the class Head cannot be exported'):
        represent_task(trained)


def test_other_encoders_are_refused_by_name(make_fine_tuned):
    trained = make_fine_tuned(**MODELS['own, mean, several'][0])
    trained.model.encoder.layers[1].dropout = nn.AlphaDropout(0.1)
    with pytest.raises(UserError, match='modeling_labml_mlm.py cannot represent .*AlphaDropout'):
        represent_task(trained)
