"""Prompts on the screen: what was masked, what the model predicts, and whether that is right."""
from collections.abc import Sequence

import torch
from labml import logger
from labml.logger import Text
from torch import Tensor

from labml_mlm.data.batch import NO_TEMPLATE, Template
from labml_mlm.masking.mlm import MLM
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.runs.samples_log import Sample, printable
from labml_mlm.tracking.console import has_colours

_BLANK = '_'


class Sampler:
    """
    ## Masks prompts and lets the model fill them in

    * `prompts` are token ids, `[seq_len]` each; the same positions are masked each time
    * `tokens` is the vocabulary
    * `mlm` masks them, always with `[MASK]`
    * `template` puts special tokens around what the model sees; they are not shown
    """

    def __init__(self, prompts: Sequence[Tensor], *, tokens: Sequence[str], mlm: MLM,
                 template: Template = NO_TEMPLATE):
        self.prompts = prompts
        self.tokens = tokens
        self.template = template
        self.padding_token = mlm.padding_token
        # Masked prompts and labels, `[seq_len, 1]` each
        self.masked = [mlm(prompt[:, None]) for prompt in prompts]

    @torch.no_grad()
    def fill(self, model: TransformerMLM, device: torch.device) -> list[Sample]:
        """The prompts, filled in."""
        model.eval()
        samples = []
        for prompt, (masked, labels) in zip(self.prompts, self.masked, strict=True):
            # A model may have more tokens than the tokenizer
            logits = model.predict(self.template.around(masked.to(device)))[:, 0, :len(self.tokens)]
            predicted = logits[len(self.template.before):].argmax(dim=-1)
            positions = (labels[:, 0] != self.padding_token).nonzero()[:, 0].tolist()
            samples.append(Sample([self.tokens[token] for token in prompt.tolist()], positions,
                                  [self.tokens[predicted[position]] for position in positions],
                                  [int(predicted[position]) == int(prompt[position]) for position in positions]))
        return samples


def log_samples(samples: Sequence[Sample]):
    """Prints prompts, masked and filled in."""
    logger.log('')
    for sample in samples:
        log_sample(sample)


def log_sample(sample: Sample):
    """
    Prints two lines, or three where there are no colours: the masked prompt, the prompt filled in, and which of the
    predictions are right.
    """
    filled = {position: (token, is_right) for position, token, is_right
              in zip(sample.positions, sample.filled, sample.is_right, strict=True)}
    question, answer, marks = [], [], []
    for position, token in enumerate(sample.tokens):
        if position not in filled:
            word = printable(token)
            question.append((word, Text.subtle))
            answer.append((word, Text.subtle))
            marks.append(' ' * len(word))
        else:
            word, is_right = printable(filled[position][0]), filled[position][1]
            question.append((_BLANK * len(word), Text.highlight))
            answer.append((word, Text.success if is_right else Text.danger))
            marks.append(('+' if is_right else 'x') * len(word))
    logger.log([('masked  ', Text.meta), *question])
    logger.log([('filled  ', Text.meta), *answer])
    if not has_colours():
        logger.log('        ' + ''.join(marks).rstrip())
