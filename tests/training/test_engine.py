"""Precision, compilation and gradient accumulation do not change what a step computes."""
import gc
import math
import shutil
import weakref
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.project import values_of
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from labml_mlm import MLM, MLMConfigs, MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.distributed.parallel import SingleProcess
from labml_mlm.model.freeze import freeze
from labml_mlm.training.compiler import should_compile
from labml_mlm.training.engine import Engine

N_TOKENS, PAD = 20, 0


def make_model(**values):
    conf = MLMTransformerConfigs()
    conf._set_values({'n_src_vocab': N_TOKENS, 'n_tgt_vocab': N_TOKENS, 'd_model': 32, 'n_heads': 4, 'n_layers': 2,
                      **values})
    return conf.transformer_mlm.train()


def masking(masking_prob=0.3):
    return MLM(padding_token=PAD, mask_token=4, no_mask_tokens=[1, 2, 3], n_tokens=N_TOKENS, masking_prob=masking_prob,
               generator=torch.Generator().manual_seed(0))


def make_batch(seq_len=12, batch_size=6, masking_prob=0.3):
    x = torch.randint(1, N_TOKENS, (seq_len, batch_size), generator=torch.Generator().manual_seed(1))
    return masking(masking_prob)(x)


def make_engine(model, **options):
    """An engine without compilation, gradient accumulation or autocast, unless `options` say otherwise."""
    return Engine(model, **{'precision': torch.float32, 'is_compiled': False, 'gradient_accumulation_steps': 1,
                            'n_positions': masking().max_selected, 'shape': (12, 6), **options})


def run(model, *inputs, **options):
    """The output for a batch, and the gradients."""
    model.zero_grad()
    output = make_engine(model, **options).forward_backward(*inputs)
    return output, [p.grad.clone() for p in model.parameters()]


def assert_same(one, other):
    assert (one[0].n_masked, one[0].n_correct) == (other[0].n_masked, other[0].n_correct)
    torch.testing.assert_close(one[0].loss, other[0].loss, rtol=1e-6, atol=1e-6)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('gradient_accumulation_steps', [2, 3, 6])
def test_gradient_accumulation_gives_the_gradients_of_the_whole_batch(gradient_accumulation_steps):
    model = make_model()
    masked, labels = make_batch()
    # Very different numbers of masked tokens, and none at all in two sequences
    labels[2:, 0] = PAD
    labels[:, 3:5] = PAD
    whole = run(model, masked, labels, None, None)
    # Without an engine
    output = model(masked, labels)
    model.zero_grad()
    output.loss.backward()
    assert_same(whole, (output, [p.grad for p in model.parameters()]))
    assert_same(whole, run(model, masked, labels, None, None, gradient_accumulation_steps=gradient_accumulation_steps))


def test_gradient_accumulation_of_a_smaller_batch_of_packed_documents():
    model = make_model()
    masked, labels = (t[:, :5] for t in make_batch())
    document_ids = torch.ones_like(masked)
    document_ids[7:, ::2] = 2
    document_ids[10:, 1] = 0
    labels[document_ids == 0] = PAD
    context = document_ids == 0, document_ids
    assert_same(run(model, masked, labels, *context),
                run(model, masked, labels, *context, gradient_accumulation_steps=3))


def test_batch_without_masked_tokens():
    output, gradients = run(make_model(), make_batch()[0], torch.full((12, 6), PAD), None, None,
                            gradient_accumulation_steps=2)
    assert output.loss == 0 and all((gradient == 0).all() for gradient in gradients)


def test_batch_size_must_be_divisible_into_micro_batches():
    with pytest.raises(UserError, match='batch_size=6 cannot be split into gradient_accumulation_steps=4 equal micro'):
        run(make_model(), *make_batch(), None, None, gradient_accumulation_steps=4)


@given(st.integers(1, 20), st.integers(1, 5), st.floats(0, 1), st.integers(0, 2 ** 20))
def test_selected_tokens_do_not_exceed_the_bound(seq_len, batch_size, masking_prob, seed):
    generator = torch.Generator().manual_seed(seed)
    mlm = MLM(padding_token=PAD, mask_token=4, no_mask_tokens=[1, 2, 3], n_tokens=N_TOKENS, masking_prob=masking_prob,
              generator=generator)
    x = torch.randint(0, N_TOKENS, (seq_len, batch_size), generator=generator)
    assert ((mlm(x)[1] != PAD).sum(dim=0) <= mlm.max_selected(seq_len)).all()


@pytest.mark.parametrize('masking_prob', [0., 0.15, 0.5, 1.])
def test_static_number_of_positions_gives_the_same_output(masking_prob):
    model = make_model()
    masked, labels = make_batch(masking_prob=masking_prob)
    bound = masking(masking_prob).max_selected(len(masked))
    for n_positions in (bound, bound + 7):
        model.zero_grad()
        plain = model(masked, labels)
        plain.loss.backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        output = model(masked, labels, n_positions=n_positions)
        output.loss.backward()
        assert_same((plain, gradients), (output, [p.grad for p in model.parameters()]))


def test_bound_of_a_batch_gives_the_same_output():
    """Labels beyond it count on a CPU."""
    masked, labels = make_batch()
    most = int((labels != PAD).sum(dim=0).max())
    model = make_model()
    results = []
    for n_positions in (None, most, most + 2, most - 1):
        model.zero_grad()
        output = make_engine(model, n_positions=None).forward_backward(masked, labels, n_positions=n_positions)
        results.append((output, [p.grad.clone() for p in model.parameters()]))
    for result in results[1:]:
        assert_same(result, results[0])


def train(model, n_steps, **options):
    """Trains a model, and returns the losses of the steps."""
    mlm = masking()
    engine = make_engine(model, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator, losses = torch.Generator().manual_seed(2), []
    for i in range(n_steps):
        # The last batch of an epoch is smaller
        x = torch.randint(5, 9, (12, 6 if i % 5 else 4), generator=generator)
        x[1::2] = x[::2]
        output = engine.forward_backward(*mlm(x), None, None)
        losses.append(output.loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def test_the_loss_of_a_step_is_taken_once():
    """The sum over the batches of a step; what is not finite in one of them is seen."""
    model = make_model()
    engine = make_engine(model)
    assert engine.take_loss() is None
    losses = [engine.forward_backward(*make_batch(masking_prob=rate), None, None).loss for rate in (0.3, 0.5)]
    assert engine.take_loss() == sum(losses)
    assert engine.take_loss() is None
    for value in (math.nan, 0.):
        with torch.no_grad():
            model.generator.projection.bias[0] = value
        engine.forward_backward(*make_batch(), None, None)
    assert engine.take_loss().isnan()


@pytest.mark.long
@pytest.mark.parametrize('attention, frozen', [('sdpa', ''), ('sdpa_rotary', ''), ('sdpa_rotary', 'layers:1')])
def test_compiled_model_has_the_same_losses_and_is_compiled_once(attention, frozen):
    if not shutil.which('g++'):
        pytest.skip('there is no compiler here')
    torch._dynamo.reset()
    models = [make_model(encoder_attn=attention) for _ in range(2)]
    for model in models if frozen else ():
        freeze(model, frozen)
    eager = train(models[0], 20)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = train(models[1], 20, is_compiled=True)
    assert compiled == pytest.approx(eager, abs=1e-4)
    assert eager[-1] < eager[0]


def test_bf16_has_similar_losses_and_fp32_weights():
    model = make_model()
    bf16 = train(model, 40, precision=torch.bfloat16)
    fp32 = train(make_model(), 40)
    assert bf16 == pytest.approx(fp32, abs=0.1)
    assert bf16 != fp32
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_step_does_not_wait_for_values_on_the_gpu(monkeypatch):
    """With tensors that have no values: reading one would wait for the GPU, and is an error here."""
    mode, model, mlm = FakeTensorMode(), make_model(), masking()
    monkeypatch.setattr(torch.__future__, 'get_overwrite_module_params_on_conversion', lambda: True)
    monkeypatch.setattr('labml_mlm.training.engine._is_on_gpu', lambda tensor: True)
    model._apply(mode.from_tensor)
    mlm.is_maskable, mlm.random_tokens = mode.from_tensor(mlm.is_maskable), mode.from_tensor(mlm.random_tokens)
    engine = make_engine(model, gradient_accumulation_steps=2, n_positions=mlm.max_selected)
    with mode:
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            x = torch.randint(5, N_TOKENS, (12, 6))
            output = engine.forward_backward(*mlm(x), None, None)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step()
        with pytest.raises(DataDependentOutputException):
            output.loss.item()


def test_long_training_with_a_compiler_is_worth_compiling(monkeypatch):
    model = make_model()
    monkeypatch.setattr(shutil, 'which', lambda name: f'/usr/bin/{name}')
    assert not should_compile(model, n_tokens=10 ** 6)
    assert should_compile(model, n_tokens=10 ** 10)
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    assert not should_compile(model, n_tokens=10 ** 10)


def test_compile_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(UserError, match='compile=true: there is no compiler here'):
        run(make_model(), *make_batch(), None, None, is_compiled=True)


@pytest.mark.parametrize('missing, message', [
    ('triton', 'compile=true: there is no package `triton` here'),
    ('gcc', 'compile=true: there is no compiler here, none of gcc, cc, clang')])
def test_compile_on_a_gpu_needs_triton_and_a_compiler(monkeypatch, missing, message):
    """With tensors that have no values."""
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if missing == 'triton' else name)
    monkeypatch.setattr(shutil, 'which', lambda name: None if missing == 'gcc' else name)
    with FakeTensorMode():
        weight = torch.nn.Parameter(torch.empty(3, device='cuda'))
    model = SimpleNamespace(parameters=lambda: iter([weight]), encoder=SimpleNamespace(parameters=lambda: [weight]))
    assert not should_compile(model, n_tokens=10 ** 15)
    with pytest.raises(UserError, match=message):
        make_engine(model, is_compiled=True)


def test_nothing_is_compiled_on_the_gpu_of_a_mac():
    """With tensors that have no values."""
    with FakeTensorMode():
        weight = torch.nn.Parameter(torch.empty(3, device='mps'))
    model = SimpleNamespace(parameters=lambda: iter([weight]), encoder=SimpleNamespace(parameters=lambda: [weight]))
    assert not should_compile(model, n_tokens=10 ** 15)
    make_engine(model)
    with pytest.raises(UserError, match='compile=true is for cpu and cuda: use compile=false'):
        make_engine(model, is_compiled=True)


def test_masked_positions_are_counted_without_a_bound():
    """Whole units may make up a sequence. This is never compiled, because shapes change."""
    model, mlm = make_model(), masking()
    mlm.units = lambda x, rand: torch.arange(len(x))[:, None].expand_as(x) % 6 == 0
    masked, labels = mlm(torch.randint(5, N_TOKENS, (12, 6), generator=torch.Generator().manual_seed(1)))
    # More than 30%
    assert (labels != PAD).sum(dim=0).max() > 4
    for is_compiled in (False, shutil.which('g++') is not None):
        output, _ = run(model, masked, labels, None, None, is_compiled=is_compiled, n_positions=mlm.max_selected)
        assert output.n_masked == (labels != PAD).sum()


def test_labels_beyond_the_bound_count():
    """A `step` of one's own may mask more than `mlm` does."""
    masked, labels = make_batch(masking_prob=0.5)
    assert (labels != PAD).sum(dim=0).max() > masking(0.1).max_selected(12)
    expected = run(make_model(), masked, labels, None, None, n_positions=None)
    for is_compiled in (False, shutil.which('g++') is not None):
        output = run(make_model(), masked, labels, None, None, n_positions=masking(0.1).max_selected,
                     is_compiled=is_compiled)
        assert_same(output, expected)
        assert output[0].n_masked == (labels != PAD).sum()


def test_labels_beyond_the_bound_are_an_error_on_a_gpu(monkeypatch):
    checks = []
    monkeypatch.setattr(torch, '_assert_async', lambda *check: checks.append(check))
    mode, model = FakeTensorMode(), make_model()
    monkeypatch.setattr(torch.__future__, 'get_overwrite_module_params_on_conversion', lambda: True)
    monkeypatch.setattr('labml_mlm.training.engine._is_on_gpu', lambda tensor: True)
    model._apply(mode.from_tensor)
    engine = make_engine(model)
    with mode:
        x = torch.ones(12, 6, dtype=torch.long)
        engine.forward_backward(x, x, None, None)
    [(is_within, message)] = checks
    assert isinstance(is_within, FakeTensor) and 'labels at more than 4 positions' in message


@pytest.mark.parametrize('is_compiled', [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize('attention', ['sdpa_rotary', 'sdpa', 'relative'])
def test_documents_of_full_windows_do_not_see_each_other(attention, is_compiled):
    """The gradients of two documents in one window are those of each alone."""
    if is_compiled and not shutil.which('g++'):
        pytest.skip('there is no compiler here')
    torch._dynamo.reset()
    masked, labels = make_batch()
    labels[5:7] = PAD
    document_ids = (torch.arange(12) >= 6).long()[:, None].expand_as(masked)
    model = make_model(encoder_attn=attention)
    packed = run(model, masked, labels, None, document_ids, is_compiled=is_compiled)
    alone = run(model, torch.cat([masked[:6], masked[6:]], dim=1), torch.cat([labels[:6], labels[6:]], dim=1), None,
                None, shape=(6, 12), n_positions=None)
    assert_same(packed, alone)


class Everything(MLM):
    """Masks more than the bound of its base class."""

    def _select(self, maskable):
        return maskable


def test_all_masks_of_a_custom_mlm_are_predicted():
    conf = MLMConfigs()
    mlm = Everything(padding_token=PAD, mask_token=4, no_mask_tokens=[1, 2, 3], n_tokens=200)
    conf._set_values({'text': 'python_topics', 'd_model': 16, 'transformer.n_heads': 2, 'transformer.n_layers': 1,
                      'n_prompts': 0, 'n_tokens': 200, 'mlm': mlm})
    x = torch.randint(5, 100, (32, 4))
    conf.model.train()
    output = conf.engine.forward(*mlm(x), None, None)
    assert output.n_masked == x.numel()


@pytest.mark.long
def test_compiled_model_with_a_higher_masking_rate():
    """No masked position is left out if more are masked than when the model was compiled."""
    torch._dynamo.reset()
    mlm, model = masking(0.1), make_model()
    x = torch.randint(5, N_TOKENS, (12, 6), generator=torch.Generator().manual_seed(1))
    engine = make_engine(model, is_compiled=True, n_positions=mlm.max_selected)
    for mlm.masking_prob in (0.1, 0.8):
        masked, labels = mlm(x)
        assert engine.forward(masked, labels, None, None).n_masked == (labels != PAD).sum()


def test_what_a_run_has_compiled_is_forgotten(monkeypatch):
    """After some models torch compiles no more."""
    monkeypatch.setattr('shutil.which', lambda _: 'g++')
    monkeypatch.setattr('torch.compile', lambda model, **_: model)
    n_resets = []
    monkeypatch.setattr('torch.compiler.reset', lambda: n_resets.append(1))
    engine = make_engine(make_model(), is_compiled=True)
    engine.forget_compiled()
    assert n_resets == []
    for n in (1, 2):
        engine.forward_backward(*make_batch())
        engine.forget_compiled()
        assert len(n_resets) == n


def test_wrapped_model_is_given_up():
    """It would keep the process group, and its threads."""
    wrapped = []

    class Wrapping(SingleProcess):
        def wrap(self, model):
            wrapped.append(weakref.ref(wrapper := torch.nn.ModuleList([model])))
            wrapper.forward = model.forward
            return wrapper

    engine = make_engine(make_model(), parallel=Wrapping())
    engine.forward_backward(*make_batch())
    engine.forget_compiled()
    gc.collect()
    assert [wrapper() for wrapper in wrapped] == [None]


@pytest.mark.long
def test_falling_masking_rate_is_compiled_once(build, tracked):
    if not shutil.which('g++'):
        pytest.skip('there is no compiler here')
    losses = []
    for is_compiled in (False, True):
        torch._dynamo.reset()
        tracked.clear()
        conf = build(compile=is_compiled, masking_schedule='linear', masking_prob_start=0.5, epochs=1)
        with torch._dynamo.config.patch(error_on_recompile=True):
            conf.run()
        losses.append(tracked['loss.'])
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    assert losses[0][-1] < losses[0][0]


def test_run_with_gradient_accumulation_has_the_same_losses(project):
    runs = []
    for n in (1, 4):
        result = project.train(f'gradient_accumulation_steps={n}', 'n_prompts=0', env={'RUN_UUID': f'steps{n}'})
        assert result.returncode == 0, result.stderr
        runs.append(values_of(project.path / f'logs/test/steps{n}/log.jsonl'))
    whole, accumulated = runs
    for name in ('loss.train', 'loss.valid', 'accuracy.train', 'lr'):
        assert [step for step, _ in whole[name]] == [step for step, _ in accumulated[name]]
        assert [value for _, value in whole[name]] == pytest.approx([value for _, value in accumulated[name]], abs=2e-4)
    result = project.train('gradient_accumulation_steps=3')
    assert result.returncode == 2
    assert 'batch_size=16 cannot be split into gradient_accumulation_steps=3 equal micro-batches' in result.stderr
