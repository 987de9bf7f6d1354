"""The points at which each group is measured, shared with the tests (letters: T, B, N, V, E, H, L).

`quick` runs in a few minutes altogether; `full` is the grid that the published tables rest on, half
an hour. There the LSTM groups have a pairwise covering design (`benchmarks.covering`), the others
the full product of their axes.
"""

from .covering import Point, covering, grid

# Symbols in the vocabulary wherever it is not an axis; characters of one language, roughly.
SYMBOLS = 64
TORCH_COMPILE = "torch.compile"
# Training flops a point may cost in the full grid: a few seconds a step with torch on two cores.
MOST_FLOPS = 4e11


def lstm_flops(point: Point) -> float:
    """Multiply-adds of one unfolded training step (forward 1, backward 2), two flops each."""
    directions = 1 + point.get("bidirectional", 0)
    tokens = point["T"] * point["B"]
    H, E = point["H"], point["E"]
    inputs = E + (point.get("L", 1) - 1) * H * directions
    return 6.0 * tokens * 4 * H * directions * (inputs + H * point.get("L", 1))


def _lstm_full(hidden: tuple[int, ...], **axes: tuple[int, ...]) -> list[Point]:
    """A covering design in which E is 64, H / 2 or H, at least 64."""
    # As an axis of the design E is a share of H, so that each size meets each share.
    shares = grid({"H": hidden, "E": (0, 50, 100), **axes})

    def point(share: Point) -> Point:
        return {**share, "E": max(64, share["H"] * share["E"] // 100)}

    def cost(share: Point) -> float:
        return lstm_flops(point(share))

    affordable = [share for share in shares if cost(share) <= MOST_FLOPS]
    return [point(share) for share in covering(affordable, cost)]


UNIFORM_QUICK = [
    {"H": 128, "E": 64, "B": 64, "T": 50},
    {"H": 256, "E": 128, "B": 1, "T": 50},
    {"H": 256, "E": 128, "B": 32, "T": 50},
    {"H": 333, "E": 64, "B": 32, "T": 20},
    {"H": 512, "E": 256, "B": 64, "T": 20},
]
LOOP_QUICK = grid({"H": (128, 512), "E": (128,), "B": (1, 32), "T": (20,)})
LOOP_FULL = grid({"H": (64, 128, 256, 512, 1024), "E": (128,), "B": (1, 8, 32, 128), "T": (20,)})
UNIFORM_FULL = _lstm_full(
    (128, 201, 256, 333, 512, 777, 1024), B=(1, 4, 16, 32, 64, 256), T=(20, 50, 100)
)

GRIDS: dict[str, dict[str, list[Point]]] = {
    "embedding_gather": {
        "quick": grid({"V": (128,), "E": (64, 512), "N": (4096, 32768)}),
        "full": grid({"V": (64, 256, 1024), "E": (64, 256, 1024), "N": (4096, 16384, 65536)}),
    },
    "embedding_gradient": {
        "quick": grid({"V": (64, 512), "E": (64, 512), "N": (4096, 32768)}),
        "full": grid(
            {
                "V": (64, 128, 256, 512, 1024),
                "E": (64, 128, 256, 512, 1024),
                "N": (4096, 16384, 65536),
            }
        ),
    },
    "lstm_training": {"quick": UNIFORM_QUICK, "full": UNIFORM_FULL},
    "lstm_inference": {"quick": UNIFORM_QUICK, "full": UNIFORM_FULL},
    "dense_training": {"quick": UNIFORM_QUICK, "full": UNIFORM_FULL},
    "dense_inference": {"quick": UNIFORM_QUICK, "full": UNIFORM_FULL},
    "lstm_ragged": {
        "quick": grid(
            {"H": (128, 256), "E": (128,), "B": (64,), "T": (32,), "L": (1, 2)}
            | {"bidirectional": (1,)}
        ),
        "full": _lstm_full(
            (128, 201, 256, 512, 1024),
            B=(8, 32, 64, 256),
            T=(20, 50, 100),
            L=(1, 2),
            bidirectional=(0, 1),
        ),
    },
    "lstm_cell_loop": {"quick": LOOP_QUICK, "full": LOOP_FULL},
    "lstm_step_loop": {"quick": LOOP_QUICK, "full": LOOP_FULL},
    "generation": {
        "quick": grid({"H": (256, 512), "E": (128,), "L": (1,), "T": (100,)}),
        "full": grid({"H": (128, 256, 512, 1024), "E": (128,), "L": (1, 2), "T": (100,)}),
    },
    "linear": {
        "quick": grid({"E": (128,), "H": (256,), "N": (512, 8192)}),
        "full": grid({"E": (64, 256, 512), "H": (128, 256, 512), "N": (512, 4096, 16384)}),
    },
    "linear_cross_entropy": {
        "quick": grid({"V": (64, 256), "H": (256,), "N": (4096, 16384)}),
        "full": grid({"V": (64, 128, 256, 512), "H": (256, 512, 1024), "N": (4096, 16384, 65536)}),
    },
    "seq2seq_training": {
        "quick": grid({"H": (256,), "B": (64, 256)}),
        "full": grid({"H": (128, 256, 512), "B": (64, 256)}),
    },
}

# Where torch.compile takes part, for its compiler works 5 to 30 seconds a point: the corners and
# the middle of the full grid, one point of the quick one. Not in the LSTM groups: Dynamo does not
# trace nn.LSTM, so there the compiled model is the eager one (a test says so).
COMPILED: dict[str, list[Point]] = {
    "embedding_gradient": [
        {"V": 64, "E": 64, "N": 4096},
        {"V": 256, "E": 256, "N": 16384},
        {"V": 1024, "E": 1024, "N": 65536},
    ],
    "lstm_cell_loop": [
        {"H": 128, "E": 128, "B": 1, "T": 20},
        {"H": 256, "E": 128, "B": 32, "T": 20},
        {"H": 1024, "E": 128, "B": 128, "T": 20},
    ],
    "generation": [
        {"H": 256, "E": 128, "L": 1, "T": 100},
        {"H": 1024, "E": 128, "L": 2, "T": 100},
    ],
    "linear_cross_entropy": [
        {"V": 64, "H": 256, "N": 4096},
        {"V": 256, "H": 512, "N": 16384},
        {"V": 512, "H": 1024, "N": 65536},
    ],
}


def takes_part(group: str, contestant: str, point: Point) -> bool:
    """Whether the contestant is measured at the point."""
    return contestant != TORCH_COMPILE or point in COMPILED[group]
