"""`labml-mlm predict`, and the other commands on fine-tuned runs."""
import io
import json
import sys

import pytest
from support.project import outcome

import labml_mlm
from labml_mlm.cli import predict as predict_module

TEXTS = ['the excellent film', 'the dull fox', 'a lovely song']


@pytest.fixture
def command(fine_tuned_runs, monkeypatch, capsys):
    """`labml-mlm` in the project, with `given` as standard input: exit code, output and errors."""
    monkeypatch.chdir(fine_tuned_runs.path)

    def command(*arguments, given=None):
        if given is not None:
            monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(given.encode())))
        return outcome(capsys, *map(str, arguments))
    return command


@pytest.fixture
def load(fine_tuned_runs):
    return lambda uuid: labml_mlm.load(fine_tuned_runs.path / 'logs/labels' / uuid)


def answers(result) -> list[dict]:
    code, out, err = result
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def assert_refused(result, message):
    code, out, err = result
    assert (code, out) == (2, ''), err
    assert message in err.splitlines()[-1]
    assert 'Traceback' not in err


def test_lines_of_standard_input(command, load):
    result = command('predict', 'abba', '-', given='\n'.join(TEXTS) + '\n')
    for answer, expected in zip(answers(result), load('abba').predict(TEXTS), strict=True):
        assert [*answer] == ['label', 'probabilities'] and answer['label'] == expected.label
        assert answer['probabilities'] == pytest.approx(expected.probabilities, abs=1e-6)
    assert result[2].startswith('Using ') and result[2].count('\n') == 1


@pytest.mark.parametrize('name, content', [
    ('texts.txt', '\n'.join(TEXTS)), ('texts.jsonl', ''.join(f'{{"text": "{text}"}}\n' for text in TEXTS)),
    ('texts.csv', 'text\n' + '\n'.join(TEXTS)), ('texts.tsv', 'n\ttext\n' + '\n'.join(f'1\t{t}' for t in TEXTS))])
def test_files_give_the_same(command, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert answers(command('predict', 'abba', tmp_path / name)) == \
        answers(command('predict', 'abba', '-', given='\n'.join(TEXTS)))


def test_another_field(command, tmp_path):
    (tmp_path / 'texts.jsonl').write_text('{"body": "the dull fox"}\n')
    assert_refused(command('predict', 'abba', tmp_path / 'texts.jsonl'), "its fields are 'body'")
    assert len(answers(command('predict', 'abba', tmp_path / 'texts.jsonl', '--field', 'body'))) == 1


def test_lines_stay_those_of_the_file(command, tmp_path):
    """A blank line, and one whose only token is none for the tokenizer."""
    (tmp_path / 'texts.txt').write_text(f'{TEXTS[0]}\n\n{TEXTS[1]}\n \t\n\x01\n{TEXTS[2]}\n')
    result = command('predict', 'abba', tmp_path / 'texts.txt')
    found = answers(result)
    assert [i for i, answer in enumerate(found) if answer == {'label': None, 'probabilities': None}] == [1, 3, 4]
    assert [found[i] for i in (0, 2, 5)] == answers(command('predict', 'abba', '-', given='\n'.join(TEXTS)))
    assert 'Note: 3 of 6 have no text, and null in place of labels: line 2, 4, 5\n' in result[2]


def test_texts_that_are_cut_are_counted(command):
    code, out, err = command('predict', 'abba', '-', given='the dull fox ' * 20 + '\nthe fox\n')
    assert code == 0 and out.count('\n') == 2
    assert 'Note: 1 of 2 texts are longer than 24 tokens: their ends were cut off\n' in err


def test_numbers(command, load):
    found = answers(command('predict', 'beda', '-', given='\n'.join([*TEXTS, ''])))
    assert found[0] == {'value': pytest.approx(load('beda').predict(TEXTS)[0].label, abs=1e-5)}
    assert answers(command('predict', 'beda', '-', given='\n\n')) == [{'value': None}] * 2


def test_pairs(command, load, tmp_path):
    pairs = [(text, 'what a film') for text in TEXTS]
    (tmp_path / 'pairs.jsonl').write_text(''.join(json.dumps({'text': a, 'other': b}) + '\n' for a, b in pairs))
    found = answers(command('predict', 'cafe', tmp_path / 'pairs.jsonl', '--pair-field', 'other'))
    for answer, expected in zip(found, load('cafe').predict(pairs), strict=True):
        assert answer['probabilities'] == pytest.approx(expected.probabilities, abs=1e-6)
    assert_refused(command('predict', 'cafe', '-', given='a\n'), 'was trained on pairs of texts: give a file of JSON')
    (tmp_path / 'texts.txt').write_text('a\n')
    assert_refused(command('predict', 'cafe', tmp_path / 'texts.txt'),
                   'a file with pairs of texts ends in .csv, .json, .jsonl or .tsv')


def test_words(command, load, tmp_path):
    [expected] = load('deed').predict([['the', 'lovely', 'fox']])
    (tmp_path / 'words.conll').write_text('# text = a\nthe X\nlovely X\nfox X\n\nfox X\n')
    (tmp_path / 'words.jsonl').write_text('{"tokens": ["the", "lovely", "fox"]}\n{"tokens": ["fox"]}\n')
    by_input = [answers(result) for result in (
        command('predict', 'deed', '-', given='the lovely  fox\nfox\n'),
        command('predict', 'deed', tmp_path / 'words.conll'), command('predict', 'deed', tmp_path / 'words.jsonl'))]
    assert by_input[0] == by_input[1] == by_input[2]
    assert by_input[0][0] == {'words': ['the', 'lovely', 'fox'], 'labels': expected.label,
                              'probabilities': pytest.approx(expected.probabilities, abs=1e-6)}


def test_words_that_are_cut_off_have_no_label(command):
    result = command('predict', 'deed', '-', given='fox ' * 30 + '\n\n')
    long, empty = answers(result)
    n_kept = long['labels'].index(None)
    assert 0 < n_kept < 30 == len(long['words'])
    assert long['labels'][n_kept:] == long['probabilities'][n_kept:] == [None] * (30 - n_kept)
    assert empty == {'words': [], 'labels': [], 'probabilities': []}
    assert f'Note: {30 - n_kept} words were cut off, or have no token: their labels are null\n' in result[2]


def test_it_is_a_stream(command, monkeypatch, tmp_path):
    """Of blocks, and what comes before an error is printed."""
    monkeypatch.setattr(predict_module, '_ROWS', 4)
    (tmp_path / 'texts.jsonl').write_text(''.join(f'{{"text": "fox {i}"}}\n' for i in range(10)) + 'no\n')
    code, out, err = command('predict', 'abba', tmp_path / 'texts.jsonl')
    assert code == 2 and out.count('\n') == 10
    assert 'line 11 is not JSON' in err.splitlines()[-1]


@pytest.mark.parametrize('arguments, message', [
    (['abba', 'texts.xml'], 'a file with texts ends in .csv, .json, .jsonl, .tsv or .txt'),
    (['deed', 'texts.csv'], 'a file with words ends in .bio, .conll, .json, .jsonl, .tsv or .txt'),
    (['abba', 'missing.txt'], 'cannot read missing.txt: No such file'),
    (['abba', '-', '--field', 'body'], '--field=body is for JSON lines, and for tables'),
    (['deed', 'tags.conll', '--field', 'body'], '--field=body is for JSON lines'),
    (['abba', 'rows.jsonl', '--pair-field', 'pair'], 'the run was not trained on pairs of texts'),
    (['abba', '-'], 'there is no text in standard input')])
def test_what_does_not_go_together_is_refused(command, arguments, message):
    assert_refused(command('predict', *arguments, given=''), message)


def test_runs_that_predict_tokens_predict_no_labels(exports, monkeypatch, capsys):
    monkeypatch.chdir(exports.path)
    assert_refused(outcome(capsys, 'predict', 'feed', '-'), 'predicts masked tokens, and no labels: fine-tune it first')


@pytest.mark.parametrize('uuid, objective', [('abba', 'classification'), ('deed', 'tagging')])
def test_runs_that_predict_labels_fill_in_nothing(command, uuid, objective):
    assert_refused(command('fill-mask', uuid, 'a [MASK]'), f'was fine-tuned for {objective}: it predicts labels')
    assert_refused(command('evaluate', uuid, '--pseudo'), '--pseudo is for models that predict masked tokens')
    assert_refused(command('samples', uuid), f'the run {uuid} has no samples')


@pytest.mark.parametrize('uuid', ['abba', 'beda', 'cafe', 'deed'])
def test_evaluate_gives_the_figures_of_training(command, load, uuid):
    valid = load(uuid).checkpoint.valid
    code, out, err = command('evaluate', uuid, '--json')
    assert code == 0, err
    found = json.loads(out)
    assert found.pop('n_texts') == 8
    assert found == pytest.approx({name: value for name, value in valid.items() if name in found}, abs=1e-5)
    lines = command('evaluate', uuid)[1].splitlines()
    assert lines[0] == '8 texts' and [line.split()[0] for line in lines[1:]] == [*found]


def test_evaluate_on_a_labelled_file(command, load, tmp_path):
    (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps({'text': text, 'label': 'good'}) + '\n' for text in TEXTS))
    found = json.loads(command('evaluate', 'abba', '--text', tmp_path / 'rows.jsonl', '--json')[1])
    right = [predicted.label == 'good' for predicted in load('abba').predict(TEXTS)]
    assert found['n_texts'] == 3 and found['accuracy'] == pytest.approx(sum(right) / 3)
    (tmp_path / 'rows.jsonl').write_text('{"text": "the fox", "label": "goood"}\n')
    assert_refused(command('evaluate', 'abba', '--text', tmp_path / 'rows.jsonl'), "'goood' (line 1)")


def test_evaluate_without_the_rows(command, fine_tuned_runs):
    rows = fine_tuned_runs.path / 'rows.jsonl'
    before = rows.read_text()
    try:
        rows.write_text(before.replace('dull', 'grey'))
        assert_refused(command('evaluate', 'abba'), '--text FILE evaluates on another file with labels')
    finally:
        rows.write_text(before)


def test_they_are_listed_and_drawn(command, tmp_path):
    rows = {line.split()[0]: line.split() for line in command('runs')[1].splitlines()[1:]}
    assert rows['beda'][-3] == '-' and 0 <= float(rows['abba'][-3]) <= 1
    assert command('plot', 'abba', 'beda', '-o', tmp_path / 'curves.svg')[0] == 0


def test_export(command, tmp_path):
    code, out, err = command('export', 'abba', tmp_path / 'out')
    assert code == 0 and out.startswith('LabmlMLMForSequenceClassification, '), err
    assert_refused(command('export', 'abba', tmp_path / 'other', '--sentence-transformers'),
                   '--sentence-transformers is for models whose hidden states are of use')
