"""The points at which each group is measured, shared with the tests (letters: T, B, N, V, E, H, L).

`quick` runs in a few minutes altogether; `full` is the grid that the published tables rest on.
"""

from itertools import product

Point = dict[str, int]

# Symbols in the vocabulary wherever it is not an axis; characters of one language, roughly.
SYMBOLS = 64
# Training flops a point may cost in the full grid: a few seconds a step with torch on two cores.
MOST_FLOPS = 4e11


def _grid(**axes: tuple[int, ...]) -> list[Point]:
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def lstm_flops(point: Point) -> float:
    """Multiply-adds of one unfolded training step (forward 1, backward 2), two flops each."""
    directions = 1 + point.get("bidirectional", 0)
    tokens = point["T"] * point["B"]
    H, E = point["H"], point["E"]
    inputs = E + (point.get("L", 1) - 1) * H * directions
    return 6.0 * tokens * 4 * H * directions * (inputs + H * point.get("L", 1))


def _uniform_full() -> list[Point]:
    """E is 64 and H; T=100 only where a step stays affordable (T=20 is there at every size)."""
    points = [
        {"H": H, "E": E, "B": B, "T": T}
        for H in (128, 201, 256, 512, 777, 1024)
        for E in (64, H)
        for B in (1, 8, 32, 64, 256)
        for T in (20, 50, 100)
    ]
    return [p for p in points if p["T"] == 20 or lstm_flops(p) <= MOST_FLOPS]


UNIFORM_QUICK = [
    {"H": 128, "E": 64, "B": 64, "T": 50},
    {"H": 256, "E": 128, "B": 1, "T": 50},
    {"H": 256, "E": 128, "B": 32, "T": 50},
    {"H": 333, "E": 64, "B": 32, "T": 20},
    {"H": 512, "E": 256, "B": 64, "T": 20},
]

GRIDS: dict[str, dict[str, list[Point]]] = {
    "embedding_gather": {
        "quick": _grid(V=(128,), E=(64, 512), N=(4096, 32768)),
        "full": _grid(V=(64, 256, 1024), E=(64, 256, 1024), N=(4096, 16384, 65536)),
    },
    "embedding_gradient": {
        "quick": _grid(V=(64, 512), E=(64, 512), N=(4096, 32768)),
        "full": _grid(
            V=(64, 128, 256, 512, 1024), E=(64, 128, 256, 512, 1024), N=(4096, 16384, 65536)
        ),
    },
    "lstm_training": {"quick": UNIFORM_QUICK, "full": _uniform_full()},
    "lstm_inference": {"quick": UNIFORM_QUICK, "full": _uniform_full()},
    "lstm_ragged": {
        "quick": _grid(H=(128, 256), E=(128,), B=(64,), T=(32,), L=(1, 2), bidirectional=(1,)),
        "full": _grid(
            H=(128, 256, 512), E=(128,), B=(32, 128), T=(32, 96), L=(1, 2), bidirectional=(0, 1)
        ),
    },
    "lstm_cell_loop": {
        "quick": _grid(H=(128, 512), E=(128,), B=(1, 32), T=(20,)),
        "full": _grid(H=(64, 128, 256, 512, 1024), E=(128,), B=(1, 8, 32, 128), T=(20,)),
    },
    "linear_cross_entropy": {
        "quick": _grid(V=(64, 256), H=(256,), N=(4096, 16384)),
        "full": _grid(V=(64, 128, 256, 512), H=(256, 512, 1024), N=(4096, 16384, 65536)),
    },
    "seq2seq_training": {
        "quick": _grid(H=(256,), B=(64, 256)),
        "full": _grid(H=(128, 256, 512), B=(64, 256)),
    },
}
