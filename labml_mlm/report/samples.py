"""
# Samples of a run over time, as a part of a page

A prompt at a few of its validations, from the first to the last: what the model filled in, and whether it was right.
"""
from collections.abc import Sequence

from labml_mlm.common.page import escaped
from labml_mlm.runs.samples_log import Sample, ValidationSamples, printable

# Validations and prompts that are shown of a run, and tokens and characters of a prompt
_N_VALIDATIONS, _N_PROMPTS, _N_TOKENS, _N_CHARACTERS = 8, 4, 120, 400
# Tokens before the first one that is masked
_BEFORE = 10

STYLE = '''
.samples td { white-space: nowrap; }
.samples td:last-child { font: .92em/1.6 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; min-width: 12em; unicode-bidi: isolate; }
.samples ins, .samples del { text-decoration: none; border-radius: .2em; padding: .1em 0; }
.samples ins { background: rgb(0 150 80/.25); } .samples del { background: rgb(210 40 40/.22);
  text-decoration: underline wavy 1px; text-underline-offset: .2em; }
'''


def sample_tables(validations: Sequence[ValidationSamples]) -> str:
    """A table for each prompt; a resumed run may have had others before."""
    prompts: dict[tuple, list[tuple[ValidationSamples, Sample]]] = {}
    for validation in validations:
        for sample in validation.samples:
            prompts.setdefault((tuple(sample.tokens), tuple(sample.positions)), []).append((validation, sample))
    # The last ones are those of the run as it is now
    return f'<div class="columns">{"".join(map(_table, list(prompts.values())[-_N_PROMPTS:]))}</div>'


def _table(rows: Sequence[tuple[ValidationSamples, Sample]]) -> str:
    cells = ''.join(f'<tr><td>{validation.step:,}<td>{_number(validation.loss)}'
                    f'<td>{_n_right(sample)}<td dir="auto">{_filled(sample)}'
                    for validation, sample in some(rows, _N_VALIDATIONS))
    last = rows[-1][1]
    name = 'the prompt' if None in last.is_right else 'the text'
    return (f'<div class="wide"><table class="samples"><tr><th>tokens<th>loss<th>right<th>filled in{cells}'
            f'<tr><td>{name}<td><td><td dir="auto">{_shown(last)}</table></div>')


def _n_right(sample: Sample) -> str:
    # Of a prompt with masks in it, nobody knows what is right
    return '-' if None in sample.is_right else f'{sum(sample.is_right)} of {len(sample.positions)}'


def some(rows: Sequence, n: int) -> list:
    """At most `n` of the rows, evenly, with the first and the last."""
    if len(rows) <= n:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (n - 1))] for i in range(n)]


def _filled(sample: Sample) -> str:
    guesses = {position: (token, is_right) for position, token, is_right in
               zip(sample.positions, sample.filled, sample.is_right, strict=True)}
    return _joined(sample, [_guess(*guesses[i]) if i in guesses else escaped(printable(token))
                            for i, token in enumerate(sample.tokens)])


def _guess(token: str, is_right: bool | None) -> str:
    tag = 'b' if is_right is None else 'ins' if is_right else 'del'
    return f'<{tag}>{escaped(printable(token))}</{tag}>'


def _shown(sample: Sample) -> str:
    """The text itself."""
    return _joined(sample, [escaped(printable(token)) for token in sample.tokens])


def _joined(sample: Sample, parts: Sequence[str]) -> str:
    """What is around the masked tokens, of a long prompt."""
    start = max(0, min(sample.positions, default=0) - _BEFORE) if len(parts) > _N_TOKENS else 0
    end, room = start, _N_CHARACTERS
    while end < min(len(parts), start + _N_TOKENS) and room > 0:
        room -= len(sample.tokens[end])
        end += 1
    return '… ' * (start > 0) + ''.join(parts[start:end]) + ' …' * (end < len(parts))


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.4f}'
