"""`labml-mlm sync`: an app gets what it lacks of a run, each value once."""
import os
import signal

import pytest
import yaml
from support.project import SMALL, values_of

# Batches of equal size, so the steps of curves are evenly spaced: upstream merges points that are closer than the first
EVEN = ['batch_size=15', 'n_prompts=0']
NO_APP = 'http://localhost:1/api/v1/default'


def test_sync_sends_one_run_or_all(app, project, sync, assert_has_all_of):
    """No app was running while they were trained."""
    assert project.train('epochs=2', *EVEN, env={'RUN_UUID': 'a' * 32}).returncode == 0
    assert project.train('epochs=1', *EVEN, env={'RUN_UUID': 'b' * 32}).returncode == 0
    project.configure(app.app_url)
    first, second = sorted(project.runs)
    n = sum(map(len, values_of(first / 'log.jsonl').values()))
    assert sync('aaaa') == (0, f'{first.name}  test  {n} values sent\n', '')
    assert_has_all_of(app, first)
    code, out, _ = sync('--all')
    assert code == 0
    assert f'{first.name}  test  nothing new\n' in out
    assert f'{second.name}  test  ' in out
    for folder in (first, second):
        assert_has_all_of(app, folder)
        data = app.ask(f'run/{folder.name}')
        assert {config['key']: config['computed'] for config in data['configs']}['seq_len'] == 16
        assert app.ask(f'run/status/{folder.name}')['run_status']['status'] == 'completed'
    # The time of training, not of the upload
    assert app.ask(f'run/{first.name}')['start_time'] == pytest.approx(first.stat().st_ctime, abs=3600)
    assert sync('--all', 'aaaa') == (2, '', '--all sends all runs: leave out the run\n')
    code, _, err = sync('--url', NO_APP)
    assert code == 1
    assert 'has not taken the run' in err and 'Connection refused' in err


def test_sync_skips_damaged_lines(app, project, sync, assert_has_all_of):
    """An incomplete line, as after a kill, and others that are not metrics."""
    assert project.train('epochs=2', *EVEN, env={'RUN_UUID': 'd' * 32}).returncode == 0
    project.configure(app.app_url)
    [run] = project.runs
    whole = (run / 'log.jsonl').read_bytes()
    (run / 'log.jsonl').write_bytes(b'5\n{"track": {"loss.train": [5]}}\n' + whole + b'{"track": {"loss.train": [[9')
    code, out, err = sync()
    assert code == 1 and 'values sent' in out, err
    assert err == (f'the run {run.name} is damaged, and the rest of it is sent: 2 damaged lines skipped in '
                   f'{run / "log.jsonl"}\n')
    (run / 'log.jsonl').write_bytes(whole)
    assert_has_all_of(app, run)


def test_sync_continues_after_a_refused_run(app, project, sync):
    # Deleted, so there is something to send
    project.configure(app.app_url)
    assert project.train(env={'RUN_UUID': 'e' * 32}).returncode == 0
    app.ask('runs', {'run_uuids': ['e' * 32]}, method='PUT')
    # Trained without the app, whose refusals would only delay its end
    project.configure(NO_APP)
    assert project.train(env={'RUN_UUID': 'short'}).returncode == 0
    project.configure(app.app_url)
    code, out, err = sync('--all')
    assert code == 1
    assert 'has not taken the run short: it refuses: Invalid Run UUID' in err
    assert f'{"e" * 32}  test  ' in out and 'values sent' in out


def test_sync_of_a_rank(app, project, sync):
    """labml appends the rank to the name of the folder."""
    assert project.train(*EVEN, env={'RUN_UUID': 'f' * 32}).returncode == 0
    project.configure(app.app_url)
    folder = project.runs[0].rename(project.runs[0].with_name(f'{"f" * 32}.1'))
    info = (folder / 'run.yaml').read_text()
    (folder / 'run.yaml').write_text(info.replace('distributed_rank: 0', 'distributed_rank: 1').replace(
        'distributed_world_size: 0', 'distributed_world_size: 2'))
    assert 'values sent' in sync()[1]
    assert 'nothing new' in sync()[1]
    assert app.points(f'{"f" * 32}_1', 'loss.train')


def test_sync_without_runs(app, project, sync):
    project.configure(app.app_url)
    (project.path / 'logs').mkdir()
    assert sync('--all') == (0, f'There is no run in {project.path}/logs yet\n', '')


def test_sync_of_a_run_that_was_killed_and_resumed(app, project, sync, assert_has_all_of):
    """Killed, sent, resumed from an earlier step, killed again, sent, and resumed again with the app running."""
    arguments = [f'text_path={project.text}', *SMALL, 'epochs=100000', *EVEN, 'checkpoint_interval=40']
    folder = project.path / 'logs/test' / ('c' * 32)

    def train_and_kill(*arguments):
        before = len(list(folder.glob('checkpoints/[0-9]*')))
        pid = project.fork(*arguments, env={'RUN_UUID': folder.name})
        project.until(lambda: len(list(folder.glob('checkpoints/[0-9]*'))) > min(before, 1))
        os.kill(pid, signal.SIGKILL)
        project.wait()

    train_and_kill(*arguments)
    project.configure(app.app_url)
    assert sync()[0] == 0
    assert app.ask(f'run/status/{folder.name}')['run_status']['status'] == 'crashed'
    train_and_kill('--resume', 'last')
    assert sync()[0] == 0
    steps = [step for step, _ in values_of(folder / 'log.jsonl')['loss.train']]
    assert len(steps) == len(set(steps))
    pid = project.fork('--resume', 'last')
    project.until(lambda: app.ask(f'run/status/{folder.name}')['run_status']['status'] == 'in progress')
    os.kill(pid, signal.SIGTERM)
    assert project.wait().returncode == 143
    assert app.ask(f'run/status/{folder.name}')['run_status']['status'] == 'interrupted'
    local = values_of(folder / 'log.jsonl')
    # Upstream merges the points of longer curves
    if len(local['loss.train']) <= 1024:
        assert_has_all_of(app, folder)
    assert app.points(folder.name, 'loss.train')
    assert sync()[1].endswith('nothing new\n')


def test_app_that_loses_everything_is_given_up(fake_app, project, sync):
    """Each time it says that it does not know the run."""
    project.configure(NO_APP)
    project.train('epochs=1', 'n_prompts=0')
    fake_app.answer = b'{"errors": [], "is_new": true, "received": {}}'
    code, _, error = sync('--url', fake_app.url)
    assert (code, error.count('\n')) == (1, 1)
    assert 'it does not keep the run' in error
    # Each introduction is followed by a loss
    assert len(fake_app.paths) == 6


def test_configs_of_an_earlier_version_are_sent_without_texts(fake_app, project, sync):
    """It wrote the computed values of all items."""
    assert project.train(*EVEN).returncode == 0
    project.configure(fake_app.url)
    [run] = project.runs
    configs = yaml.safe_load((run / 'configs.yaml').read_text())
    before = {'name': 'x', 'computed': 'the quick brown fox', 'value': None, 'is_explicitly_specified': False}
    configs |= {name: before | {'name': name} for name in ('text', 'corpus', 'engine', 'loop_count')}
    (run / 'configs.yaml').write_text(yaml.dump(configs))
    assert sync()[0] == 0
    [sent] = [update['configs'] for update in fake_app.updates if 'configs' in update]
    assert 'quick brown' not in str(sent)
    assert sent['seq_len']['computed'] == 16 and 'loop_count' not in sent
    assert all(sent[name]['computed'] is None for name in ('text', 'corpus', 'engine'))


def test_what_an_app_does_not_show_is_said(app, fake_app, project, sync):
    assert project.train(*EVEN).returncode == 0
    [run] = project.runs
    with open(run / 'log.jsonl', 'a') as f:
        f.write('{"track": {"grad.norm": [[100000, [1.5]]], "loss.train": [[100000, [NaN]]]}}\n')
    n = sum(map(len, values_of(run / 'log.jsonl').values()))
    project.configure(app.app_url)
    drawn = 'loss.train: NaN or infinite at some steps, drawn as not_finite.loss.train'
    assert sync() == (0, f'{run.name}  test  {n} values sent ({drawn})\n', '')
    assert app.points(run.name, 'grad.norm') == {((100000,), (1.5,))}
    assert app.points(run.name, 'not_finite.loss.train') == {((100000,), (1,))}
    # Upstream's
    project.configure(fake_app.url)
    assert sync() == (0, f'{run.name}  test  {n - 2} values sent (not kept by this app: grad.norm; '
                         'loss.train: NaN or infinite at some steps, left out)\n', '')
    assert 'grad.norm' not in fake_app.values()
