"""`torch.lstm` of a packed batch, on the kernels where they serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastchar import functional, torch_lstm
from fastchar.reference.cell import State
from fastchar.reference.layers import has_projection
from fastchar.routing import Result, autocast_dtype, floats, kernel_dtype, traced
from fastchar.torch_lstm import Stack


def lstm_packed(
    data: Tensor,
    batch_sizes: Tensor,
    hx: State | None,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> Result:
    """`torch.lstm` of a packed batch: data [N,E], batch_sizes [T] on the CPU, hx in its order.

    Kernels run on the padded form with its lengths; sequences of one length have no padding, and
    their steps lie in `data` as they are.
    """
    stack = (has_biases, num_layers, dropout, train, bidirectional)
    torch_lstm.check_params(params)
    if not _packed_served(data, batch_sizes, hx, params, stack):
        first: Any = batch_sizes[0]  # the batch; no int, so that a trace keeps it open
        hx = torch_lstm.zeros_of(data, params, first, stack) if hx is None else hx
        results: Result = torch.lstm(data, batch_sizes, hx, list(params), *stack)
        return results
    T, B = batch_sizes.shape[0], int(batch_sizes[0])
    x: Tensor = data
    lengths: Tensor | None = None
    if int(batch_sizes[-1]) == B:
        x = data.view(T, B, *data.shape[1:])
    else:
        x, lengths = torch._VF._pad_packed_sequence(data, batch_sizes, False, 0.0, T)
    y, h_n, c_n = functional.lstm(x, hx, params, *stack, False, lengths=lengths)
    if lengths is None:  # torch too takes its padded path
        return y.flatten(0, 1), h_n, c_n
    low = autocast_dtype(data)
    if low is not None and not has_projection(params, has_biases, num_layers, bidirectional):
        # torch's packed path leaves the state in its own precision
        kind = torch.promote_types(low, (data if hx is None else hx[0]).dtype)
        y, h_n, c_n = y.to(kind), h_n.to(kind), c_n.to(kind)
    output, _ = torch._VF._pack_padded_sequence(y, lengths, False)
    return output, h_n, c_n


def _packed_served(
    data: Tensor,
    batch_sizes: Tensor,
    hx: State | None,
    params: Sequence[Tensor],
    stack: Stack,
) -> bool:
    """Whether kernels or the reference take a packed batch: what fits, and isn't torch's alone."""
    has_biases, num_layers, _, _, bidirectional = stack
    if traced() or data.dim() != 2 or data.shape[1] != params[0].shape[1]:
        return False
    states: tuple[Tensor, ...] = ()
    if hx is not None:
        fit = [
            (num_layers * (2 if bidirectional else 1), int(batch_sizes[0]), size)
            for size in (params[1].shape[1], params[1].shape[0] // 4)
        ]
        if isinstance(hx, Tensor) or [tuple(state.shape) for state in hx] != fit:
            return False
        states = tuple(hx)
    tensors = [data, *params, *states]
    if autocast_dtype(data) is not None:
        tensors = floats(tensors)
    if not torch_lstm.serves(None, tensors):
        return True
    projected = has_projection(params, has_biases, num_layers, bidirectional)
    return not projected and kernel_dtype(tensors) is not None
