"""Whole models of our modules under torch.compile, against themselves in eager mode and torch's.

Every model is compiled with fullgraph=True, in a fresh Dynamo, for the one size that is measured.
torch's own has no compiled contestant: Dynamo makes no graph of a model with nn.LSTM.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastchar

from . import machine
from .covering import Point
from .grids import SYMBOLS, TORCH_COMPILE
from .groups import OURS, compiled
from .inputs import module
from .interleave import Case, Contestant
from .interleave import measure as interleave
from .progress import Progress
from .tables import point_text

COMPILED = "compiled"
BUDGET = {"quick": 0.7, "full": 4.0}
POINTS: dict[str, list[Point]] = {
    "quick": [{"H": 128, "E": 64, "B": 16, "T": 20}],
    "full": [
        {"H": 64, "E": 64, "B": 4, "T": 20},
        {"H": 256, "E": 128, "B": 32, "T": 50},
        {"H": 256, "E": 128, "B": 128, "T": 50},
    ],
}
Classes = Any  # what has Embedding, LSTM and LSTMCell: torch.nn, or fastchar


class LanguageModel(nn.Module):
    """Embedding, LSTM, output: ids [T, B] to the loss of telling each."""

    def __init__(self, classes: Classes, E: int, H: int) -> None:
        super().__init__()
        self.embedding, self.lstm = classes.Embedding(SYMBOLS, E), classes.LSTM(E, H)
        self.output = nn.Linear(H, SYMBOLS)

    def forward(self, ids: Tensor) -> Tensor:
        y, _ = self.lstm(self.embedding(ids))
        return F.cross_entropy(self.output(y).flatten(0, 1), ids.flatten())


class Tagger(nn.Module):
    """Two bidirectional layers, and pointwise work around small products for Inductor to fuse."""

    def __init__(self, classes: Classes, E: int, H: int) -> None:
        super().__init__()
        self.embedding = classes.Embedding(SYMBOLS, E)
        self.lstm = classes.LSTM(E, H, 2, bidirectional=True, dropout=0.3)
        self.head = nn.Sequential(
            nn.LayerNorm(2 * H), nn.Linear(2 * H, H), nn.GELU(), nn.Linear(H, SYMBOLS)
        )

    def forward(self, ids: Tensor) -> Tensor:
        y, _ = self.lstm(self.embedding(ids))
        return F.cross_entropy(self.head(y).flatten(0, 1), ids.flatten())


class Decoder(nn.Module):
    """A loop over an LSTMCell, unrolled in the graph."""

    def __init__(self, classes: Classes, E: int, H: int) -> None:
        super().__init__()
        self.embedding, self.cell = classes.Embedding(SYMBOLS, E), classes.LSTMCell(E, H)
        self.output = nn.Linear(H, SYMBOLS)

    def forward(self, ids: Tensor) -> Tensor:
        embedded, outputs = self.embedding(ids), []
        state = 2 * (embedded.new_zeros(ids.shape[1], self.cell.hidden_size),)
        for x in embedded.unbind(0):
            state = self.cell(x, state)
            outputs.append(state[0])
        return F.cross_entropy(self.output(torch.stack(outputs)).flatten(0, 1), ids.flatten())


class WithoutLSTM(LanguageModel):
    """The language model with as many parameters and no recurrence: what torch.compile itself adds
    to a call, or takes from it."""

    def __init__(self, classes: Classes, E: int, H: int) -> None:
        super().__init__(classes, E, H)
        self.embedding = classes.Embedding(SYMBOLS, H)

    def forward(self, ids: Tensor) -> Tensor:
        y = self.embedding(ids)
        for parameter in self.lstm.parameters():
            y = y + parameter.flatten()[0]
        return F.cross_entropy(self.output(y).flatten(0, 1), ids.flatten())


MODELS: dict[str, type[nn.Module]] = {
    "language model": LanguageModel,
    "the same without its LSTM": WithoutLSTM,
    "tagger": Tagger,
    "decoder loop": Decoder,
}


def build(name: str, point: Point, training: bool) -> Case:
    """torch's, ours and ours compiled, of the same weights; a step, or the loss alone."""
    E, H = point["E"], point["H"]
    plain = module(lambda: MODELS[name](nn, E, H))
    ours = module(lambda: MODELS[name](fastchar, E, H))
    ours.load_state_dict(plain.state_dict())
    ids = torch.randint(SYMBOLS, (point["T"], point["B"]))

    def contestant(label: str, model: nn.Module, call: Callable[[Tensor], Tensor]) -> Contestant:
        if not training:
            return Contestant(label, lambda _: torch.no_grad()(call)(ids))
        return Contestant(
            label, lambda _: call(ids), lambda loss, _: loss.backward(), None, [*model.parameters()]
        )

    return Case(
        [
            contestant("torch", plain, plain),
            contestant(OURS, ours, ours),
            contestant(TORCH_COMPILE, ours, compiled(ours, fullgraph=True)),
        ]
    )


def measure_point(name: str, point: Point, training: bool, budget: float) -> dict[str, Any]:
    """Seconds of each, and ours in eager mode and torch's by ours compiled."""
    torch.manual_seed(0)
    timing = interleave(build(name, point, training), budget=budget)
    return {
        "model": name,
        "work": "training" if training else "inference",
        "point": point,
        "rounds": timing.rounds,
        "seconds": {n: asdict(timing.spread(n, "step")) for n in timing.samples},
        "ratios": {n: asdict(timing.ratio(n, TORCH_COMPILE, "step")) for n in ("torch", OURS)},
        "first_step_seconds": timing.first[TORCH_COMPILE],
    }


def measure(grid: str) -> dict[str, Any]:
    """Returns the result file's content."""
    record = machine.Record(COMPILED, "Models under torch.compile", grid=grid)
    cases = [(n, p, t) for n in MODELS for p in POINTS[grid] for t in (True, False)]
    progress = Progress(len(cases))
    points: list[dict[str, Any]] = []
    for name, point, training in cases:
        points.append(measure_point(name, point, training, BUDGET[grid]))
        gain = points[-1]["ratios"][OURS]["median"]
        work = points[-1]["work"]
        progress.advance(1, f"{COMPILED} {name}, {work} {point_text(point)} {gain:.2f} times eager")
    return record.result(points=points)
