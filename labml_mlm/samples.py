"""Prompts on the screen: what was masked, what the model fills in, and whether that is right."""
from collections.abc import Sequence

from labml import logger
from labml.logger import Text

from labml_mlm.screen import is_plain

_BLANK = '_'


def log_sample(tokens: Sequence[str], *, masked: Sequence[int], labels: Sequence[int], predicted: Sequence[int],
               padding_token: int):
    """
    Two lines, or three where there are no colours: the prompt with its masked places, the prompt filled in, and
    which of those tokens are right.

    * `tokens` is the vocabulary
    * `masked`, `labels` and `predicted` are token ids of one sequence, `[seq_len]`
    """
    question, answer, marks = [], [], []
    for shown, label, guess in zip(masked, labels, predicted, strict=True):
        if label == padding_token:
            word = _visible(tokens[shown])
            question.append((word, Text.subtle))
            answer.append((word, Text.subtle))
            marks.append(' ' * len(word))
        else:
            word, is_right = _visible(tokens[guess]), guess == label
            question.append((_BLANK * len(word), Text.highlight))
            answer.append((word, Text.success if is_right else Text.danger))
            marks.append(('+' if is_right else 'x') * len(word))
    logger.log([('masked  ', Text.meta), *question])
    logger.log([('filled  ', Text.meta), *answer])
    if is_plain():
        logger.log('        ' + ''.join(marks))


def _visible(token: str) -> str:
    """One line and one column a character."""
    return ''.join('↵' if c == '\n' else c if c.isprintable() else '·' for c in token)
