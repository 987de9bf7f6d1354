"""Few points that stand for a whole grid: every pair of values of any two axes occurs.

A full product of the LSTM groups' axes would run for hours. What a kernel does at a point hangs on
few axes at a time (panels on H, rows a step on B, the fold on E and T), so a pairwise covering
design meets every such case, in an order of magnitude fewer points.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import combinations, product

Point = dict[str, int]


def pairs_of(point: Point) -> set[tuple[str, int, str, int]]:
    """Every two axes of the point, with their values."""
    return {(a, x, b, y) for (a, x), (b, y) in combinations(point.items(), 2)}


def covering(candidates: list[Point], cost: Callable[[Point], float]) -> list[Point]:
    """Some of the candidates, in their order, which hold every pair of values they all hold.

    Greedy: next comes the point with the most pairs that are still missing; of those, the one whose
    values were used least, so that a mean over the points favours none; of those, the cheapest.
    """
    missing = set().union(*map(pairs_of, candidates))
    used: Counter[tuple[str, int]] = Counter()

    def gain(point: Point) -> tuple[float, ...]:
        worn = sum(used[item] for item in point.items())
        return len(pairs_of(point) & missing), -worn, -cost(point)

    chosen = []
    while missing:
        chosen.append(max(candidates, key=gain))
        missing -= pairs_of(chosen[-1])
        used.update(chosen[-1].items())
    return [point for point in candidates if point in chosen]


def grid(axes: Mapping[str, tuple[int, ...]]) -> list[Point]:
    """The full product."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
