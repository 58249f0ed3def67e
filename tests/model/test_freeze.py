import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.model.bert import BERTConfigs
from labml_mlm.model.freeze import freeze
from labml_mlm.model.transformer import MLMTransformerConfigs


def make_model(class_=MLMTransformerConfigs):
    conf = class_()
    conf._set_values({'n_src_vocab': 20, 'n_tgt_vocab': 20, 'd_model': 16, 'n_heads': 2, 'n_layers': 3})
    return conf.transformer_mlm


@pytest.mark.parametrize('class_', [MLMTransformerConfigs, BERTConfigs])
@pytest.mark.parametrize('what, n', [('embeddings', 0), ('layers:1', 1), ('layers:3', 3)])
def test_embeddings_and_the_first_layers_are_frozen(class_, what, n):
    model = make_model(class_)
    freeze(model, what)
    parts = ('src_embed.', *(f'encoder.layers.{i}.' for i in range(n)))
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        name for name, _ in model.named_parameters() if name.startswith(parts)}


@pytest.mark.parametrize('what', ['embedding', 'layers', 'layers:', 'layers:0', 'layers:4', 'layers:-1', 'layers:x',
                                  'embeddings,layers:1'])
def test_anything_else_is_refused(what):
    with pytest.raises(UserError, match=f'^freeze={what}: it must be embeddings, or layers:N with N from 1 to 3, the '
                                        'number of layers$'):
        freeze(make_model(), what)
