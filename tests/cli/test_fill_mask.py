"""`labml-mlm fill-mask`."""
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest


def check_refused(result, message):
    code, out, err = result
    assert (code, out) == (2, '')
    assert message in err.splitlines()[-1] and 'Traceback' not in err


def test_command_prints_the_text_and_predictions(command, run):
    code, out, err = command('fill-mask', 'feed', 'the qu[MASK]ck br[MASK]wn', '--top', '2')
    assert (code, err.count('\n')) == (0, 1)
    assert err.startswith(f'Using {run}/checkpoints/')
    assert re.fullmatch(r'the quick brown\n  1  i [01]\.\d{3}  . 0\.\d{3}\n  2  o [01]\.\d{3}  . 0\.\d{3}\n', out)
    # A single one needs no number
    code, out, _ = command('fill-mask', 'feed', 'the qu[mask]ck', '--top', '1')
    assert re.fullmatch(r'the quick\n    i [01]\.\d{3}\n', out)


def test_command_fills_in_several_texts(command):
    code, out, err = command('fill-mask', 'feed', 'the qu[MASK]ck', 'bro[mask]n fox', '--top', '1')
    assert (code, err.count('\n')) == (0, 1)
    assert re.fullmatch(r'the quick\n    i .*\nbrown fox\n    w .*\n', out)


def test_command_warns_of_a_long_text(command):
    code, out, err = command('fill-mask', 'feed', 'the quick ' * 5 + '[MASK]')
    assert (code, err.count('Note: a text has 51 tokens, and the model was trained on 16 at a time')) == (0, 1)
    assert 'Note' not in command('fill-mask', 'feed', 'the quick ' * 3 + '[MASK]')[2]


def test_command_prints_json(command):
    code, out, _ = command('fill-mask', 'feed', 'qu[MASK]ck', '--json', '--top', '1')
    result = json.loads(out)
    assert (result['text'], result['filled']) == ('qu[MASK]ck', 'quick')
    assert result['masks'][0][0]['token'] == 'i' and 0 < result['masks'][0][0]['probability'] <= 1


def test_command_reads_lines_of_standard_input(command):
    lines = ''.join(f'{"the " * (i % 7)}qu[MASK]ck\n' for i in range(600))
    code, out, _ = command('fill-mask', 'feed', '--json', lines=lines)
    results = [json.loads(line) for line in out.splitlines()]
    assert [result['text'] for result in results] == lines.splitlines()


def test_command_compares_candidates(command):
    code, out, _ = command('fill-mask', 'feed', 'the quick [MASK] fox', '--candidates', 'brown, quick,lazy')
    title, header, *rows = out.splitlines()
    assert (code, title) == (0, 'the quick brown fox')
    assert header.split('  ') == ['', 'candidate', 'per token', ' log p', 'tokens']
    assert sorted(row.split()[0] for row in rows) == ['brown', 'lazy', 'quick']
    assert re.fullmatch(r'  brown {10}[01]\.\d{3} {2,4}-\d+\.\d\d  b r o w n', rows[0])


def test_repeated_candidates_are_taken_as_they_are(command, fill_mask):
    arguments = 'fill-mask', 'feed', 'the quick[MASK]fox', '--json', '--candidates', ' brown ', '--candidates', ' dog '
    code, out, _ = command(*arguments)
    result = json.loads(out)
    assert code == 0
    assert result == {'text': 'the quick[MASK]fox', 'filled': 'the quick brown fox', 'unknown': [],
                      'candidates': [found._asdict() for found in
                                     fill_mask.candidates('the quick[MASK]fox', [' brown ', ' dog ']).candidates]}
    assert result['candidates'][0]['tokens'] == [*' brown ']


def test_one_option_has_a_list_and_several_a_candidate_each(command):
    result = command('fill-mask', 'feed', 'qu[MASK]ck', '--candidates', 'i,u', '--candidates', 'a')
    check_refused(result, "the candidate 'i,u' is not in the vocabulary: the model does not know ','")


def test_command_fills_in_together(command, fill_mask):
    text = 'the [MASK][MASK]ick brown fox'
    code, out, _ = command('fill-mask', 'feed', text, '--joint', '--top', '3')
    title, *rows = out.splitlines()
    assert (code, title, len(rows)) == (0, 'the quick brown fox', 3)
    assert re.fullmatch(r' +[01]\.\d{3}  q  u', rows[0])
    code, out, _ = command('fill-mask', 'feed', text, '--joint', '--top', '2', '--beam', '3', '--json')
    assert json.loads(out) == {'text': text, 'filled': 'the quick brown fox', 'unknown': [], 'fillings': [
        filling._asdict() for filling in fill_mask.joint(text, top=2, beam=3).fillings]}


@pytest.mark.parametrize('arguments, lines, message', [
    (['feed', 'the quick'], None, "there is no [MASK] in 'the quick'"),
    (['feed', 'É [MASK]'], None, "the model does not know 'É'"),
    (['feed', 'qu[MASK]ck', ' '], None, 'it is blank: give a text with [MASK] in it'),
    (['feed', 'the', 'qu[MASK]ck'], None, "there is no [MASK] in 'the': put a text with spaces in quotes"),
    (['feed', 'qu[MASK]ck', 'the [MASK] É'], None, "the model does not know 'É'"),
    (['<mask> x'], None, "the run comes before the text: labml-mlm fill-mask RUN '<mask> x'"),
    (['feed', 'qu[MASK]ck', '--beam', '3'], None, '--beam is for --joint'),
    (['feed', 'qu[MASK]ck', '--joint', '--beam', '0'], None, 'it must be an integer, at least 1'),
    (['feed', 'qu[MASK]ck', '--joint', '--candidates', 'i'], None, '--joint fills in several: leave one of them out'),
    (['feed', 'qu[MASK]ck', '--top', '1', '--candidates', 'i'], None, '--candidates prints all that are given'),
    (['feed', 'qu[MASK]ck', '--candidates', 'i,,u'], None, 'a candidate is empty'),
    (['feed', 'qu[MASK]ck', '--candidates', ''], None, 'a candidate is empty'),
    (['feed', 'qu[MASK]ck', '--candidates', 'i, u,i'], None, "the candidate 'i' is there twice"),
    (['feed', 'qu[MASK]ck', '--candidates', 'i,[MASK]'], None, "the candidate '[MASK]' has a mask in it"),
    (['feed', 'qu[MASK]ck', '--candidates', 'i,É'], None, "the candidate 'É' is not in the vocabulary"),
    (['feed', '[MASK]u[MASK]ck', '--candidates', 'i'], None, 'candidates are for one mask, and there are 2'),
    (['qu[MASK]ck'], None, "the run comes before the text: labml-mlm fill-mask RUN 'qu[MASK]ck'"),
    (['feed', '\udcff[MASK]'], None, 'the text is not valid Unicode'),
    (['', '[MASK]'], None, 'the name of the run is empty'),
    (['feed'], '', 'there is no text: give one with [MASK] in it'),
    (['faed', '[MASK]'], None, 'there is no run faed in '),
    (['feed', '[MASK]', '--checkpoint', 'first'], None, 'the run feed has no checkpoint first: it has '),
    (['feed', '[MASK]', '--top', '0'], None, 'it must be an integer, at least 1'),
    (['feed', '[MASK]', '--tops', 'x'], None, 'there is no option --tops. Did you mean `--top`?'),
])
def test_command_refuses_invalid_arguments(command, arguments, lines, message):
    check_refused(command('fill-mask', *arguments, lines=lines), message)


def test_command_tells_of_lines_and_goes_on(command):
    lines = 'qu[MASK]ck\n' * 300 + '\nqu[MASK]ck\nthe\nÉ [MASK]\nthe laz[MASK] dog\n'
    code, out, err = command('fill-mask', 'feed', '--top', '1', lines=lines)
    assert (code, out.count('quick\n'), out.count('the lazy dog\n'), out.count('\n')) == (2, 301, 1, 604)
    assert err.splitlines()[1:] == [
        'line 301: it is blank: give a text with [MASK] in it', "line 303: there is no [MASK] in 'the'",
        "line 304: the model does not know 'É', which is not in its vocabulary",
        '3 of 305 lines could not be filled in']
    code, out, _ = command('fill-mask', 'feed', '--json', lines=lines)
    results = [json.loads(line) for line in out.splitlines()]
    assert code == 2 and [result['text'] for result in results] == lines.splitlines()
    assert [i for i, result in enumerate(results, start=1) if result['filled'] is None] == [301, 303, 304]
    assert results[300] == {'text': '', 'filled': None}


@pytest.mark.parametrize('option', [['--candidates', 'i,u'], ['--joint']])
def test_lines_are_filled_in_either_way(command, option):
    code, out, err = command('fill-mask', 'feed', '--json', *option, lines='qu[MASK]ck\nthe\n[mask]ver\n')
    first, bad, last = map(json.loads, out.splitlines())
    assert (code, first['filled'], bad) == (2, 'quick', {'text': 'the', 'filled': None}) and last['text'] == '[mask]ver'
    assert err.splitlines()[-2:] == ["line 2: there is no [MASK] in 'the'", '1 of 3 lines could not be filled in']


class Terminal(io.StringIO):
    """A person who types."""

    def isatty(self):
        return True


def test_at_a_prompt_invalid_lines_are_told_and_not_the_end(command, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', Terminal('qu[MASK]ck\n\nthe\nthe laz[mask] dog\n'))
    code, out, err = command('fill-mask', 'feed', '--top', '1')
    assert code == 0 and re.fullmatch(r'quick\n    i .*\nthe lazy dog\n    y .*\n', out)
    assert err.splitlines()[1:] == ['A text with [MASK] in it; Ctrl-D ends',
                                    '> > it is blank: give a text with [MASK] in it',
                                    "> there is no [MASK] in 'the'", '> > ']


def test_prompt_of_a_terminal(trained):
    """The process has a terminal of its own."""
    process, terminal = pty.fork()
    if not process:
        os.chdir(trained.path)
        os.execv(sys.executable, [sys.executable, '-m', 'labml_mlm', 'fill-mask', 'feed', '--top', '2'])
    seen = b''

    def until(text):
        nonlocal seen
        while text not in seen:
            assert select.select([terminal], [], [], 60)[0], seen
            seen += os.read(terminal, 1 << 16)

    for typed, answer in ((b'the\n', b"there is no [MASK] in 'the'"),
                          (b'the qu[mask]ck brown fox\n', b'the quick brown')):
        until(b'> ')
        seen = b''
        os.write(terminal, typed)
        until(answer)
    until(b'> ')
    os.write(terminal, b'\x04')
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    os.close(terminal)


def test_command_refuses_invalid_utf8(trained):
    result = subprocess.run([Path(sys.executable).parent / 'labml-mlm', 'fill-mask', 'feed'], cwd=trained.path,
                            input=b'[MASK] \xff\n', capture_output=True)
    assert result.returncode == 2 and result.stderr.endswith(b'standard input is not UTF-8\n')
