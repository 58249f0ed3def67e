"""Prompts on the screen: what was masked, what the model fills in, and whether that is right."""
from collections.abc import Sequence

import torch
from labml import logger
from labml.logger import Text

from labml_mlm.errors import UserError
from labml_mlm.masking import MLM
from labml_mlm.model import TransformerMLM
from labml_mlm.screen import is_plain
from labml_mlm.tokenizer import CharacterTokenizer

_BLANK = '_'


class Sampler:
    """
    ## Masks prompts and has the model fill them in

    * `prompts` are texts; the same tokens of them are masked each time
    * `max_seq_len` is how many tokens of a prompt the model takes

    Raises `UserError` if a prompt is empty or too long.
    """

    def __init__(self, prompts: Sequence[str], *, tokenizer: CharacterTokenizer, padding_token: int, mask_token: int,
                 no_mask_tokens: Sequence[int], masking_prob: float, max_seq_len: float):
        mlm = MLM(padding_token=padding_token, mask_token=mask_token, no_mask_tokens=no_mask_tokens,
                  n_tokens=tokenizer.n_tokens, masking_prob=masking_prob, randomize_prob=0., no_change_prob=0.,
                  generator=torch.Generator().manual_seed(0))
        self.tokens = tokenizer.tokens
        self.padding_token = padding_token
        # Masked prompts and labels, `[seq_len, 1]` each
        self.masked = []
        for prompt in prompts:
            x = torch.from_numpy(tokenizer.encode(prompt)).long()[:, None]
            if not 0 < len(x) <= max_seq_len:
                raise UserError(f'a prompt has {len(x)} tokens; it has to have from 1 to {max_seq_len}')
            self.masked.append(mlm(x))

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
    if is_plain():
        logger.log('        ' + ''.join(marks).rstrip())


def _visible(token: str) -> str:
    """One line and one column a character."""
    return ''.join('↵' if c == '\n' else c if c.isprintable() else '·' for c in token)
