"""
# The sequences of a FASTA file

    >sp|P69905|HBA_HUMAN Hemoglobin subunit alpha
    MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHG
    KKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDPVNFKLLSHCLLVTLAAHLPAEFTP

A header begins a record, and the lines behind it, joined, are its sequence. Lines that begin with `;` are comments.
"""
from collections.abc import Iterator
from pathlib import Path

from labml_mlm.reading.lines import Wrong, decoded_lines

SUFFIXES = '.fasta', '.fa', '.faa', '.fna'
# Characters of a piece: a chromosome has hundreds of millions
_PIECE = 1 << 22


def stream_sequences(path: Path, *, decoding: str = 'strict') -> Iterator[tuple[int, str | None | Wrong, bool]]:
    """
    The sequences of a file, in pieces, each with the line of its header and whether it is the last one; `None` for an
    empty sequence, and what is wrong with a record. `decoding` is that of `decoded_lines`.
    """
    header, lines, length, is_begun, is_wrong = 0, [], 0, False, False
    for number, line in decoded_lines(path, decoding=decoding):
        if isinstance(line, Wrong):
            # The record is left out from here on
            at = f'line {number:,} ' if header else ''
            yield header or number, line if line.is_whole else Wrong(f'begins a record, and {at}{line.what}'
                                                                     if header else line.what), True
            is_wrong = True
        elif line.startswith('>'):
            if header and not is_wrong:
                yield header, ''.join(lines) if lines or is_begun else None, True
            header, lines, length, is_begun, is_wrong = number, [], 0, False, False
        elif not is_wrong and not line.startswith(';') and (line := ''.join(line.split())):
            if not header:
                yield number, Wrong('has a sequence without a header: in FASTA, a line with > begins each record',
                                    is_whole=True), True
                return
            lines.append(line)
            length += len(line)
            if length >= _PIECE:
                yield header, ''.join(lines), False
                lines, length, is_begun = [], 0, True
    if header and not is_wrong:
        yield header, ''.join(lines) if lines or is_begun else None, True
