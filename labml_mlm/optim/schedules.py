r"""
# Schedules

Pure functions of progress: the same step gives the same value, whenever and wherever it is asked, so a schedule
has no state to save.

**Learning rate.** It first rises linearly, as Adam's estimate of the second moment rests on a few noisy gradients in
the beginning, and in the end it falls, so that the last steps average the noise out rather than add to it. It falls
along half a cosine ([Loshchilov and Hutter 2017](https://arxiv.org/abs/1608.03983), section 3, without restarts)
or a line ([Devlin et al. 2019](https://arxiv.org/abs/1810.04805), appendix A.2), stays where it is and falls at the end
only (WSD: [Hu et al. 2024](https://arxiv.org/abs/2404.06395), section 4.2), or falls with the root of the step and
knows no end ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 5.3).

**Share of masked tokens.** Much is masked first, for more predictions a step, and less later, for more context to
predict from ([Yang et al. 2023](https://arxiv.org/abs/2212.05295): from 30% to 15%).

**Sequence length.** Short sequences first: with little context there is little to attend to, so what is there is soon
found.
"""

import math
import re
from collections.abc import Callable

from labml_mlm.common.errors import UserError


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, min_share: float) -> float:
    r"""
    The share of the peak learning rate at the 0-based `step`:

    $$\begin{cases}
    (s + 1) / w & s < w \\
    m + \frac{1 - m}{2} \big(1 + \cos \pi \frac{s - w}{t - w}\big) & w \leq s < t \\
    m & t \leq s
    \end{cases}$$

    with $w$ = `warmup_steps`, $t$ = `total_steps` and $m$ = `min_share`.
    """
    return _warmed_up(step, warmup_steps, lambda: min_share + (1 - min_share) * _cosine(
        _share(step, warmup_steps, total_steps)))


def warmup_linear(step: int, *, warmup_steps: int, total_steps: int, min_share: float) -> float:
    r"""The same with a line, $m + (1 - m) \frac{t - s}{t - w}$, in place of the cosine."""
    return _warmed_up(step, warmup_steps, lambda: min_share + (1 - min_share) * (
        1 - _share(step, warmup_steps, total_steps)))


def warmup_stable_decay(step: int, *, warmup_steps: int, total_steps: int, min_share: float,
                        decay_share: float) -> float:
    """The same, constant until the last `decay_share` of all steps, and a line there."""
    decay_from = max(warmup_steps, round((1 - decay_share) * total_steps))
    if warmup_steps <= step < decay_from:
        return 1.
    return _warmed_up(step, warmup_steps, lambda: min_share + (1 - min_share) * (
        1 - _share(step, decay_from, total_steps)))


def inverse_sqrt(step: int, *, warmup_steps: int) -> float:
    r"""The share of the peak: $(s + 1) / w$, and from $w$ on $\sqrt{w / (s + 1)}$."""
    return _warmed_up(step, warmup_steps, lambda: math.sqrt(max(1, warmup_steps) / (step + 1)))


def noam(step: int, *, warmup_steps: int, d_model: int) -> float:
    r"""The factor $d_{model}^{-1/2} \min\big((s + 1)^{-1/2}, (s + 1) w^{-3/2}\big)$ of the learning rate."""
    return (d_model * max(1, warmup_steps)) ** -0.5 * inverse_sqrt(step, warmup_steps=warmup_steps)


def linear(progress: float, *, start: float, end: float) -> float:
    """From `start` to `end` along a line; `progress` is the share of training that is over."""
    return start + (end - start) * min(1., progress)


def cosine(progress: float, *, start: float, end: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * _cosine(min(1., progress))


def seq_len_schedule(text: str, *, seq_len: int) -> Callable[[float], int]:
    """
    The length of sequences by progress, from a text like `8:0.1,16:0.3,32`: 8 until a tenth of training is over, 16
    until three tenths, and 32 from there on; or like `8..32:0.5`, from 8 to 32 along a line, until a half is over, of
    which the lengths are taken that divide `seq_len`. All lengths have to divide it, and the last one to be it.

    Raises `UserError` if it is no such text.
    """
    divisors = [n for n in range(1, seq_len + 1) if seq_len % n == 0]
    # First and last length of each stage, and where it ends
    stages: list[tuple[int, int, float]] = []
    for stage in text.replace(' ', '').split(','):
        match = re.fullmatch(r'(\d+)(?:\.\.(\d+))?(?::(\d*\.?\d+))?', stage)
        if not match:
            raise UserError(f'seq_len_schedule={text}: `{stage}` is no stage. 8:0.1,16:0.3,32 is 8 tokens for a tenth '
                            'of training, 16 until three tenths and then 32; 8..32:0.5 grows until a half')
        first, last, end = match.groups()
        stages.append((int(first), int(last or first), 1. if end is None else float(end)))
    if stages[-1][1] == seq_len and stages[-1][2] < 1:
        stages.append((seq_len, seq_len, 1.))
    for n in (n for first, last, _ in stages for n in (first, last)):
        if n not in divisors:
            raise UserError(f'seq_len_schedule={text}: sequences of seq_len={seq_len} cannot be cut into equal parts '
                            f'of {n}; {", ".join(map(str, divisors))} would do')
    if stages[-1][1] != seq_len:
        raise UserError(f'seq_len_schedule={text}: the last length has to be seq_len={seq_len}')
    ends = [0., *(end for _, _, end in stages)]
    if ends != sorted(set(ends)) or ends[-1] != 1:
        raise UserError(f'seq_len_schedule={text}: the shares of training at which stages end have to grow, up to 1 at '
                        'the last one, where it need not be given')

    def length(progress: float) -> int:
        begin = 0.
        for first, last, end in stages:
            if progress < end:
                wanted = linear((progress - begin) / (end - begin), start=first, end=last)
                return max(n for n in divisors if n <= max(wanted, 1))
            begin = end
        return seq_len

    return length


def _warmed_up(step: int, warmup_steps: int, after: Callable[[], float]) -> float:
    return (step + 1) / warmup_steps if step < warmup_steps else after()


def _share(step: int, begin: int, end: int) -> float:
    """How much of what is between two steps is over."""
    return 1. if step >= end else (step - begin) / (end - begin)


def _cosine(progress: float) -> float:
    """From 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2

