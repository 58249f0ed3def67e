"""Several ranks do what one does."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.project import SMALL, TRAIN, Project, values_of

# 62 steps of 8 × 16 tokens, with a last batch of fewer windows, and two validations
RUN = [*SMALL, 'batch_size=8', 'inner_iterations=2', 'checkpoint_interval=20', 'n_prompts=1', 'transformer.n_layers=2']
# Differences of losses, in nats; the sums are the same, but for their order
EXACT = 2e-6


def long(*arguments):
    return pytest.param(*arguments, marks=pytest.mark.long)


def metrics(project: Project, name: str) -> dict[str, list[tuple[int, float]]]:
    values = values_of(project.path / f'logs/test/{name}/log.jsonl')
    del values['tokens_per_second']
    return values


def assert_alike(one: dict, other: dict, tolerance: float):
    """The same metrics at the same steps."""
    assert one.keys() == other.keys()
    assert len(one['loss.train']) > 50 and len(one['loss.valid']) == 2
    for name in one:
        assert [step for step, _ in one[name]] == [step for step, _ in other[name]], name
        assert max(abs(a - b) for (_, a), (_, b) in zip(one[name], other[name], strict=True)) <= tolerance, name


def succeed(job):
    """All ranks have ended well, and one has told of it."""
    main, *others = job.wait(200)
    assert main.returncode == 0, [(result.returncode, result.stderr) for result in (main, *others)]
    for other in others:
        assert (other.returncode, other.stdout, other.stderr) == (0, '', '')
    return main


@pytest.mark.parametrize('ways, options', [
    ([(1, ['gradient_accumulation_steps=2']), (2, []), (2, ['parallel=fsdp', 'gradient_accumulation_steps=2'])], []),
    long([(2, []), (2, ['parallel=fsdp'])], ['optimizer=muon', 'masking_schedule=linear', 'masking=span']),
    long([(2, ['gradient_accumulation_steps=2']), (4, ['parallel=fsdp'])],
         ['packing=documents', 'text_unit=paragraph', 'seq_len_schedule=8:0.5,16', 'masking=word']),
    long([(4, [])], ['optimizer.optimizer=Adam', 'transformer.encoder_attn=mha', 'lr_schedule=constant',
                     'seq_len_schedule=4:0.5,16', 'is_token_budget_constant=false', 'grad_norm_clip=none']),
])
def test_the_same_losses_whatever_the_number_of_ranks(project, ways, options):
    if 'text_unit=paragraph' in options:
        project.text.write_text(''.join(('the quick brown fox jumps over the lazy dog ' * 3)[:1 + i * 7 % 90] + '\n\n'
                                        for i in range(200)))
    run = [f'text_path={project.text}', *RUN, *options]
    assert project.run(*run, env={'RUN_UUID': 'alone'}).returncode == 0
    alone = metrics(project, 'alone')
    for n, more in ways:
        name = f'{n}{"".join(more)}'.replace('=', '')
        if n == 1:
            assert project.run(*run, *more, env={'RUN_UUID': name}).returncode == 0
        else:
            succeed(project.ranks(n, *run, *more, env={'RUN_UUID': name}))
        assert_alike(alone, metrics(project, name), EXACT)


@pytest.mark.parametrize('parallel', ['ddp', long('fsdp')])
def test_with_bf16(project, parallel):
    run = [f'text_path={project.text}', *RUN, 'gradient_accumulation_steps=2']
    for name, precision in (('alone', 'bf16'), ('exact', 'fp32')):
        assert project.run(*run, f'precision={precision}', env={'RUN_UUID': name}).returncode == 0
    succeed(project.ranks(2, *run, 'precision=bf16', f'parallel={parallel}', env={'RUN_UUID': 'two'}))
    alone, exact, two = (metrics(project, name) for name in ('alone', 'exact', 'two'))
    # Of the first step products are the same, and only their sums differ; later ones have weights that are rounded
    [first, of_exact, of_two] = (of_run['loss.train'][0][1] for of_run in (alone, exact, two))
    assert abs(of_two - first) <= EXACT < abs(of_two - of_exact)
    assert_alike(alone, two, 1e-2)


LOADERS = '''
import torch
from torch.utils.data import DataLoader
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    is_padded: bool = True

    def padded(self, part, **how):
        windows = self.packing(part)
        # In the last column there is padding only
        columns = [windows.batch(torch.tensor([i]).numpy())[:, 0] for i in range(len(windows))]
        columns[-1] = torch.zeros_like(columns[-1])
        return DataLoader(columns, collate_fn=lambda columns: torch.stack(columns, 1), **how)


conf = Configs()
conf.set_default(Configs.train_loader, func=lambda: conf.padded('train', batch_size=7, shuffle=True))
conf.set_default(Configs.valid_loader, func=lambda: conf.padded('valid', batch_size=5))
train(conf, name='test')
'''


def test_loaders_of_ones_own(project):
    """They know nothing of ranks, and give the whole batch to all."""
    project.script.write_text(LOADERS)
    run = [f'text_path={project.text}', *RUN]
    result = project.run(*run, env={'RUN_UUID': 'alone'})
    assert result.returncode == 0, result.stderr
    succeed(project.ranks(3, *run, 'batch_size=9', env={'RUN_UUID': 'three'}))
    assert_alike(metrics(project, 'alone'), metrics(project, 'three'), EXACT)


def test_one_run_of_the_main_rank(project):
    main = succeed(project.ranks(2, f'text_path={project.text}', *RUN))
    [folder] = project.runs
    # The folder is the uuid, without a rank; and that of the run that labml shows
    assert str(folder) in main.stdout and '.' not in folder.name
    assert 'Validation loss' in main.stdout
    assert (folder / 'run.pid').exists() and 'distributed_world_size: 0' in (folder / 'run.yaml').read_text()
    assert json.loads((folder / 'configs.json').read_bytes())['versions']['ranks'] == 2
    assert project.status() == 'completed'
    assert len(list(project.path.glob('data/tokens/*.tokens'))) == 1
    # Nothing is left in memory or on the disk
    assert all(path.name.isdecimal() for path in (folder / 'checkpoints').iterdir())


COUNTED = '''
import os
import time
from labml_mlm import MLMConfigs, train
from labml_mlm.tokenization.token_cache import TokenCache

write = TokenCache._write


def slow(self, *arguments):
    print('written by', os.environ['RANK'], flush=True)
    time.sleep(2)
    write(self, *arguments)


TokenCache._write = slow
train(MLMConfigs(), name='test')
'''


def test_tokens_are_made_by_the_main_rank(project):
    project.script.write_text(COUNTED)
    main = succeed(project.ranks(2, f'text_path={project.text}', *RUN))
    assert main.stdout.count('written by 0') == 1


def stopped(project, job, number=signal.SIGKILL, *, rank=0):
    """Sends a rank a signal after the first checkpoint, and waits for the ends of all."""
    job.until(lambda: any(project.path.glob('logs/test/stopped/checkpoints/[0-9]*')))
    os.kill(job.pids[rank], number)
    return job.wait()


@pytest.mark.long
def test_saved_on_two_and_resumed_on_any_number(project):
    run = [f'text_path={project.text}', *RUN, 'optimizer=muon', 'epochs=2']
    succeed(project.ranks(2, *run, env={'RUN_UUID': 'whole'}))
    for name, parallel in (('of_ddp', 'ddp'), ('of_fsdp', 'fsdp')):
        # After the first of two validations
        succeed(project.ranks(2, *run, f'parallel={parallel}', 'inner_iterations=1', 'epochs=1',
                              env={'RUN_UUID': name}))
    whole = project.path / 'logs/test/whole'
    first = min(int(path.name) for path in (whole / 'checkpoints').iterdir())
    for n, options in ((1, []), (2, []), (4, []), (2, ['parallel=fsdp'])):
        copy = project.path / f'logs/test/copy{n}{len(options)}'
        os.system(f'cp -r {whole} {copy}')
        arguments = ['--resume', str(copy / f'checkpoints/{first}'), *options]
        if n == 1:
            assert project.run(*arguments).returncode == 0
        else:
            succeed(project.ranks(n, *arguments))
        one, other = metrics(project, 'whole'), metrics(project, copy.name)
        for name in one:
            differences = [abs(a - b) for (_, a), (_, b) in zip(one[name], other[name], strict=True)]
            # Bit for bit with the same ranks
            assert max(differences) <= (0 if (n, options) == (2, []) else EXACT), name
        assert other['loss.train'][-1][0] > first

    # Checkpoints do not depend on world size
    last = [CheckpointFolder(project.path / f'logs/test/{name}/checkpoints').last()[0] for name in ('of_ddp', 'of_fsdp')]
    for part in ('model', 'optimizer'):
        ddp, fsdp = (found.load_tensors(part) for found in last)
        assert {name: (t.shape, t.dtype) for name, t in ddp.items()} == {
            name: (t.shape, t.dtype) for name, t in fsdp.items()}
        assert max((ddp[name].float() - fsdp[name].float()).abs().max() for name in ddp) < 1e-4


@pytest.mark.parametrize('parallel', ['ddp', long('fsdp')])
def test_random_numbers_of_each_rank_go_on(project, parallel):
    """Those of dropout, which are others at each rank."""
    run = [f'text_path={project.text}', *RUN, 'transformer.dropout=0.2', f'parallel={parallel}', 'epochs=2']
    succeed(project.ranks(2, *run, env={'RUN_UUID': 'whole'}))
    ended = stopped(project, project.ranks(2, *run, env={'RUN_UUID': 'stopped'}))
    assert ended[0].returncode == -signal.SIGKILL
    succeed(project.ranks(2, '--resume', 'stopped'))
    assert metrics(project, 'stopped') == metrics(project, 'whole')


@pytest.mark.parametrize('rank, parallel', [(0, 'ddp'), long(1, 'ddp'), long(1, 'fsdp')])
def test_a_rank_that_is_killed(project, rank, parallel):
    run = [f'text_path={project.text}', *RUN, 'batch_size=9', 'epochs=1000', f'parallel={parallel}']
    job = project.ranks(3, *run, env={'RUN_UUID': 'stopped'})
    began = time.monotonic()
    ended = stopped(project, job, rank=rank)
    assert time.monotonic() - began < 60
    codes = [result.returncode for result in ended]
    assert codes == [-signal.SIGKILL if i == rank else 1 for i in range(3)]
    # One message
    [message] = ''.join(result.stderr for result in ended).splitlines()
    assert 'Another rank is gone, or does not answer, and this one ends, too' in message
    assert '--resume stopped' in message and 'The last checkpoint is at' in message
    # The main rank may be killed while it saves
    assert rank == 0 or not list(project.path.glob('logs/test/stopped/checkpoints/.*'))


@pytest.mark.parametrize('rank, parallel', [(0, 'ddp'), long(1, 'fsdp')])
def test_a_signal_at_one_rank_stops_all_at_the_same_step(project, rank, parallel):
    run = [f'text_path={project.text}', *RUN, f'parallel={parallel}', 'checkpoint_interval=1000', 'epochs=2']
    succeed(project.ranks(2, *run, env={'RUN_UUID': 'whole'}))
    # After the first validation
    main, other = stopped(project, project.ranks(2, *run, env={'RUN_UUID': 'stopped'}), signal.SIGTERM, rank=rank)
    assert [main.returncode, other.returncode] == [143, 143]
    assert (other.stdout, other.stderr) == ('', '')
    [message] = main.stderr.splitlines()
    assert message.startswith('Interrupted after') and message.endswith('--resume stopped')
    succeed(project.ranks(2, '--resume', 'stopped'))
    assert metrics(project, 'stopped') == metrics(project, 'whole')


IN_VALIDATION = '''
import itertools
import os
import signal
from labml_mlm import MLMConfigs, train

batches = itertools.count(1)


class Configs(MLMConfigs):
    def step(self, batch, batch_idx):
        super().step(batch, batch_idx)
        if not self.mode.is_train and next(batches) == 2 and 'STOP_RANK' in os.environ:
            if os.environ['STOP_RANK'] == os.environ['RANK']:
                os.kill(os.getpid(), signal.SIGTERM)


train(Configs(), name='test')
'''


@pytest.mark.parametrize('parallel', ['ddp', long('fsdp')])
def test_a_signal_in_the_middle_of_a_validation(project, parallel):
    project.script.write_text(IN_VALIDATION)
    run = [f'text_path={project.text}', *RUN, f'parallel={parallel}', 'valid_fraction=0.5', 'transformer.dropout=0.1']
    succeed(project.ranks(2, *run, env={'RUN_UUID': 'whole'}))
    job = project.ranks(2, *run, env={'RUN_UUID': 'stopped', 'STOP_RANK': '1'})
    main, other = job.wait()
    assert [main.returncode, other.returncode] == [143, 143]
    assert main.stderr.startswith('Interrupted after') and (other.stdout, other.stderr) == ('', '')
    # It has left nothing of the validation, which comes anew
    assert 'loss.valid' not in metrics(project, 'stopped')
    succeed(project.ranks(2, '--resume', 'stopped'))
    assert metrics(project, 'stopped') == metrics(project, 'whole')


def fail(job, *, seconds: float = 60.) -> str:
    """All ranks have ended badly; the only message."""
    began = time.monotonic()
    main, *others = job.wait(seconds)
    assert time.monotonic() - began < seconds
    assert main.returncode == 2 and all(other.returncode == 2 for other in others)
    assert all((other.stdout, other.stderr) == ('', '') for other in others)
    [message] = main.stderr.splitlines()
    return message


@pytest.mark.parametrize('arguments, message', [
    (['batch_size=7'], 'batch_size=7 is that of all 2 ranks together: it must be a multiple of 2'),
    (['batch_size=8', 'gradient_accumulation_steps=3'],
     'batch_size=8 cannot be split into gradient_accumulation_steps=3 equal micro-batches on each of 2 ranks'),
    (['batch_sise=8'], '`batch_sise`: there is no such item. Did you mean `batch_size`?'),
    (['text_path=nothing.txt'], 'nothing.txt cannot be read: No such file or directory'),
    (['parallel=ddq'], 'parallel=ddq'),
    (['parallel=fsdp', 'compile=true'], 'compile=true does not go with parallel=fsdp'),
    (['--resume', 'nothing'], 'nothing'),
])
def test_what_is_wrong_at_all_ranks(project, arguments, message):
    assert message in fail(project.ranks(2, f'text_path={project.text}', *RUN, *arguments))
    assert project.runs == []


def test_ranks_that_are_started_with_other_overrides(project):
    arguments = [f'text_path={project.text}', *RUN]
    message = fail(project.ranks(3, *arguments, of_rank={2: ['optimizer.learning_rate=1e-3']}))
    assert message == ('rank 2 of 3 was started with optimizer.learning_rate=0.001, and the main rank with '
                       'optimizer.learning_rate=0.002: all have to be started alike')
    assert 'rank 1 of 2 was started with --resume=x, and the main rank with --resume=None' in fail(
        project.ranks(2, *arguments, of_rank={1: ['--resume', 'x']}))
    assert project.runs == []


def test_a_rank_without_the_file(project):
    """Each has a home of its own, and the text of rank 1 is missing there, or is another one."""
    project.script.write_text("import os\n\nos.environ['HOME'] += '/' + os.environ['RANK']\n" + TRAIN)
    homes = [project.path / str(rank) for rank in range(2)]
    for home in homes:
        home.mkdir()
    (homes[0] / 'text.txt').write_text(project.text.read_text())
    run = ['text_path=~/text.txt', *RUN]
    assert re.fullmatch(r'rank 1 of 2: .*/1/text.txt cannot be read: No such .*', fail(project.ranks(2, *run)))
    (homes[1] / 'text.txt').write_text(project.text.read_text() + 'more')
    characters = len(project.text.read_text())
    assert fail(project.ranks(2, *run)) == (f'rank 1 of 2 was started with characters={characters + 4}, and the main '
                                            f'rank with characters={characters}: all have to be started alike')
    assert project.runs == []


def test_a_rank_that_does_not_come(project):
    project.script.write_text('from labml_mlm import MLMConfigs, train\n'
                              'from labml_mlm.distributed import rendezvous\n\nrendezvous.JOIN_TIMEOUT = 2\n'
                              'train(MLMConfigs(), name="test")\n')
    result = project.run(*RUN, env={'RANK': '0', 'WORLD_SIZE': '2', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '29871'})
    assert (result.returncode, result.stderr) == (2, 'of 2 ranks, 1 did not come within 2 s: 1\n')
    result = project.run(*RUN, env={'RANK': '1', 'WORLD_SIZE': '2', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '29871'})
    assert result.returncode == 2
    assert 'rank 1 of 2 finds nobody at MASTER_ADDR=localhost MASTER_PORT=29871' in result.stderr


def test_ranks_of_which_one_does_not_come(project):
    """The main one tells of it, and the other that is there ends, too."""
    project.script.write_text('import os\nfrom labml_mlm import MLMConfigs, train\n'
                              'from labml_mlm.distributed import rendezvous\n\n'
                              'rendezvous.JOIN_TIMEOUT = 2 if os.environ["RANK"] == "0" else 20\n'
                              'if os.environ["RANK"] != "2":\n    train(MLMConfigs(), name="test")\n')
    main, other, _ = project.ranks(3, *RUN).wait()
    assert (main.returncode, main.stderr) == (2, 'of 3 ranks, 1 did not come within 2 s: 2\n')
    assert (other.returncode, other.stdout, other.stderr) == (2, '', '')


OWN = '''
import sys
from labml.configs import option
from labml_mlm import MLM, MLMConfigs, train


class Own(MLM):
    def __call__(self, x):
        return super().__call__(x)


class Configs(MLMConfigs):
    folder: str


@option(Configs.mlm, 'own')
def own_mlm(c: Configs):
    return Own(padding_token=0, mask_token=4, no_mask_tokens=[], n_tokens=c.n_tokens)


@option(Configs.model, 'own')
def own_model(c: Configs):
    return c.transformer.transformer_mlm.to(c.device)


@option(Configs.text, 'own')
def own_text(c: Configs):
    return open(c.folder + '/text.txt').read()


train(Configs(), name='test')
'''


def test_parts_of_ones_own_that_know_of_no_ranks(project):
    project.script.write_text(OWN)
    run = [f'text_path={project.text}', *RUN]
    assert project.run(*run, 'mlm=own', 'model=own').returncode == 0
    message = fail(project.ranks(2, *run, 'mlm=own'))
    assert '`mlm` is called with `(x, columns)`' in message and 'this one takes `x` alone' in message
    assert 'parallel=fsdp: a `model` of your own' in fail(project.ranks(2, *run, 'model=own', 'parallel=fsdp'))
    # What labml says of an item without value is told in other words
    assert fail(project.ranks(2, *RUN, 'text=own')) == '`folder` has no value: give folder=VALUE'


FULL = '''
import os
from labml_mlm import MLMConfigs, train
from labml_mlm.distributed import parallel
from labml_mlm.training import serialization

gathered, whole = [], parallel.whole


def failing(tensor):
    gathered.append(tensor)
    if len(gathered) > 30 and os.environ['RANK'] == '0':
        raise MemoryError('no memory')
    return whole(tensor)


serialization.whole = failing
train(MLMConfigs(), name='test')
'''


@pytest.mark.long
def test_no_memory_for_a_save_of_slices(project):
    """It ends all of them, as the others wait in the middle of it."""
    project.script.write_text(FULL)
    process = torchrun(project, '--nproc_per_node=2', project.script.name, f'text_path={project.text}', *RUN,
                       'parallel=fsdp')
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count('MemoryError: no memory\n') == 1 and 'Another rank is gone' not in err


UNREADABLE = '''
from labml_mlm import MLMConfigs, train
from labml_mlm.runs.checkpoint import Checkpoint


def tensors(self, name):
    raise OSError(28, 'No space left on device', str(self.path))


Checkpoint.tensors = tensors
train(MLMConfigs(), name='test')
'''


def test_a_checkpoint_that_the_main_rank_cannot_read(project):
    run = [f'text_path={project.text}', *RUN]
    succeed(project.ranks(2, *run, env={'RUN_UUID': 'whole'}))
    project.script.write_text(UNREADABLE)
    main, other = project.ranks(2, '--resume', 'whole', 'epochs=2').wait()
    assert (main.returncode, other.returncode) == (1, 2)
    assert main.stderr.startswith('No space left on device') and other.stderr == ''


BROKEN = '''
import os
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    def step(self, batch, batch_idx):
        super().step(batch, batch_idx)
        if batch_idx.idx == 3 and os.environ['RANK'] == '1':
            raise KeyError('mine')


train(Configs(), name='test')
'''


def test_an_error_in_code_of_ones_own_at_one_rank(project):
    """Its traceback is told, once, and the others end."""
    project.script.write_text(BROKEN)
    main, other = project.ranks(2, f'text_path={project.text}', *RUN).wait()
    assert (main.returncode, main.stderr) == (1, '')
    assert other.returncode == 1 and other.stderr.count('Traceback') == 1 and other.stderr.endswith("'mine'\n")
    assert project.status() == 'crashed'


def torchrun(project, *arguments: str, command=(sys.executable, '-m', 'torch.distributed.run'), **env):
    """torchrun itself, as users start it, in a process group of its own."""
    return subprocess.Popen([*command, *arguments], cwd=project.path, env=project.environment(**env), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def workers(process) -> dict[int, int]:
    """Process ids of the ranks that torchrun has started, by rank."""
    found = {}
    for path in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            environment = dict(line.partition('=')[::2] for line in (path / 'environ').read_text().split('\0'))
            if (path / 'stat').read_text().rpartition(')')[2].split()[1] == str(process.pid):
                found[int(environment['RANK'])] = int(path.name)
    return found


@pytest.mark.long
def test_torchrun_starts_anew_and_training_goes_on(project):
    run = [f'text_path={project.text}', *RUN, 'epochs=5', 'transformer.dropout=0.1']
    succeed(project.ranks(2, *run, env={'RUN_UUID': 'whole'}))
    process = torchrun(project, '--nproc_per_node=2', '--max-restarts=3', project.script.name, *run)
    saved, killed = set(), []

    def new():
        return {path.name for path in project.path.glob('logs/test/[!w]*/checkpoints/[0-9]*')} - saved

    # Each of them once, when there is a checkpoint of this life of it
    while len(killed) < 2 and process.poll() is None:
        time.sleep(0.05)
        if new():
            killed.append(workers(process)[len(killed)])
            os.kill(killed[-1], signal.SIGKILL)
            time.sleep(1)
            saved |= new()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(killed) == 2 and out.count('Going on with') == 2
    assert err.count('Another rank is gone') == 2
    [name] = [path.name for path in project.runs if path.name != 'whole']
    assert metrics(project, name) == metrics(project, 'whole')


KILLED = '''
import os
import signal
from labml_mlm import MLMConfigs, train
from labml_mlm.runs import checkpoint

write = checkpoint.write


def killed(*arguments, **options):
    if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments, **options)


checkpoint.write = killed
train(MLMConfigs(), name='test')
'''


@pytest.mark.long
def test_torchrun_starts_anew_what_has_no_checkpoint_yet(project):
    """The main rank is killed while the first one is written, and the metrics of a validation are there already."""
    run = [f'text_path={project.text}', *RUN, 'checkpoint_interval=none']
    succeed(project.ranks(2, *run, env={'RUN_UUID': 'whole'}))
    project.script.write_text(KILLED)
    process = torchrun(project, '--nproc_per_node=2', '--max-restarts=1', project.script.name, *run, RUN_UUID='stopped')
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert 'Going on with stopped from the beginning' in out
    assert metrics(project, 'stopped') == metrics(project, 'whole')


@pytest.mark.long
def test_what_is_wrong_is_told_before_torchrun_ends_all(project):
    process = torchrun(project, '--nproc_per_node=3', project.script.name, f'text_path={project.text}', *RUN)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count('batch_size=8 is that of all 3 ranks together') == 1


def two_machines(project, *arguments):
    """
    Two of them as far as torchrun knows, at the first checkpoint: their processes, and those of the second one's ranks.
    The first one has the store where they meet.
    """
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    machines = [torchrun(project, '--nproc_per_node=1', '--rdzv_backend=c10d', '--max-restarts=3',
                         f'--rdzv_endpoint={address}', f'--rdzv_conf=is_host={is_host}', '--rdzv_id=job', *arguments)
                for is_host in (1, 0)]
    while not any(project.path.glob('logs/test/[!w]*/checkpoints/[0-9]*')):
        time.sleep(0.05)
        assert all(machine.poll() is None for machine in machines)
    return machines, workers(machines[1]).values()


@pytest.mark.long
def test_two_machines(project):
    """One of them loses its rank."""
    run = [f'text_path={project.text}', *RUN, 'epochs=3', 'checkpoint_interval=10']
    succeed(project.ranks(2, *run, env={'RUN_UUID': 'whole'}))
    machines, [pid] = two_machines(project, '--nnodes=2', project.script.name, *run)
    os.kill(pid, signal.SIGKILL)
    ends = [machine.communicate(timeout=120) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ends
    assert ''.join(out for out, _ in ends).count('Going on with') == 1
    [name] = [path.name for path in project.runs if path.name != 'whole']
    assert metrics(project, name) == metrics(project, 'whole')


@pytest.mark.long
def test_a_machine_that_goes(project):
    """The other one goes on alone, when torchrun has waited half a minute for more."""
    run = [f'text_path={project.text}', *RUN, 'epochs=3', 'checkpoint_interval=10']
    assert project.run(*run, env={'RUN_UUID': 'whole'}).returncode == 0
    [left, gone], pids = two_machines(project, '--nnodes=1:2', project.script.name, *run)
    for pid in (gone.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    gone.communicate()
    out, err = left.communicate(timeout=120)
    assert left.returncode == 0, err
    assert out.count('Going on with') == 1 and 'ranks 2 → 1' in out
    [name] = [path.name for path in project.runs if path.name != 'whole']
    one, other = metrics(project, 'whole'), metrics(project, name)
    for name in one:
        assert max(abs(a - b) for (_, a), (_, b) in zip(one[name], other[name], strict=True)) <= EXACT, name


@pytest.mark.long
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_stopped(project, number):
    """By SIGTERM to torchrun, or by Ctrl-C, which the ranks get from the terminal and from torchrun."""
    run = [f'text_path={project.text}', *RUN, 'epochs=1000', 'checkpoint_interval=20']
    process = torchrun(project, '--nproc_per_node=2', project.script.name, *run, RUN_UUID='stopped')
    folder = project.path / 'logs/test/stopped/checkpoints'
    while not any(folder.glob('[0-9]*')):
        time.sleep(0.05)
        assert process.poll() is None
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    [message] = [line for line in err.splitlines() if line.startswith('Interrupted after')]
    tokens = int(re.search('after ([0-9,]+) tokens', message)[1].replace(',', ''))
    assert max(int(path.name) for path in folder.iterdir()) == tokens
    assert project.status() == 'interrupted'


@pytest.mark.long
def test_labml_launch(project):
    """labml's wrapper passes no options on to torchrun, which takes them from the environment, too."""
    process = torchrun(project, 'launch', project.script.name, f'text_path={project.text}', *RUN,
                       command=[str(Path(sys.executable).with_name('labml'))], PET_NPROC_PER_NODE='2')
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    [folder] = project.runs
    assert json.loads((folder / 'configs.json').read_bytes())['versions']['ranks'] == 2
    assert out.count('Validation loss') == 1


@pytest.mark.long
def test_compiled_replicas(project):
    run = [f'text_path={project.text}', *RUN]
    assert project.run(*run, env={'RUN_UUID': 'alone'}).returncode == 0
    main, other = project.ranks(2, *run, 'compile=true', env={'RUN_UUID': 'two'}).wait(300)
    assert (main.returncode, main.stderr) == (0, '')
    assert (other.returncode, other.stdout, other.stderr) == (0, '', '')
    assert_alike(metrics(project, 'alone'), metrics(project, 'two'), EXACT)
