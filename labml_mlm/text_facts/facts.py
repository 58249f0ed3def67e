"""A text, read once: documents, lines and characters."""
import hashlib
from collections.abc import Callable
from typing import NamedTuple

from labml_mlm.data.documents import TextFiles
from labml_mlm.text_facts.characters import Characters
from labml_mlm.text_facts.lines import LineFacts, Lines, Repeats
from labml_mlm.text_facts.utf8 import Invalid, find_invalid


class TextFacts(NamedTuple):
    """What is in a text."""
    n_files: int
    # On the disk, compressed or not
    n_bytes: int
    n_documents: int
    # The share of documents that are the same as one before, and is it exact?
    repeated_documents: float
    is_exact: bool
    lines: LineFacts
    # How often each character occurs
    characters: dict[str, int]
    invalid: Invalid

    @property
    def n_characters(self) -> int:
        """All of them."""
        return sum(self.characters.values())


def read_facts(files: TextFiles, *, progress: Callable[[int], None] = lambda n_characters: None) -> TextFacts:
    """
    * `progress` is called with the number of characters so far

    Raises `UserError` if there is no text.
    """
    lines, characters, repeats = Lines(), Characters(), Repeats()
    n_documents, n_characters, of_document = 0, 0, hashlib.blake2b(digest_size=8)
    for piece, is_last in files:
        lines.add(piece, is_last=is_last)
        characters.add(piece)
        of_document.update(piece.encode('utf-8', 'surrogatepass'))
        if is_last:
            n_documents += 1
            repeats.add(of_document.digest())
            of_document = hashlib.blake2b(digest_size=8)
        n_characters += len(piece)
        progress(n_characters)
    return TextFacts(len(files.taken), sum(path.stat().st_size for path in files.taken), n_documents, repeats.share,
                     repeats.is_exact, lines.facts(), characters.counts, find_invalid(files.taken))
