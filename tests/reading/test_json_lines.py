import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labml_mlm.reading import json_lines
from labml_mlm.reading.lines import Wrong
from labml_mlm.reading.rows import stream_objects
from labml_mlm.reading.texts import read_texts_of, text_of_row

LINES = ['{"text": "one"}', '{"text": "two", "more": [1, {"a": null}]}',
         '{"more": {}, "text": "\\u00e9 \\ud83d\\ude00"}',
         # Not text, or not in all lines
         '', ' ', '{"text": null}', '{"text": ""}', '{"text": " \\n"}', '{"text": 5}', '{"more": "x"}',
         '{"text": 0}', '{"text": false}', '{"text": []}',
         '[]', '["text"]',
         '"text"', '5', '{"text": ["a"]}', '{"text": "a"} {"text": "b"}', '{"text": "a"', '"b"}', '}', '{',
         # What one parser takes, or reads otherwise
         '{"text": "nan", "x": NaN}', '{"text": "big", "x": 123456789012345678901234567890}',
         '{"text": "half \\ud83d"}',
         '{"text": "a", "text": "b"}', '{"text": "a", "text": 5}', '\ufeff{"text": "marked"}', '{"text": "tab\there"}',
         '{"text": "nul \0"}', '{"text": "nul \\u0000"}', '{"text": "ends\\r\\nof\\rlines"}', '{"text": "\\r"}',
         ' {"text" :"spaces" } ', '[' * 2000, '{"text": "deep", "x": ' + '[' * 500 + ']' * 500 + '}',
         '{"text": "bad \\x"}', "{'text': 'quotes'}"]
lines = st.one_of(st.sampled_from(LINES).map(str.encode), st.binary(max_size=8),
                  st.text(max_size=8).map(lambda text: f'{{"text": "{text}"}}').map(str.encode))


@pytest.mark.parametrize('decoding', ['strict', 'replace'])
@pytest.mark.parametrize('block', [1, 40, 1 << 18])
@given(st.lists(lines, max_size=6), st.sampled_from([b'\n', b'\r\n']))
@example([b'{"text": "bad \xff"}', b'{"text": "fine"}'], b'\n')
@example([b'\xff\xfe{"text": "\0"}', b'{"text": "fine"}'], b'\n')
def test_blocks_have_the_texts_of_lines(tmp_path_factory, block, decoding, found, end):
    path = tmp_path_factory.getbasetemp() / 'found.jsonl'
    path.write_bytes(end.join(found))
    expected = []
    for number, row in stream_objects(path, decoding=decoding):
        text = row if isinstance(row, Wrong) else text_of_row(row, 'text', 'text_field', decoding)
        expected.append((number, None if isinstance(text, str) and not text.strip() else text, True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, '_BLOCK', block)
        assert list(read_texts_of(path, field='text', decoding=decoding)) == expected


def test_lines_with_a_text_come_together(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text('{"text": "one"}\n{"text": "two\\r\\n"}\n' * 3)
    assert list(json_lines.stream_blocks(path, 'text')) == [(1, ['one', 'two\n'] * 3)]
    # Blank ones stand alone
    path.write_text('{"text": " "}\n{"text": "one"}\n{"text": "two"}\n{"text": null}\n{"text": ""}\n{"text": "three"}')
    assert list(json_lines.stream_blocks(path, 'text')) == [(1, ' '), (2, ['one', 'two']), (4, None), (5, ''),
                                                            (6, ['three'])]
    path.write_text('{"text": "one"}\n{"text": 5}\n')
    assert list(json_lines.stream_blocks(path, 'text')) == [(1, {'text': 'one'}), (2, {'text': 5})]
