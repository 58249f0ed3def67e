r"""
# Schedules

Pure functions of progress: the same step gives the same value, whenever and wherever it is asked, so a schedule has no
state to save.

**Learning rate.** It first rises linearly (warm-up), because Adam's estimate of the second moment rests on a few noisy
gradients in the beginning; in the end it falls (decay), so that the last steps average the noise out rather than add to
it. It falls along half a cosine ([Loshchilov and Hutter 2017](https://arxiv.org/abs/1608.03983), section 3, without
restarts) or a line ([Devlin et al. 2019](https://arxiv.org/abs/1810.04805), appendix A.2), stays constant and falls at
the end only (WSD, warm-up, stable, decay: [Hu et al. 2024](https://arxiv.org/abs/2404.06395), section 4.2), or falls
with the root of the step, without an end ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 5.3).

**Masking rate.** High at first, for more predictions per step, and lower later, for more context to predict from ([Yang
et al. 2023](https://arxiv.org/abs/2212.05295): from 30% to 15%).

**Sequence length.** Short sequences first (a curriculum): with little context there is little to attend to, so what is
there is found soon.
"""
import math
import re
from collections.abc import Callable

from labml_mlm.common.errors import UserError


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    r"""
    The factor of the peak learning rate at the 0-based `step`:

    $$\begin{cases}
    (s + 1) / w & s < w \\
    m + \frac{1 - m}{2} \big(1 + \cos \pi \frac{s - w}{t - w}\big) & w \leq s < t \\
    m & t \leq s
    \end{cases}$$

    with $w$ = `warmup_steps`, $t$ = `total_steps` and $m$ = `min_ratio`.
    """
    return _warm_up(step, warmup_steps, lambda: min_ratio + (1 - min_ratio) * _half_cosine(
        _fraction(step, warmup_steps, total_steps)))


def warmup_linear(step: int, *, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    r"""The same with a line, $m + (1 - m) \frac{t - s}{t - w}$, in place of the cosine."""
    return _warm_up(step, warmup_steps, lambda: min_ratio + (1 - min_ratio) * (
        1 - _fraction(step, warmup_steps, total_steps)))


def warmup_stable_decay(step: int, *, warmup_steps: int, total_steps: int, min_ratio: float,
                        decay_fraction: float) -> float:
    """The same, constant until the last `decay_fraction` of all steps, and a line there."""
    decay_from = decay_begin(warmup_steps=warmup_steps, total_steps=total_steps, decay_fraction=decay_fraction)
    if warmup_steps <= step < decay_from:
        return 1.
    return _warm_up(step, warmup_steps, lambda: min_ratio + (1 - min_ratio) * (
        1 - _fraction(step, decay_from, total_steps)))


def decay_begin(*, warmup_steps: int, total_steps: int, decay_fraction: float) -> int:
    """The 0-based first step of that decay."""
    return max(warmup_steps, round((1 - decay_fraction) * total_steps))


def inverse_sqrt(step: int, *, warmup_steps: int) -> float:
    r"""The factor $(s + 1) / w$ in warm-up, and $\sqrt{w / (s + 1)}$ from $w$ on."""
    return _warm_up(step, warmup_steps, lambda: math.sqrt(max(1, warmup_steps) / (step + 1)))


def noam(step: int, *, warmup_steps: int, d_model: int) -> float:
    r"""The factor $d_{model}^{-1/2} \min\big((s + 1)^{-1/2}, (s + 1) w^{-3/2}\big)$ of the learning rate."""
    return (d_model * max(1, warmup_steps)) ** -0.5 * inverse_sqrt(step, warmup_steps=warmup_steps)


def linear(fraction_done: float, *, start: float, end: float) -> float:
    """From `start` to `end` along a line; `fraction_done` is that of training, from 0 to 1."""
    return start + (end - start) * min(1., fraction_done)


def cosine(fraction_done: float, *, start: float, end: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * _half_cosine(min(1., fraction_done))


def seq_len_schedule(text: str, *, seq_len: int) -> Callable[[float], int]:
    """
    The sequence length by fraction of training done. `8:0.1,16:0.3,32` is 8 until a tenth of training, 16 until three
    tenths, and 32 from there on. `8..32:0.5` grows linearly from 8 to 32 until half of training, through the lengths
    that divide `seq_len`. All lengths must divide `seq_len`, and the last one must be `seq_len`.

    Raises `UserError` if `text` is not such a schedule.
    """
    divisors = [n for n in range(1, seq_len + 1) if seq_len % n == 0]
    # First and last length of each stage, and where it ends
    stages: list[tuple[int, int, float]] = []
    for stage in text.replace(' ', '').split(','):
        match = re.fullmatch(r'(\d+)(?:\.\.(\d+))?(?::(\d*\.?\d+))?', stage)
        if not match:
            raise UserError(f'seq_len_schedule={text}: `{stage}` is not a stage. 8:0.1,16:0.3,32 is 8 tokens for a '
                            'tenth of training, 16 until three tenths and then 32; 8..32:0.5 grows until half of it')
        first, last, end = match.groups()
        stages.append((int(first), int(last or first), 1. if end is None else float(end)))
    if stages[-1][1] == seq_len and stages[-1][2] < 1:
        stages.append((seq_len, seq_len, 1.))
    for n in (n for first, last, _ in stages for n in (first, last)):
        if n not in divisors:
            raise UserError(f'seq_len_schedule={text}: sequences of seq_len={seq_len} cannot be split into equal parts '
                            f'of {n}; try one of {", ".join(map(str, divisors))}')
    if stages[-1][1] != seq_len:
        raise UserError(f'seq_len_schedule={text}: the last length must be seq_len={seq_len}')
    ends = [0., *(end for _, _, end in stages)]
    if ends != sorted(set(ends)) or ends[-1] != 1:
        raise UserError(f'seq_len_schedule={text}: the fractions of training at which stages end must increase, up to '
                        '1 at the last one, where it may be left out')

    def length(fraction_done: float) -> int:
        begin = 0.
        for first, last, end in stages:
            if fraction_done < end:
                wanted = linear((fraction_done - begin) / (end - begin), start=first, end=last)
                return max(n for n in divisors if n <= max(wanted, 1))
            begin = end
        return seq_len

    return length


def _warm_up(step: int, warmup_steps: int, after: Callable[[], float]) -> float:
    return (step + 1) / warmup_steps if step < warmup_steps else after()


def _fraction(step: int, begin: int, end: int) -> float:
    """The fraction of the steps from `begin` to `end` that is done."""
    return 1. if step >= end else (step - begin) / (end - begin)


def _half_cosine(fraction: float) -> float:
    """From 1 to 0."""
    return (1 + math.cos(math.pi * fraction)) / 2
