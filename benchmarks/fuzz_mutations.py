"""
# Damage, by seed

What `benchmarks/fuzz.py` does to a file: its bytes are flipped, cut, doubled, removed and swapped; where the format has
values, some of them become others. Positions are drawn as parts of the length, so that a seed means about the same in
files that differ in a time of day.
"""
import copy
import hashlib
import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

import yaml

# Stand for texts that no `json.dumps` writes
_DEEP, _HUGE = '@deep@', '@huge@'
_RAW = {f'"{_DEEP}"': '[' * 100_000 + ']' * 100_000, f'"{_HUGE}"': '9' * 5000}
# What takes the place of a value
_VALUES = [None, True, False, 0, -1, 1, 5, 0.5, 2 ** 31, 2 ** 63 - 1, 2 ** 63, -2 ** 63 - 1, 10 ** 12, 10 ** 400, 1e308,
           -1e308, math.nan, math.inf, -math.inf, '', 'x', 'NaN', 'Infinity', '../../etc/passwd', '/dev/zero', '\0',
           '\ud800', '\x1b[2J', 'a\nb', 'ü' * 10_000, [], {}, [[]], [None], [1], ['x'], [0.5], {'': 0},
           {'a': {'b': []}}, _DEEP, _HUGE]
# What is put between bytes
_NEW_BYTES = [b'\xff\xfe', b'\xed\xa0\x80', b'\0' * 100, b'9' * 5000, b'[' * 100_000, b'{"a":' * 50_000, b'NaN',
              b'-Infinity', b'1e999', b'\n', b'}\n', b'"', b'&a [*a]', b'!!python/object/apply:os.system [id]', b'\r',
              '\u2028'.encode()]
# Levels that a parser of JSON takes, and a function that calls itself perhaps not
_LEVELS = 10, 200, 330, 480, 900
_TOKENS_HEAD = struct.Struct('<8sII32s')


def mutate(data: bytes, kind: str, rng: random.Random) -> bytes:
    """A damaged copy of a file of a kind: `json`, `jsonl`, `yaml`, `safetensors`, `tokens`, or `text`."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if kind in _PARTS and rng.random() < 0.7:
            try:
                data = _PARTS[kind](data, rng)
                continue
            except (ValueError, LookupError, TypeError, RecursionError, struct.error, yaml.YAMLError, MemoryError):
                # It is too damaged for that already
                pass
        data = rng.choice(_OF_BYTES)(data, rng)
    return data


def seal(metadata: dict) -> bytes:
    """A `checkpoint.json` with the checksum that belongs to it: that of a hostile file, not of a damaged one."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
    return json.dumps({**metadata, 'sha256': digest}).encode()


def _place(data: bytes, rng: random.Random) -> int:
    return int(rng.random() * len(data))


def _slice(data: bytes, rng: random.Random) -> tuple[int, int]:
    begin = _place(data, rng)
    return begin, begin + int(len(data) * rng.choice([0.001, 0.01, 0.2]) * rng.random()) + 1


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 8]) if data else 0):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[:_place(data, rng)]


def _cut_front(data: bytes, rng: random.Random) -> bytes:
    return data[_place(data, rng):]


def _double(data: bytes, rng: random.Random) -> bytes:
    begin, end = _slice(data, rng)
    return data[:end] + data[begin:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    begin, end = _slice(data, rng)
    return data[:begin] + data[end:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(_place(data, rng) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.choice(_NEW_BYTES) + data[at:]


def _zero(data: bytes, rng: random.Random) -> bytes:
    begin, end = _slice(data, rng)
    return data[:begin] + bytes(len(data[begin:end])) + data[end:]


_OF_BYTES = _flip, _flip, _cut, _cut_front, _double, _remove, _swap, _insert, _insert, _zero


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    """The places in a value, the value itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in _paths(part, (*path, key)))]


def _nested(value: Any, rng: random.Random) -> Any:
    is_list = rng.random() < 0.5
    for _ in range(rng.choice(_LEVELS)):
        value = [value] if is_list else {'a': value}
    return value


def _other(value: Any, rng: random.Random) -> Any:
    """Another value in the place of one."""
    kind = rng.randrange(8)
    if kind == 0:
        return _nested(value, rng)
    if kind == 1 and type(value) in (int, float):
        return rng.choice([-value, value + 1, value * 10 ** 6, str(value), float(value) if abs(value) < 1e300 else 0,
                           [value]])
    if kind == 1 and isinstance(value, str):
        return rng.choice([value[:-1], value * 2, value + '/..', value.upper(), value[::-1], [value]])
    if kind == 1 and isinstance(value, list):
        return rng.choice([value[:-1], value * 2, value[::-1], [value], value + [None]])
    return copy.deepcopy(rng.choice(_VALUES))


def change(value: Any, rng: random.Random) -> Any:
    """A value with one place changed: another value there, or it is removed, renamed, doubled, swapped with another."""
    value = copy.deepcopy(value)
    paths = _paths(value)
    # Those near the top as often as the many below
    levels = sorted({len(path) for path in paths})
    level = rng.choice(levels)
    path = rng.choice([path for path in paths if len(path) == level])
    if not path:
        return _other(value, rng)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key, action = path[-1], rng.randrange(10)
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, dict):
        parent[rng.choice(['', 'x', '$tensor', '$items', f'{key}.x', '\ud800', str(key).upper()])] = parent.pop(key)
    elif action == 1:
        parent.insert(key, copy.deepcopy(parent[key]))
    elif action == 2 and len(parent) > 1:
        other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], parent[key]
    else:
        parent[key] = _other(parent[key], rng)
    return value


def _dumped(value: Any) -> bytes:
    text = json.dumps(value)
    for placeholder, raw in _RAW.items():
        text = text.replace(placeholder, raw)
    return text.encode()


def _json(data: bytes, rng: random.Random) -> bytes:
    return _dumped(change(json.loads(data), rng))


def _jsonl(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at, action = int(rng.random() * len(lines)), rng.randrange(8)
    if action == 0:
        lines.insert(int(rng.random() * len(lines)), lines[at])
    elif action == 1:
        del lines[at]
    else:
        lines[at] = _json(lines[at], rng) + b'\n'
    return b''.join(lines)


def _yaml(data: bytes, rng: random.Random) -> bytes:
    changed = change(yaml.safe_load(data), rng)
    return yaml.safe_dump(changed, allow_unicode=True).replace(_DEEP, '[' * 100_000).replace(_HUGE, '9' * 5000).encode(
        errors='surrogatepass')


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], 'little')
    header = _json(data[8:8 + length], rng)
    length = len(header) if rng.random() < 0.9 else rng.choice([0, 2 ** 62, len(header) + 1, 2 ** 64 - 1])
    return length.to_bytes(8, 'little') + header + data[8 + int.from_bytes(data[:8], 'little'):]


def _tokens(data: bytes, rng: random.Random) -> bytes:
    magic, version, length, _ = _TOKENS_HEAD.unpack(data[:_TOKENS_HEAD.size])
    header = _json(data[_TOKENS_HEAD.size:][:length], rng)
    head = _TOKENS_HEAD.pack(magic, version, len(header), hashlib.sha256(header).digest()) + header
    # The tokens stay where they are
    return head + data[len(head):]


_PARTS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    'json': _json, 'jsonl': _jsonl, 'yaml': _yaml, 'safetensors': _safetensors, 'tokens': _tokens}
