"""The recurrent products alone: their rate against a large torch.mm, round by round.

Only the sequence op runs, on given gate inputs: 8 T B H^2 flops forward, 16 T B H^2 backward (the
gradients of h and of w_hh). Activations, cell updates and stores are in the time and not in the
flops, so the share is what the whole loop makes of the machine.
"""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from . import machine
from .covering import Point, grid
from .grids import SYMBOLS
from .interleave import Case, Contestant, Spread, Timing
from .interleave import measure as interleave
from .progress import Progress
from .tables import point_text

RECURRENCE = "recurrence"
SIDE = 2048  # of the product that gives the machine's rate
POINTS = {
    "quick": grid({"H": (256, 512), "B": (32,), "T": (20,)}),
    "full": grid({"H": (256, 333, 512, 1024), "B": (32, 64, 256), "T": (20,)}),
}
BUDGET = {"quick": 1.0, "full": 2.0}


def build(point: Point) -> Case:
    """torch.mm, the op without a saved state, and the op with its backward."""
    T, B, H = (point[axis] for axis in "TBH")
    ops = torch.ops.fastchar
    ids, gates = torch.randint(SYMBOLS, (T, B)), torch.randn(SYMBOLS, 4 * H)
    w_hh = torch.randn(4 * H, H) / H**0.5
    state = torch.randn(B, H)  # not zeros, from which no product is made
    grad, last = torch.randn(T, B, H), torch.zeros(B, H)
    a, b, c = (torch.randn(SIDE, SIDE) for _ in range(3))

    def forward(save: bool) -> tuple[Tensor, ...]:
        saved: tuple[Tensor, ...]
        saved = ops.lstm_sequence(gates, ids, w_hh, state, state, None, False, save)
        return saved

    def backward(out: tuple[Tensor, ...], _: int) -> tuple[Tensor, ...]:
        y, _h, _c, *saved = out
        found: tuple[Tensor, ...] = ops.lstm_sequence_backward(
            grad, last, last, *saved, y, ids, w_hh, state, state, None, False, SYMBOLS, True
        )
        return found

    return Case(
        [
            Contestant("torch.mm", lambda _: torch.mm(a, b, out=c)),
            Contestant("inference", lambda _: forward(False)),
            Contestant("training", lambda _: forward(True), backward),
        ]
    )


def shares(point: Point, timing: Timing) -> dict[str, Any]:
    """By part: flops a second, and by the rate of torch.mm in the same round."""
    once = 8.0 * point["T"] * point["B"] * point["H"] ** 2
    product = timing.samples["torch.mm"]["forward"]
    samples = {
        "inference": (once, timing.samples["inference"]["forward"]),
        "forward": (once, timing.samples["training"]["forward"]),
        "backward": (2 * once, timing.samples["training"]["backward"]),
    }
    return {
        part: {
            "flops_per_second": flops / Spread.of(seconds).median,
            "share": asdict(
                Spread.of(
                    [
                        (flops / mine) / (2.0 * SIDE**3 / large)
                        for mine, large in zip(seconds, product, strict=True)
                    ]
                )
            ),
        }
        for part, (flops, seconds) in samples.items()
    }


def measure(grid: str) -> dict[str, Any]:
    """Returns the result file's content."""
    record = machine.Record(RECURRENCE, "Recurrent products", grid=grid)
    progress = Progress(len(POINTS[grid]))
    points: list[dict[str, Any]] = []
    for point in POINTS[grid]:
        torch.manual_seed(0)
        timing = interleave(build(point), budget=BUDGET[grid])
        points.append({"point": point, "rounds": timing.rounds, "parts": shares(point, timing)})
        text = (f"{p} {v['share']['median']:.2f}" for p, v in points[-1]["parts"].items())
        progress.advance(1, f"{RECURRENCE} {point_text(point)} {', '.join(text)}")
    return record.result(points=points)
