"""
# Combinations of values

An item with several values spans an axis; the grid has all combinations of them. Commas separate the values of an item
of one number or one name: `seq_len=32,64`. Of lists, tuples, paths, schedules and texts, whose values may have commas
themselves, the argument is repeated: `optimizer.betas=0.9,0.98 optimizer.betas=0.9,0.999`.
"""
import itertools
import random
from collections.abc import Collection, Mapping, Sequence

from labml_mlm.common.errors import UserError

SEED = 'seed'

# Values as texts, by the names of their items
Combination = dict[str, str]


def axes(overrides: Sequence[str], *, whole: Collection[str]) -> dict[str, list[str]]:
    """
    The values of each item, in the order of the arguments.

    * `overrides` are arguments `name=value`
    * `whole` are the items whose values may have commas

    Raises `UserError` for a value that is empty or there twice.
    """
    found: dict[str, list[str]] = {}
    for override in overrides:
        name, _, text = override.partition('=')
        values = [text] if name in whole else text.split(',')
        if len(values) > 1 and '' in values:
            raise UserError(f'`{override}`: between two commas there must be a value')
        for value in values:
            if value in found.setdefault(name, []):
                raise UserError(f'`{name}={value}` is there twice')
            found[name].append(value)
    return found


def grid(values: Mapping[str, Sequence[str]]) -> list[Combination]:
    """All combinations of the values of each item; those of the last item change first."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def draw(combinations: Sequence[Combination], n: int, *, seed: int) -> list[Combination]:
    """`n` of the combinations, in their order. Raises `UserError` if there are fewer."""
    if n > len(combinations):
        raise UserError(f'--random {n}: there are only {len(combinations):,} combinations')
    return [combinations[i] for i in sorted(random.Random(seed).sample(range(len(combinations)), n))]


def with_seeds(combinations: Sequence[Combination], seeds: Sequence[int]) -> list[Combination]:
    """Each combination with each seed."""
    return [{**combination, SEED: str(seed)} for combination in combinations for seed in seeds]


def varied(combinations: Sequence[Combination]) -> list[str]:
    """The items that differ among combinations, without the seed."""
    names = dict.fromkeys(name for combination in combinations for name in combination if name != SEED)
    return [name for name in names if len({combination.get(name) for combination in combinations}) > 1]


def new_values_first(combinations: Sequence[Combination]) -> list[Combination]:
    """The same, but first those that have a value for the first time: what is wrong with one value shows soon."""
    seen: set[tuple[str, str]] = set()
    first, rest = [], []
    for combination in combinations:
        (rest if seen.issuperset(combination.items()) else first).append(combination)
        seen.update(combination.items())
    return first + rest


def shown(combination: Mapping[str, str], names: Collection[str]) -> str:
    """Some values of a combination as they are given."""
    return ' '.join(f'{name}={combination[name]}' for name in combination if name in names)
