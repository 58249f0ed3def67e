"""Parts of the model that are not trained, and the device that it is on."""
import contextlib
from types import SimpleNamespace

import pytest
import torch
from support.project import SMALL_VALUES, assert_clean_failure

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.items.overrides import parse_value
from labml_mlm.items.schema import config_items, named_values


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def is_frozen(name, freeze):
    n = int(freeze.partition(':')[2] or 0)
    return name.startswith(('src_embed.', *(f'encoder.layers.{i}.' for i in range(n))))


def assert_only_others_changed(before, model, freeze):
    after = weights(model)
    frozen = {name for name in before if is_frozen(name, freeze)}
    assert frozen and frozen < before.keys()
    for name in before:
        # A bias of keys has no gradient: a softmax does not see it
        if not name.endswith('key.linear.bias'):
            assert torch.equal(before[name], after[name]) == (name in frozen), name


@pytest.mark.parametrize('freeze', ['embeddings', 'layers:1', 'layers:2'])
@pytest.mark.parametrize('values', [
    {}, {'optimizer': 'muon'}, {'optimizer.optimizer': 'Adam', 'lr_schedule': 'constant'},
    {'gradient_accumulation_steps': 2, 'transformer.src_embed': 'learned_pos', 'transformer.encoder_attn': 'mha'}])
def test_frozen_weights_stay_as_they_are_and_others_are_trained(build, tracked, train_steps, freeze, values):
    conf = build(freeze=freeze, **{**values, 'transformer.n_layers': 3, 'optimizer.weight_decay': 0.1})
    before = weights(conf.model)
    train_steps(conf, 12)
    assert_only_others_changed(before, conf.model, freeze)
    trained = {id(p) for group in conf.optimizer.param_groups for p in group['params']}
    assert trained == {id(p) for name, p in conf.model.named_parameters() if not is_frozen(name, freeze)}


@pytest.mark.parametrize('transformer', ['bert', 'modernbert'])
def test_a_head_that_shares_the_embeddings_is_frozen_with_them(build, tracked, train_steps, transformer):
    conf = build(freeze='embeddings', **{**SMALL_VALUES, 'transformer': transformer, 'transformer.n_layers': 2})
    before = conf.model.generator.decoder.weight.detach().clone()
    dense = conf.model.generator.dense.weight.detach().clone()
    train_steps(conf, 3)
    assert torch.equal(conf.model.generator.decoder.weight, before)
    assert conf.model.src_embed.tokens.weight is conf.model.generator.decoder.weight
    assert not torch.equal(conf.model.generator.dense.weight, dense)


def test_muon_without_a_matrix_to_train_is_refused(build):
    with pytest.raises(UserError, match='optimizer=muon is for matrices of the encoder, and there are none to train'):
        build(freeze='layers:2', optimizer='muon', **{'transformer.n_layers': 2})


def test_parameters_that_a_model_has_frozen_itself_are_not_trained(build, tracked, train_steps):
    class Frozen(MLMConfigs):
        pass

    conf = Frozen()
    conf.set_default(Frozen.model, func=lambda: conf.parallel.parallelize(
        conf.transformer.transformer_mlm.requires_grad_(False), conf.device))
    conf._set_values({'text': 'to be or not to be ' * 100, **SMALL_VALUES})
    with pytest.raises(UserError, match='all parameters of the model are frozen: there is nothing to train'):
        conf.init()


def test_frozen_parts_may_not_change_on_resume():
    assert not config_items(MLMConfigs())['freeze'].declaration.may_change


def device_of(**values):
    conf = MLMConfigs()
    conf._set_values(values)
    return conf.device


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that there are so many CUDA devices."""
    def pretend(n):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: n > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: n)
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda number: f'GPU {number}')
    return pretend


@pytest.mark.parametrize('n, values, expected', [
    (2, {}, 'cuda:0'), (2, {'device': 'available'}, 'cuda:0'), (2, {'device': 'cuda'}, 'cuda:0'),
    (2, {'device': 'cuda:1'}, 'cuda:1'), (2, {'device': 'cuda', 'device.cuda_device': 1}, 'cuda:1'),
    (2, {'device.cuda_device': 1}, 'cuda:1'), (2, {'device.use_cuda': False}, 'cpu'), (2, {'device': 'cpu'}, 'cpu'),
    (0, {}, 'cpu'), (0, {'device': 'available'}, 'cpu'), (16, {'device': 'cuda:15'}, 'cuda:15')])
def test_device_is_the_one_that_is_named(gpus, n, values, expected):
    gpus(n)
    assert device_of(**values) == torch.device(expected)


@pytest.mark.parametrize('n, values, message', [
    (0, {'device': 'cuda'}, 'device=cuda: there is no CUDA device here'),
    (0, {'device': 'cuda:1'}, 'device=cuda:1: there is no CUDA device here'),
    (2, {'device': 'cuda:2'}, 'device=cuda:2: of 2 CUDA devices, the last one is cuda:1'),
    (2, {'device': 'cuda', 'device.cuda_device': 2}, 'of 2 CUDA devices, the last one is cuda:1'),
    (2, {'device': 'cuda', 'device.use_cuda': False}, 'device=cuda does not go with device.use_cuda=false'),
    (0, {'device': 'mps'}, 'device=mps: this is no Mac whose GPU torch can use')])
def test_a_device_that_is_not_there_is_refused(gpus, n, values, message):
    gpus(n)
    with pytest.raises(UserError, match=message):
        device_of(**values)


def test_the_gpu_of_a_mac(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    assert device_of(device='mps') == torch.device('mps')
    conf = MLMConfigs()
    conf._set_values({'device': 'mps'})
    assert conf.precision == torch.float32
    monkeypatch.setattr('labml_mlm.configs.model.ranks', lambda: SimpleNamespace(size=2))
    with pytest.raises(UserError, match='device=mps: a Mac has a single GPU, and there are several ranks'):
        device_of(device='mps')
    with pytest.raises(UserError, match='device=cuda:1: with several ranks, each has a GPU of its own'):
        device_of(device='cuda:1')


@pytest.mark.parametrize('capability, expected', [(7, torch.float32), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_automatic_precision_is_bf16_where_the_gpu_has_it(gpus, monkeypatch, capability, expected):
    """Older ones emulate it, slower than fp32. The one that counts is that of the run."""
    gpus(2)
    present = []
    monkeypatch.setattr(torch.version, 'hip', None)
    monkeypatch.setattr(torch.cuda, 'device', lambda device: contextlib.nullcontext(present.append(device.index)))
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: present[-1])
    monkeypatch.setattr(torch.cuda, '_check_bf16_tensor_supported', lambda device: True)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: SimpleNamespace(major=capability))
    conf = MLMConfigs()
    conf._set_values({'device': 'cuda:1'})
    assert conf.precision == expected and present == [1]


def test_the_device_of_a_run_is_the_present_one(gpus, monkeypatch, text_path):
    """Pinned memory and events are made on that."""
    class Set(Exception):
        pass

    def set_device(device):
        raise Set(device)

    gpus(2)
    monkeypatch.setattr(torch.cuda, 'set_device', set_device)
    conf = MLMConfigs()
    conf._set_values({'device': 'cuda:1', 'text_path': text_path})
    with pytest.raises(Set, match='cuda:1'):
        conf.init()


def test_numbers_of_gpus_are_one_name_in_messages():
    item = config_items(MLMConfigs())['device']
    assert named_values(item) == ['available', 'cpu', 'cuda', 'cuda:N', 'mps']
    assert parse_value(item, 'cuda:7') == 'cuda:7'
    with pytest.raises(UserError, match='it must be one of available, cpu, cuda, cuda:N, mps. Did you mean `cuda:N`?'):
        parse_value(item, 'cuda:99')


@pytest.mark.parametrize('name', ['cuda', 'cuda:1', 'mps'])
def test_a_script_refuses_a_device_with_one_line(project, name):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip('there is one here')
    assert_clean_failure(project.train(f'device={name}'), 2, f'device={name}: th')
    assert not project.runs


def test_a_kernel_for_packed_documents_is_refused_where_it_cannot_work(build, gpus, monkeypatch, project):
    with pytest.raises(UserError, match='packed_attention=flex is for CUDA devices, and the device is cpu: use '
                                        'packed_attention=masked'):
        build(device='cpu', packing='documents', packed_attention='flex')
    gpus(1)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    conf = MLMConfigs()
    conf._set_values({'packed_attention': 'flex'})
    with pytest.raises(UserError, match='packed_attention=flex: there is no package `triton` here'):
        _ = conf.packed_attention
    assert build(device='cpu', packing='documents').model.document_mask is None
    # Without packed documents nothing reads it
    assert_clean_failure(project.train('packed_attention=flex', 'device=cpu'), 2,
                         '`packed_attention` is given, but nothing reads it: it belongs to packing=documents')
