"""The whole training step of a pronunciation model: forward, backward, clipping and Adam."""

import torch
from torch import Tensor, nn

import fastchar

from .. import roofline
from ..covering import Point
from ..inputs import module
from ..interleave import Case, Contestant
from ..pronunciations import pronunciations
from ..roofline import Work
from ..twin import Pair, Twin, batches, collate, from_seq2seq, update
from . import OURS, Group

EMBEDDING = 128
# Batches a sample passes over: evenly spaced in an epoch of batches sorted by length.
BATCHES = 4


def chosen_batches(point: Point) -> list[list[Pair]]:
    """BATCHES batches of B words from CMUdict, bucketed by length."""
    pairs, _, _ = pronunciations()
    epoch = batches(pairs, point["B"])
    epoch = sorted((b for b in epoch if len(b) == point["B"]), key=lambda b: len(pairs[b[0]][0]))
    places = [(2 * k + 1) * len(epoch) // (2 * BATCHES) for k in range(BATCHES)]
    return [[pairs[i] for i in epoch[place]] for place in places]


def build(point: Point) -> Case:
    """The same batches for both."""
    _, source, target = pronunciations()
    inputs = [collate(batch) for batch in chosen_batches(point)]
    H = point["H"]
    ours = module(lambda: fastchar.Seq2Seq(source, target, embedding_dim=EMBEDDING, hidden_size=H))
    twin = module(lambda: Twin(len(source), len(target), EMBEDDING, H))
    twin.load_seq2seq(ours.state_dict())

    def named(model: nn.Module) -> dict[str, Tensor]:
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    def in_the_twins_order(grads: dict[str, Tensor]) -> list[Tensor]:
        return [grads[name] for name, _ in twin.named_parameters()]

    gradients = {
        "twin": lambda: in_the_twins_order(named(twin)),
        OURS: lambda: in_the_twins_order(from_seq2seq(named(ours))),
    }

    def contestant(name: str, model: nn.Module) -> Contestant:
        optimizer = torch.optim.Adam(model.parameters(), fused=True)

        def forward(i: int) -> Tensor:
            loss: Tensor = model(*inputs[i])
            return loss

        return Contestant(
            name,
            forward,
            lambda loss, _: loss.backward(),
            lambda: update(model, optimizer),
            list(model.parameters()),
            gradients=gradients[name],
        )

    return Case([contestant("twin", twin), contestant(OURS, ours)], BATCHES, whole_passes=True)


def work(point: Point) -> Work:
    """Products over real symbols, forward once and backward twice, tables folded; a mean step."""
    _, source, target = pronunciations()
    E, H, B = EMBEDDING, point["H"], point["B"]
    flops = 0.0
    for batch in chosen_batches(point):
        read = sum(len(word) for word, _ in batch)
        written = sum(len(phones) - 1 for _, phones in batch)
        attended = sum(len(word) * (len(phones) - 1) for word, phones in batch)
        products = (
            2 * len(source) * E * 4 * H + len(target) * E * 4 * H,  # the folded tables
            2 * read * H * 4 * H + written * H * 4 * H,  # the recurrences
            2 * B * 2 * H * H,  # the bridges
            2 * read * 2 * H * H + written * H * H + 2 * attended * H,  # attention
            written * H * len(target),
        )
        flops += 3 * 2.0 * sum(products) / BATCHES
    parameters = sum(p.numel() for p in Twin(len(source), len(target), E, H).parameters())
    # Adam reads the gradient, and reads and writes the weight and two moments.
    return Work(flops, 7 * roofline.FLOAT * parameters)


GROUPS = (
    Group(
        "seq2seq_training",
        "Seq2Seq, whole training step",
        "step",
        ("twin",),
        ("twin", OURS),
        build,
        work,
    ),
)
