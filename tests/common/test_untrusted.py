import json
import os

import pytest

from labml_mlm.common.untrusted import is_integer, is_number, json_of, to_json, yaml_of

LAUGHS = 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 12))


@pytest.fixture(params=['folder', 'pipe', 'device', 'missing', 'large'])
def no_file(request, tmp_path):
    path = tmp_path / 'file'
    match request.param:
        case 'folder':
            path.mkdir()
        case 'pipe':
            os.mkfifo(path)
        case 'device':
            path.symlink_to('/dev/zero')
        case 'large':
            path.write_bytes(b' ' * 2000 + b'{"a": 1}')
    return path


def test_what_is_no_bounded_file_holds_nothing(no_file):
    assert json_of(no_file, max_bytes=1000) is None
    assert yaml_of(no_file, max_bytes=1000) == {}


@pytest.mark.parametrize('content', [b'', b'{', b'[' * 100_000, b'\xff\xfe{\x00', b'9' * 5000, b'{"a": 1}{',
                                     b'[' * 102 + b']' * 102, b'{"a": [' * 60 + b']}' * 60])
def test_damaged_json_is_none(tmp_path, content):
    (tmp_path / 'a.json').write_bytes(content)
    assert json_of(tmp_path / 'a.json') is None


@pytest.mark.parametrize('content', [
    '[' * 100_000, '- ' * 100_000, '{a: ' * 1000, 'a: [', '5', 'a: &a [*a]', LAUGHS, '\x00', '? [a]\n: b',
    'a: !!python/object/apply:os.system ["false"]\nb: [', '!!timestamp x'])
def test_yaml_that_labml_does_not_write_is_empty(tmp_path, content):
    (tmp_path / 'a.yaml').write_text(content)
    assert yaml_of(tmp_path / 'a.yaml') == {}


def test_yaml_becomes_what_json_has(tmp_path):
    (tmp_path / 'a.yaml').write_text('a: !!python/tuple [1, 2]\nb: .nan\nc: 2026-11-14\n3: &x [true]\nd: *x\n')
    found = yaml_of(tmp_path / 'a.yaml')
    assert found == {'a': [1, 2], 'b': 'nan', 'c': '2026-11-14', '3': [True], 'd': [True]}
    json.dumps(found, allow_nan=False)


def test_numbers_that_json_lacks_are_null():
    assert to_json({'a': [float('nan'), (float('inf'), 1.5)], 'b': 'NaN'}) == '{"a": [null, [null, 1.5]], "b": "NaN"}'
    assert to_json('é', ensure_ascii=False) == '"é"'


@pytest.mark.parametrize('value, is_int, is_num', [
    (1, True, True), (True, False, False), (1.5, False, True), (float('nan'), False, False), (None, False, False),
    (2 ** 63, False, False), (10 ** 400, False, False), ('1', False, False)])
def test_kinds(value, is_int, is_num):
    assert (is_integer(value), is_number(value)) == (is_int, is_num)
