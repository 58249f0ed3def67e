"""
# How long an epoch takes

Windows and steps follow from the number of tokens. The time of a step is measured, on this machine, with the model that
would be trained and a part of the text. The model is not compiled for that; a run that compiles it is faster, and one
beside other busy processes slower.
"""
import math
from typing import NamedTuple

from labml_mlm.budget.speed import measure_step
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.inference.pretrained import silent
from labml_mlm.tokenization.base import Tokenizer

_SECONDS = 2.
# Batches that it is measured with, at least
_N_BATCHES = 4
# Texts of a run that are not this one, and what takes long to build
_LEFT_OUT = {'valid_path': [], 'old_path': [], 'replay_path': [], 'probe_path': '', 'compile': False}


class EpochFacts(NamedTuple):
    """An epoch of training on a text."""
    seq_len: int
    batch_size: int
    windows: int
    # Optimizer steps; 0 if the text has not enough windows for a batch
    steps: int
    # `None` if there is no step
    seconds_per_step: float | None
    device: str

    @property
    def minutes(self) -> float | None:
        """Without validations and checkpoints."""
        return None if self.seconds_per_step is None else self.steps * self.seconds_per_step / 60


def epoch_facts(conf: MLMConfigs, tokenizer: Tokenizer, *, n_tokens: int, sample: tuple[str, ...]) -> EpochFacts:
    """
    * `conf` are the configs of a run, with nothing of it built but perhaps its model
    * `n_tokens` is that of the whole text
    * `sample` are documents of it, to measure with
    """
    if conf._get_computed('tokenizer') is None:
        conf.tokenizer = tokenizer
    with silent():
        n_train = round(n_tokens * (1 - conf.valid_fraction))
        windows = n_train // conf._template.text_length(conf.seq_len)
        steps = -(-windows // conf.batch_size) if windows >= conf.batch_size else 0
        needed = _N_BATCHES * conf.batch_size * conf.seq_len / (1 - conf.valid_fraction)
        text = '\n'.join(sample)
        n_times = math.ceil(needed / max(1, len(tokenizer.encode(text))))
        # Of equal documents none is for validation, and pairs of sentences need two. These win over what a run has
        conf._set_values({'text': (text,) * max(2, n_times), **_LEFT_OUT})
        seconds = measure_step(conf, seconds=_SECONDS) if steps else None
    return EpochFacts(conf.seq_len, conf.batch_size, windows, steps, seconds, conf.device.type)
