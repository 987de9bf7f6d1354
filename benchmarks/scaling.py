"""What more threads should give, from what one thread takes: the model beside `benchmarks.threads`.

    T(P) = fixed + memory(P) + (T(1) - fixed - memory(1)) / P * imbalance(P) + barriers * wait(P)

memory      the least bytes of the step (`benchmarks.roofline`) at the rate that P threads copy
fixed       the call itself (Python, autograd, dispatch), measured at a point with nothing to do
imbalance   the largest member's share of the items by the mean one's. The LSTM kernels share out
            panels of 16 hidden units (8 with AVX2, as portable) x tiles of rows a step
barriers    one a step in the LSTM kernels, forward and backward apart; a call or two elsewhere
wait        seconds a barrier costs a team of P, the hand-over of h included, measured

What it leaves out: the weights that one member's panels have, 16 H^2 / P bytes, are read every
step (shown beside it: where they fit its L2 at P and not at 1, more threads give more than P); what
a step does on one thread between its ops (allocations, autograd's sums of gradients); and the time
that sleeping threads take to wake.
"""

from dataclasses import dataclass
from math import ceil

from .covering import Point
from .groups import Group
from .roofline import FLOAT

# Hidden units of a panel and rows of a tile (csrc/cpu): what the members share out.
UNITS = {"avx512": 16, "avx2": 8, "portable": 8}
ROWS = 8


@dataclass(frozen=True)
class Costs:
    """Measured: seconds of a call at one thread, and by size of the team those of a barrier and the
    bytes a second that it copies."""

    fixed: float
    wait: dict[int, float]
    bandwidth: dict[int, float]


def imbalance(point: Point, members: int, isa: str) -> float:
    """The largest share of the items by the mean share; 1 for ops that share out single tokens."""
    if "H" not in point or "B" not in point:
        return 1.0
    items = ceil(point["H"] / UNITS[isa]) * ceil(point["B"] / ROWS)
    return ceil(items / members) * members / items


def barriers(group: str, point: Point) -> int:
    """How often the members of a step's teams wait for each other."""
    if group not in ("lstm_training", "lstm_inference", "lstm_ragged"):
        return 0
    runs = point["T"] * point.get("L", 1) * (1 + point.get("bidirectional", 0))
    return runs if group == "lstm_inference" else 2 * runs


def predicted(
    group: Group, point: Point, one: float, members: int, costs: Costs, isa: str
) -> float:
    """Seconds of a step with `members` threads, from the `one` it takes with one."""
    traffic = group.work(point).bytes
    # In the cache a step moves its bytes faster than a copy does: no more than all of its time.
    memory = min(traffic / costs.bandwidth[1], one - costs.fixed)
    shared = (one - costs.fixed - memory) / members * imbalance(point, members, isa)
    memory *= costs.bandwidth[1] / costs.bandwidth[members]
    return costs.fixed + memory + shared + barriers(group.name, point) * costs.wait[members]


def slice_bytes(point: Point, members: int) -> int | None:
    """Bytes of recurrent weights that one member reads each step; None where there are none."""
    if not {"H", "T"} <= point.keys():
        return None
    return 4 * point["H"] ** 2 * FLOAT // members
