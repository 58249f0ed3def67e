"""Data sets of the benchmarks: what is held out and what is not, and what labels mean."""
import hashlib
import importlib
import io
import os
import subprocess
import sys
import tarfile
import tokenize

import pytest
from support.project import ROOT

from labml_mlm.labelled.tagged import read_tagged


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')


def load(name):
    return importlib.import_module(name)


def is_held_out(text):
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 5 == 0


def packed(files):
    """A `.tar.gz` of `{name: content}`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w:gz') as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def archive_of(lines_of):
    """The source archive, with lines of the domains in it."""
    inner = packed({f'hutto_ICWSM_2014/{name}_GroundTruth.txt': '\r\n'.join(lines_of.get(domain, [])).encode()
                    for domain, name in load('review_data').DOMAINS.items()})
    return packed({'vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz': inner})


def test_reviews_are_split_by_their_text(tmp_path):
    data, files = load('review_data'), load('labelled_files')
    ratings = [-4, -0.5, -0.4, 0, 0.4, 0.5, 2.25]
    film = [f'{i}\t{ratings[i % 7]}\tThe clichés of film {i}.' for i in range(350)]
    data.write(tmp_path, data.read_sentences(archive_of({'film': film})))
    train, held_out = (files.read_rows(tmp_path / f'film/{name}.jsonl') for name in ('train', 'held_out'))
    assert len(train) + len(held_out) == 200 and len(held_out) > 20
    assert all(is_held_out(row['text']) for row in held_out) and not any(is_held_out(row['text']) for row in train)
    assert {(row['rating'], row['label']) for row in train + held_out} == {
        (-4, 'negative'), (-0.5, 'negative'), (0.5, 'positive'), (2.25, 'positive')}
    pre_training = (tmp_path / 'unlabelled/film.txt').read_text(encoding='utf-8')
    # Neutral ones are there, too
    assert sorted(pre_training.split()) == sorted(' '.join(
        text for text in (line.split('\t')[2] for line in film) if not is_held_out(text)).split())


def test_no_text_for_pre_training_is_held_out_in_another_form():
    data = load('review_data')
    texts = [f'Sentence {i}' for i in range(40)]
    held_out = {data.plain(text) for text in texts if is_held_out(text)}
    assert held_out
    sentences = [data.Sentence(str(i // 4), text.upper().replace(' ', '  '), 1.) for i, text in enumerate(texts)]
    documents = data.unlabelled(sentences, held_out)
    lines = [line for document in documents for line in document.split('\n')]
    assert lines == [text.upper() for text in texts if not is_held_out(text)]
    # A review is a document
    assert len(documents) == 10


def test_documents_follow_the_ids():
    found = load('review_data').read_sentences(archive_of({'product': ['1_1\t0.5\ta', '1_2\t-1\tb', '2_1\t0\tc'],
                                                           'tweets': ['1\t2\td']}))
    assert [tuple(sentence) for sentence in found['product']] == [('1', 'a', 0.5), ('1', 'b', -1), ('2', 'c', 0)]
    assert [tuple(sentence) for sentence in found['tweets']] == [('1', 'd', 2)]


def test_subsets_are_nested_and_follow_from_the_rows_alone():
    files = load('labelled_files')
    rows = [{'text': str(i), 'label': 'rare' if i == 77 else str(i % 3)} for i in range(300)]
    large = files.subset(rows, 100, seed=1)
    assert files.subset(rows[::-1], 100, seed=1) == large
    assert files.subset(rows, 10, seed=1) == large[:10]
    assert len({row['text'] for row in large}) == 100
    # Each label is there
    assert {row['label'] for row in large[:10]} == {'0', '1', '2', 'rare'}
    assert {row['text'] for row in files.subset(rows, 100, seed=2)} != {row['text'] for row in large}


@pytest.mark.parametrize(('arguments', 'variables', 'message'), [
    (['--archive', 'wrong.tar.gz'], {}, 'wrong.tar.gz is not vaderSentiment-3.3.2.tar.gz: its SHA-256 is'),
    (['--archive', 'none.tar.gz'], {}, 'none.tar.gz cannot be read: No such file or directory'),
    ([], {'PIP_NO_INDEX': '1', 'PIP_CONFIG_FILE': os.devnull}, 'pip cannot download the source archive'),
])
def test_there_is_one_message_without_the_archive(tmp_path, arguments, variables, message):
    (tmp_path / 'wrong.tar.gz').write_bytes(b'')
    result = subprocess.run([sys.executable, ROOT / 'benchmarks/review_data.py', 'data', *arguments], cwd=tmp_path,
                            capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT), **variables})
    assert result.returncode == 2 and result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / 'data').exists()


SOURCE = '''
class Parser:
    """Of xml."""

    def parse(self, text):
        """Reads
        email."""
        def inner():
            return xml.dom

        self._xml = xmlish(text)  # as in Email
        return inner()

    def short(self): return 1
'''


def test_functions_have_neither_docstrings_nor_names_of_packages():
    assert load('code_data').functions(SOURCE) == [
        'def parse(self, text):\n    def inner():\n        return package.dom\n\n'
        '    self._package = xmlish(text)  # as in package\n    return inner()']


def test_no_function_of_a_package_is_on_both_sides():
    def module(name):
        return '\n'.join(f'def {name}_{i}(x):\n    x += {i}\n    return x\n' for i in range(20))

    same = 'def same(x):\n    x += 1\n    return x\n'
    files = {f'{package}/{i}.py': module(f'f_{i}') + same for package in ('xml', 'email') for i in range(5)}
    # The same names in two packages
    files = {name: source.replace('f_', name[:2] + '_') for name, source in files.items()}
    train, held_out, names = load('code_data').package_rows(files)
    texts = [row['text'] for row in train + held_out]
    assert len(texts) == len(set(texts)) == 200 and not any('same' in text for text in texts)
    assert {row['label'] for row in train} == {row['label'] for row in held_out} == {'xml', 'email'}
    assert len(held_out) == 40 and len(names) == 2


def test_labels_of_characters_are_pythons_tokens():
    source = 'if x1 == "a # b":  # c\n    s = """d\ne"""\n    y = \\\n        0x1F\n'
    rows = load('code_data').character_rows(source)
    # The lines of a string are left out
    assert [''.join(row['tokens']) for row in rows] == ['if x1 == "a # b":  # c', 'y = \\', '0x1F']
    found = []
    for row in rows:
        for character, label in zip(row['tokens'], row['labels'], strict=True):
            if label.startswith('B-'):
                found.append([label[2:], ''])
            if label == 'O':
                assert character == '\\'
                continue
            assert found[-1][0] == label[2:]
            found[-1][1] += character
    found = [(name, text.rstrip()) for name, text in found]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    assert found == [(tokenize.tok_name[token.type], token.string) for token in tokens
                     if token.string.strip() and token.start[0] in (1, 4, 5)]


def test_tagging_reads_characters_and_tokens(tmp_path):
    data, source = load('code_data'), 'if x1 == "a  b":  # c\n    y = \\\n        0x1F\n'
    for name, rows in ('characters', data.character_rows(source)), ('tokens', data.token_rows(source)):
        load('labelled_files').write_rows(tmp_path / f'{name}.jsonl', rows)
        read = read_tagged(tmp_path / f'{name}.jsonl', text_field='tokens')
        assert [row.words for row in read.rows] == [row['tokens'] for row in rows]


def test_words_are_pythons_tokens():
    source = ''.join(f'x{i} = f({i}, "a b")  # c\n' for i in range(10)) + 'def g():\n    pass\n'
    rows = load('code_data').token_rows(source)
    assert len(rows) == 3 and all(len(row['tokens']) >= 32 for row in rows[:-1])
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.string.strip()]
    assert [word for row in rows for word in row['tokens']] == [token.string for token in tokens]
    assert [label for row in rows for label in row['labels']] == [tokenize.tok_name[token.type] for token in tokens]
