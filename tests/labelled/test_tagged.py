import json

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.labelled.tagged import TaggedRow, read_tagged, stream_tagged

CONLL = '-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\n# = O O\n# O O O\n. . O O\n# O O O\n'


@pytest.mark.parametrize('name', ['a.conll', 'a.txt.gz', 'a.bio.zst'])
def test_first_and_last_column_are_word_and_label(write, name):
    assert read_tagged(write(name, CONLL)).rows == [
        TaggedRow(['EU', 'rejects'], ['B-ORG', 'O'], 3), TaggedRow(['#', '.', '#'], ['O', 'O', 'O'], 8)]


def test_tabs_keep_spaces_within_words(write):
    found = read_tagged(write('a.tsv', '# text = New York\n# a comment\nNew York\tB-LOC\r\nis\tO\r\n \r\n#\tO\n'))
    assert found.rows == [TaggedRow(['New York', 'is'], ['B-LOC', 'O'], 3), TaggedRow(['#'], ['O'], 6)]


def test_json_lines_give_the_same_rows(write):
    path = write('a.jsonl', '\n'.join(json.dumps(row) for row in [
        {'words': ['a', 'b'], 'labels': ['X', 'O']}, {'words': [], 'labels': []}, {'words': ['c'], 'labels': [3]}]))
    found = read_tagged(path)
    assert found.rows == [TaggedRow(['a', 'b'], ['X', 'O'], 1), TaggedRow(['c'], ['3'], 3)]
    assert found.n_empty == 1


def test_no_labels_needed(write):
    assert read_tagged(write('a.txt', 'a\nb\n\nc'), label_field=None).rows == \
        [TaggedRow(['a', 'b'], [], 1), TaggedRow(['c'], [], 4)]
    assert read_tagged(write('a.jsonl', '{"words": ["a"]}'), label_field=None).rows == [TaggedRow(['a'], [], 1)]


@pytest.mark.parametrize(['name', 'data', 'message'], [
    ('a.csv', 'a,b', r'ends in .*\.conll'),
    ('a.txt', '\n', 'is empty'),
    ('a.txt', '-DOCSTART- O\n\n# b\n', 'has no words'),
    ('a.jsonl', '{"words": [], "labels": []}', 'has no words'),
    ('a.txt', '\na\nb\n', 'line 2 has a word and no label'),
    ('a.txt', '\na X O\nb O\n', 'line 3 has 2 columns, and line 2 has 3'),
    ('a.txt', 'a X O\n# b O O\n', 'line 2 has 4 columns, and line 1 has 3'),
    ('a.tsv', 'a\tO\n\tO\n', 'line 2 has an empty word'),
    ('a.tsv', 'a\tO\nb\t\n', 'line 2 has an empty label'),
    ('a.conll', '# text = a b\n1\ta\tNOUN\n2\tb\tNOUN\n\n1-2\tdu\t_\n1\tde\tADP\n2\tle\tDET\n', 'seems to be CoNLL-U'),
    ('a.jsonl', '{"words": ["a", "b"], "labels": ["O"]}', 'line 1 has 2 words in `words`, and 1 labels in `labels`'),
    ('a.jsonl', '{"words": "a b", "labels": ["O"]}', r'no list in its field `words` \(text_field\).* type str'),
    ('a.jsonl', '{"words": ["a"], "label": ["O"]}', 'no field `labels`.*Did you mean `label`'),
    ('a.jsonl', '{"words": [1], "labels": ["O"]}', 'a word that is no text, but of type int'),
    ('a.jsonl', '{"words": ["a"], "labels": [true]}', 'a label that is no text, but of type bool'),
    ('a.jsonl', '{"words": ["a", " "], "labels": ["O", "O"]}', 'an empty word'),
])
def test_errors_name_the_line(write, name, data, message):
    with pytest.raises(UserError, match=message):
        read_tagged(write(name, data))


def test_a_stream_has_sentences_without_words_and_comes_before_an_error(tmp_path):
    path = tmp_path / 'words.jsonl'
    path.write_text('{"words": ["a"]}\n{"words": []}\n{"words": "b"}\n')
    rows = stream_tagged(path, label_field=None)
    assert [next(rows).words, next(rows).words] == [['a'], []]
    with pytest.raises(UserError, match='line 3 has no list'):
        next(rows)
    # Those before tell that the first column does not number words
    (tmp_path / 'words.conll').write_text('a X\nb X\n\n' * 120 + 'd\n')
    rows = stream_tagged(tmp_path / 'words.conll', label_field=None)
    assert [next(rows).words for _ in range(120)] == [['a', 'b']] * 120
    with pytest.raises(UserError, match='line 361 has 1 columns'):
        next(rows)
