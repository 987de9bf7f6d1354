"""How large to make the embeddings: the one-standard-error rule."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A size, and why it: ``best`` is the size with the lowest mean error, and ``limit`` the
    highest mean error that counts as no worse than it."""

    size: int
    best: int
    limit: float


def choose(errors: Mapping[int, Sequence[float]]) -> Choice:
    """The smallest size whose mean error is within one standard error of the best size's.

    ``errors``: of each size, the error of each seed, the lower the better. With one seed there is
    no standard error, and the best size is chosen; of equal ones, the smallest.

    Source: the 1 SE rule of Breiman, Friedman, Olshen and Stone 1984, over seeds.
    """
    means = {size: statistics.fmean(errors[size]) for size in sorted(errors)}
    best = min(means, key=means.__getitem__)
    limit = means[best] + standard_error(errors[best])
    return Choice(next(size for size, mean in means.items() if mean <= limit), best, limit)


def standard_error(errors: Sequence[float]) -> float:
    """Of the mean of ``errors``; 0 for one alone."""
    return spread(errors) / math.sqrt(len(errors))


def spread(errors: Sequence[float]) -> float:
    """The standard deviation from one seed to another; 0 for one alone."""
    return statistics.stdev(errors) if len(errors) > 1 else 0.0
