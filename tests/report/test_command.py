import pytest


def test_report_of_a_run(command, run, tmp_path):
    target = tmp_path / 'report.html'
    target.write_text('before')
    code, out, err = command('report', 'feed', 'last', '-o', str(target))
    assert (code, err) == (0, '')
    assert out.startswith(f'{target} has feed: ') and 'kB' in out
    source = target.read_text()
    assert source.startswith('<!DOCTYPE html>') and 'class="train run-0"' in source and 'class="point run-0"' in source
    assert [path.name for path in tmp_path.iterdir()] == ['report.html']


def test_damaged_lines_are_counted(command, run, tmp_path):
    before = (run / 'log.jsonl').read_bytes()
    try:
        (run / 'log.jsonl').write_bytes(before + b'{"track": 5}\nno\n')
        code, out, err = command('report', 'feed', '-o', str(tmp_path / 'a.html'))
    finally:
        (run / 'log.jsonl').write_bytes(before)
    assert code == 0 and err == f'2 damaged lines skipped in {run / "log.jsonl"}\n'


@pytest.mark.parametrize(('arguments', 'message'), [
    (['fead'], 'Did you mean feed?'),
    (['feed', '-o', 'a.pdf'], '-o a.pdf: it must end in .html or .htm'),
    (['feed', '-o', 'missing/a.html'], '-o missing/a.html: there is no folder missing'),
    (['feed', '-o', 'a.html', '--path', '/'], 'is not in a labml project'),
    ([], 'required: RUN'),
])
def test_wrong_arguments_are_refused(assert_refused, trained, arguments, message):
    assert_refused('report', *arguments, message=message)
    assert not list(trained.path.glob('*.html'))


def test_folder_is_no_target(assert_refused, tmp_path):
    (tmp_path / 'a.html').mkdir()
    assert_refused('report', 'feed', '-o', str(tmp_path / 'a.html'), message='it is a folder')
