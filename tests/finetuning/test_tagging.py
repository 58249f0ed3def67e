import numpy as np
import pytest
import torch
from support.labelled import write_rows, write_tagged

from labml_mlm import TaggingConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.labelled.examples import NO_LABEL

NAMES = 'B-ANIMAL', 'I-ANIMAL', 'O'


@pytest.fixture
def tag(fine_tune, tmp_path):
    """Configs of tagging that were built, by default on 60 sentences."""
    def tag(**values):
        if 'text_path' not in values:
            values['text_path'] = str(write_tagged(tmp_path / 'words.conll', 60))
        return fine_tune(TaggingConfigs, **values)
    return tag


def test_labels_stand_at_the_first_token_of_each_word(tag):
    conf = tag()
    assert (conf._labels.kind, conf._labels.names) == ('tags', NAMES)
    batch, row = conf.train_loader.windows.batch(np.array([0])), conf._rows[0].rows[0]
    shown = conf.tokenizer.tokens
    assert ''.join(shown[i] for i in batch.tokens[:, 0]) == ' '.join(row.words)
    at = np.flatnonzero(batch.labels[:, 0] != NO_LABEL)
    begins = np.cumsum([0, *(len(word) + 1 for word in row.words[:-1])])
    assert at.tolist() == begins.tolist()
    assert [NAMES[batch.labels[i, 0]] for i in at] == row.labels


def test_words_without_a_separator(tag, tmp_path):
    rows = [{'tokens': list('漢字かな'), 'tags': ['K', 'K', 'H', 'H']}] * 3 + [
        {'tokens': list('字と漢'), 'tags': ['K', 'H', 'K']}] * 17
    conf = tag(text_path=str(write_rows(tmp_path / 'a.jsonl', rows)), word_separator='')
    texts = {''.join(conf.tokenizer.tokens[i] for i in conf.train_loader.windows.batch(np.array([i])).tokens[:, 0])
             for i in range(len(conf._rows[0].rows))}
    assert texts <= {'漢字かな', '字と漢'}
    assert conf.valid_metrics.best_by == 'accuracy'


@pytest.mark.parametrize('fields', [{}, {'text_field': 'words', 'label_field': 'ner'}])
def test_json_lines_are_columns(tag, tmp_path, fields):
    columns = tag()
    text, label = fields.get('text_field', 'tokens'), fields.get('label_field', 'tags')
    rows = [{text: row.words, label: row.labels} for row in columns._all_rows.rows]
    lines = tag(text_path=str(write_rows(tmp_path / 'words.jsonl', rows)), **fields)
    for one, other in zip(columns.train_loader, lines.train_loader, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.labels, other.labels)


def test_weights_are_those_of_words(tag):
    conf = tag(class_weights='balanced')
    labels = [label for row in conf._rows[0].rows for label in row.labels]
    assert conf.model.criterion.weight.tolist() == pytest.approx(
        [len(labels) / (3 * labels.count(name)) for name in NAMES])


def test_words_that_are_cut_off_are_counted_and_do_not_count(tag):
    conf = tag(seq_len=16)
    counts = conf.train_loader.windows.counts
    lengths = [np.cumsum([len(word) + 1 for word in row.words]) - [len(word) for word in row.words]
               for row in conf._rows[0].rows]
    n_lost = sum(int((begins > 16).sum()) for begins in lengths)
    assert counts.n_words_lost == n_lost > 100
    assert f'{n_lost} of {counts.n_words} words are cut off, or have no token: their labels are not used' in \
        counts.messages()
    n_labels = sum(int((batch.labels != NO_LABEL).sum()) for batch in conf.train_loader)
    assert n_labels == counts.n_words - n_lost


@pytest.mark.parametrize('values, message', [
    ({'text_field': 'words'}, 'text_field=words is for JSON lines: of .*words.conll the first column has the words'),
    ({'label_field': 'ner'}, 'label_field=ner is for JSON lines'),
    ({'metric': 'matthews'}, 'metric=matthews: for these labels it must be entity_f1, accuracy, f1_macro or loss')])
def test_what_nothing_reads_is_refused(tag, values, message):
    with pytest.raises(UserError, match=message):
        tag(**values)


@pytest.mark.parametrize('content, message', [
    ('a O\nb O\n\nc O\n', "all words of .*a.conll have the same label, 'O': there is nothing to learn"),
    ('a X O\nb O\n', 'a.conll, line 2 has 2 columns, and line 1 has 3'), ('a\nb\n', 'line 1 has a word and no label'),
    ('', 'a.conll is empty')])
def test_bad_files_are_refused(tag, tmp_path, content, message):
    (tmp_path / 'a.conll').write_text(content)
    with pytest.raises(UserError, match=message):
        tag(text_path=str(tmp_path / 'a.conll'))


def test_learns_which_words_are_animals(tag, tracked, tmp_path):
    conf = tag(text_path=str(write_tagged(tmp_path / 'more.conll', 200)), tokenizer='basic_english',
               **{'optimizer.learning_rate': 0.01})
    conf.run()
    assert tracked['entity_f1.'][-1] > 0.9 and tracked['accuracy.'][-1] > 0.95


def test_fields_of_json_lines_beside_columns(fine_tune, tmp_path):
    rows, columns = tmp_path / 'rows.jsonl', tmp_path / 'rows.conll'
    rows.write_text('{"words": ["a", "b"], "labels": ["X", "Y"]}\n' * 8)
    columns.write_text('a X\nb Y\n\n')
    fields = {'text_field': 'words', 'label_field': 'labels', 'tokenizer': 'character'}
    conf = fine_tune(TaggingConfigs, text_path=str(rows), valid_path=str(columns), **fields)
    assert len(conf.valid_loader.windows) == 1
    with pytest.raises(UserError, match='text_field=words is for JSON lines'):
        fine_tune(TaggingConfigs, text_path=str(columns), valid_path=str(columns), **fields)
