"""Steps whose loss or gradient is not finite."""
import math

import pytest
import torch
from labml.internal.tracker import tracker_singleton
from labml_nn.optimizers.adam import Adam
from support.project import SMALL, assert_clean_failure, values_of

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import DivergedError
from labml_mlm.optim.muon import MuonAdamW
from labml_mlm.runs.run import Run
from labml_mlm.training import skipped_steps
from labml_mlm.training.skipped_steps import SkippedSteps, are_finite, gradient_norm

# NaN, or what it says, in one number of the loss or gradient of chosen steps
DAMAGED = '''
import os
import signal

from labml_mlm import MLMConfigs, train

AT, VALUE = {at}, float('{value}')

class Configs(MLMConfigs):
    def update(self):
        if self.progress.steps in AT:
            self.model.generator.projection.bias.grad[0] = VALUE
        if str(self.progress.steps) == os.environ.get('STOP'):
            os.kill(os.getpid(), signal.SIGTERM)
        super().update()

train(Configs(), name='test')
'''

# The loss alone, at one of the ranks; the gradient is that of the loss before
DAMAGED_LOSS = '''
import os
import signal

from labml_mlm import MLMConfigs, train
from labml_mlm.distributed import ranks

AT, VALUE = {at}, float('{value}')

class Configs(MLMConfigs):
    def init(self):
        super().init()
        forward = self.model.forward

        def damaged(*args, **kwargs):
            output = forward(*args, **kwargs)
            if self.progress.steps in AT and self.model.training and ranks().rank == ranks().size - 1:
                return output._replace(loss_sum=output.loss_sum + VALUE)
            return output

        self.model.forward = damaged

    def update(self):
        assert all(p.grad.isfinite().all() for p in self.model.parameters())
        if str(self.progress.steps) == os.environ.get('STOP'):
            os.kill(os.getpid(), signal.SIGTERM)
        super().update()

train(Configs(), name='test')
'''


def damage(project, at, value='nan', what='gradient'):
    script = {'gradient': DAMAGED, 'loss': DAMAGED_LOSS}[what]
    project.script.write_text(script.format(at=at, value=value))


def optimizers(weights, vector):
    adamw = torch.optim.AdamW([vector], lr=0.1, fused=True)
    return {'adamw': lambda: torch.optim.AdamW([*weights, vector], lr=0.1, fused=True),
            'muon': lambda: MuonAdamW(weights, adamw, lr=0.1, weight_decay=0.1, momentum=0.9),
            'sgd': lambda: torch.optim.SGD([*weights, vector], lr=0.1, momentum=0.9),
            'labml': lambda: Adam([*weights, vector], lr=0.1)}


@pytest.fixture(autouse=True)
def no_writers():
    tracker_singleton().reset_writers()


@pytest.mark.parametrize('on_device', [False, True])
@pytest.mark.parametrize('name', ['adamw', 'muon', 'sgd', 'labml'])
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_nothing_changes_in_a_step_that_is_skipped(name, on_device, value, monkeypatch):
    """What follows is as if it had not been; where the device leaves it out, too."""
    results = []
    for is_damaged in (False, True):
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(size, generator=generator).requires_grad_() for size in ((4, 6), (4, 6), (3, 3))]
        parameters = [*weights, torch.randn(5, generator=generator).requires_grad_()]
        optimizer, skipped = optimizers(weights, parameters[-1])[name](), SkippedSteps()
        for i in range(6):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            if i in (0, 3):
                if not is_damaged:
                    continue
                parameters[1].grad[0, 0] = value
            # Only the decision is simulated
            monkeypatch.setattr(skipped_steps, '_is_on_gpu', lambda tensor: on_device)
            skipped.take(optimizer, gradient_norm(parameters, clip=1.), step=i)
            skipped.check(1)
        assert (skipped.total, skipped.in_a_row) == (2 if is_damaged else 0, 0)
        results.append([p.detach() for p in parameters])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize('name, on_device', [('adamw', True), ('muon', True), ('sgd', False), ('labml', False)])
def test_which_optimizers_are_left_to_the_device(name, on_device):
    weights, vector = [torch.randn(4, 6, requires_grad=True)], torch.randn(5, requires_grad=True)
    assert bool(skipped_steps._that_skip(optimizers(weights, vector)[name]())) == on_device


@pytest.mark.parametrize('clip', [None, 0.5])
def test_the_norm_is_that_of_all_gradients(clip):
    parameters = [torch.zeros(3, requires_grad=True), torch.zeros(2, 2, requires_grad=True), torch.zeros(1)]
    for p in parameters[:2]:
        p.grad = torch.full_like(p, 2.)
    assert gradient_norm(parameters, clip=clip).item() == pytest.approx(2 * 7 ** 0.5)
    assert parameters[0].grad[0].item() == pytest.approx(2. if clip is None else clip / 7 ** 0.5, rel=1e-5)


def skip(skipped, *are_finite, max_in_a_row=2):
    """Steps with and without a finite gradient."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for i, is_finite in enumerate(are_finite):
        parameter.grad = torch.ones(1)
        skipped.take(optimizer, torch.tensor(1. if is_finite else math.nan), step=i)
        skipped.check(max_in_a_row)


def test_too_many_in_a_row_end_the_run():
    skipped = SkippedSteps()
    skip(skipped, False, False, True, False, False, True)
    assert (skipped.total, skipped.in_a_row) == (4, 0)
    with pytest.raises(DivergedError, match='Stopped after step 4: the loss or gradient of 3 steps in a row was not'):
        skip(skipped, True, False, False, False)
    with pytest.raises(DivergedError, match='Stopped after step 2: the loss or gradient of a step was not finite'):
        skip(SkippedSteps(), True, False, max_in_a_row=0)


def test_on_a_gpu_all_ranks_stop_at_the_same_step(monkeypatch):
    """Whenever the copies arrive, it is that many steps late."""
    class Arrival:
        def query(self):
            return True

        def synchronize(self):
            pass

    monkeypatch.setattr(skipped_steps, 'late_copy', lambda values: (values, Arrival()))
    skipped = SkippedSteps()
    skip(skipped, False, False)
    assert skipped.total == 0
    skip(skipped, False)
    assert skipped.total == 1
    with pytest.raises(DivergedError):
        skip(skipped, False, False)
    skipped.finish()
    assert skipped.total == 5


def test_finite_numbers_whose_sum_is_not():
    assert are_finite({'large': torch.full((9,), 3e38), 'integers': torch.ones(2, dtype=torch.long)})
    for value in (math.nan, math.inf, -math.inf):
        assert not are_finite({'fine': torch.ones(2), 'damaged': torch.tensor([1., value])})
    assert not are_finite({'both': torch.tensor([math.inf, -math.inf])})


@pytest.mark.parametrize('on_device', [False, True])
@pytest.mark.parametrize('loss', [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_enough(loss, on_device, monkeypatch):
    weight = torch.ones(3, requires_grad=True)
    optimizer, skipped = torch.optim.AdamW([weight], lr=0.1, fused=True), SkippedSteps()
    monkeypatch.setattr(skipped_steps, '_is_on_gpu', lambda tensor: on_device)
    for i, value in enumerate([loss, 2.]):
        assert torch.equal(weight, torch.ones(3))
        weight.grad = torch.ones(3)
        skipped.take(optimizer, gradient_norm([weight], clip=1.), step=i, loss=torch.tensor(value))
        skipped.check(1)
    assert (skipped.total, skipped.in_a_row) == (1, 0)
    assert (weight < 1).all()


@pytest.mark.parametrize('what', ['gradient', 'loss'])
def test_a_run_goes_on(project, what):
    damage(project, at=(3, 4, 9), what=what)
    result = project.run(*SMALL, f'text_path={project.text}', 'transformer.dropout=0.1')
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('is skipped') == 1
    assert 'Step 4 is skipped: its loss or gradient is not finite' in result.stdout
    [folder] = project.runs
    values = values_of(folder / 'log.jsonl')
    assert [value for _, value in values['skipped_steps']] == [1, 2, 3]
    steps = [step for step, _ in values['loss.train']]
    assert [step for step, _ in values['skipped_steps']] == [steps[3], steps[4], steps[9]]
    assert len(values['lr']) == len(steps)


@pytest.mark.parametrize('stop, what', [(4, 'gradient'), (7, 'gradient'), (10, 'gradient'), (4, 'loss')])
def test_it_resumes_with_the_same_losses(project, stop, what):
    """Stopped in a row of such steps, after one, and after all."""
    damage(project, at=(3, 4, 6, 9), what=what)
    arguments = *SMALL, f'text_path={project.text}', 'transformer.dropout=0.1', 'max_skipped_steps=2'
    assert project.run(*arguments, env={'RUN_UUID': 'whole'}).returncode == 0
    assert project.run(*arguments, env={'RUN_UUID': 'parts', 'STOP': str(stop)}).returncode == 143
    saved = Run(project.path / 'logs/test/parts').checkpoints.last()[0].metadata['skipped_steps']
    assert saved == {'total': {4: 2, 7: 3, 10: 4}[stop], 'in_a_row': {4: 2, 7: 0, 10: 0}[stop]}
    assert project.run('--resume', 'parts').returncode == 0
    whole, parts = (values_of(project.path / f'logs/test/{name}/log.jsonl') for name in ('whole', 'parts'))
    assert [value for _, value in whole['skipped_steps']] == [1, 2, 3, 4]
    for metric in ('loss.train', 'loss.valid', 'skipped_steps', 'lr'):
        assert whole[metric] == parts[metric], metric


@pytest.mark.parametrize('value, what', [('nan', 'gradient'), ('-inf', 'gradient'), ('inf', 'loss')])
def test_a_run_that_diverges_is_crashed(project, value, what):
    damage(project, at=range(6, 10 ** 9), value=value, what=what)
    result = project.run(*SMALL, f'text_path={project.text}', 'max_skipped_steps=3', 'checkpoint_interval=2')
    assert_clean_failure(result, 1, 'Stopped after step 10: the loss or gradient of 4 steps in a row was not finite, '
                                    'and max_skipped_steps=3. The last good checkpoint is at ')
    assert 'optimizer.learning_rate' in result.stderr and 'To resume: ' in result.stderr
    assert project.status() == 'crashed'
    [folder] = project.runs
    checkpoint = Run(folder).checkpoints.last()[0]
    # Steps are shorter here than writes, so it may be an earlier one
    assert checkpoint.metadata['progress']['steps'] <= 6
    assert are_finite(checkpoint.load_tensors('model'))


def test_weights_that_are_not_finite_are_not_saved(build, tracked, tmp_path):
    conf = build(epochs=1, n_prompts=0)
    conf.checkpointer.folder = tmp_path / 'checkpoints'
    conf.init()
    with torch.no_grad():
        conf.model.generator.projection.bias[0] = math.inf
    conf.checkpointer.save(conf)
    assert str(conf.checkpointer.error) == 'weights of the model are not finite'
    assert not conf.checkpointer.folder.exists() or not any(conf.checkpointer.folder.iterdir())


def test_configs_build_them_as_they_are():
    conf = MLMConfigs()
    assert (conf.skipped_steps.max_late, conf.max_skipped_steps) == (2, 20)


@pytest.mark.long
@pytest.mark.parametrize('parallel, what', [('ddp', 'gradient'), ('fsdp', 'gradient'), ('ddp', 'loss')])
def test_ranks_stop_together(project, parallel, what):
    damage(project, at=range(2, 10 ** 9), what=what)
    if parallel == 'fsdp':
        project.script.write_text(project.script.read_text().replace('grad[0] = VALUE', 'grad.mul_(VALUE)'))
    job = project.ranks(2, *SMALL, f'text_path={project.text}', 'max_skipped_steps=1', f'parallel={parallel}')
    main, other = job.wait()
    assert_clean_failure(main, 1, 'Stopped after step 4: the loss or gradient of 2 steps in a row was not finite')
    assert other.returncode != 0 and not other.stderr
