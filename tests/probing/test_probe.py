"""Logistic regressions on the features of all layers."""
import math
import random

import numpy as np
import pytest
import torch
from probing.conftest import sentences, write_rows

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.process_group import SINGLE_PROCESS
from labml_mlm.probing import probe as probing
from labml_mlm.probing.examples import read_examples
from labml_mlm.probing.features import Place, all_places, features_at
from labml_mlm.probing.probe import ProbeData
from labml_mlm.probing.prober import Prober
from labml_mlm.probing.sequences import Sequences

pytest.importorskip('sklearn')


def data_of(trained, path):
    examples = read_examples(path, text_field='text', label_field='label', max_texts=5000)
    return probing.prepare(examples, Sequences(trained.tokenizer, template=trained.configs._template, longest=32))


def test_features_are_those_of_encode(models):
    for name in ('esm', 'bert'):
        trained = models[name]
        texts = [text for text, _ in sentences(9)]
        places = all_places(trained.n_layers, ['mean', 'cls'] if name == 'bert' else ['mean'])
        found = features_at(trained.model, [trained.ids(text) for text in texts], places)
        assert list(found) == places
        for (layer, pooling), features in found.items():
            torch.testing.assert_close(features, trained.encode(texts, layer=layer, pooling=pooling), atol=2e-6,
                                       rtol=2e-5)


def test_modes_and_random_numbers_stay(models, labelled):
    model, prober = models['bert'].model, Prober(data_of(models['bert'], labelled), sha256='', every=1,
                                                 ranks=SINGLE_PROCESS, is_sharded=False)
    modules = list(model.modules())
    for i, module in enumerate(modules):
        module.training = i % 2 == 0
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    found = prober(model, n_validations=1)
    assert [module.training for module in modules] == [i % 2 == 0 for i in range(len(modules))]
    # Even if scikit-learn is imported in it, which draws from Python's
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert str(np.random.get_state()) == before[2]
    model.eval()
    # No dropout, although some of it was in training mode
    assert prober(model, n_validations=2) == found


def test_probe_finds_what_is_in_the_features_and_nothing_else(models, labelled, tmp_path):
    trained = models['bert']
    data = data_of(trained, labelled)
    found = probing.probe(trained.model, data, all_places(trained.n_layers, ['mean', 'cls']))
    accuracies = {(probed.layer, probed.pooling): probed.accuracy for probed in found}
    # A bag of words tells whether one of them is there; the embedding of [CLS] tells nothing
    assert accuracies[0, 'mean'] >= 0.9
    assert accuracies[0, 'cls'] == data.majority
    assert data.majority == 0.5 and (data.n_train, data.n_valid, data.names) == (96, 24, ['fox', 'none'])
    rng = random.Random(0)
    noise = write_rows(tmp_path / 'noise.jsonl', ((text, rng.choice('ab')) for text, _ in sentences(400)))
    [probed] = probing.probe(trained.model, data_of(trained, noise), [Place(2, 'mean')])
    assert 0.35 < probed.accuracy < 0.65


@pytest.mark.parametrize('n, k', [(10, 9), (40, 40), (200, 100)])
def test_interval_is_wilsons(n, k):
    """By the formula, with features that are right for `k` of `n` texts that are held out."""
    signs = np.repeat([-1., 1.], 50)
    valid = np.tile([-1., 1.], n // 2)
    labels = np.concatenate([signs > 0, np.where(np.arange(n) < k, valid, -valid) > 0]).astype(int)
    features = torch.from_numpy(np.concatenate([signs, valid]))[:, None].repeat(1, 3)
    data = ProbeData([torch.zeros(1)] * (100 + n), labels, 100, ['a', 'b'], [])
    probed = probing.fit(features, data, Place(0, 'mean'))
    p, z = k / n, 1.959964
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert probed.accuracy == p
    assert probed.low == pytest.approx((centre - spread) / (1 + z * z / n), abs=1e-5)
    assert probed.high == pytest.approx((centre + spread) / (1 + z * z / n), abs=1e-5)


def test_long_texts_are_read_as_far_as_positions_go(models):
    assert probing.longest(models['esm'].model, 32) == 512
    assert probing.longest(models['esm'].model, 1024) == 1024
    assert probing.longest(models['bert'].model, 1024) == models['bert'].model.max_seq_len == 512


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'sklearn', None)
    with pytest.raises(UserError, match=r'probe_path needs scikit-learn, .*pip install .labml_mlm\[finetune\]'):
        probing.require_sklearn('probe_path')
