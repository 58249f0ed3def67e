import pytest
import torch

from labml_mlm.model.bert import BERTConfigs
from labml_mlm.model.transformer import MLMTransformerConfigs
from labml_mlm.optim.layer_decay import has_scales, lr_scales


def make_model(class_=MLMTransformerConfigs):
    conf = class_()
    conf._set_values({'n_src_vocab': 20, 'n_tgt_vocab': 20, 'd_model': 16, 'n_heads': 2, 'n_layers': 3})
    return conf.transformer_mlm


@pytest.mark.parametrize('class_', [MLMTransformerConfigs, BERTConfigs])
def test_each_layer_has_a_fraction_of_the_rate_of_the_one_above(class_):
    model = make_model(class_)
    scales = lr_scales(model, 0.5)
    expected = {'src_embed.': 1 / 16, 'encoder.layers.0.': 1 / 8, 'encoder.layers.1.': 1 / 4,
                'encoder.layers.2.': 1 / 2, 'encoder.norm.': 1., 'generator.': 1.}
    # BERT's decoder comes by the name of the embeddings that it shares
    for name, p in model.named_parameters():
        assert scales[id(p)] == next(scale for part, scale in expected.items() if name.startswith(part)), name
    assert set(lr_scales(model, 1.).values()) == {1.}


def test_an_optimizer_with_one_rate_has_no_scales():
    model = make_model()
    scales = lr_scales(model, 0.5)
    assert not has_scales(torch.optim.SGD(model.parameters(), lr=0.1), scales)
    optimizer = torch.optim.SGD([{'params': [p], 'lr': 0.1 * scales[id(p)]} for p in model.parameters()], lr=0.1)
    assert has_scales(optimizer, scales)
    # Before any schedule
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.)
    assert has_scales(optimizer, scales)
