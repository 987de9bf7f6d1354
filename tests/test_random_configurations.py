"""Hundreds of modules as a program might build them, against torch's, outputs and gradients."""

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from error_rule import Sample
from strategies import WIDTHS
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastchar

pytestmark = pytest.mark.usefixtures("by_kernels")
COUNT = 50  # configurations of each module in each dtype
SIZES = (*WIDTHS, 100)
SYMBOLS = (2, 31, 128)
# Ours, torch's, the call of either, and the floating point tensors that the call takes.
Case = tuple[nn.Module, nn.Module, Callable[[nn.Module, Any], Any], list[Tensor]]


class Pair(nn.Module):
    """What an `EmbeddingLSTM` stands for."""

    def __init__(self, V: int, E: int, H: int, L: int, *, padding_idx: int | None, **options: Any):
        super().__init__()
        self.embedding = nn.Embedding(V, E, padding_idx)
        self.lstm = nn.LSTM(E, H, L, **options)


def embedding(draw: random.Random) -> Case:
    """Every option but max_norm, which writes to the weight; ids of any shape."""
    V, E = draw.choice(SYMBOLS), draw.choice(SIZES)
    options = {
        "padding_idx": draw.choice((None, None, 0, -1)),
        "scale_grad_by_freq": draw.random() < 0.3,
    }
    shape = draw.choice(((), (0,), (1,), (40,), (9, 17), (2, 3, 5), (30, 19)))
    ids = torch.randint(V, shape, dtype=draw.choice((torch.int32, torch.int64)))
    ours, theirs = fastchar.Embedding(V, E, **options), nn.Embedding(V, E, **options)
    return ours, theirs, lambda module, _: [module(ids)], []


def cell(draw: random.Random) -> Case:
    """With and without bias, state and batch; several steps, as a decoder takes them."""
    E, H, B = draw.choice(SIZES), draw.choice(SIZES), draw.choice((None, 1, 2, 5, 19))
    bias, steps = draw.random() < 0.8, draw.choice((1, 1, 4))
    batch = () if B is None else (B,)
    tensors = [torch.randn(*batch, E)]
    if draw.random() < 0.7:
        tensors += [torch.randn(*batch, H), torch.randn(*batch, H)]

    def call(module: nn.Module, tensors: list[Tensor]) -> list[Tensor]:
        x, *hx = tensors
        state: Any = tuple(hx) or None
        for _ in range(steps):
            state = module(x, state)
        return list(state)

    return fastchar.LSTMCell(E, H, bias), nn.LSTMCell(E, H, bias), call, tensors


def stack(draw: random.Random) -> dict[str, Any]:
    """The options that LSTM and EmbeddingLSTM share."""
    L = draw.choice((1, 1, 1, 2, 3))
    return {
        "num_layers": L,
        "bidirectional": draw.random() < 0.4,
        "batch_first": draw.random() < 0.5,
        "dropout": draw.choice((0.0, 0.4)) if L > 1 else 0.0,
    }


def form(draw: random.Random, options: dict[str, Any]) -> tuple[int, int | None, Tensor | None]:
    """T, B (None: unbatched) and lengths; ragged batches without dropout, which draws per token."""
    T, B = draw.choice((1, 2, 3, 7, 12, 20)), draw.choice((None, 1, 2, 5, 16, 19))
    if B is None or options["dropout"] or draw.random() < 0.5:
        return T, B, None
    return T, B, torch.tensor([draw.randint(1, T) for _ in range(B)])


def states(
    draw: random.Random, options: dict[str, Any], B: int | None, P: int, H: int
) -> list[Tensor]:
    """(h0, c0), or nothing."""
    count = options["num_layers"] * (2 if options["bidirectional"] else 1)
    batch = () if B is None else (B,)
    if draw.random() < 0.4:
        return []
    return [torch.randn(count, *batch, P), torch.randn(count, *batch, H)]


def flat(result: Any, batch_first: bool, T: int) -> list[Tensor]:
    y, (h, c) = result
    if isinstance(y, PackedSequence):
        y, _ = pad_packed_sequence(y, batch_first, total_length=T)
    return [y, h, c]


def lstm(draw: random.Random) -> Case:
    """Any options, form of input and state; ragged by packing, or by lengths= against packing."""
    options = stack(draw)
    E, H = draw.choice(SIZES), draw.choice(SIZES)
    options |= {"bias": draw.random() < 0.8, "proj_size": H // 2 if draw.random() < 0.15 else 0}
    first = options["batch_first"]
    T, B, lengths = form(draw, options)
    shape = (T, E) if B is None else (B, T, E) if first else (T, B, E)
    tensors = [torch.randn(shape), *states(draw, options, B, options["proj_size"] or H, H)]
    packed = draw.random() < 0.5

    def call(module: nn.Module, tensors: list[Tensor]) -> list[Tensor]:
        x, *hx = tensors
        if lengths is None:
            return flat(module(x, tuple(hx) or None), first, T)
        if not packed and isinstance(module, fastchar.LSTM):
            return flat(module(x, tuple(hx) or None, lengths=lengths), first, T)
        pack = pack_padded_sequence(x, lengths, first, enforce_sorted=False)
        return flat(module(pack, tuple(hx) or None), first, T)

    return fastchar.LSTM(E, H, **options), nn.LSTM(E, H, **options), call, tensors


def embedding_lstm(draw: random.Random) -> Case:
    """More tokens than symbols (the fold) and fewer; ids in the padding are out of range."""
    options = stack(draw)
    V, E, H = draw.choice(SYMBOLS), draw.choice(SIZES), draw.choice(SIZES)
    options |= {"padding_idx": draw.choice((None, None, 0, V - 1))}
    first = options["batch_first"]
    T, B, lengths = form(draw, options)
    ids = torch.randint(V, (T,) if B is None else (B, T) if first else (T, B))
    spoilt = ids.clone()
    if lengths is not None:
        past = torch.arange(T)[:, None] >= lengths
        spoilt[past.t() if first else past] = 10**9
    tensors = states(draw, options, B, H, H)

    def call(module: nn.Module, tensors: list[Tensor]) -> list[Tensor]:
        hx: Any = tuple(tensors) or None
        if isinstance(module, fastchar.EmbeddingLSTM):
            return flat(module(spoilt, hx, lengths=lengths), first, T)
        x: Any = module.embedding(ids)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, first, enforce_sorted=False)
        return flat(module.lstm(x, hx), first, T)

    L = options.pop("num_layers")
    ours = fastchar.EmbeddingLSTM(V, E, H, L, **options)
    return ours, Pair(V, E, H, L, **options), call, tensors


def results(
    call: Any, module: nn.Module, tensors: list[Tensor], seed: int, needs: list[bool]
) -> list[Tensor]:
    """Outputs, and the gradients of a random function of them to whatever `needs` one."""
    dtype = next(module.parameters()).dtype
    leaves = [t.to(dtype, copy=True) for t in tensors]
    inputs = [*module.parameters(), *leaves]
    for t, need in zip(inputs, needs, strict=True):
        t.requires_grad_(need)
    torch.manual_seed(seed)  # dropout draws the same, and so do the gradients
    out = call(module, leaves)
    torch.manual_seed(seed)
    grads = [torch.randn(t.shape).to(dtype) for t in out]
    wanted = [t for t in inputs if t.requires_grad]
    return [*out, *torch.autograd.grad(out, wanted, grads, materialize_grads=True)]


def names(ours: nn.Module, tensors: list[Tensor], needs: list[bool], count: int) -> list[str]:
    """What each of the results is, for the report; of a weight the kind, for a sample has too few
    draws of the third layer's alone."""
    inputs = [*dict(ours.named_parameters()), *["dx", "dh", "dc"][: len(tensors)]]
    kinds = [re.sub(r"_l\d+(_reverse)?$", "", name) for name in inputs]
    wanted = [name for name, need in zip(kinds, needs, strict=True) if need]
    return [*["y", "h", "c"][: count - len(wanted)], *wanted]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_random_configurations(dtype: torch.dtype) -> None:
    """err(ours) <= 2 err(torch), over a sample that is the same every run; float64 judges."""
    sample = Sample()
    for draw_case in (embedding, cell, lstm, embedding_lstm):
        for seed in range(COUNT):
            draw = random.Random(f"{draw_case.__name__} {dtype} {seed}")
            torch.manual_seed(draw.randrange(2**31))
            ours, theirs, call, tensors = draw_case(draw)
            ours.load_state_dict(theirs.state_dict())
            needs = [draw.random() < 0.9 for _ in [*ours.parameters(), *tensors]]
            needs[0] = True
            mine = results(call, ours.to(dtype), tensors, seed, needs)
            his = results(call, theirs, tensors, seed, needs)
            exact = results(call, theirs.double(), tensors, seed, needs)
            what = names(ours, tensors, needs, len(mine))
            for name, *values in zip(what, mine, his, exact, strict=True):
                sample.add(f"{draw_case.__name__} {name}", *values)
    sample.check()
