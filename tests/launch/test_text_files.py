"""Texts of several paths and formats, from the command line to a resumed run."""
import json
import os
import signal

import pytest
from support.project import SMALL, assert_clean_failure

FEW = [*SMALL, 'n_prompts=0']
LINE = 'the quick brown fox jumps over the lazy dog'


@pytest.fixture
def files(project):
    """Files of all formats, with the same text."""
    rows = [f'{LINE} {i % 10}' for i in range(60)]
    (project.path / 'a.csv').write_text('id,body\n' + ''.join(f'1,"{row}"\n' for row in rows) + '2,\n')
    (project.path / 'b.jsonl').write_text(''.join(json.dumps({'body': row}) + '\n' for row in rows)
                                          + '{"body": null}\n')
    (project.path / 'c.fa').write_text(''.join(f'>{i}\n{row}\n' for i, row in enumerate(rows)))
    (project.path / 'x,y.txt').write_text('\n'.join(rows))
    (project.path / 'folder').mkdir()
    (project.path / 'folder/d.txt').write_text('\n'.join(rows))
    (project.path / 'folder/e.py').write_text('x = 1')
    return project


def test_a_run_on_several_paths(files):
    result = files.run('text_path=folder,a.csv,b.jsonl,./a.csv', 'text_field=body', *FEW, env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    assert '2 rows without text are left out\n' in result.stdout
    assert ("folder: files that are left out by their suffix: 1 .py; text_glob='**/*.{txt,py}' takes .py, too\n"
            in result.stdout)
    assert 'a.csv is read once: two paths of text_path lead there\n' in result.stdout
    snapshot = json.loads((files.path / 'logs/test/feed/configs.json').read_text())
    given = [str(files.path / name) for name in ('folder', 'a.csv', 'b.jsonl', 'a.csv')]
    assert snapshot['given']['text_path'] == given
    # Nothing has changed for a resumed run
    result = files.run('--resume', 'feed', 'text_path=folder,a.csv,b.jsonl,./a.csv', 'epochs=2')
    assert result.returncode == 0 and 'text_path: ' not in result.stdout, result.stderr
    result = files.run('--resume', 'feed', 'epochs=3', 'text_path=folder,a.csv')
    assert_clean_failure(result, 2, 'this is not the text of the run: ')
    assert 'Since the run began: removed b.jsonl' in result.stderr


@pytest.mark.parametrize('given', ['x,y.txt', '["x,y.txt"]', 'c.fa'])
def test_a_single_path_is_kept_as_such(files, given):
    assert files.run(f'text_path={given}', *FEW, env={'RUN_UUID': 'feed'}).returncode == 0
    snapshot = json.loads((files.path / 'logs/test/feed/configs.json').read_text())
    assert snapshot['given']['text_path'] == str(files.path / json.loads(given)[0] if given[0] == '[' else
                                                 files.path / given)


@pytest.mark.parametrize(['arguments', 'message'], [
    (['text_path=a.csv'], "a.csv, line 1, has no field `text` (text_field): its fields are 'id', 'body'."),
    (['text_path=a.csv', 'text_field=bodi'], 'Did you mean `body`?'),
    (['text_path=folder,none.txt'], 'none.txt cannot be read: No such file'),
    (['text_path=folder,'], 'text_path=folder,: one of its paths is empty'),
    (['text_path=a.txt', 'valid_path=a.csv,b.jsonl'], 'a.csv, line 1, has no field `text`'),
    (['text_path=folder', 'text_format=csv'], 'text_format=csv: it must be one of auto, plain'),
    (['text=file', 'text_path=x,y.txt,folder'], 'folder is a folder, not a text file: use text=folder'),
    (['text=folder', 'text_path=a.csv,b.jsonl'], 'a.csv is not a folder'),
])
def test_wrong_paths_are_refused_before_there_is_a_run(files, arguments, message):
    (files.path / 'y.txt').write_text(LINE * 100)
    (files.path / 'x').write_text(LINE * 100)
    (files.path / 'a.txt').write_text(LINE * 100)
    assert_clean_failure(files.run(*arguments, *FEW), 2, message)
    assert not (files.path / 'logs').exists()


def test_fine_tuning_reads_one_file(files):
    files.script.write_text('from labml_mlm import train\nfrom labml_mlm.finetuning.classification import '
                            'ClassificationConfigs\n\ntrain(ClassificationConfigs(), name="test")\n')
    assert_clean_failure(files.run('text_path=a.csv,b.jsonl', *SMALL[:3]), 2,
                         'text_path=a.csv,b.jsonl: fine-tuning reads one file of labelled texts, and these are 2')
    assert not (files.path / 'logs').exists()


def test_a_changed_folder_is_told_by_file(files):
    folder = files.path / 'folder'
    for name in ('f', 'g', 'h'):
        (folder / f'{name}.txt').write_text(f'{LINE} {name}\n' * 20)
    assert files.run('text_path=folder', *FEW, env={'RUN_UUID': 'feed'}).returncode == 0
    (folder / 'f.txt').rename(folder / 'z.txt')
    (folder / 'g.txt').unlink()
    with open(folder / 'h.txt', 'a') as f:
        f.write('more')
    (folder / 'new.md').write_text(LINE)
    resume = ['--resume', 'feed', 'epochs=2']
    result = files.run(*resume)
    assert_clean_failure(result, 2, 'this is not the text of the run: ')
    assert result.stderr.endswith('. Since the run began: added new.md; removed g.txt; renamed f.txt → z.txt; '
                                  'changed h.txt\n')
    # As for runs of an earlier version
    (files.path / 'logs/test/feed/text.json').unlink()
    result = files.run(*resume)
    assert_clean_failure(result, 2, 'this is not the text of the run: ')
    assert 'Since' not in result.stderr


@pytest.mark.parametrize('path', ['a.csv', 'folder'])
def test_a_run_of_an_earlier_version_reads_its_text_as_it_did(files, path):
    """There, `text_path` was one path, and a table was plain text."""
    (files.path / 'folder/f.csv').write_text('no table\n"')
    pid = files.fork(f'text_path={path}', 'text_format=plain', *FEW, 'epochs=1000', 'checkpoint_interval=5',
                     env={'RUN_UUID': 'feed'})
    run = files.path / 'logs/test/feed'
    files.until(lambda: list(run.glob('checkpoints/*')))
    os.kill(pid, signal.SIGTERM)
    assert files.wait().returncode == 143
    # As it would have been written
    snapshot = json.loads((run / 'configs.json').read_text())
    for part in ('given', 'defaults'):
        snapshot[part].pop('text_format', None)
    snapshot['defaults'] |= {'text_path': '', 'valid_path': '', 'old_path': '', 'replay_path': ''}
    assert snapshot['given']['text_path'] == str(files.path / path)
    (run / 'configs.json').write_text(json.dumps(snapshot))
    (run / 'text.json').unlink()
    result = files.run('--resume', 'feed', f'text_path={path}', 'epochs=2')
    assert 'epochs: 1000 → 2' in result.stdout and result.returncode == 0, result.stderr
    assert 'text_path: ' not in result.stdout
