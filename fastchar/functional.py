"""The functions behind the modules: the native kernels where they serve, the reference elsewhere.

Names, arguments and results are those of `fastchar.reference`, where the shapes are documented;
`routing` says which tensors a kernel serves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastchar import backend, reference, streams, torch_lstm
from fastchar.generation import lstm_generate
from fastchar.linear import full_precision, linear, linear_cross_entropy
from fastchar.reference.cell import State
from fastchar.reference.layers import (
    Direction,
    Weights,
    check_lengths,
    has_projection,
    mask_padding,
    one_bias,
    run_layers,
)
from fastchar.routing import (
    Result,
    autocast_dtype,
    cast_results,
    cuda_autocast_dtype,
    float_state,
    floats,
    ids_served,
    index_error,
    kernel_dtype,
    lowered,
)
from fastchar.torch_lstm import Stack

if backend.native():
    from fastchar import ops
    from fastchar.calls import recorded

__all__ = [
    "embedding",
    "embedding_lstm",
    "linear",
    "linear_cross_entropy",
    "lstm",
    "lstm_cell",
    "lstm_generate",
]

# Elements of a lookup up to which torch's own is the faster one on the CPU, nothing of it being
# Python: by itself, and with its gradient, of which torch's takes one thread.
_LITTLE, _LITTLE_TRAINED = 1 << 20, 1 << 16
# Rows of a step up to which bfloat16 weights are read as they are, not cast.
_FEW = 32


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`F.embedding`: ids of any shape, weight [V,E] -> ids.shape + [E].

    IndexError for an id outside 0..V-1, before anything is written. `max_norm`, `sparse`, tables
    without rows (whose errors are others) and lookups so small that a call costs more than the rows
    run on torch's own code.
    """
    if max_norm is None and not sparse and _little(input, weight, scale_grad_by_freq):
        try:
            return F.embedding(input, weight, padding_idx, None, 2.0, scale_grad_by_freq)
        except IndexError:  # which doesn't say which id: the kernel's does
            pass
    served = max_norm is None and not sparse and ids_served(input)
    if not served or kernel_dtype((weight,)) is None or weight.dim() != 2 or weight.shape[0] == 0:
        return reference.embedding(
            input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
        )
    row = _padding_row(padding_idx, weight)
    rows: Tensor = index_error(ops.embedding, weight, input, row, scale_grad_by_freq)
    return rows


def _little(ids: Tensor, weight: Tensor, by_freq: bool) -> bool:
    """Whether torch's own lookup serves as well, and sooner. Its gradient lacks a derivative where
    it is scaled by frequency, and adds up half precision in half precision."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not isinstance(ids, Tensor):
        return False  # a trace's sizes are for others
    if not (ids.is_cpu and weight.is_cpu and weight.dim() == 2):
        return False
    elements = ids.numel() * weight.shape[1]
    if not (weight.requires_grad and torch.is_grad_enabled()):
        return elements <= _LITTLE
    return elements <= _LITTLE_TRAINED and not by_freq and weight.dtype.itemsize >= 4


def _padding_row(padding_idx: int | None, weight: Tensor) -> int:
    """Which row of weight [V,E] gets no gradient, or -1; beyond V, torch's AssertionError."""
    V = weight.shape[0]
    if padding_idx is None:
        return -1
    if not -V <= padding_idx < V:
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx if padding_idx >= 0 else padding_idx + V


def lstm_cell(
    input: Tensor,
    hx: State,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> State:
    """`torch.lstm_cell`: input [B,E], hx two [B,H] -> (h', c') [B,H]."""
    _check_pair(hx, "lstm_cell")
    if not torch.jit.is_tracing():  # a trace's sizes are for others
        _check_cell(input, hx, w_ih, w_hh)
    if (b_ih is None) != (b_hh is None):  # torch takes one alone
        b_ih, b_hh = b_ih if b_hh is None else b_hh, torch.zeros_like(w_hh[:, 0])
    tensors = [t for t in (input, *hx, w_ih, w_hh, b_ih, b_hh) if t is not None]
    low = autocast_dtype(input)
    if low is not None:
        result = torch.promote_types(low, hx[1].dtype)
        with torch.autocast("cpu", enabled=False):
            x, h, c, *weights = floats(tensors)
            h, c = lstm_cell(x, (h, c), *weights)
        return h.to(result), c.to(result)
    low = cuda_autocast_dtype(input)
    if low is not None:
        with torch.autocast("cuda", enabled=False):
            x, h, c, *weights = lowered(tensors, low)
            return lstm_cell(x, (h, c), *weights)
    dtype = kernel_dtype(tensors)
    if dtype is None:
        return reference.lstm_cell(input, hx, w_ih, w_hh, b_ih, b_hh)
    given = input.dtype
    if given is not dtype:
        held = _held(given, dtype, tensors, input.shape[0])
        tensors = [t.to(held if 3 <= i < 5 else dtype) for i, t in enumerate(tensors)]
    x, h, c, w_ih, w_hh, *biases = tensors
    if x.is_cuda:  # cuBLAS makes the products
        gates = F.linear(h, w_hh, one_bias(*biases) if biases else None)
        h, c = ops.lstm_cell(torch.addmm(gates, x, w_ih.t()), c)
    else:
        b_ih, b_hh = biases or (None, None)
        h, c = ops.lstm_step(x, h, c, w_ih, w_hh, b_ih, b_hh)
    return (h, c) if given is dtype else (h.to(given), c.to(given))


def _held(
    given: torch.dtype, dtype: torch.dtype, tensors: Sequence[Tensor], rows: int
) -> torch.dtype:
    """In which dtype the step's kernel, computing in `dtype`, takes weight matrices: in bfloat16 as
    they are, half the bytes to read, for rows so few that this is most of the work."""
    few = given is torch.bfloat16 and rows <= _FEW and tensors[0].is_cpu
    return given if few and not torch.compiler.is_compiling() and not recorded(*tensors) else dtype


def _check_pair(hx: State, caller: str) -> None:
    """torch's check that a state is a pair, in its words."""
    if isinstance(hx, Tensor):
        raise TypeError(f"{caller}(): argument 'hx' must be tuple of Tensors, not Tensor")
    if len(hx) != 2:
        raise RuntimeError(f"{caller} expects two hidden states")


def _check_cell(x: Tensor, hx: State, w_ih: Tensor, w_hh: Tensor) -> None:
    """torch.lstm_cell's checks of sizes, in its words."""
    B = x.shape[0]
    right = (B, w_hh.shape[1])
    if x.shape == (B, w_ih.shape[1]) and hx[0].shape == right and hx[1].shape == right:
        return
    if x.shape[1] != w_ih.shape[1]:
        raise RuntimeError(
            f"input has inconsistent input_size: got {x.shape[1]} expected {w_ih.shape[1]}"
        )
    for k, state in enumerate(hx):
        if state.shape[0] != x.shape[0]:
            raise RuntimeError(
                f"Input batch size {x.shape[0]} doesn't match hidden{k} batch size {state.shape[0]}"
            )
        if state.shape[1] != w_hh.shape[1]:
            raise RuntimeError(
                f"hidden{k} has inconsistent hidden_size: got {state.shape[1]}, "
                f"expected {w_hh.shape[1]}"
            )


def lstm(
    input: Tensor,
    hx: State | None,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    lengths: Tensor | None = None,
) -> Result:
    """`torch.lstm` with `lengths`: (output, h_n, c_n); see `reference.lstm`."""
    stack = (has_biases, num_layers, dropout, train, bidirectional)
    if hx is not None:
        _check_pair(hx, "lstm")
    states = () if hx is None else tuple(hx)
    low = autocast_dtype(input)
    if low is not None:
        with torch.autocast("cpu", enabled=False):
            x, *params = floats([input, *params])
            hx = float_state(hx)
            results = lstm(x, hx, params, *stack, batch_first, lengths=lengths)
        own = states[1].dtype if states else input.dtype
        return _autocast_results(results, low, own, params, stack)
    low = cuda_autocast_dtype(input)
    if low is not None:
        with torch.autocast("cuda", enabled=False):
            x, *params = lowered([input, *params], low)
            hx = None if hx is None else (hx[0].to(low), hx[1].to(low))
            return lstm(x, hx, params, *stack, batch_first, lengths=lengths)
    dtype = kernel_dtype((input, *params, *states))
    if dtype is None or has_projection(params, has_biases, num_layers, bidirectional):
        torch_lstm.check_params(params)
        if torch_lstm.serves(lengths, (input, *params, *states)):
            if lengths is not None:
                return torch_lstm.by_packing(input, hx, params, stack, batch_first, lengths)
            B = input.shape[0 if batch_first else 1]
            hx = torch_lstm.zeros_of(input, params, B, stack) if hx is None else hx
            return torch.lstm(input, hx, list(params), *stack, batch_first)
        return reference.lstm(input, hx, params, *stack, batch_first, lengths=lengths)
    x = (input.transpose(0, 1) if batch_first else input).to(dtype).contiguous()
    if lengths is not None:
        lengths = check_lengths(lengths, x)
    return _run(None, x, hx, params, stack, batch_first, lengths, dtype)


def _autocast_results(
    results: Result, low: torch.dtype, own: torch.dtype, params: Sequence[Tensor], stack: Stack
) -> Result:
    """In the dtypes of torch's autocast on the CPU, whose projected c keeps its own."""
    has_biases, num_layers, _, _, bidirectional = stack
    y, h_n, c_n = cast_results(results, low)
    if has_projection(params, has_biases, num_layers, bidirectional):
        c_n = results[2].to(torch.promote_types(low, own))
    return y, h_n, c_n


def embedding_lstm(
    ids: Tensor,
    weight: Tensor,
    hx: State | None,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    padding_idx: int | None = None,
    lengths: Tensor | None = None,
) -> Result:
    """`lstm` of the embedded ids; see `reference.embedding_lstm`.

    With at least as many tokens as symbols, N >= V, layer 0's input projection is folded into the
    table, P = E W_ih^T + b [V,4H], and the kernel gathers rows of P by id; the usual product of
    the embedded tokens would cost N/V times more.
    """
    stack = (has_biases, num_layers, dropout, train, bidirectional)
    if hx is not None:
        _check_pair(hx, "lstm")
    low = autocast_dtype(weight)
    if low is not None:
        own = weight.dtype if hx is None else hx[1].dtype
        with torch.autocast("cpu", enabled=False):
            table, *params = floats([weight, *params])
            hx = float_state(hx)
            results = embedding_lstm(
                ids, table, hx, params, *stack, batch_first,
                padding_idx=padding_idx, lengths=lengths,
            )  # fmt: skip
        return _autocast_results(results, low, own, params, stack)
    low = cuda_autocast_dtype(weight)
    if low is not None:
        with torch.autocast("cuda", enabled=False):
            table, *params = lowered([weight, *params], low)
            hx = None if hx is None else (hx[0].to(low), hx[1].to(low))
            return embedding_lstm(
                ids, table, hx, params, *stack, batch_first,
                padding_idx=padding_idx, lengths=lengths,
            )  # fmt: skip
    by_step = ids.t() if batch_first else ids
    if lengths is not None:
        lengths = check_lengths(lengths, by_step)
    dtype = kernel_dtype((weight, *params, *(() if hx is None else hx)))
    if (
        dtype is None
        or not ids_served(ids)
        or has_projection(params, has_biases, num_layers, bidirectional)
        or (
            # In this order: where layers are whole, a graph then asks nothing of the sizes.
            (not _whole_layers(weight) or weight.dtype is not dtype)
            and by_step.numel() < weight.shape[0]
        )
    ):
        if lengths is not None:
            by_step = mask_padding(by_step, lengths)
        x = embedding(by_step, weight, padding_idx)
        y, h_n, c_n = lstm(x, hx, params, *stack, False, lengths=lengths)
        return (y.transpose(0, 1) if batch_first else y), h_n, c_n
    row = _padding_row(padding_idx, weight)
    ids = by_step.contiguous()
    return _run((weight.to(dtype), row), ids, hx, params, stack, batch_first, lengths, dtype)


def _whole_layers(x: Tensor) -> bool:
    """Whether layers run as one op each, `lstm_layer`, projections included: on the CPU, unless
    these are to be torch's because of a lower precision."""
    return x.device.type in ("cpu", "meta") and full_precision()


def _run(
    table: tuple[Tensor, int] | None,
    x: Tensor,
    hx: State | None,
    params: Sequence[Tensor],
    stack: Stack,
    batch_first: bool,
    lengths: Tensor | None,
    dtype: torch.dtype,
) -> Result:
    """The layers on the kernels: x [T,B,E], or ids [T,B] into a table [V,E]; computed in dtype.

    The table comes with the number of its row that gets no gradient, or -1.
    """
    whole = _whole_layers(x)
    if not whole and table is None and lengths is not None:
        x = mask_padding(x, lengths)

    def layer(x: Tensor, weights: Weights, h0: Tensor, c0: Tensor, reverse: bool) -> Result:
        w_ih, w_hh, b_ih, b_hh, _ = weights
        weight, row = table if table is not None and not x.is_floating_point() else (None, -1)
        arguments = (x, weight, w_ih, b_ih, b_hh, w_hh, h0, c0, lengths, row, reverse)
        return index_error(ops.lstm_layer, *arguments)

    def step(x: Tensor, weights: Weights, h0: Tensor, c0: Tensor, reverse: bool) -> Result:
        w_ih, w_hh, b_ih, b_hh, _ = weights
        h, c = ops.lstm_step(x[0], h0, c0, w_ih, w_hh, b_ih, b_hh)
        return torch.stack((h,)), h, c  # h_n is other memory than y

    def sequence(x: Tensor, weights: Weights, h0: Tensor, c0: Tensor, reverse: bool) -> Result:
        w_ih, w_hh, b_ih, b_hh, _ = weights
        bias = one_bias(b_ih, b_hh)
        if folding is not None and not x.is_floating_point():
            folded = linear(folding, w_ih, bias)
            return index_error(ops.lstm_sequence, folded, x, w_hh, h0, c0, lengths, reverse)
        gates = linear(x, w_ih, bias)
        return ops.lstm_sequence(gates, None, w_hh, h0, c0, lengths, reverse)

    folding = None if whole or table is None else _row_without_gradient(*table)
    direction: Direction = layer if whole else sequence
    if whole and x.shape[0] == 1 and lengths is None and not torch.compiler.is_compiling():
        direction = step  # of a loop around the module
        if table is not None:
            x = index_error(ops.embedding, table[0], x, table[1], False)
    if stack[4] and streams.may_overlap(x, dtype, params[1].shape[1]):
        folding = None if folding is None else folding.view_as(folding)
        direction = streams.side_by_side(sequence, x.device, (folding, lengths))
    given = params[0].dtype
    if given != dtype:
        held = dtype
        if direction is step:
            held = _held(given, dtype, (x, *params, *(hx or ())), x.shape[1])
            if hx is None:  # run_layers would make them like the weights
                states = stack[1] * (2 if stack[4] else 1)
                hx = (x.new_zeros(states, x.shape[1], params[1].shape[1]),) * 2
        params = [p.to(held if p.dim() == 2 else dtype) for p in params]
        hx = None if hx is None else (hx[0].to(dtype), hx[1].to(dtype))
    y, h_n, c_n = cast_results(run_layers(direction, x, hx, params, *stack), given)
    return (y.transpose(0, 1) if batch_first else y), h_n, c_n


def _row_without_gradient(table: Tensor, row: int) -> Tensor:
    """The table [V,E], of which that row takes part in everything but its own gradient."""
    if row < 0:
        return table
    rows = torch.arange(table.shape[0], device=table.device) == row
    return torch.where(rows.unsqueeze(1), table.detach(), table)
