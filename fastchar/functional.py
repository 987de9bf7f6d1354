"""The functions behind the modules: the native kernels where they serve, the reference elsewhere.

Names, arguments and results are those of `fastchar.reference`, where the shapes are documented.
A kernel serves dense CPU tensors of one dtype: float32 and float64 as they are, bfloat16 and
float16 computed in float32 throughout, cell state included, and rounded once at the end. Anything
else (functorch transforms, forward-mode AD, tensor subclasses, other devices, mixed dtypes, the
native library absent) runs on torch operations, and torch's own errors come from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from fastchar import backend, reference, streams
from fastchar.ragged import ragged_in_a_graph, real_tokens
from fastchar.reference.cell import State
from fastchar.reference.layers import (
    Direction,
    Weights,
    check_lengths,
    has_projection,
    mask_padding,
    run_layers,
    zero_state,
)

if backend.native():
    from fastchar import ops

__all__ = ["embedding", "embedding_lstm", "linear", "linear_cross_entropy", "lstm", "lstm_cell"]

# What a CPU kernel computes in, by the dtype of its arguments. CUDA kernels take these types as
# they are, with sums and the cell's state in float32.
_COMPUTE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
Result = tuple[Tensor, Tensor, Tensor]
Stack = tuple[bool, int, float, bool, bool]  # biases?, layers, dropout, training?, bidirectional?


def _transforming() -> bool:
    """Whether a functorch transform or forward-mode AD is on, which only torch's ops respect.

    register_autograd's formulas would give silent zeros under either.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _transformed(tensors: Sequence[Tensor]) -> bool:
    """Whether something stands before the kernels that only torch's ops respect."""
    return _transforming() or not all(_plain(type(tensor)) for tensor in tensors)


def _plain(cls: type) -> bool:
    """Whether tensors of `cls` are for any op what a Tensor is: no functions or dispatch added.

    Compilers' tensors have a dispatch that knows every op; those of others, such as DTensor, know
    torch's.
    """
    if cls is Tensor or cls is torch.nn.Parameter:
        return True
    if getattr(cls, "__torch_function__", None) is not torch._C._disabled_torch_function_impl:
        return False
    dispatch = getattr(cls, "__torch_dispatch__", None)
    own = dispatch is not torch._C._disabled_torch_dispatch_impl
    return not own or cls.__module__.startswith("torch._subclasses.")


def _kernel_dtype(tensors: Sequence[Tensor]) -> torch.dtype | None:
    """The dtype in which a kernel serves these floating point tensors; None where none does.

    None of them in a trace: there torch's own are what torch.jit and the ONNX exporter know.
    """
    if not backend.native() or torch.jit.is_tracing() or _transforming():
        return None
    # One plain loop: a small step would spend as much here as in its kernel.
    dtype, on_cpu = tensors[0].dtype, True
    for tensor in tensors:
        if tensor.dtype is not dtype or not _plain(type(tensor)):
            return None
        on_cpu = on_cpu and tensor.is_cpu
    if not on_cpu:
        device = tensors[0].device
        if not _device_served(device) or any(tensor.device != device for tensor in tensors):
            return None
        if device.type == "cuda":
            return dtype if dtype in _COMPUTE else None
    return _COMPUTE.get(dtype)


def _device_served(device: torch.device) -> bool:
    """Whether kernels are there for tensors on `device`."""
    if device.type == "cuda":
        return backend.cuda()
    return device.type in ("cpu", "meta")


def _ids_served(ids: Tensor) -> bool:
    if not isinstance(ids, Tensor) or (type(ids) is not Tensor and _transformed((ids,))):
        return False
    if ids.dtype is not torch.int64 and ids.dtype is not torch.int32:
        return False
    return ids.is_cpu or _device_served(ids.device)


def _index_error(call: Callable[..., Any], *args: Any) -> Any:
    """call(*args), with an id or target out of range as the IndexError that torch raises.

    The stable ABI has one exception type, so the native ops can only say it in their message.
    """
    if torch.compiler.is_compiling():
        return call(*args)
    try:
        return call(*args)
    except RuntimeError as error:
        message = str(error)
        if "expected ids in" in message or "expected targets in" in message:
            raise IndexError(message.partition("\n")[0]) from None
        raise


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

    IndexError for an id outside 0..V-1, before anything is written. `max_norm`, `sparse` and
    tables without rows (whose errors are others) run on torch's own code.
    """
    dtype = None
    table = weight.dim() == 2 and weight.shape[0] > 0
    if max_norm is None and not sparse and table and _ids_served(input):
        dtype = _kernel_dtype((weight,))
    if dtype is None:
        return reference.embedding(
            input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
        )
    V = weight.shape[0]
    if padding_idx is None:
        padding_idx = -1
    elif not -V <= padding_idx < V:
        raise AssertionError("Padding_idx must be within num_embeddings")
    elif padding_idx < 0:
        padding_idx += V
    given = weight.dtype
    cast = weight if given is dtype else weight.to(dtype)
    rows: Tensor = _index_error(ops.embedding, cast, input, padding_idx, scale_grad_by_freq)
    return rows if given is dtype else rows.to(given)


# Rows and multiplications from which the native product, which packs its weight in every call,
# is faster than torch's.
_LINEAR_ROWS, _LINEAR_PRODUCTS = 32, 1 << 20


def _full_precision() -> bool:
    """Whether torch's float32 products are to be float32. Dynamo, which guards the setting, takes
    the answer for a constant."""
    return torch.get_float32_matmul_precision() == "highest"


# What `torch.compiler.assume_constant_result` sets; calling it imports all of Dynamo with fastchar.
_full_precision._dynamo_marked_constant = True  # type: ignore[attr-defined]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: input [*,K], weight [N,K], bias [N] -> [*,N].

    Products of many rows in float32 or float64 on the CPU run on the kernel, everything else on
    torch's own code; so does all that is exported, since the number of rows may be any there.
    """
    rows = math.prod(input.shape[:-1])
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if (
        torch.compiler.is_exporting()
        or rows < _LINEAR_ROWS
        or rows * weight.numel() < _LINEAR_PRODUCTS
        or not _full_precision()
        or autocast_dtype(input) is not None
        or input.device.type != "cpu"
        or input.shape[-1:] != weight.shape[1:]
        or _kernel_dtype(tensors) is not input.dtype
    ):
        return reference.linear(input, weight, bias)
    rows_out = ops.linear(input.reshape(-1, input.shape[-1]), weight, bias)
    return rows_out.view(*input.shape[:-1], weight.shape[0])


def lstm_cell(
    input: Tensor,
    hx: State,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> State:
    """`torch.lstm_cell`: input [B,E], hx two [B,H] -> (h', c') [B,H]."""
    _check_cell(input, hx, w_ih, w_hh)
    if (b_ih is None) != (b_hh is None):  # torch takes one alone
        b_ih, b_hh = b_ih if b_hh is None else b_hh, torch.zeros_like(w_hh[:, 0])
    tensors = [t for t in (input, *hx, w_ih, w_hh, b_ih, b_hh) if t is not None]
    low = autocast_dtype(input)
    if low is not None:
        result = torch.promote_types(low, hx[1].dtype)
        with torch.autocast("cpu", enabled=False):
            x, h, c, *weights = _floats(tensors)
            h, c = lstm_cell(x, (h, c), *weights)
        return h.to(result), c.to(result)
    low = cuda_autocast_dtype(input)
    if low is not None:
        with torch.autocast("cuda", enabled=False):
            x, h, c, *weights = _lowered(tensors, low)
            return lstm_cell(x, (h, c), *weights)
    dtype = _kernel_dtype(tensors)
    if dtype is None:
        return reference.lstm_cell(input, hx, w_ih, w_hh, b_ih, b_hh)
    given = input.dtype
    if given is not dtype:
        tensors = [t.to(dtype) for t in tensors]
    x, h, c, w_ih, w_hh, *biases = tensors
    if x.is_cuda:  # cuBLAS makes the products
        gates = F.linear(h, w_hh, sum(biases[1:], biases[0]) if biases else None)
        h, c = ops.lstm_cell(torch.addmm(gates, x, w_ih.t()), c)
    else:
        b_ih, b_hh = biases or (None, None)
        h, c = ops.lstm_step(x, h, c, w_ih, w_hh, b_ih, b_hh)
    return (h, c) if given is dtype else (h.to(given), c.to(given))


def _check_pair(hx: State, caller: str) -> None:
    """torch's check that a state is a pair, in its words."""
    if isinstance(hx, Tensor):
        raise TypeError(f"{caller}(): argument 'hx' must be tuple of Tensors, not Tensor")
    if len(hx) != 2:
        raise RuntimeError(f"{caller} expects two hidden states")


def _check_cell(x: Tensor, hx: State, w_ih: Tensor, w_hh: Tensor) -> None:
    """torch.lstm_cell's checks, in its words."""
    _check_pair(hx, "lstm_cell")
    B, E = x.shape
    right = (B, w_hh.shape[1])
    if w_ih.shape[1] == E and hx[0].shape == right and hx[1].shape == right:
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
            x, *params = _floats([input, *params])
            hx = _float_state(hx)
            y, h_n, c_n = lstm(x, hx, params, *stack, batch_first, lengths=lengths)
        of_c = low
        if has_projection(params, has_biases, num_layers, bidirectional):  # torch's keeps c's own
            of_c = torch.promote_types(low, states[1].dtype if states else input.dtype)
        return y.to(low), h_n.to(low), c_n.to(of_c)
    low = cuda_autocast_dtype(input)
    if low is not None:
        with torch.autocast("cuda", enabled=False):
            x, *params = _lowered([input, *params], low)
            hx = None if hx is None else (hx[0].to(low), hx[1].to(low))
            return lstm(x, hx, params, *stack, batch_first, lengths=lengths)
    dtype = _kernel_dtype((input, *params, *states))
    if dtype is None or has_projection(params, has_biases, num_layers, bidirectional):
        _check_params(params)
        if _torchs_own(lengths, (input, *params, *states)):
            if lengths is not None:
                return _lstm_by_packing(input, hx, params, stack, batch_first, lengths)
            B = input.shape[0 if batch_first else 1]
            hx = _zeros_of(input, params, B, stack) if hx is None else hx
            return torch.lstm(input, hx, list(params), *stack, batch_first)
        return reference.lstm(input, hx, params, *stack, batch_first, lengths=lengths)
    x = (input.transpose(0, 1) if batch_first else input).to(dtype).contiguous()
    if lengths is not None:
        lengths = check_lengths(lengths, x)
    return _run(None, x, hx, params, stack, batch_first, lengths, dtype)


def _check_params(params: Sequence[Tensor]) -> None:
    if not all(isinstance(p, Tensor) for p in params):
        raise TypeError("params: expected Tensors, got None, as of a bias that was taken away")


def _torchs_own(lengths: Tensor | None, tensors: Sequence[Tensor]) -> bool:
    """Whether torch's LSTM takes what no kernel serves; the reference takes the rest.

    Traces hold torch's whether kernels are there or not, and torch has the words for what is mixed.
    """
    if _transformed(tensors):
        return False
    mixed = len({(t.dtype, t.device) for t in tensors}) > 1
    if not (backend.native() or torch.jit.is_tracing() or mixed):
        return False
    if lengths is None:
        return True
    # Packing reads lengths, and a graph can't hold what has their sum of rows.
    known = type(lengths) is Tensor and all(t.device.type == "cpu" for t in (lengths, tensors[0]))
    return known and 0 not in tensors[0].shape[:2] and not torch.compiler.is_compiling()


def _zeros_of(x: Tensor, params: Sequence[Tensor], B: int, stack: Stack) -> State:
    """torch's default state, which has the input's dtype and device."""
    _, num_layers, _, _, bidirectional = stack
    h, c = zero_state(params, B, num_layers, bidirectional)
    return h.to(x), c.to(x)


def _lstm_by_packing(
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
    h0, c0 = _zeros_of(x, params, B, stack) if hx is None else hx
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
    _check_params(params)
    if not _packed_served(data, batch_sizes, hx, params, stack):
        first: Any = batch_sizes[0]  # the batch; no int, so that a trace keeps it open
        hx = _zeros_of(data, params, first, stack) if hx is None else hx
        results: Result = torch.lstm(data, batch_sizes, hx, list(params), *stack)
        return results
    T, B = batch_sizes.shape[0], int(batch_sizes[0])
    x: Tensor = data
    lengths: Tensor | None = None
    if int(batch_sizes[-1]) == B:
        x = data.view(T, B, *data.shape[1:])
    else:
        x, lengths = torch._VF._pad_packed_sequence(data, batch_sizes, False, 0.0, T)
    y, h_n, c_n = lstm(x, hx, params, *stack, False, lengths=lengths)
    low = autocast_dtype(data)
    if low is not None and not has_projection(params, has_biases, num_layers, bidirectional):
        # torch's packed path leaves the state in its own precision
        kind = torch.promote_types(low, (data if hx is None else hx[0]).dtype)
        y, h_n, c_n = y.to(kind), h_n.to(kind), c_n.to(kind)
    if lengths is None:
        return y.flatten(0, 1), h_n, c_n
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
    if torch.jit.is_tracing() or data.dim() != 2 or data.shape[1] != params[0].shape[1]:
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
        tensors = _floats(tensors)
    if not _torchs_own(None, tensors):
        return True
    projected = has_projection(params, has_biases, num_layers, bidirectional)
    return not projected and _kernel_dtype(tensors) is not None


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
    the embedded tokens would cost N/V times more. The fold's gradients are autograd's own.
    """
    stack = (has_biases, num_layers, dropout, train, bidirectional)
    low = autocast_dtype(weight)
    if low is not None:
        with torch.autocast("cpu", enabled=False):
            table, *params = _floats([weight, *params])
            hx = _float_state(hx)
            results = embedding_lstm(
                ids, table, hx, params, *stack, batch_first,
                padding_idx=padding_idx, lengths=lengths,
            )  # fmt: skip
        return _cast(results, low)
    if hx is not None:
        _check_pair(hx, "lstm")
    low = cuda_autocast_dtype(weight)
    if low is not None:
        with torch.autocast("cuda", enabled=False):
            table, *params = _lowered([weight, *params], low)
            hx = None if hx is None else (hx[0].to(low), hx[1].to(low))
            return embedding_lstm(
                ids, table, hx, params, *stack, batch_first,
                padding_idx=padding_idx, lengths=lengths,
            )  # fmt: skip
    by_step = ids.t() if batch_first else ids
    if lengths is not None:
        lengths = check_lengths(lengths, by_step)
    V = weight.shape[0]
    dtype = _kernel_dtype((weight, *params, *(() if hx is None else hx)))
    if (
        dtype is None
        or not _ids_served(ids)
        or has_projection(params, has_biases, num_layers, bidirectional)
        or by_step.numel() < V
    ):
        if lengths is not None:
            by_step = mask_padding(by_step, lengths)
        x = embedding(by_step, weight, padding_idx)
        y, h_n, c_n = lstm(x, hx, params, *stack, False, lengths=lengths)
        return (y.transpose(0, 1) if batch_first else y), h_n, c_n
    table = weight.to(dtype)
    if padding_idx is not None:  # its row takes part in everything but its own gradient
        row = torch.arange(V, device=table.device) == padding_idx % V
        table = torch.where(row.unsqueeze(1), table.detach(), table)
    return _run(table, by_step.contiguous(), hx, params, stack, batch_first, lengths, dtype)


def _run(
    table: Tensor | None,
    x: Tensor,
    hx: State | None,
    params: Sequence[Tensor],
    stack: Stack,
    batch_first: bool,
    lengths: Tensor | None,
    dtype: torch.dtype,
) -> Result:
    """The layers on the kernels: x [T,B,E], or ids [T,B] into `table` [V,E]; computed in dtype."""
    real = None if lengths is None else real_tokens(lengths, x.shape[0])
    in_graph = lengths if lengths is not None and ragged_in_a_graph(lengths) else None
    if table is None and lengths is not None and real is None and in_graph is None:
        x = mask_padding(x, lengths)
    read: tuple[Tensor, Tensor] | None = None  # a layer's input, and the real tokens of it

    def direction(x: Tensor, weights: Weights, h0: Tensor, c0: Tensor, reverse: bool) -> Result:
        nonlocal read
        w_ih, w_hh, b_ih, b_hh, _ = weights
        bias = None if b_ih is None or b_hh is None else b_ih + b_hh
        if table is not None and not x.is_floating_point():
            folded = linear(table, w_ih, bias)
            return _index_error(ops.lstm_sequence, folded, x, w_hh, h0, c0, lengths, reverse)
        if in_graph is not None:
            return ops.lstm_ragged(x, in_graph, w_ih, bias, w_hh, h0, c0, reverse)
        if real is None:
            gates = linear(x, w_ih, bias)
            return ops.lstm_sequence(gates, None, w_hh, h0, c0, lengths, reverse)
        index, position = real
        if read is None or read[0] is not x:  # once for both directions
            read = (x, x.flatten(0, 1).index_select(0, index))
        # The rows of the real tokens are a table, and where a token's row is, its id.
        gates = linear(read[1], w_ih, bias)
        return ops.lstm_sequence(gates, position, w_hh, h0, c0, lengths, reverse)

    run_direction: Direction = direction
    if stack[4] and streams.may_overlap(x, dtype, params[1].shape[1]):
        run_direction = streams.side_by_side(direction, x.device, (table, lengths))
    given = params[0].dtype
    if given != dtype:
        params = [p.to(dtype) for p in params]
        hx = None if hx is None else (hx[0].to(dtype), hx[1].to(dtype))
    y, h_n, c_n = _cast(run_layers(run_direction, x, hx, params, *stack), given)
    return (y.transpose(0, 1) if batch_first else y), h_n, c_n


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of a linear layer's logits, which are never kept: [*,H], [V,H], [*] -> loss.

    `F.linear_cross_entropy` with any number of leading dimensions; `reduction="none"` has the
    target's shape. See `reference.linear_cross_entropy` for the formula.
    """
    tensors = [t for t in (input, linear_weight, linear_bias, weight) if t is not None]
    low = autocast_dtype(input)
    result = input.dtype if low is None else torch.float32
    dtype = _kernel_dtype(tensors if low is None else _floats(tensors))
    if (
        dtype is None
        or cuda_autocast_dtype(input) is not None  # its loss is float32, of rounded logits
        or target.dtype != torch.int64
        or target.device != input.device
        or reduction not in ("none", "mean", "sum")
        or not 0 <= label_smoothing <= 1
        or linear_weight.dim() != 2
        or input.shape != target.shape + linear_weight.shape[1:]
        or (weight is not None and weight.requires_grad)
    ):
        return reference.linear_cross_entropy(
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )
    flat = target.reshape(-1)
    arguments = (
        input.reshape(flat.shape[0], linear_weight.shape[1]).to(dtype),
        linear_weight.to(dtype),
        None if linear_bias is None else linear_bias.to(dtype),
        flat,
        None if weight is None else weight.to(dtype),
        ignore_index,
        label_smoothing,
    )
    if reduction == "none":
        loss = _index_error(ops.linear_cross_entropy, *arguments).reshape(target.shape)
    else:
        loss = _index_error(ops.linear_cross_entropy_reduced, *arguments, reduction == "mean")
    return loss.to(result)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's dtype on the CPU where it is on and applies to x, else None."""
    if not torch.is_autocast_enabled("cpu") or x.device.type != "cpu" or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype("cpu")


def cuda_autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's dtype on CUDA where it is on and applies to x, else None.

    There torch casts an LSTM's input, state and weights to it, and leaves the results in it; the
    kernels have the cell's state in float32 from step to step all the same.
    """
    if not x.is_cuda or not torch.is_autocast_enabled("cuda") or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype("cuda")


def _lowered(tensors: Sequence[Tensor], low: torch.dtype) -> list[Tensor]:
    """As CUDA's autocast does it: all but float64."""
    return [t if t.dtype == torch.float64 else t.to(low) for t in tensors]


def _floats(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors]


def _float_state(hx: State | None) -> State | None:
    if hx is None:
        return None
    h, c = _floats(hx)
    return h, c


def _cast(results: Result, dtype: torch.dtype) -> Result:
    y, h, c = results
    return results if y.dtype is dtype else (y.to(dtype), h.to(dtype), c.to(dtype))
