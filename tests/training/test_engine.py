"""Every way of running a step gives what the plain one gives."""
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.project import values_of
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from labml_mlm import MLM, MLMConfigs, MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.training import engine
from labml_mlm.training.engine import Engine, should_compile

N_TOKENS, PAD = 20, 0


def make(**values):
    conf = MLMTransformerConfigs()
    conf._set_values({'n_src_vocab': N_TOKENS, 'n_tgt_vocab': N_TOKENS, 'd_model': 32, 'n_heads': 4, 'n_layers': 2,
                      **values})
    return conf.transformer_mlm.train()


def masking(masking_prob=0.3):
    return MLM(padding_token=PAD, mask_token=4, no_mask_tokens=[1, 2, 3], n_tokens=N_TOKENS, masking_prob=masking_prob,
               generator=torch.Generator().manual_seed(0))


def batch(seq_len=12, batch_size=6, masking_prob=0.3):
    x = torch.randint(1, N_TOKENS, (seq_len, batch_size), generator=torch.Generator().manual_seed(1))
    return masking(masking_prob)(x)


def run(model, *inputs, shape=(12, 6), **options):
    """Loss, counts and gradients of a batch."""
    options = {'precision': torch.float32, 'is_compiled': False, 'gradient_accumulation_steps': 1, 'n_positions': masking().n_positions,
               **options}
    model.zero_grad()
    output = Engine(model, shape=shape, **options).forward_backward(*inputs)
    return output, [p.grad.clone() for p in model.parameters()]


def assert_same(one, other):
    assert (one[0].n_masked, one[0].n_correct) == (other[0].n_masked, other[0].n_correct)
    torch.testing.assert_close(one[0].loss, other[0].loss, rtol=1e-6, atol=1e-6)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('gradient_accumulation_steps', [2, 3, 6])
def test_parts_are_the_whole(gradient_accumulation_steps):
    model = make()
    masked, labels = batch()
    # Very different numbers of masked tokens, and none at all in two sequences
    labels[2:, 0] = PAD
    labels[:, 3:5] = PAD
    whole = run(model, masked, labels, None, None)
    # As it was without an engine
    output = model(masked, labels)
    model.zero_grad()
    output.loss.backward()
    assert_same(whole, (output, [p.grad for p in model.parameters()]))
    assert_same(whole, run(model, masked, labels, None, None, gradient_accumulation_steps=gradient_accumulation_steps))


def test_parts_of_a_last_batch_and_of_packed_documents():
    model = make()
    masked, labels = (part[:, :5] for part in batch())
    document = torch.ones_like(masked)
    document[7:, ::2] = 2
    document[10:, 1] = 0
    labels[document == 0] = PAD
    context = document == 0, document
    assert_same(run(model, masked, labels, *context), run(model, masked, labels, *context, gradient_accumulation_steps=3))


def test_nothing_masked():
    output, gradients = run(make(), batch()[0], torch.full((12, 6), PAD), None, None, gradient_accumulation_steps=2)
    assert output.loss == 0 and all((gradient == 0).all() for gradient in gradients)


def test_a_batch_size_that_cannot_be_cut():
    with pytest.raises(UserError, match='batch_size=6 cannot be cut into gradient_accumulation_steps=4 equal parts'):
        run(make(), *batch(), None, None, gradient_accumulation_steps=4)


@given(st.integers(1, 20), st.integers(1, 5), st.floats(0, 1), st.integers(0, 2 ** 20))
def test_no_more_places_than_there_is_room_for(seq_len, batch_size, masking_prob, seed):
    generator = torch.Generator().manual_seed(seed)
    mlm = MLM(padding_token=PAD, mask_token=4, no_mask_tokens=[1, 2, 3], n_tokens=N_TOKENS, masking_prob=masking_prob,
              generator=generator)
    x = torch.randint(0, N_TOKENS, (seq_len, batch_size), generator=generator)
    assert ((mlm(x)[1] != PAD).sum(dim=0) <= mlm.n_positions(seq_len)).all()


@pytest.mark.parametrize('masking_prob', [0., 0.15, 0.5, 1.])
def test_places_of_known_number_are_those_that_are_masked(masking_prob):
    model = make()
    masked, labels = batch(masking_prob=masking_prob)
    plain, n_positions = model(masked, labels), masking(masking_prob).n_positions(len(masked))
    for room in (n_positions, n_positions + 7):
        model.zero_grad()
        plain = model(masked, labels)
        plain.loss.backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        output = model(masked, labels, n_positions=room)
        output.loss.backward()
        assert_same((plain, gradients), (output, [p.grad for p in model.parameters()]))


def losses(model, n_steps, **options):
    """Of so many steps, and the model's weights after them."""
    mlm = masking()
    options = {'precision': torch.float32, 'is_compiled': False, 'gradient_accumulation_steps': 1, 'n_positions': mlm.n_positions, **options}
    runner = Engine(model, shape=(12, 6), **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator, found = torch.Generator().manual_seed(2), []
    for i in range(n_steps):
        # The last batch of an epoch is smaller
        x = torch.randint(5, 9, (12, 6 if i % 5 else 4), generator=generator)
        x[1::2] = x[::2]
        output = runner.forward_backward(*mlm(x), None, None)
        found.append(output.loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return found


@pytest.mark.long
@pytest.mark.parametrize('attention', ['sdpa', 'sdpa_rotary'])
def test_compiled_is_the_same_and_compiled_once(attention):
    if not shutil.which('g++'):
        pytest.skip('there is no compiler here')
    torch._dynamo.reset()
    plain = losses(make(encoder_attn=attention), 20)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = losses(make(encoder_attn=attention), 20, is_compiled=True)
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert plain[-1] < plain[0]


def test_bf16_learns_alike_with_weights_of_32_bits():
    model = make()
    half = losses(model, 40, precision=torch.bfloat16)
    assert half == pytest.approx(losses(make(), 40), abs=0.1)
    assert half != losses(make(), 40)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_nothing_in_a_step_depends_on_values(monkeypatch):
    """As tensors without values show: a GPU that has to tell one is waited for."""
    mode, model, mlm = FakeTensorMode(), make(), masking()
    monkeypatch.setattr(torch.__future__, 'get_overwrite_module_params_on_conversion', lambda: True)
    model._apply(mode.from_tensor)
    mlm.is_maskable, mlm.random_tokens = mode.from_tensor(mlm.is_maskable), mode.from_tensor(mlm.random_tokens)
    with mode:
        runner = Engine(model, shape=(12, 6), precision=torch.float32, is_compiled=False, gradient_accumulation_steps=2,
                        n_positions=mlm.n_positions)
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            x = torch.randint(5, N_TOKENS, (12, 6))
            output = runner.forward_backward(*mlm(x), None, None)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step()
        with pytest.raises(DataDependentOutputException):
            output.loss.item()


def test_where_compiling_pays(monkeypatch):
    model = make()
    monkeypatch.setattr(shutil, 'which', lambda name: f'/usr/bin/{name}')
    assert not should_compile(model, n_tokens=10 ** 6)
    assert should_compile(model, n_tokens=10 ** 10)
    monkeypatch.setattr(engine.shutil, 'which', lambda name: None)
    assert not should_compile(model, n_tokens=10 ** 10)


def test_compiling_without_a_compiler(monkeypatch):
    monkeypatch.setattr(engine.shutil, 'which', lambda name: None)
    with pytest.raises(UserError, match='compile=true: there is no compiler here'):
        run(make(), *batch(), None, None, is_compiled=True)


def test_masks_whose_number_is_not_known_are_counted():
    """Whole units may be all of a sequence; that is not compiled, as its shapes change."""
    model, mlm = make(), masking()
    mlm.units = lambda x, rand: torch.arange(len(x))[:, None].expand_as(x) % 6 == 0
    masked, labels = mlm(torch.randint(5, N_TOKENS, (12, 6), generator=torch.Generator().manual_seed(1)))
    # More than 30%
    assert (labels != PAD).sum(dim=0).max() > 4
    for is_compiled in (False, shutil.which('g++') is not None):
        output, _ = run(model, masked, labels, None, None, is_compiled=is_compiled, n_positions=mlm.n_positions)
        assert output.n_masked == (labels != PAD).sum()


class Everything(MLM):
    """Masks more than its base class says."""

    def _select(self, maskable):
        return maskable


def test_masks_of_ones_own_are_all_predicted():
    conf = MLMConfigs()
    mlm = Everything(padding_token=PAD, mask_token=4, no_mask_tokens=[1, 2, 3], n_tokens=200)
    conf._set_values({'text': 'python_topics', 'd_model': 16, 'transformer.n_heads': 2, 'transformer.n_layers': 1,
                      'n_prompts': 0, 'n_tokens': 200, 'mlm': mlm})
    x = torch.randint(5, 100, (32, 4))
    conf.model.train()
    output = conf.engine.forward(*mlm(x), None, None)
    assert output.n_masked == x.numel()


@pytest.mark.long
def test_compiled_with_another_share_masked():
    """Nothing is left out if more is masked than when it was compiled."""
    torch._dynamo.reset()
    mlm, model = masking(0.1), make()
    x = torch.randint(5, N_TOKENS, (12, 6), generator=torch.Generator().manual_seed(1))
    runner = Engine(model, shape=(12, 6), precision=torch.float32, is_compiled=True, gradient_accumulation_steps=1,
                    n_positions=mlm.n_positions)
    for mlm.masking_prob in (0.1, 0.8):
        masked, labels = mlm(x)
        assert runner.forward(masked, labels, None, None).n_masked == (labels != PAD).sum()


@pytest.mark.long
def test_a_share_that_falls_is_compiled_once(build, tracked):
    if not shutil.which('g++'):
        pytest.skip('there is no compiler here')
    losses = []
    for compile_ in (False, True):
        torch._dynamo.reset()
        tracked.clear()
        conf = build(compile=compile_, masking_schedule='linear', masking_prob_start=0.5, epochs=1)
        with torch._dynamo.config.patch(error_on_recompile=True):
            conf.run()
        losses.append(tracked['loss.'])
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    assert losses[0][-1] < losses[0][0]


def test_runs_in_parts(project):
    runs = []
    for gradient_accumulation_steps in (1, 4):
        arguments = [f'gradient_accumulation_steps={gradient_accumulation_steps}', 'n_prompts=0']
        assert project.train(*arguments, env={'RUN_UUID': f'parts{gradient_accumulation_steps}'}).returncode == 0
        runs.append(values_of(project.path / f'logs/test/parts{gradient_accumulation_steps}/log.jsonl'))
    whole, parts = runs
    for name in ('loss.train', 'loss.valid', 'accuracy.train', 'lr'):
        assert [step for step, _ in whole[name]] == [step for step, _ in parts[name]]
        assert [value for _, value in whole[name]] == pytest.approx([value for _, value in parts[name]], abs=2e-4)
    result = project.train('gradient_accumulation_steps=3')
    assert result.returncode == 2
    assert 'batch_size=16 cannot be cut into gradient_accumulation_steps=3 equal parts' in result.stderr
