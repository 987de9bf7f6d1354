"""How far a run is and how long the rest will take, printed with every point."""

import time

from .covering import Point
from .groups import Group
from .roofline import Roof

# A modest machine, to weigh points by before any is measured; only the proportions count.
NOMINAL = Roof(flops_per_second=5e10, bytes_per_second=1e10)
ROUNDS = 6  # that an expensive point takes, its first steps included


def weight(group: Group, point: Point, budget: float) -> float:
    """Seconds that a point takes, roughly: its budget, or the least rounds where they are more."""
    work = NOMINAL.seconds(group.work(point))
    return 0.5 + max(budget, ROUNDS * len(group.contestants) * work)


class Progress:
    """Of a run whose weights sum up to `total`."""

    def __init__(self, total: float) -> None:
        self._total, self._done, self._start = total, 0.0, time.perf_counter()

    def advance(self, weight: float, line: str) -> None:
        """Prints `line` behind the share that is done and the time left at the pace so far."""
        self._done += weight
        spent = time.perf_counter() - self._start
        left = spent * (self._total - self._done) / self._done
        share = round(100 * self._done / self._total)
        print(f"{share:3d} %, {_minutes(left)} left  {line}", flush=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
