"""A curve on the screen, in block characters."""
import math
from collections.abc import Sequence

_BLOCKS = ' ▁▂▃▄▅▆▇█'
_MAX_POINTS = 512


class Curve:
    """A curve of any length in at most `_MAX_POINTS` points, each of which is the mean of as many values."""

    def __init__(self):
        self.points: list[float] = []
        # Values in a point, and those of the next one
        self._n = 1
        self._values: list[float] = []

    def add(self, value: float):
        """Adds a value; one that is not finite is left out."""
        if not math.isfinite(value):
            return
        self._values.append(value)
        if len(self._values) == self._n:
            self.points.append(sum(self._values) / self._n)
            self._values = []
        if len(self.points) == _MAX_POINTS:
            self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
            self._n *= 2

    def resampled(self, n: int) -> list[float]:
        """The curve in `n` values, each the mean of the points that it stands for."""
        points = self.points[:]
        if len(points) <= n:
            return [points[i * len(points) // n] for i in range(n)] if points else []
        bounds = [i * len(points) // n for i in range(n + 1)]
        return [sum(points[begin:end]) / (end - begin) for begin, end in zip(bounds, bounds[1:], strict=False)]


def draw(values: Sequence[float], *, height: int) -> list[str]:
    """The area below a curve, in so many lines from top to bottom."""
    low, high = min(values), max(values)
    n_levels = height * (len(_BLOCKS) - 1)
    # The lowest value can be seen, too
    levels = [1 + round((value - low) / (high - low or 1.) * (n_levels - 1)) for value in values]
    return [''.join(_BLOCKS[min(max(level - 8 * row, 0), 8)] for level in levels) for row in reversed(range(height))]
