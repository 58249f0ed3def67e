"""
# `labml-mlm text`

What is in a text, before one trains on it.
"""
import argparse
import sys
from collections.abc import Callable
from typing import Any

from labml_mlm.common.errors import UnknownPart, UserError
from labml_mlm.common.files import expand_home
from labml_mlm.common.table import print_table, size_text
from labml_mlm.common.untrusted import to_json
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.data.documents import TextFiles
from labml_mlm.inference.fine_tuned import FineTuned
from labml_mlm.inference.loading import load
from labml_mlm.inference.pretrained import silent
from labml_mlm.published.folder import is_published
from labml_mlm.reading.files import expand_path
from labml_mlm.reading.listing import ALL_TEXTS, list_files
from labml_mlm.reading.texts import has_field
from labml_mlm.runs.run import is_run
from labml_mlm.text_facts.characters import by_script
from labml_mlm.text_facts.epoch import EpochFacts, epoch_facts
from labml_mlm.text_facts.facts import TextFacts, read_facts
from labml_mlm.text_facts.tokens import TokenFacts, token_facts
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer

# Scripts that are shown, characters between two looks at the screen, and columns of what is shown there
_MOST, _INTERVAL, _STATUS = 8, 1 << 22, 39


def text(parsed: argparse.Namespace):
    """What is in a text, what a tokenizer makes of it, and how long an epoch takes."""
    conf, tokenizer, about = _find_tokenizer(parsed)
    files = _files(parsed)
    facts = read_facts(files, progress=_progress('read'))
    if tokenizer is None:
        tokenizer = CharacterTokenizer.from_characters(''.join(facts.characters))
    tokens = token_facts(files, facts, tokenizer, progress=_progress('tokenized'))
    _show('Measuring')
    epoch = epoch_facts(conf, tokenizer, n_tokens=tokens.n_tokens, sample=tokens.sample)
    _show('')
    if parsed.json:
        print(to_json(_as_dict(facts, tokens, epoch, about)))
    else:
        print_table([*_rows_of_text(facts), *_rows_of_tokens(tokens, about), *_rows_of_epoch(epoch)], numbers=())


def _find_tokenizer(parsed: argparse.Namespace) -> tuple[MLMConfigs, Tokenizer | None, str]:
    """
    The configs of a run, its tokenizer and what that is; without `--tokenizer`, no tokenizer: it is one of the
    characters of the text.
    """
    name = parsed.tokenizer
    conf = MLMConfigs()
    if name is None:
        conf.recipe = 'char'
        return conf, None, 'recipe=char'
    path = expand_home(name)
    if path.exists() and not is_run(path) and not (path.is_dir() and is_published(path)):
        conf.recipe, conf.tokenizer, conf.tokenizer_path = 'subword', 'file', name
        with silent():
            return conf, conf.tokenizer, f'{name}, with recipe=subword'
    try:
        pretrained = load(name, folder=parsed.path)
    except UnknownPart:
        # The message for it names `--import`
        raise
    except UserError as e:
        raise UserError(f'--tokenizer {name}: {e}. It must be a run with a checkpoint, a tokenizer.json, or a folder '
                        'with a tokenizer') from None
    if isinstance(pretrained, FineTuned):
        raise UserError(f'--tokenizer {name}: {pretrained.about} is a fine-tuned run, and this is about masked '
                        'language modelling')
    return pretrained.configs, pretrained.tokenizer, pretrained.about


def _files(parsed: argparse.Namespace) -> TextFiles:
    """The files to read, with U+FFFD in place of what is no UTF-8; says what is left out."""
    def say(note: str):
        print(f'Note: {note}', file=sys.stderr)

    for path in map(expand_path, parsed.file):
        if not path.exists():
            raise UserError(f'there is no file or folder {path}')
    listing = list_files(parsed.file, ALL_TEXTS, item='FILE')
    for note in listing.notes:
        say(note)
    if parsed.field is not None and not any(map(has_field, listing.files)):
        raise UserError(f'--field {parsed.field} is for JSON lines, tables and Parquet, and there is none')
    files = TextFiles(listing.files, field=parsed.field or 'text', role='--field', errors='replace')
    files.say = say
    return files


def _progress(what: str) -> Callable[[int], None]:
    """Shows on a terminal how many characters were read."""
    shown = [0]

    def progress(n_characters: int):
        if n_characters - shown[0] >= _INTERVAL:
            shown[0] = n_characters
            _show(f'{n_characters:,} characters {what}')
    return progress


def _show(status: str):
    """Shows what is done now, in place of what was shown before, if a terminal is there."""
    if sys.stderr.isatty():
        print(f'\r{status:<{_STATUS}}', end='' if status else '\r', file=sys.stderr, flush=True)


def _rows_of_text(facts: TextFacts) -> list[list[str]]:
    lines, n = facts.lines, facts.n_characters
    scripts = [f'{name} {_percent(count / n)}' for name, count in by_script(facts.characters).items()]
    rows = [['files', f'{facts.n_files:,}, {size_text(facts.n_bytes)}'],
            ['documents', f'{facts.n_documents:,}'
             + _repeated(facts.repeated_documents, facts.is_exact) * (facts.n_documents > 1)],
            ['lines', f'{lines.n:,}, {lines.n_blank:,} of them blank'
             + _repeated(lines.repeated_share, lines.is_exact)],
            ['line length', f'{lines.median:,} characters in the middle, 95% up to {lines.percentile_95:,}, '
                            f'the longest {lines.longest:,}'],
            ['characters', f'{n:,}, {len(facts.characters):,} different ones'],
            ['', ', '.join(scripts[:_MOST]) + (f', {len(scripts) - _MOST} more' if len(scripts) > _MOST else '')]]
    if facts.invalid.n:
        rows.append(['invalid UTF-8', f'{_count(facts.invalid.n, "place")}, the first in {facts.invalid.path}, line '
                                      f'{facts.invalid.line:,}: byte 0x{facts.invalid.byte:02x}. Training needs '
                                      'text_errors=replace or skip'])
    return rows


def _rows_of_tokens(tokens: TokenFacts, about: str) -> list[list[str]]:
    n_tokens = f'about {tokens.n_tokens:,}, by {tokens.n_sampled:,} of the characters' if tokens.is_estimate else \
        f'{tokens.n_tokens:,}'
    rows = [['tokenizer', f'{about}, {tokens.vocabulary:,} tokens'],
            ['tokens', f'{n_tokens}; {tokens.characters_per_token:.2f} characters each']]
    if tokens.fertility is not None:
        rows.append(['tokens a word', f'{tokens.fertility:.2f}'])
    for i, word in enumerate(tokens.worst):
        rows.append(['' if i else 'cut most',
                     f'{word.word}: {len(word.tokens)} tokens, {_count(word.n, "time")}{_parts(word.tokens)}'])
    rows.append(['[UNK]', _percent(tokens.unknown_share) if tokens.unknown_share else 'none'])
    rows += [['lost' if i == 0 else '', message] for i, message in enumerate(tokens.messages)]
    if tokens.n_apart:
        rows.append(['put apart', f'{tokens.n_apart:,} characters get a space on both sides'])
    return rows


def _rows_of_epoch(epoch: EpochFacts) -> list[list[str]]:
    rows = [['windows', f'{epoch.windows:,} of seq_len={epoch.seq_len} to train on']]
    if not epoch.steps:
        return [*rows, ['an epoch', f'none: the text is too short for a batch of batch_size={epoch.batch_size}']]
    seconds = epoch.seconds_per_step
    minutes = f'{epoch.minutes:,.1f} minutes' if epoch.minutes >= 0.1 else f'{60 * epoch.minutes:.1f} seconds'
    return [*rows, ['an epoch', f'{_count(epoch.steps, "step")} of batch_size={epoch.batch_size}, about {minutes} '
                                f'({1000 * seconds:,.1f} ms a step, measured on {epoch.device})']]


def _as_dict(facts: TextFacts, tokens: TokenFacts, epoch: EpochFacts, about: str) -> dict[str, Any]:
    invalid = {'count': facts.invalid.n, 'file': str(facts.invalid.path), 'line': facts.invalid.line,
               'byte': facts.invalid.byte} if facts.invalid.n else None
    lines = facts.lines
    return {'files': facts.n_files, 'bytes': facts.n_bytes,
            'documents': {'count': facts.n_documents, 'repeated_share': facts.repeated_documents},
            'lines': {'count': lines.n, 'blank': lines.n_blank, 'repeated_share': lines.repeated_share,
                      'median_length': lines.median, 'percentile_95_length': lines.percentile_95,
                      'longest': lines.longest},
            'characters': {'count': facts.n_characters, 'distinct': len(facts.characters),
                           'scripts': by_script(facts.characters)}, 'invalid_utf8': invalid,
            'tokenizer': {'about': about, 'vocabulary': tokens.vocabulary},
            'tokens': {'count': tokens.n_tokens, 'is_estimate': tokens.is_estimate,
                       'characters_each': tokens.characters_per_token, 'fertility': tokens.fertility,
                       'unknown_share': tokens.unknown_share, 'altered': tokens.altered, 'put_apart': tokens.n_apart,
                       'worst': [word._asdict() for word in tokens.worst], 'messages': tokens.messages},
            'epoch': {**epoch._asdict(), 'minutes': epoch.minutes}}


def _repeated(share: float, is_exact: bool) -> str:
    if not share:
        return ', none of them twice'
    return f'; {"" if is_exact else "about "}{_percent(share)} repeat an earlier one'


def _percent(share: float) -> str:
    return 'under 0.01%' if 0 < share < 1e-4 else f'{share:.2%}' if share < 0.01 else f'{share:.1%}'


def _count(n: int, name: str) -> str:
    return f'{n:,} {name}{"s" * (n != 1)}'


def _parts(tokens: list[str]) -> str:
    """The parts of a word, if they are whole characters."""
    if '\N{REPLACEMENT CHARACTER}' in ''.join(tokens):
        return ''
    return f' ({"|".join(token.strip() or "␣" for token in tokens)})'
