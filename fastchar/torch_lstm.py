"""torch's own LSTM, for what no kernel serves: projections, mixed types, traces.

Shapes as in `functional.lstm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastchar import backend
from fastchar.reference.cell import State
from fastchar.reference.layers import check_lengths, mask_padding
from fastchar.routing import Result, traced, transformed

Stack = tuple[bool, int, float, bool, bool]  # biases?, layers, dropout, training?, bidirectional?


def check_params(params: Sequence[Tensor]) -> None:
    if not all(isinstance(p, Tensor) for p in params):
        raise TypeError("params: expected Tensors, got None, as of a bias that was taken away")


def serves(lengths: Tensor | None, tensors: Sequence[Tensor]) -> bool:
    """Whether torch's LSTM takes what no kernel serves; the reference takes the rest.

    Traces hold torch's whether kernels are there or not, and torch has the words for what is mixed.
    """
    if transformed(tensors):
        return False
    mixed = len({(t.dtype, t.device) for t in tensors}) > 1
    if not (backend.native() or traced() or mixed):
        return False
    if lengths is None:
        return True
    # Packing reads lengths, and a graph can't hold what has their sum of rows.
    known = type(lengths) is Tensor and all(t.device.type == "cpu" for t in (lengths, tensors[0]))
    return known and 0 not in tensors[0].shape[:2] and not torch.compiler.is_compiling()


def zeros_of(x: Tensor, params: Sequence[Tensor], B: int, stack: Stack) -> State:
    """torch's default state, which has the input's dtype and device, not the weights'."""
    _, num_layers, _, _, bidirectional = stack
    count, w_hh = num_layers * (2 if bidirectional else 1), params[1]
    return x.new_zeros(count, B, w_hh.shape[1]), x.new_zeros(count, B, w_hh.shape[0] // 4)


def by_packing(
    input: Tensor,
    hx: State | None,
    params: Sequence[Tensor],
    stack: Stack,
    batch_first: bool,
    lengths: Tensor,
) -> Result:
    """`lstm` with lengths on torch's packed LSTM, in which a sequence has one step at least."""
    x = input.transpose(0, 1) if batch_first else input
    lengths = check_lengths(lengths, x)
    x = mask_padding(x, lengths)
    T, B = x.shape[:2]
    sizes, order = lengths.clamp(min=1).sort(descending=True)
    back = order.argsort()
    h0, c0 = zeros_of(x, params, B, stack) if hx is None else hx
    data, batch_sizes = torch._VF._pack_padded_sequence(x.index_select(1, order), sizes, False)
    y, h, c = torch.lstm(
        data,
        batch_sizes,
        (h0.index_select(1, order), c0.index_select(1, order)),
        list(params),
        *stack,
    )
    y, _ = torch._VF._pad_packed_sequence(y, batch_sizes, False, 0.0, T)
    y = mask_padding(y.index_select(1, back), lengths)
    some = lengths.unsqueeze(1) > 0
    h = torch.where(some, h.index_select(1, back), h0)
    c = torch.where(some, c.index_select(1, back), c0)
    return (y.transpose(0, 1) if batch_first else y), h, c
