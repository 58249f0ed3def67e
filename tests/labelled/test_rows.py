import json

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.labelled.rows import Row, read_rows, stream_rows

JSON = '{"text": "Good, \\"very\\"", "label": "1"}\n\n{"label": "0", "text": "é\\nbad"}\n'
CSV = 'label,text\r\n1,"Good, ""very"""\r\n\r\n0,"é\r\nbad"\r\n'
TSV = 'text\tlabel\n"Good, ""very"""\t1\n\né bad\t0'


@pytest.mark.parametrize('suffix', ['', '.gz', '.zst'])
@pytest.mark.parametrize('bom', ['', '\ufeff'])
@pytest.mark.parametrize(['name', 'data', 'second'], [('a.jsonl', JSON, 'é\nbad'), ('a.json', JSON, 'é\nbad'),
                                                      ('a.csv', CSV, 'é\nbad'), ('a.TSV', TSV, 'é bad')])
def test_all_formats_give_the_same_rows(write, name, data, second, bom, suffix):
    found = read_rows(write(name + suffix, bom + data))
    begin = name.endswith(('csv', 'TSV'))
    assert found.rows == [Row('Good, "very"', '1', None, 1 + begin), Row(second, '0', None, 3 + begin)]
    assert found.n_empty == 0


def test_bare_quotes_in_tsv_are_text(write):
    found = read_rows(write('a.tsv', 'text\tlabel\n"Well," he said\t1\nthe 5" disk\t0\n"a" or "b"\t0\n'))
    assert [row.text for row in found.rows] == ['"Well," he said', 'the 5" disk', '"a" or "b"']


def test_labels_are_as_found(write):
    labels = ['a', 3, 2.5, True, ['x', 'y'], []]
    path = write('a.jsonl', '\n'.join(json.dumps({'text': 'a', 'label': label}) for label in labels))
    assert [row.label for row in read_rows(path).rows] == labels


def test_fields_by_name_and_pairs(write):
    path = write('a.csv', 'a,b,c\nfirst,second,yes\nthird, ,no\n')
    found = read_rows(path, text_field='a', pair_field='b', label_field='c')
    assert found.rows == [Row('first', 'yes', 'second', 2)] and found.n_empty == 1


def test_no_labels_needed(write):
    assert read_rows(write('a.jsonl', '{"text": "a"}\n{"text": "b", "label": null}'), label_field=None).rows == \
        [Row('a', None, None, 1), Row('b', None, None, 2)]


def test_blank_texts_are_left_out_and_counted(write):
    found = read_rows(write('a.csv', 'text,label\n,1\n  ,1\na,1\n"\n",\n'))
    assert found.rows == [Row('a', '1', None, 4)] and found.n_empty == 3


def test_empty_labels_where_they_are_allowed(write):
    path = write('a.csv', 'text,label\na,\n')
    assert read_rows(path, allow_empty_label=True).rows[0].label == ''
    with pytest.raises(UserError, match='line 2 has no label: .*`label`.* is empty'):
        read_rows(path)


def test_a_long_field(write):
    assert len(read_rows(write('a.csv', f'text,label\n{"x" * 500_000},1\n')).rows[0].text) == 500_000


@pytest.mark.parametrize(['name', 'data', 'message'], [
    ('a.txt', 'a', r'ends in \.csv, \.json, \.jsonl or \.tsv'),
    ('a.jsonl', '', 'a.jsonl is empty'),
    ('a.csv', '\n \n', 'a.csv is empty'),
    ('a.csv', 'text,label\n', 'no rows with text: there is nothing after the header'),
    ('a.csv', 'text,label\n ,1\n,2\n', 'no rows with text: in all 2 of them'),
    ('a.csv', 'texts,label\na,1\n', r"line 1 has no field `text` \(text_field\): its fields are 'texts', 'label'\. Did "
                                    'you mean `texts`'),
    ('a.csv', 'text,label,label\na,1,2\n', 'line 1 names 2 columns `label`'),
    ('a.csv', 'text,label\n"a\nb",1\na,1,2\n', 'line 4 has 3 columns, and the header has 2'),
    ('a.csv', 'text,label\na\n', 'line 2 has 1 columns'),
    ('a.tsv', 'text\tlabel\na\t1\na b\n', 'line 3 has 1 columns'),
    ('a.csv', 'text,label\na,1\n"b,1\nc,1\n', 'line 3 is not CSV'),
    ('a.jsonl', '{"text": "a", "label": 1}\n{"text": "a", "lable": 1}', "line 2 has no field `label`.*'text', 'lable'.*"
                                                                        'Did you mean `lable`'),
    ('a.jsonl', '{"text": "a", "label": 1}\nnone', 'line 2 is not JSON'),
    ('a.json', '[{"text": "a", "label": 1}]', 'line 1 is a JSON list: there must be an object on each line'),
    ('a.jsonl', '{"text": 3, "label": 1}', 'line 1 has no text in the field that text_field names, but a value of type '
                                           'int'),
    ('a.jsonl', '{"text": null, "label": 1}', 'but null'),
    ('a.jsonl', '{"text": "\\ud800", "label": 1}', r'lone surrogate: U\+D800'),
    ('a.jsonl', '{"text": "a", "label": null}', r'line 1 has no label: its field `label` \(label_field\) is null'),
    ('a.jsonl', '{"text": "a", "label": NaN}', 'line 1 has no label: .* NaN'),
    ('a.csv', b'text,label\na,1\n\xe9,1\n', 'line 3 is not UTF-8: invalid byte 0xe9'),
    ('a.csv', b'\xff\xfet\0e\0', 'NUL characters'),
])
def test_errors_name_the_line(write, name, data, message):
    with pytest.raises(UserError, match=message):
        read_rows(write(name, data))


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(UserError, match='cannot read .*none.csv: No such file'):
        read_rows(tmp_path / 'none.csv')
    path = write('a.csv.gz', 'text,label\na,1\n')
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match='cannot read'):
        read_rows(path)
    (tmp_path / 'b.csv.zst').write_bytes(b'text')
    with pytest.raises(UserError, match='cannot be decompressed'):
        read_rows(tmp_path / 'b.csv.zst')


def test_a_stream_has_blank_rows_and_comes_before_an_error(tmp_path):
    path = tmp_path / 'rows.jsonl'
    path.write_text('{"text": "a", "label": 1}\n{"text": " ", "label": null}\n{"text": "b"}\n')
    rows = stream_rows(path)
    assert [next(rows), next(rows)] == [Row('a', 1, None, 1), Row(' ', None, None, 2)]
    with pytest.raises(UserError, match='line 3 has no field `label`'):
        next(rows)
    assert [row.is_blank for row in stream_rows(path, label_field=None)] == [False, True, False]
