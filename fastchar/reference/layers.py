"""The whole LSTM: layers, directions, dropout, lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastchar.reference.cell import State
from fastchar.reference.embedding import embedding
from fastchar.reference.sequence import lstm_sequence


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
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.lstm` with `lengths`: (output [T,B,D*P], h_n [L*D,B,P], c_n [L*D,B,H]).

    input [T,B,E] ([B,T,E] with batch_first, output likewise); hx two tensors like h_n and c_n, or
    None for zeros; params per layer and direction w_ih, w_hh[, b_ih, b_hh][, w_hr]; D = 2 with
    bidirectional, whose output has the reversed direction in its second half. `lengths` [B], int32
    or int64, any device: output is 0 past each end, what `input` holds there counts for nothing.
    """
    x = input.transpose(0, 1) if batch_first else input
    if lengths is not None:
        lengths = check_lengths(lengths, x)
        x = mask_padding(x, lengths)

    def direction(
        x: Tensor, weights: Weights, h0: Tensor, c0: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        w_ih, w_hh, b_ih, b_hh, w_hr = weights
        gates = F.linear(x, w_ih, one_bias(b_ih, b_hh))
        return lstm_sequence(gates, None, w_hh, h0, c0, lengths, reverse, w_hr)[:3]

    y, h_n, c_n = run_layers(
        direction, x, hx, params, has_biases, num_layers, dropout, train, bidirectional
    )
    return (y.transpose(0, 1) if batch_first else y), h_n, c_n


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
) -> tuple[Tensor, Tensor, Tensor]:
    """`lstm` of the embedded ids: ids [T,B] ([B,T] with batch_first), weight [V,E].

    Ids past a sequence's end are never looked up, so any number may stand there.
    """
    if lengths is not None:
        by_step = ids.t() if batch_first else ids
        by_step = mask_padding(by_step, check_lengths(lengths, by_step))
        ids = by_step.t() if batch_first else by_step
    return lstm(
        embedding(ids, weight, padding_idx),
        hx,
        params,
        has_biases,
        num_layers,
        dropout,
        train,
        bidirectional,
        batch_first,
        lengths=lengths,
    )


Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
Direction = Callable[[Tensor, Weights, Tensor, Tensor, bool], tuple[Tensor, Tensor, Tensor]]


def run_layers(
    direction: Direction,
    x: Tensor,
    hx: State | None,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The stack that every backend shares: layers, directions, dropout between layers.

    `direction(x, weights, h0, c0, reverse)` runs one layer one way; x is [T,B,*], or ids [T,B] in
    layer 0. Weights are (w_ih, w_hh, b_ih or None, b_hh or None, w_hr or None).
    """
    T, B = x.shape[:2]
    if T == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    D = 2 if bidirectional else 1
    projected = has_projection(params, has_biases, num_layers, bidirectional)
    per = (4 if has_biases else 2) + projected
    if len(params) % per or len(params) < per * num_layers * D:
        raise RuntimeError(
            f"params: expected {per} for each of {num_layers * D} layers and directions, "
            f"got {len(params)}"
        )
    h0: Sequence[Tensor]
    c0: Sequence[Tensor]
    if hx is None:  # one block of zeros for all
        h, c = _zeros(params, B)
        h0, c0 = [h] * (num_layers * D), [c] * (num_layers * D)
    else:
        h0, c0 = hx[0].unbind(0), hx[1].unbind(0)
    h_n, c_n = [], []
    for layer in range(num_layers):
        if layer and train and dropout:
            x = F.dropout(x, dropout)
        outputs = []
        for k in range(layer * D, layer * D + D):
            weights = _unpack(params[k * per : k * per + per], has_biases)
            y, h, c = direction(x, weights, h0[k], c0[k], k % D == 1)
            outputs.append(y)
            h_n.append(h)
            c_n.append(c)
        x = outputs[0] if D == 1 else torch.cat(outputs, -1)
    if len(h_n) == 1:
        return x, _as_stack(h_n[0]), _as_stack(c_n[0])
    return x, torch.stack(h_n), torch.stack(c_n)


def one_bias(b_ih: Tensor | None, b_hh: Tensor | None) -> Tensor | None:
    """b_ih + b_hh, each with a gradient of its own: a plain sum's are one tensor, twice."""
    if b_ih is None or b_hh is None:
        return None
    return b_ih + (1 * b_hh if torch.is_grad_enabled() else b_hh)


def _as_stack(state: Tensor) -> Tensor:
    """A stack [1,B,*] of one.

    No view, which can't be detached in place and, made under no_grad, takes no write that autograd
    sees; in inference mode, where there is neither, it saves the copy.
    """
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        return state.unsqueeze(0)
    return torch.stack((state,))


def _zeros(params: Sequence[Tensor], batch: int) -> State:
    """(h0 [B,P], c0 [B,H]) of zeros; one tensor where they have one size."""
    w_hh = params[1]
    H, P = w_hh.shape[0] // 4, w_hh.shape[1]
    c = w_hh.new_zeros(batch, H)
    return (c if P == H else w_hh.new_zeros(batch, P)), c


def has_projection(
    params: Sequence[Tensor], has_biases: bool, num_layers: int, bidirectional: bool
) -> bool:
    """Whether each layer's weights end in w_hr.

    Of plain weights there may be more, those of layers that somebody cut off by `num_layers`; their
    w_hh [4H,H] tells them from the projected [4H,P], P < H, where the number happens to fit.
    """
    fits = len(params) == (5 if has_biases else 3) * num_layers * (2 if bidirectional else 1)
    return fits and params[1].shape[0] != 4 * params[1].shape[1]


def _unpack(weights: Sequence[Tensor], has_biases: bool) -> Weights:
    w_ih, w_hh = weights[:2]
    b_ih, b_hh = weights[2:4] if has_biases else (None, None)
    rest = weights[4 if has_biases else 2 :]
    return w_ih, w_hh, b_ih, b_hh, rest[0] if rest else None


def check_lengths(lengths: Tensor, x: Tensor) -> Tensor:
    """`lengths` as int64 [B] on x's device; ValueError unless it fits x [T,B,*].

    Values on a GPU are not looked at, which would wait for it: the kernels clamp them to 0..T.
    Nor are those of fake tensors, which have none, and of a trace, which is for others.
    """
    T, B = x.shape[:2]
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths must be a Tensor, got {type(lengths).__name__}")
    if lengths.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"lengths must be int32 or int64, got {lengths.dtype}")
    if tuple(lengths.shape) != (B,):
        raise ValueError(
            f"lengths must have one entry per sequence: expected shape [{B}], "
            f"got {list(lengths.shape)}"
        )
    lengths = lengths.to(x.device, torch.int64)
    known = type(lengths) is Tensor and lengths.is_cpu
    if B and known and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
        low, high = (int(bound) for bound in lengths.aminmax())
        if low < 0 or high > T:
            raise ValueError(f"lengths must lie in 0..T = {T}, got values in {low}..{high}")
    return lengths


def mask_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """x [T,B,*] with 0 in the steps t >= lengths[b]."""
    alive = torch.arange(x.shape[0], device=x.device).unsqueeze(1) < lengths
    return torch.where(alive.reshape(alive.shape + (1,) * (x.dim() - 2)), x, 0)
