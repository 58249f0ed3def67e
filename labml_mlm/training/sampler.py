"""Prompts on the screen: what was masked, what the model predicts, and whether that is right."""
from collections.abc import Sequence

import torch
from labml import logger
from labml.logger import Text
from rich.cells import cell_len
from torch import Tensor

from labml_mlm.data.batch import NO_TEMPLATE, Template
from labml_mlm.masking.mlm import MLM
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.runs.samples_log import MASK_TEXT, Sample
from labml_mlm.screen.console import columns, has_colours
from labml_mlm.screen.sample_lines import Part, sample_lines

# What stands before each line
_LABELS = 'masked  ', 'filled  ', 'true    '


class Sampler:
    """
    ## Masks prompts and lets the model fill them in

    * `prompts` are token ids, `[seq_len]` each; the same positions are masked each time: those that are `[MASK]`, or
      else those that `mlm` selects
    * `tokens` is the vocabulary
    * `mlm` masks them, always with `[MASK]`; what it never masks is never predicted, either
    * `template` puts special tokens around what the model sees; they are not shown
    """

    def __init__(self, prompts: Sequence[Tensor], *, tokens: Sequence[str], mlm: MLM,
                 template: Template = NO_TEMPLATE):
        self.prompts = prompts
        self.tokens = tokens
        self.template = template
        self.padding_token, self.mask_token = mlm.padding_token, mlm.mask_token
        # Masked prompts and labels, `[seq_len, 1]` each. The label is `[MASK]` where the truth is not known
        self.masked = [self._as_given(prompt[:, None]) if (prompt == mlm.mask_token).any() else mlm(prompt[:, None])
                       for prompt in prompts]
        # A model may have more tokens than the tokenizer, `[n_tokens]`
        self._is_possible = mlm.is_maskable[:len(tokens)]

    def _as_given(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        return prompt, torch.where(prompt == self.mask_token, prompt, self.padding_token)

    @torch.no_grad()
    def fill(self, model: TransformerMLM, device: torch.device) -> list[Sample]:
        """The prompts, filled in."""
        model.eval()
        return [self._sample(prompt, masked, labels, model, device)
                for prompt, (masked, labels) in zip(self.prompts, self.masked, strict=True)]

    def _sample(self, prompt: Tensor, masked: Tensor, labels: Tensor, model: TransformerMLM,
                device: torch.device) -> Sample:
        logits = model.predict(self.template.around(masked.to(device)))[:, 0, :len(self.tokens)]
        logits = logits.masked_fill(~self._is_possible.to(device), -torch.inf)
        # `[seq_len]`
        predicted = logits[len(self.template.before):].argmax(dim=-1).tolist()
        true, labels = prompt.tolist(), labels[:, 0].tolist()
        positions = [position for position, label in enumerate(labels) if label != self.padding_token]
        is_right = [None if true[position] == self.mask_token else predicted[position] == true[position]
                    for position in positions]
        return Sample([MASK_TEXT if token == self.mask_token else self.tokens[token] for token in true], positions,
                      [self.tokens[predicted[position]] for position in positions], is_right)


def log_samples(samples: Sequence[Sample]):
    """Prints prompts, masked and filled in."""
    for sample in samples:
        logger.log('')
        log_sample(sample)


def log_sample(sample: Sample):
    """
    Prints the masked prompt, the prompt filled in and the true one, if it is known, and below them, where there are no
    colours, which of the predictions are right.
    """
    masked, filled, true = sample_lines(sample.tokens, sample.positions, [sample.filled],
                                        width=columns() - len(_LABELS[0]))
    styles = [Text.success if is_right else Text.highlight if is_right is None else Text.danger
              for is_right in sample.is_right]
    lines = [(masked, [Text.highlight] * len(styles)), (filled, styles)]
    is_known = None not in sample.is_right
    if is_known:
        lines.append((true, [Text.value] * len(styles)))
    for label, (line, of_blank) in zip(_LABELS, lines, strict=False):
        logger.log([(label, Text.meta), *((part.text, Text.subtle if part.blank is None else of_blank[part.blank])
                                          for part in line)])
    if is_known and not has_colours():
        logger.log(' ' * len(_LABELS[0]) + ''.join(_marks(part, sample) for part in filled).rstrip())


def _marks(part: Part, sample: Sample) -> str:
    """Below a part of a line: `+` for a right prediction, `x` for a wrong one."""
    mark = ' ' if part.blank is None else '+' if sample.is_right[part.blank] else 'x'
    return mark * cell_len(part.text)
