"""Embedding + LSTM over T steps of a uniform batch: ids [T, B] of SYMBOLS symbols to [T, B, H]."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastchar

from .. import roofline
from ..covering import Point
from ..grids import SYMBOLS
from ..inputs import module, randn
from ..interleave import Case, Contestant, buffers_beyond_cache
from ..machine import last_level_cache
from . import OURS, Group

NAMES = ("torch", "fastchar.accelerate", OURS)


class TorchEmbeddingLSTM(nn.Module):
    """nn.LSTM(nn.Embedding(ids)), with `fastchar.EmbeddingLSTM`'s arguments and parameter names."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *sizes: int, **options: bool):
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, *sizes, **options)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """ids [T, B] to [T, B, H]; with `lengths` [B] by packing and padding again."""
        output: Tensor
        if lengths is None:
            output, _ = self.lstm(self.embedding(ids))
            return output
        packed = pack_padded_sequence(self.embedding(ids), lengths, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.lstm(packed)[0], total_length=len(ids))
        return output


def _modules(point: Point) -> dict[str, nn.Module]:
    """The contestants' modules, with equal parameters."""
    sizes = (SYMBOLS, point["E"], point["H"])
    plain, swapped = (module(lambda: TorchEmbeddingLSTM(*sizes)) for _ in range(2))
    ours = module(lambda: fastchar.EmbeddingLSTM(*sizes))
    for model in (swapped, ours):
        model.load_state_dict(plain.state_dict())
    return dict(zip(NAMES, (plain, fastchar.accelerate(swapped), ours), strict=True))


def training(modules: dict[str, nn.Module], inputs: list[Tensor], grads: list[Tensor]) -> Case:
    """Forward and backward from a given upstream gradient, to every parameter, and to inputs."""
    leaves = [x for x in inputs if x.requires_grad]

    def contestant(name: str, model: nn.Module) -> Contestant:
        def forward(i: int) -> Tensor:
            output = model(inputs[i])
            return output if isinstance(output, Tensor) else output[0]

        return Contestant(
            name,
            forward,
            lambda output, i: output.backward(grads[i]),
            parameters=[*model.parameters(), *leaves],
        )

    return Case([contestant(*item) for item in modules.items()], len(inputs))


def inference(modules: dict[str, nn.Module], inputs: list[Tensor]) -> Case:
    """Forward alone, under no_grad, in eval mode."""

    def contestant(name: str, model: nn.Module) -> Contestant:
        model.eval()

        @torch.no_grad()
        def forward(i: int) -> Tensor:
            output = model(inputs[i])
            return output if isinstance(output, Tensor) else output[0]

        return Contestant(name, forward)

    return Case([contestant(*item) for item in modules.items()], len(inputs))


def build_training(point: Point) -> Case:
    """ids [T, B], upstream gradients [T, B, H]."""
    T, B, H = (point[axis] for axis in "TBH")
    buffers = buffers_beyond_cache(4 * T * B * H, last_level_cache())
    ids = [torch.randint(SYMBOLS, (T, B)) for _ in range(buffers)]
    return training(_modules(point), ids, [randn(T, B, H) for _ in ids])


def build_inference(point: Point) -> Case:
    """ids [T, B]."""
    T, B = point["T"], point["B"]
    buffers = buffers_beyond_cache(8 * T * B, last_level_cache())
    return inference(_modules(point), [torch.randint(SYMBOLS, (T, B)) for _ in range(buffers)])


GROUPS = (
    Group(
        "lstm_training",
        "Embedding + LSTM, training step, uniform batch",
        "step",
        ("torch",),
        NAMES,
        build_training,
        roofline.lstm_training,
    ),
    Group(
        "lstm_inference",
        "Embedding + LSTM, inference, uniform batch",
        "forward",
        ("torch",),
        NAMES,
        build_inference,
        roofline.lstm_inference,
    ),
)
