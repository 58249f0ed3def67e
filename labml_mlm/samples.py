"""Prompts on the screen: what was masked, what the model fills in, and whether that is right."""
from collections.abc import Sequence

import torch
from labml import logger
from labml.logger import Text
from torch import Tensor

from labml_mlm.masking import MLM
from labml_mlm.model import TransformerMLM
from labml_mlm.screen import has_colours

_BLANK = '_'


class Sampler:
    """
    ## Masks prompts and has the model fill them in

    * `prompts` are token ids, `[seq_len]` each; the same ones are masked each time
    * `tokens` is the vocabulary
    * `mlm` masks them, all of it with `[MASK]`
    """

    def __init__(self, prompts: Sequence[Tensor], *, tokens: Sequence[str], mlm: MLM):
        self.tokens = tokens
        self.padding_token = mlm.padding_token
        # Masked prompts and labels, `[seq_len, 1]` each
        self.masked = [mlm(prompt[:, None]) for prompt in prompts]

    @torch.no_grad()
    def log(self, model: TransformerMLM, device: torch.device):
        """Prints each prompt, masked and filled in."""
        model.eval()
        logger.log('')
        for masked, labels in self.masked:
            # A model may have more tokens than the tokenizer
            predicted = model.predict(masked.to(device))[..., :len(self.tokens)].argmax(dim=-1)
            log_sample(self.tokens, masked=masked[:, 0].tolist(), labels=labels[:, 0].tolist(),
                       predicted=predicted[:, 0].tolist(), padding_token=self.padding_token)


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
    if not has_colours():
        logger.log('        ' + ''.join(marks).rstrip())


def _visible(token: str) -> str:
    """One line and one column a character."""
    return ''.join('↵' if c == '\n' else c if c.isprintable() else '·' for c in token)
