"""
# A random order in constant memory

`Shuffle` is a permutation of `0 … n - 1` that can be evaluated at any index: an array of `n` numbers would take
gigabytes for a text of some billion tokens. It is a Feistel network (Luby and Rackoff 1988): a number is split into two
halves, and each round changes one half by a hash of the other,

    left, right = right, left ^ hash(right, key of the round)

which can be inverted whatever the hash is, so no two numbers become the same. The network works on an even number of
bits, up to four times more numbers than `n`; a result beyond `n` goes through it again until it is below (*cycle
walking*, Black and Rogaway 2002, section 3.1).
"""
import numpy as np

_N_ROUNDS = 6
# The odd multiplier of splitmix64 (Steele, Lea and Flood 2014)
_MULTIPLIER = np.uint64(0xbf58476d1ce4e5b9)


class Shuffle:
    """
    ## A permutation of `0 … n - 1`

    * `seed` decides which one
    """

    def __init__(self, n: int, *, seed: int):
        self.n = n
        # Bits of a half
        self._half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
        self._mask = np.uint64((1 << self._half) - 1)
        self._keys = np.random.default_rng(seed).integers(0, 2 ** 64, _N_ROUNDS, dtype=np.uint64)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """The numbers at `indices`, an array of any shape; `int64` of the same shape."""
        numbers = self._permute(indices.astype(np.uint64))
        while (beyond := numbers >= self.n).any():
            numbers[beyond] = self._permute(numbers[beyond])
        return numbers.astype(np.int64)

    def _permute(self, numbers: np.ndarray) -> np.ndarray:
        half, mask = np.uint64(self._half), self._mask
        left, right = numbers >> half, numbers & mask
        for key in self._keys:
            # The high bits of a product depend on all bits of its factors
            hashed = (right + key) * _MULTIPLIER
            left, right = right, left ^ ((hashed ^ (hashed >> np.uint64(32))) * _MULTIPLIER >> np.uint64(40) & mask)
        return left << half | right
