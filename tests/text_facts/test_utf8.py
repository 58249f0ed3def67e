"""Invalid UTF-8: how much, and where."""
import gzip
import random

import pytest

from labml_mlm.text_facts import utf8
from labml_mlm.text_facts.utf8 import Invalid, find_invalid


@pytest.mark.parametrize('chunk', [3, 7, 1 << 22])
def test_invalid_bytes_are_counted_and_the_first_is_found(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(utf8, '_CHUNK', chunk)
    good, bad, worse = (tmp_path / name for name in ('good.txt', 'bad.txt', 'worse.txt'))
    good.write_text('Zoë 日本\n\ufffd\n' * 5)
    # U+FFFD of its own does not count
    bad.write_bytes('\ufffd é\n日本\n'.encode() + b'ab\xe9 c\n\xff\n')
    worse.write_bytes(b'\xfe cut \xe6\x97')
    assert find_invalid([good]) == Invalid(0)
    assert find_invalid([good, bad, worse]) == Invalid(4, bad, 3, 0xe9)
    assert find_invalid([worse]) == Invalid(2, worse, 1, 0xfe)
    worse.write_bytes(b'a\ncut \xe6\x97')
    assert find_invalid([worse]) == Invalid(1, worse, 2, 0xe6)


def test_as_many_places_as_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(utf8, '_CHUNK', 5)
    rng = random.Random(0)
    path = tmp_path / 'random.txt'
    for _ in range(50):
        data = bytes(rng.choices([0x41, 0x0a, 0xc3, 0xa9, 0xef, 0xbf, 0xbd, 0xf0, 0x9f, 0xff], k=40))
        path.write_bytes(data)
        own = data.decode('utf-8', 'ignore').count('\ufffd')
        assert find_invalid([path]).n == data.decode('utf-8', 'replace').count('\ufffd') - own


def test_compressed_file_is_looked_into(tmp_path):
    path = tmp_path / 'a.txt.gz'
    path.write_bytes(gzip.compress(b'a\nb\xe9\n'))
    assert find_invalid([path]) == Invalid(1, path, 2, 0xe9)
