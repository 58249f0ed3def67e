import os
import shutil
import signal

import pytest
from support.project import SMALL, Project, values_of


def stop_run(project, *arguments, number=signal.SIGTERM, experiment='test'):
    """Trains the run `feed` and stops it by a signal in the third of its four epochs. Returns its folder."""
    folder = project.path / 'logs' / experiment / 'feed'
    for _ in range(5):
        pid = project.fork(f'text_path={project.text}', *SMALL, 'epochs=4', 'n_prompts=0', *arguments,
                           env={'RUN_UUID': 'feed'})
        project.until(lambda: len(list(folder.glob('checkpoints/*'))) > 1)
        os.kill(pid, number)
        result = project.wait()
        if result.returncode:
            break
        # The last two epochs take less than a second: on a busy machine the signal may come too late
        shutil.rmtree(folder)
    assert result.returncode == 128 + number, result
    return folder


@pytest.fixture
def stop(project):
    """Stops a run of this test alone: its folder."""
    def stop(**options):
        return stop_run(project, **options)
    return stop


@pytest.fixture(scope='session')
def uninterrupted(fork_server, tmp_path_factory):
    """The metrics of the run that `stop_run` stops, without an interruption."""
    project = Project(tmp_path_factory.mktemp('uninterrupted'), fork_server)
    assert project.train('epochs=4', 'n_prompts=0').returncode == 0
    [folder] = project.runs
    return values_of(folder / 'log.jsonl')


@pytest.fixture(scope='session')
def stopped_projects():
    """Projects with a stopped run, by the arguments of the run."""
    return {}


@pytest.fixture
def stopped(project, stopped_projects, fork_server, tmp_path_factory):
    """A stopped run, as `stop` leaves it: its folder. It is trained once for all tests, and copied for each."""
    def stopped(*arguments):
        if arguments not in stopped_projects:
            trained = Project(tmp_path_factory.mktemp('stopped'), fork_server)
            stop_run(trained, *arguments)
            stopped_projects[arguments] = trained
        trained = stopped_projects[arguments]
        folder = shutil.copytree(trained.path / 'logs/test/feed', project.path / 'logs/test/feed')
        for path in (*folder.glob('*.json'), *folder.glob('*.yaml')):
            path.write_text(path.read_text().replace(str(trained.path), str(project.path)))
        return folder
    return stopped


@pytest.fixture
def assert_refused():
    def check(result, message):
        """One message, and exit code 2."""
        assert (result.returncode, result.stderr.count('\n')) == (2, 1), result.stderr
        assert message in result.stderr
    return check
