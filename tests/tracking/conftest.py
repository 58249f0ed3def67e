import pytest
from support.project import outcome, values_of


@pytest.fixture
def sync(project, monkeypatch, capsys):
    """`labml-mlm sync` in the project: exit code, output and errors."""
    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.chdir(project.path)
            patch.setenv('HOME', str(project.path))
            return outcome(capsys, 'sync', *arguments)
    return run


@pytest.fixture
def assert_has_all_of():
    def check(app, folder):
        """The app's curves have each point of the run in `folder` once."""
        for name, pairs in values_of(folder / 'log.jsonl').items():
            [(steps, values)] = app.points(folder.name, name)
            assert list(steps) == [step for step, _ in pairs], name
            assert list(values) == pytest.approx([value for _, value in pairs], rel=1e-6), name
    return check
