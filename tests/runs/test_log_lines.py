"""Lines of a bounded length."""
import io

import pytest

from labml_mlm.runs import log_lines
from labml_mlm.runs.log_lines import Skipped, bounded_lines, say_skipped, skipped, whole_lines


class Recorder(io.BytesIO):
    """A file that notes how much of it was taken at once."""

    most = 0

    def readline(self, size=-1):
        line = super().readline(size)
        self.most = max(self.most, len(line))
        return line


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(log_lines, 'MAX_LINE', 5)


@pytest.mark.parametrize('data, expected', [
    (b'', []), (b'\n', [(1, b'\n')]), (b'ab\ncd', [(3, b'ab\n'), (2, b'cd')]),
    # Exactly as long as it may be, and a byte more
    (b'abcd\nx\n', [(5, b'abcd\n'), (2, b'x\n')]), (b'abcde\nx\n', [(6, None), (2, b'x\n')]),
    (b'abcdefghijklm\nx\n', [(14, None), (2, b'x\n')]), (b'abcdefghi\nx\n', [(10, None), (2, b'x\n')]),
    # Without an end
    (b'a\nbcdefgh', [(2, b'a\n'), (7, None)]), (b'a\nbcdefghijkl', [(2, b'a\n'), (11, None)]),
])
def test_lines_have_a_bound(data, expected):
    f = Recorder(data)
    assert list(bounded_lines(f)) == expected
    assert f.most <= 5 and sum(n for n, _ in expected) == len(data)


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    (tmp_path / 'log').write_bytes(b'ab\ncdefghi\nx\nyz')
    assert list(whole_lines(tmp_path / 'log')) == [b'ab\n', None, b'x\n']
    assert list(whole_lines(tmp_path / 'none')) == []


def test_what_is_said(tmp_path, capsys):
    assert skipped(1, tmp_path) == f'1 damaged line skipped in {tmp_path}'
    say_skipped(Skipped({tmp_path / 'a': 1, tmp_path / 'b': 2000}))
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ('', [skipped(1, tmp_path / 'a'), f'2,000 damaged lines skipped in {tmp_path}/b'])
