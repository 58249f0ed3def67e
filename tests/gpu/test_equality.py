"""What is computed on a GPU is what is computed on the CPU, by any of its kernels."""
import itertools

import pytest
import torch
from support.project import SMALL_VALUES

from labml_mlm import MLMConfigs
from labml_mlm.data.batch import Batch
from labml_mlm.masking.batches import labels_bound, mask_batch
from labml_mlm.model.packed import DocumentMask, use_document_mask

BERT = {'d_model': 64, 'transformer.n_heads': 2, 'transformer.n_layers': 3}
MODELS = {
    'rotary': {}, 'sdpa': {'transformer.encoder_attn': 'sdpa'}, 'mha': {'transformer.encoder_attn': 'mha'},
    'relative': {'transformer.encoder_attn': 'relative'},
    'bert': {'transformer': 'bert', **BERT, 'transformer.dropout': 0, 'transformer.attn_dropout': 0},
    'modernbert': {'transformer': 'modernbert', **BERT}}
WITH_COMPILER = [pytest.param('cpu', marks=pytest.mark.long), pytest.param('cuda', marks=pytest.mark.gpu)]


@pytest.fixture
def make(build):
    """Builds configs in fp32 with 4 sequences of 40 tokens, unless values say otherwise."""
    def make(device, **values):
        return build(**{'device': device, 'n_prompts': 0, 'precision': 'fp32', 'batch_size': 4, 'seq_len': 40,
                        'd_model': 32, **values})
    return make


def batch_of(conf, *, kind='', seq_len=40):
    """A batch with labels, on the CPU, so that it is the same on all devices."""
    x = torch.randint(5, conf.n_tokens, (seq_len, 4), generator=torch.Generator().manual_seed(1))
    labels = x.where(torch.rand(seq_len, 4, generator=torch.Generator().manual_seed(2)) < 0.3, conf.padding_token)
    masked = x.masked_fill(labels != conf.padding_token, conf.mask_token)
    padding_mask = document_ids = None
    index = torch.arange(seq_len)[:, None]
    if kind:
        padding_mask = index >= torch.tensor([seq_len, seq_len - 1, seq_len // 2, 3])
    if kind == 'documents':
        document_ids = (index // torch.tensor([7, 13, 20, 40]) + 1).masked_fill(padding_mask, 0)
    return Batch(masked, padding_mask, document_ids, labels=labels)


def step(conf, batch):
    """The loss of a step, and the gradients and weights after it, on the CPU."""
    conf.model.train()
    batch = conf.read_batch(batch)
    output = conf.engine.forward_backward(batch.tokens, batch.labels, *batch.context, is_bounded=False)
    gradients = [p.grad.detach().cpu().clone() for p in conf.model.parameters()]
    conf.update()
    return [output.loss.detach().cpu(), *gradients, *(p.detach().cpu() for p in conf.model.parameters())]


@pytest.mark.parametrize('kind', ['', 'padding', 'documents'])
@pytest.mark.parametrize('values', MODELS.values(), ids=MODELS)
def test_a_step_equals_that_of_the_cpu(make, tracked, device, values, kind):
    # Plain, as the first step of Adam divides rounding errors by themselves
    values = {'optimizer.optimizer': 'SGD', 'optimizer.learning_rate': 0.1, **values}
    results = [step(conf, batch_of(conf, kind=kind)) for conf in (make('cpu', **values), make(device, **values))]
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('optimizer', ['mlm', 'muon'])
def test_losses_of_some_steps_are_those_of_the_cpu(make, tracked, device, optimizer):
    """Muon computes in 16 bits on a GPU."""
    losses = []
    for name in ('cpu', device):
        conf = make(name, optimizer=optimizer, lr_warmup_steps=2)
        losses.append([float(step(conf, batch_of(conf))[0]) for _ in range(10)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3 if optimizer == 'mlm' else 3e-2)
    assert losses[0][-1] < 0.95 * losses[0][0]


@pytest.mark.parametrize('masking', ['token', 'word', 'span'])
def test_masks_of_a_generator_on_the_device_repeat(make, device, masking):
    conf = make(device, masking=masking)
    batch = conf.read_batch(next(iter(conf.train_loader)))
    assert conf.mlm.generator.device.type == batch.tokens.device.type == device
    drawn = []
    for seed in (1, 1, 2):
        conf.mlm.generator.manual_seed(seed)
        drawn.append([mask_batch(conf.mlm, batch) for _ in range(2)])
    for (x, labels), (same_x, same_labels) in zip(*drawn[:2], strict=True):
        assert torch.equal(x, same_x) and torch.equal(labels, same_labels)
    assert not torch.equal(drawn[0][0][1], drawn[0][1][1]) and not torch.equal(drawn[0][0][1], drawn[2][0][1])


@pytest.mark.parametrize('masking', ['word', 'span'])
def test_the_bound_on_units_changes_no_loss(make, tracked, device, masking):
    """Without it, masked positions are counted."""
    conf = make(device, masking=masking)
    conf.model.train()
    with conf.mode.update(is_train=True):
        batch = conf.read_batch(next(iter(conf.train_loader)))
    if device == 'cpu':
        batch = batch._replace(longest_unit=conf.mlm.longest_unit(batch.tokens))
    x, labels = mask_batch(conf.mlm, batch)
    bound = labels_bound(conf.mlm, batch)
    assert int((labels != conf.padding_token).sum(dim=0).max()) <= bound['n_positions'] < len(x)
    losses = [conf.engine.forward_backward(x, labels, **how).loss.item() for how in (bound, {'is_bounded': False})]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize('class_', ['rotary', 'sdpa', 'bert', 'modernbert'])
def test_documents_by_a_kernel_equal_those_by_a_mask(make, tracked, device, class_):
    """Outputs and gradients; on the CPU, which has no gradients of that kernel, outputs."""
    results = []
    for document_mask in (None, DocumentMask):
        conf = make(device, **MODELS[class_], **{} if class_ in ('bert', 'modernbert') else {'d_model': 64})
        use_document_mask(conf.model, document_mask)
        # More than one block of the kernel
        batch = conf.read_batch(batch_of(conf, kind='documents', seq_len=320))
        with torch.set_grad_enabled(device == 'cuda'):
            output = conf.engine.forward(batch.tokens, batch.labels, *batch.context, is_bounded=False)
        if device == 'cuda':
            output.loss.backward()
        results.append([output.loss.detach(), *(p.grad for p in conf.model.parameters() if p.grad is not None)])
    assert len(results[0]) > 1 or device == 'cpu'
    for masked, found in zip(*results, strict=True):
        torch.testing.assert_close(found, masked, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('device', WITH_COMPILER, indirect=True)
@pytest.mark.parametrize('precision, tolerance', [('fp32', 1e-3), ('bf16', 5e-2)])
def test_compiled_losses_are_those_of_eager_steps(make, tracked, device, precision, tolerance):
    losses = []
    for is_compiled in (False, True):
        torch._dynamo.reset()
        conf = make(device, compile=is_compiled, precision=precision)
        with conf.mode.update(is_train=True):
            batches = list(itertools.islice(conf.train_loader, 20))
            losses.append(torch.stack([training_loss(conf, batch) for batch in batches]).cpu())
    assert conf.engine._compiled is not None
    torch.testing.assert_close(losses[1], losses[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('optimizer', ['mlm', 'muon'])
def test_bf16_learns_as_fp32_does(tracked, device, optimizer):
    """Of `mini`, 500 steps on a GPU; on the CPU a smaller one, and few."""
    size = {'d_model': 256, 'transformer.n_layers': 4, 'transformer.n_heads': 4, 'transformer.ffn.d_ff': 1024,
            'batch_size': 32, 'seq_len': 128}
    n_steps = 500 if device == 'cuda' else 40
    curves = []
    for precision in ('fp32', 'bf16'):
        conf = MLMConfigs()
        conf._set_values({'text': 'python_topics', 'n_prompts': 0, 'device': device, 'precision': precision,
                          'optimizer': optimizer, 'max_steps': n_steps, 'lr_warmup_steps': n_steps // 10,
                          **(size if device == 'cuda' else SMALL_VALUES)})
        conf.init()
        batches = itertools.chain.from_iterable(conf.train_loader for _ in itertools.count())
        with conf.mode.update(is_train=True):
            losses = [training_loss(conf, batch) for batch in itertools.islice(batches, n_steps)]
        curves.append(torch.stack(losses).cpu())
    fp32, bf16 = curves
    assert not torch.equal(fp32, bf16)
    # A tenth of the steps at a time
    fp32, bf16 = (curve.view(10, -1).mean(dim=1) for curve in curves)
    torch.testing.assert_close(bf16, fp32, rtol=0.03, atol=0)
    assert fp32[-1] < 0.9 * fp32[0]


def training_loss(conf, batch):
    """The loss of a step, on the device."""
    conf.model.train()
    batch = conf.read_batch(batch)
    x, labels = mask_batch(conf.mlm, batch)
    output = conf.engine.forward_backward(x, labels, *batch.context, **labels_bound(conf.mlm, batch))
    conf.update()
    return output.loss.detach()
