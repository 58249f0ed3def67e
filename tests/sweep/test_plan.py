import json
import os

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.sweep.plan import PlanFile, make_plan


@pytest.fixture
def file(folder):
    return PlanFile(folder, make_plan(['x=1,2'], script='fast.py'))


def test_arguments_are_files_and_overrides(folder):
    plan = make_plan(['a.txt', 'x=1', 'b/c=d.txt'], seeds=3)
    assert (plan.files, plan.overrides, plan.seeds) == (['a.txt', 'b/c=d.txt'], ['x=1'], 3)


@pytest.mark.parametrize(('arguments', 'options', 'message'), [
    ([], {'seeds': 0}, '--seeds 0: it must be at least 1'),
    (['x=1'], {'n_random': -1}, '--random -1: it must be at least 1'),
    (['x=1'], {'script': 'missing.py'}, '--script missing.py: it must be a Python file that trains'),
    ([], {}, 'a sweep needs items with several values'),
    (['a.txt'], {'script': 'fast.py'}, '`a.txt`: a script takes name=value alone; its text is text_path=FILE'),
])
def test_wrong_plans_are_refused(folder, arguments, options, message):
    with pytest.raises(UserError, match=message):
        make_plan(arguments, **options)


def test_what_is_written_is_read(file, unchecked):
    assert file.read() is None
    runs = file.create()
    assert [run.values for run in runs] == [{'x': '1'}, {'x': '2'}] and len({run.uuid for run in runs}) == 2
    assert file.read() == runs


RUN = '{"format": 1, "plan": {}, "runs": [%s]}'


@pytest.mark.parametrize('content', ['', '[]', '{"runs": []}', '{"format": 9, "plan": {}, "runs": []}', '\xff',
                                     '[' * 100_000, '{"format": 1, "plan": {}, "runs": 5}', RUN % '5', RUN % '{}',
                                     RUN % '{"uuid": 5, "values": {}}', RUN % '{"uuid": "../x", "values": {}}',
                                     RUN % '{"uuid": "a", "values": []}', RUN % '{"uuid": "a", "values": {"x": NaN}}',
                                     RUN % '{"uuid": "a", "values": {"x": "1"}}, {"uuid": "b", "values": {}}'])
def test_a_damaged_file_is_refused(file, content):
    file.path.parent.mkdir()
    file.path.write_bytes(content.encode('latin-1'))
    with pytest.raises(UserError, match='is damaged, or of another version: remove it'):
        file.read()


@pytest.mark.parametrize('put', [os.mkfifo, lambda path: path.symlink_to('/dev/zero'), lambda path: path.mkdir()],
                         ids=['pipe', 'endless', 'folder'])
def test_what_is_no_file_is_refused(file, put):
    file.path.parent.mkdir()
    put(file.path)
    with pytest.raises(UserError, match='is damaged, or of another version: remove it'):
        file.read()


@pytest.mark.parametrize('tag', ['', '../x', '.hidden', 'a b', 'x' * 61])
def test_tags_are_names_of_files(folder, tag):
    with pytest.raises(UserError, match='it must be letters, digits'):
        PlanFile(folder, make_plan(['x=1']), tag)


def test_two_processes_do_not_train_one_sweep(folder, file):
    other = PlanFile(folder, make_plan(['x=1,2'], script='fast.py'))
    with file.locked(), pytest.raises(UserError, match=f'is running, in process {os.getpid()}'), other.locked():
        pass
    with other.locked():
        pass


def test_nothing_is_written_if_a_combination_cannot_be_trained(file, monkeypatch):
    def refuse(_):
        raise UserError('no')

    monkeypatch.setattr('labml_mlm.sweep.plan.combinations', refuse)
    with pytest.raises(UserError, match='no'):
        file.create()
    assert not file.path.exists()


def test_the_file_says_what_was_asked(file, unchecked):
    file.create()
    found = json.loads(file.path.read_text())
    assert found['tag'] == file.tag and found['plan']['overrides'] == ['x=1,2']
