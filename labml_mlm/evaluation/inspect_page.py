"""
# A text as a page of HTML

Each token is coloured by how little the model expects it, in one hue that gets stronger: so it reads the same with any
colour vision, and in print. The colour is laid over whatever the background is, weak enough for dark text on light and
light text on dark (contrast 4.5 at least). What is not the model's first choice is underlined as well. Pointing at a
token, tapping it or moving to it by `Tab` shows what else could stand there.

The page needs no script and nothing from elsewhere; `fragment` is its part for notebooks, whose styles touch nothing
else there.
"""
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from labml_mlm.common.page import escaped, whole_page
from labml_mlm.inference.fill_mask import Prediction

# Down to which probability a token has each strength of colour, and how that is said
_LEVELS = (0.5, 0.0, '≥ 50%'), (0.25, 0.13, '≥ 25%'), (0.1, 0.25, '≥ 10%'), (0.01, 0.37, '≥ 1%'), \
    (0.001, 0.49, '≥ 0.1%'), (0.0, 0.62, '< 0.1%')
# Characters of a title
_TITLE = 60
_STYLE = '''
.labml-mlm { position: relative; max-width: 60em; font: 1rem/1.5 system-ui, sans-serif; }
.labml-mlm .figures { display: flex; flex-wrap: wrap; gap: .3em 1.6em; margin: .6em 0; }
.labml-mlm .figures div { display: flex; flex-direction: column-reverse; }
.labml-mlm .figures dt { float: none; width: auto; font-size: .8em; font-weight: normal; opacity: .8; }
.labml-mlm .figures dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.labml-mlm .about, .labml-mlm .legend { font-size: .8em; margin: .4em 0; overflow-wrap: anywhere; }
.labml-mlm .legend span { display: inline-block; padding: 0 .6em; border: 1px solid #8886; margin-right: -1px; }
.labml-mlm .legend u, .labml-mlm .not-first { text-decoration: underline dotted 2px; text-underline-offset: .25em; }
.labml-mlm .text { font: 1.05rem/2 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; padding: .6em; border: 1px solid #8886; border-radius: .4em; }
.labml-mlm .token { padding: .2em 0; cursor: default; }
.labml-mlm .token:hover, .labml-mlm .token:focus { outline: 2px solid currentColor; outline-offset: -1px; }
.labml-mlm .token::after { content: attr(aria-label); display: none; position: absolute; z-index: 1;
  white-space: pre-wrap; padding: .5em .8em; border: 1px solid #888; border-radius: .4em; background: inherit;
  font: .9rem/1.45 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; text-align: left; }
.labml-mlm .token:hover::after, .labml-mlm .text:not(:has(.token:hover)) .token:focus::after { display: block; }
'''
_STYLE += ''.join(f'.labml-mlm .level-{i} {{ background: rgb(230 110 0/{strength}); }}\n'
                  for i, (_, strength, _) in enumerate(_LEVELS))
# Below the token where there is room on its right, at the bottom of a small window
_OF_PAGE = '''
:root { color-scheme: light dark; }
body { margin: 0; padding: 1em 22em 12em 1em; background: Canvas; color: CanvasText; }
.labml-mlm { margin: auto; }
.labml-mlm h1 { font-size: 1.2em; margin: 0; }
.labml-mlm .token { position: relative; }
.labml-mlm .token::after { background: Canvas; top: 100%; left: 0; width: max-content; max-width: 20em;
  box-shadow: 0 2px 8px #0006; }
@media (max-width: 64em) {
  body { padding-right: 1em; }
  .labml-mlm .token { position: static; }
  .labml-mlm .token::after { position: fixed; top: auto; bottom: 0; left: 0; right: 0; width: auto; max-width: none;
    border-radius: 0; border-width: 2px 0 0; }
}
'''
# Below the text, in a place that is kept for it
_OF_FRAGMENT = '''
.labml-mlm { padding-bottom: 10.5em; }
.labml-mlm .text { max-height: 30em; overflow: auto; }
.labml-mlm .token::after { bottom: 0; left: 0; right: 0; }
.labml-mlm::after { content: "Point at a token, or move to it by Tab, for what else could stand there";
  position: absolute; bottom: 8.5em; left: 0; font-size: .8em; opacity: .8; }
.labml-mlm:has(.token:hover)::after, .labml-mlm:has(.token:focus)::after { content: none; }
'''


class ShownToken(NamedTuple):
    """A token of a text."""
    text: str
    # Its log-probability in nats, and how many are as probable or more; `None` if it is never masked
    log_p: float | None
    rank: int | None
    choices: Sequence[Prediction]


def page(text: str, about: str, figures: Mapping[str, str], tokens: Sequence[ShownToken]) -> str:
    """A whole page; the arguments are those of `fragment`."""
    title = text if len(text) <= _TITLE else text[:_TITLE - 1] + '…'
    return whole_page(title, style=_STYLE + _OF_PAGE, body=_body(
        about, figures, tokens, heading='<h1>How well the model expects each token</h1>'))


def fragment(text: str, about: str, figures: Mapping[str, str], tokens: Sequence[ShownToken]) -> str:
    """
    A part of a page.

    * `about` says where the model comes from
    * `figures` of the text are shown above it, by name
    """
    return f'<style>{_STYLE}{_OF_FRAGMENT}</style>{_body(about, figures, tokens)}'


def _body(about: str, figures: Mapping[str, str], tokens: Sequence[ShownToken], *, heading: str = '') -> str:
    shown = ''.join(f'<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>'
                    for name, value in figures.items())
    legend = ''.join(f'<span class="level-{i}">{escaped(label)}</span>' for i, (*_, label) in enumerate(_LEVELS))
    return f'''<div class="labml-mlm">
{heading}<p class="about">{escaped(about)}</p>
<dl class="figures">{shown}</dl>
<p class="legend">Probability of the token: {legend} &ensp; <u>underlined</u>: not the model’s first choice</p>
<div class="text" dir="auto">{''.join(map(_token, tokens))}</div>
</div>'''


def _token(token: ShownToken) -> str:
    shown = escaped(token.text).replace('\n', '↵\n').replace('\t', '→\t')
    # It would point at the next line, too
    end = '\n' if shown.endswith('\n') else ''
    shown = shown.removesuffix('\n')
    if token.log_p is None:
        return f'<span>{shown}</span>{end}'
    probability = math.exp(token.log_p)
    level = next((i for i, (least, *_) in enumerate(_LEVELS) if probability >= least), len(_LEVELS) - 1)
    lines = [f'{_name(token.text)}  {_percent(probability)}, rank {token.rank:,}',
             *(f'{_percent(choice.probability):>7}  {_name(choice.token)}' for choice in token.choices)]
    label = escaped('\n'.join(lines)).replace('\n', '&#10;')
    return (f'<span class="token level-{level}{"" if token.rank == 1 else " not-first"}" tabindex="0" role="note" '
            f'aria-label="{label}">{shown}</span>{end}')


def _percent(probability: float) -> str:
    percent = 100 * probability
    return f'{percent:.1f}%' if percent >= 0.1 else f'{percent:.1g}%' if percent >= 1e-4 else '<0.0001%'


def _name(token: str) -> str:
    """A token in one line, in which spaces are seen."""
    return '‹' + token.replace('\n', '↵').replace('\t', '→').replace(' ', '␣') + '›'
