"""
# `labml-mlm score` and `labml-mlm inspect`

How well does a model know texts, which of two sentences does it prefer, and what does it expect where?
"""
import argparse
import collections
import math
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import write_atomically
from labml_mlm.common.untrusted import to_json
from labml_mlm.inference.texts import STDIN, name_of, read_json, read_texts
from labml_mlm.runs.samples_log import printable

if TYPE_CHECKING:
    from labml_mlm.evaluation.figures import Accuracy, Corpus, PairScore, Phenomena
    from labml_mlm.evaluation.inspection import Inspection
    from labml_mlm.evaluation.score import TextScore
    from labml_mlm.inference.pretrained import Pretrained

# Columns of the table of texts: heading, width, digits after the point, and the least width of a terminal that has it
_COLUMNS = (('line', 5, 0, 60), ('PLL', 10, 2, 0), ('tokens', 6, 0, 60), ('nats/token', 10, 3, 80),
            ('nats/word', 9, 3, 100), ('bits/char', 9, 3, 0))
# A table that no terminal shows
_NO_END = 1 << 20
_FIGURES = {'bits_per_character': 'bits per character', 'nats_per_token': 'nats per token',
            'pseudo_perplexity': 'pseudo-perplexity', 'nats_per_word': 'nats per word',
            'nats_per_text': 'nats per text'}


def score(parsed: argparse.Namespace):
    """How well a model knows texts, or which of two sentences it prefers."""
    from labml_mlm.inference.loading import load

    if (parsed.file is None) == (parsed.pairs is None):
        raise UserError('give a FILE with a text a line, or --pairs FILE' if parsed.file is None else
                        f'give a file with texts or --pairs, not both: {parsed.file} and {parsed.pairs}')
    if parsed.pairs is not None and parsed.field is not None:
        raise UserError('--field is for texts: pairs have the fields `sentence_good` and `sentence_bad`')
    pretrained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {pretrained.about}', file=sys.stderr)
    (_score_texts if parsed.pairs is None else _score_pairs)(pretrained, parsed)


def _score_texts(pretrained: 'Pretrained', parsed: argparse.Namespace):
    from labml_mlm.evaluation.figures import Corpus
    from labml_mlm.evaluation.score import score_texts

    name, lines = name_of(parsed.file), _Lines(read_texts(parsed.file, field=parsed.field,
                                                         default_field=pretrained.configs.text_field))
    how = {'at_once': 1} if parsed.file == STDIN and sys.stdin is not None and sys.stdin.isatty() else {}
    scores = score_texts(pretrained, lines, within_word=parsed.within_word, window=parsed.window, **how)
    corpus, columns = Corpus(), _columns()
    if not parsed.json:
        print('  '.join([*(heading.rjust(width) for heading, width, *_ in columns), 'text']))
    for number, scored in lines.numbered(scores, name):
        corpus.add(scored)
        if scored.n_tokens:
            print(_as_json(number, scored) if parsed.json else _row(number, scored, columns),
                  flush=parsed.file == STDIN)
    if not corpus.n_texts:
        raise UserError(f'{name} has no text: give one a line')
    if parsed.json:
        print(to_json({'corpus': {**corpus.totals, **{name: figure._asdict() for name, figure in
                                                      corpus.figures.items()}}}))
    else:
        _print_corpus(corpus)


def _print_corpus(corpus: 'Corpus'):
    totals = corpus.totals
    print('', ', '.join(f'{totals[name]:,} {name}' for name in ('texts', 'tokens', 'words', 'characters')), sep='\n')
    if corpus.n_empty:
        print(f'{corpus.n_empty:,} empty {"line is" if corpus.n_empty == 1 else "lines are"} left out')
    if corpus.n_cut:
        print(f'{corpus.n_cut:,} with more tokens than a window {"is" if corpus.n_cut == 1 else "are"} cut')
    print(f'{"":18}{"value":>12}  ± error')
    for name, figure in corpus.figures.items():
        print(f'{_FIGURES[name]:18}{_shown(figure.value):>12}  {_shown(figure.error):>7}')


def _score_pairs(pretrained: 'Pretrained', parsed: argparse.Namespace):
    from labml_mlm.evaluation.figures import Phenomena, score_pairs

    phenomena, name, lines = Phenomena(), name_of(parsed.pairs), _Lines(read_json(parsed.pairs))
    scores = score_pairs(pretrained, lines, within_word=parsed.within_word, window=parsed.window)
    for _, scored in lines.numbered(scores, name):
        phenomena.add(scored)
        if parsed.json:
            print(to_json(_pair_as_json(scored)))
    if not phenomena.total.n:
        raise UserError(f'{name} has no pairs: give one a line, as JSON')
    if parsed.json:
        by = {group: {name: _accuracy_as_json(accuracy) for name, accuracy in found.items()}
              for group, found in phenomena.by.items() if found}
        print(to_json({'total': _accuracy_as_json(phenomena.total), **by}))
    else:
        _print_phenomena(phenomena)


def _print_phenomena(phenomena: 'Phenomena'):
    print(f'{"pairs":>7}  {"accuracy":>8}  {"± error":>7}')
    groups = [(group, found) for group, found in phenomena.by.items() if found]
    for group, found in [*groups, ('', {'all pairs': phenomena.total})]:
        if len(groups) > 1 or not group:
            print(group and f'by {group}')
        for name, accuracy in found.items():
            value, error = accuracy.figure
            print(f'{accuracy.n:7,}  {value:8.3f}  {error:7.3f}  {printable(name)}')
    if ties := phenomena.total.n_ties:
        print(f'{ties:,} {"pair is a tie, which counts" if ties == 1 else "pairs are ties, which count"} as wrong')


def inspect(parsed: argparse.Namespace):
    """What a model expects at each token of a text."""
    from labml_mlm.evaluation.inspection import inspect_text
    from labml_mlm.inference.loading import load

    pretrained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {pretrained.about}', file=sys.stderr)
    text = '\n'.join(line for _, line in read_texts(STDIN)) if parsed.text is None else parsed.text
    found = inspect_text(pretrained, text, top=parsed.top, within_word=parsed.within_word, window=parsed.window)
    if parsed.output is not None:
        write_atomically(parsed.output, found.page.encode())
    if parsed.json:
        print(to_json({**_score_as_json(found.score), 'tokens': [
            {'token': token.text, 'log_p': token.log_p, 'rank': token.rank,
             'choices': [choice._asdict() for choice in token.choices]} for token in found.tokens]}))
    elif parsed.output is not None:
        print(f'{parsed.output} shows {found.score.n_tokens:,} tokens')
    else:
        _print_inspection(found)


def _print_inspection(found: 'Inspection'):
    width = _terminal_width()
    longest = max(len('token'), *(_width(repr(token.text)) for token in found.tokens))
    longest = min(longest, max(len('token'), width // 4))
    print(f'{"token":{longest}}  {"p":>7}  {"rank":>6}  could be')
    for token in found.tokens:
        name = _cut(printable(repr(token.text)), longest)
        name += ' ' * (longest - _width(name))
        if token.log_p is None:
            print(name)
            continue
        choices = '  '.join(f'{choice.token!r} {choice.probability:.3f}' for choice in token.choices)
        print(f'{name}  {math.exp(token.log_p):7.4f}  {token.rank:6,}  {_cut(choices, width - longest - 19)}'.rstrip())
    scored = found.score
    print('', *(f'{_FIGURES[name]:18}{_shown(getattr(scored, name)):>12}'
                for name in ('bits_per_character', 'nats_per_token', 'nats_per_word')), sep='\n')


class _Lines:
    """
    ## What stands on the lines of a file, and which of them have no score yet

    * `entries` are the numbers of lines and what stands there
    """

    def __init__(self, entries: Iterable[tuple[int, Any]]):
        self._entries = entries
        self._numbers: collections.deque[int] = collections.deque()

    def __iter__(self) -> Iterator[Any]:
        for number, entry in self._entries:
            self._numbers.append(number)
            yield entry

    def numbered(self, scores: Iterable[Any], name: Path) -> Iterator[tuple[int, Any]]:
        """The scores with the numbers of their lines. Errors of what was read, and has no score, name its line."""
        try:
            for scored in scores:
                yield self._numbers.popleft(), scored
        except UserError as e:
            raise UserError(f'{name}, line {self._numbers[0]:,}: {e}') if self._numbers else e from None


def _score_as_json(scored: 'TextScore') -> dict[str, Any]:
    return {'text': scored.text, 'pll': scored.pll, 'n_tokens': scored.n_tokens, 'n_words': scored.n_words,
            'n_characters': scored.n_characters, 'n_windows': scored.n_windows,
            'nats_per_token': scored.nats_per_token, 'nats_per_word': scored.nats_per_word,
            'bits_per_character': scored.bits_per_character}


def _as_json(number: int, scored: 'TextScore') -> str:
    return to_json({'line': number, **_score_as_json(scored)})


def _pair_as_json(scored: 'PairScore') -> dict[str, Any]:
    return {**scored.pair, 'pll_good': scored.good.pll, 'pll_bad': scored.bad.pll, 'is_right': scored.is_right,
            'is_tie': scored.is_tie}


def _accuracy_as_json(accuracy: 'Accuracy') -> dict[str, Any]:
    value, error = accuracy.figure
    return {'pairs': accuracy.n, 'right': accuracy.n_right, 'ties': accuracy.n_ties, 'accuracy': value, 'error': error}


def _columns() -> list[tuple[str, int, int, int]]:
    """Those of the table of texts that the terminal has room for."""
    return [column for column in _COLUMNS if column[-1] <= _terminal_width()]


def _row(number: int, scored: 'TextScore', columns: Sequence[tuple[str, int, int, int]]) -> str:
    values = {'line': number, 'PLL': scored.pll, 'tokens': scored.n_tokens, 'nats/token': scored.nats_per_token,
              'nats/word': scored.nats_per_word, 'bits/char': scored.bits_per_character}
    cells = ['-'.rjust(width) if values[name] is None else f'{values[name]:{width}.{digits}f}'
             for name, width, digits, _ in columns]
    used = sum(width + 2 for _, width, *_ in columns)
    return '  '.join([*cells, _cut(printable(scored.text), _terminal_width() - used)])


def _shown(value: float | None) -> str:
    return '-' if value is None else f'{value:,.4f}' if abs(value) < 1e6 else f'{value:.4g}'


def _terminal_width() -> int:
    """Without an end, if the output is no terminal."""
    return shutil.get_terminal_size((_NO_END, 0)).columns


def _width(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(c) in 'WF') for c in text)


def _cut(text: str, width: int) -> str:
    """The text, cut to so many columns of a terminal."""
    if len(text) <= width and _width(text) <= width:
        return text
    kept, room = [], max(width, 2) - 1
    for c in text:
        room -= _width(c)
        if room < 0:
            break
        kept.append(c)
    return ''.join(kept) + '…'
