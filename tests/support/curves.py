"""Curves that recipes are expected to have, and runs of these recipes, without training."""
import json

from labml_mlm.run_commands.course import conditions
from labml_mlm.run_commands.expected_curve import Band, ExpectedCurve, Length, Point, to_json
from labml_mlm.runs.run import Run
from support.runs import SNAPSHOT

# Four epochs of a text of 1,000 training tokens, in steps of 10 tokens
LENGTH = Length(4, 400, 4000)
# A text of a file, as all machines have it
TEXT = {'source': 'file', 'characters': 1100, 'sha256': 'abc', 'valid_sha256': None}


def snapshot_of(recipe: str | None = 'char', *, text: dict | None = None, defaults: dict | None = None,
                **given) -> dict:
    """The snapshot of a run of a recipe with these items, `__` for a dot."""
    return {**SNAPSHOT, 'own_code': [], 'parameters': 1000, 'versions': {'torch': '2.13.0', 'threads': 2},
            'tokenizer': {'kind': 'character', 'characters': 'ab'}, 'text': TEXT if text is None else text,
            'defaults': {'epochs': 4, 'max_steps': None, 'max_tokens': None, 'max_minutes': None, 'seed': 1,
                         'recipe': recipe, 'text_path': [], 'seq_len': 32, 'd_model': 128, 'n_tokens': 'from_tokenizer',
                         'transformer.ffn.d_ff': '2 × transformer.d_model', **(defaults or {})},
            'computed': {'n_tokens': 7, 'transformer.ffn.d_ff': 256},
            'given': {'text_path': '/data/plays.txt',
                      **{name.replace('__', '.'): value for name, value in given.items()}}}


def expected_curve(snapshot: dict | None = None, length: Length = LENGTH) -> ExpectedCurve:
    """Accuracy grows from 0.2 to 0.6, 0.1 every 1,000 tokens, ± 0.01; each 1,000 tokens take 2 seconds."""
    points = [Point(n, n / 500, *(Band(mean - 0.01, mean, mean + 0.01) for mean in (0.2 + n / 10_000, 3 - n / 2000)))
              for n in range(500, length.tokens + 1, 500)]
    return ExpectedCurve(conditions(snapshot or snapshot_of()), length, [1, 2, 3], '2 cores of a computer',
                         {'torch': '2.13.0'}, points)


def write_curve(folder, curve: ExpectedCurve, name: str = 'char'):
    """Writes a curve into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / f'{name}.json').write_text(to_json(curve))


def log_course(run: Run, validations: dict[int, tuple[float, float]], *, until: int | None = None,
               seconds: float = 2., damaged: str = ''):
    """
    Writes the metrics of a run with steps of 10 tokens: accuracy and loss by tokens, and the speed, by the seconds of
    1,000 tokens. `damaged` is in the middle of the log.
    """
    until = max(validations) if until is None else until
    lines, at = [], 0
    for tokens in (*validations, *([until] if until not in validations else [])):
        track = {'tokens_per_second': [[step, [1000 / seconds]] for step in range(at + 10, tokens + 1, 10)]}
        if tokens in validations:
            track |= {name: [[tokens, [value]]] for name, value in zip(('accuracy.valid', 'loss.valid'),
                                                                      validations[tokens], strict=True)}
        lines.append(json.dumps({'track': track, 'time': 0.}) + '\n')
        at = tokens
    run.log.write_text(damaged.join(lines))
