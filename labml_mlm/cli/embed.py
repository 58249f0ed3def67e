"""
# `labml-mlm embed` and `labml-mlm probe`
"""
import argparse
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from labml_mlm.common.errors import UserError
from labml_mlm.common.untrusted import to_json
from labml_mlm.runs.samples_log import printable

if TYPE_CHECKING:
    from labml_mlm.inference.embed import Neighbour

# Neighbours that are shown by default
_TOP = 5


def embed(parsed: argparse.Namespace):
    """Features of the texts of a file, or those of them that are nearest to another text."""
    _check_embed(parsed)
    from labml_mlm.inference.embed import Embedder
    from labml_mlm.inference.loading import load
    from labml_mlm.inference.texts import read_texts
    from labml_mlm.inference.vectors import STDOUT, check_target, open_vectors

    output = parsed.output or STDOUT
    texts = read_texts(parsed.file, field=parsed.field)
    check_target(output)
    pretrained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {pretrained.about}', file=sys.stderr)
    embedder = Embedder(pretrained, pooling=parsed.pooling, layer=parsed.layer, normalize=parsed.normalize,
                        max_tokens=parsed.max_tokens,
                        zeros_for_empty=parsed.zeros_for_empty or parsed.near is not None)
    if parsed.near is not None:
        _print_neighbours(embedder.nearest(texts, parsed.near, top=parsed.top or _TOP), is_json=parsed.json)
    else:
        with open_vectors(output, d_model=embedder.d_model) as write:
            for block in embedder(texts):
                write(block)
                if sys.stderr.isatty() and output != STDOUT:
                    print(f'{embedder.n_texts:,} texts', end='\r', file=sys.stderr, flush=True)
        if output != STDOUT:
            print(f'{output} has the features of {_texts(embedder.n_texts)}, {embedder.d_model:,} numbers each')
    _print_notes(embedder.notes)


def _check_embed(parsed: argparse.Namespace):
    """Raises `UserError` for options that are of no use together."""
    if parsed.near is None:
        for name in ('top', 'json'):
            if getattr(parsed, name):
                raise UserError(f'--{name} is for --near TEXT')
        return
    for name, option in (('output', '-o'), ('normalize', '--normalize'), ('zeros_for_empty', '--zeros-for-empty')):
        if getattr(parsed, name):
            raise UserError(f'{option} is for features, and --near prints texts: leave one of them out')


def _print_neighbours(neighbours: 'list[Neighbour]', *, is_json: bool):
    if is_json:
        print(to_json([{**neighbour._asdict(), 'cosine': round(neighbour.cosine, 6)} for neighbour in neighbours]))
        return
    if not neighbours:
        print('There is no text in the file')
        return
    width = max(len(f'{neighbour.line:,}') for neighbour in neighbours)
    # The first line of a text, as far as a terminal shows it
    room = max(20, shutil.get_terminal_size().columns - width - 10) if sys.stdout.isatty() else None
    for line, text, cosine in neighbours:
        shown = printable(text)
        if room is not None and len(shown) > room:
            shown = shown[:room - 1] + '…'
        print(f'{cosine:7.4f}  {line:>{width},}  {shown}')


def probe(parsed: argparse.Namespace):
    """How well the frozen features of each layer tell labels."""
    from labml_mlm.inference.loading import load
    from labml_mlm.probing import probe as probing
    from labml_mlm.probing.examples import read_examples
    from labml_mlm.probing.features import all_places
    from labml_mlm.probing.sequences import Sequences

    probing.require_sklearn('labml-mlm probe')
    examples = read_examples(parsed.text, text_field=parsed.text_field, label_field=parsed.label_field,
                             valid_path=parsed.valid, max_texts=parsed.max_texts)
    pretrained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {pretrained.about}', file=sys.stderr)
    template = pretrained.configs._template
    longest = probing.longest(pretrained.model, pretrained.configs.seq_len)
    data = probing.prepare(examples, Sequences(pretrained.tokenizer, template=template, longest=longest))
    _print_notes(data.notes)
    places = all_places(pretrained.n_layers, ['mean', 'cls'] if template.before else ['mean'])
    is_shown = sys.stderr.isatty()

    def progress(done: int):
        if is_shown:
            end = '\r' if done == len(places) else ''
            print(f'\rprobed {done} of {len(places)}', end=end, file=sys.stderr, flush=True)

    found = probing.probe(pretrained.model, data, places, progress=progress)
    # Of equally good ones, the first
    best = max(found, key=lambda probed: probed.accuracy)
    if parsed.json:
        print(to_json({'n_train': data.n_train, 'n_valid': data.n_valid, 'labels': data.names,
                       'majority': data.majority, 'places': [probed._asdict() for probed in found],
                       'best': best._asdict()}))
        return
    print(f'{data.n_train:,} texts to learn from, {data.n_valid:,} held out, {len(data.names):,} labels')
    print(f'{"layer":>5}  {"pooling":7}  {"accuracy":>8}  95% interval')
    print(f'{"majority":14}  {data.majority:8.4f}')
    for probed in found:
        name = probed.layer or 'embed'
        print(f'{name:>5}  {probed.pooling:7}  {probed.accuracy:8.4f}  {probed.low:.3f}–{probed.high:.3f}'
              + ' *' * (probed is best))


def _print_notes(notes: Iterable[str]):
    for note in notes:
        print(f'Note: {note}', file=sys.stderr)


def _texts(n: int) -> str:
    return '1 text' if n == 1 else f'{n:,} texts'
