"""
A step waits for nothing on the GPU. On the CPU its operations are watched instead, so that this is tested without a
GPU, too.
"""
import contextlib

import pytest
import torch
from support.gpu import Waited, no_waiting, step_without_waiting

from labml_mlm import MLMConfigs

MASKINGS = 'token', 'word', 'span'
OTHERS = {
    'documents': {'packing': 'documents'},
    'documents and words': {'packing': 'documents', 'masking': 'word'},
    'accumulation': {'gradient_accumulation_steps': 2},
    'rising rate': {'masking_schedule': 'linear'},
    'bf16': {'precision': 'bf16'},
    'labml_nn': {'transformer.encoder_attn': 'mha'},
    'relative': {'transformer.encoder_attn': 'relative'},
    'bert': {'transformer': 'bert', 'd_model': 64},
    'modernbert': {'transformer': 'modernbert', 'd_model': 64, 'packing': 'documents'},
    'no clipping': {'grad_norm_clip': None},
    'layer decay': {'lr_layer_decay': 0.9},
}


def with_names(device, values):
    values = {'device': device, 'n_prompts': 0, **values}
    if str(values.get('transformer', '')).endswith('bert'):
        return {**values, 'transformer.n_heads': 2, 'transformer.n_layers': 3}
    return values


@pytest.mark.parametrize('optimizer', ['mlm', 'muon'])
@pytest.mark.parametrize('masking', MASKINGS)
def test_step_of_each_masking_and_optimizer_does_not_wait(build, tracked, device, masking, optimizer):
    step_without_waiting(build(**with_names(device, {'masking': masking, 'optimizer': optimizer})))


@pytest.mark.parametrize('values', OTHERS.values(), ids=OTHERS)
def test_other_steps_do_not_wait(build, tracked, device, values):
    step_without_waiting(build(**with_names(device, values)))


@pytest.mark.parametrize('packing', ['stream', 'documents'])
def test_validation_does_not_wait(build, tracked, device, packing):
    """But for its first batch, whose masks are compared with those of the last validation."""
    conf = build(device=device, n_prompts=0, valid_batch_size=4, packing=packing)
    first, *others = conf.valid_loader
    assert others
    losses = []
    for watched in (no_waiting, lambda device: contextlib.nullcontext()):
        with torch.no_grad(), conf.mode.update(is_train=False):
            conf._valid_masking.restart()
            conf.valid_metrics.on_epoch_start()
            conf.step(first, None)
            for batch in others:
                read = conf.read_batch(batch)
                with watched(conf.device):
                    conf.validation_step(read)
        conf.valid_metrics.on_epoch_end()
        losses.append(conf.valid_metrics.loss)
    # On the CPU, masked positions are counted the second time
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.gpu
def test_step_with_a_kernel_for_packed_documents_does_not_wait(build, tracked, cuda):
    step_without_waiting(build(device=cuda, n_prompts=0, d_model=32, packing='documents', packed_attention='flex'))


@pytest.mark.parametrize('wait', [
    lambda x: x.sum().item(), lambda x: bool((x > 0).any()), lambda x: x[x > 0], lambda x: (x > 0).nonzero(),
    lambda x: torch.where(x > 0), lambda x: x.new_tensor([1., 2.]),
    lambda x: torch.tensor([1.], device=x.device), lambda x: x.tolist(), lambda x: x.cpu(),
    lambda x: torch.equal(x, x.clone())])
def test_what_waits_is_noticed(device, wait):
    x = torch.randn(5, device=device)
    with pytest.raises((Waited, RuntimeError), match='waits for the GPU|synchronizing'), no_waiting(x.device):
        wait(x)


def test_an_optimizer_of_labml_nn_waits(build, tracked, device):
    """It cannot leave out a step on the GPU, so Python has to know whether loss and gradient are finite."""
    conf = build(**{'device': device, 'n_prompts': 0, 'optimizer.optimizer': 'Adam'})
    with pytest.raises((Waited, RuntimeError), match='waits for the GPU|synchronizing'):
        step_without_waiting(conf)


def test_units_that_do_not_say_how_long_they_are_wait(build, tracked, device):
    conf = build(MLMConfigs, device=device, n_prompts=0, masking='word')
    words = conf.mlm.units
    conf.mlm.units = lambda x, rand: words(x, rand)
    with pytest.raises((Waited, RuntimeError), match='waits for the GPU|synchronizing'):
        step_without_waiting(conf)
