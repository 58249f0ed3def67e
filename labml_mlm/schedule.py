r"""
# Schedules

Pure functions of progress: the same step gives the same value, whenever and wherever it is asked, so a schedule
has no state to save.

The learning rate first rises linearly, as Adam's estimate of the second moment rests on a few noisy gradients
in the beginning, and then falls along half a cosine
([Loshchilov and Hutter 2017](https://arxiv.org/abs/1608.03983), section 3, without restarts), so that the
last steps average the noise out rather than add to it.
"""
import math


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
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step >= total_steps:
        return min_share
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_share + (1 - min_share) * (1 + math.cos(math.pi * progress)) / 2
