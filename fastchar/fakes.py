"""Shapes, strides and dtypes of what the native ops return, for compilation and meta tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake

Fake = Callable[..., Any]


def fake(name: str) -> Callable[[Fake], None]:
    """Registers a fake for the op and its overload without a derivative."""

    def register(function: Fake) -> None:
        for overload in ("", ".plain"):
            register_fake(f"fastchar::{name}{overload}", function)

    return register


@fake("embedding")
def _(weight: Tensor, ids: Tensor, padding_idx: int, scale_grad_by_freq: bool) -> Tensor:
    return weight.new_empty(*ids.shape, weight.shape[1])


@fake("embedding_backward")
def _(
    grad: Tensor, ids: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Tensor:
    return grad.new_empty(num_weights, grad.shape[-1])


@fake("lstm_cell")
def _(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return c.new_empty(c.shape), c.new_empty(c.shape), gates.new_empty(gates.shape)


@fake("lstm_cell_backward")
def _(
    grad_h: Tensor | None, grad_c: Tensor | None, act: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    return act.new_empty(act.shape), c.new_empty(c.shape)


@fake("lstm_step")
def _(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    B, H = c.shape
    return c.new_empty(B, H), c.new_empty(B, H), c.new_empty(B, 4 * H)


@fake("lstm_step_backward")
def _(
    grad_h_new: Tensor | None,
    grad_c_new: Tensor | None,
    act: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    need_x: bool,
    need_h: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (B, H), E = c.shape, w_ih.shape[1]
    new = c.new_empty
    of_x, of_h = new(B, E) if need_x else new(0), new(B, H) if need_h else new(0)
    return new(B, 4 * H), of_x, of_h, new(B, H)


@fake("lstm_generate")
def _(
    first: int,
    table: Tensor,
    weights: list[Tensor],
    output_weight: Tensor,
    output_bias: Tensor,
    h0: Tensor,
    c0: Tensor,
    draws: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    end: int,
) -> tuple[Tensor, Tensor, Tensor]:
    ids = draws.new_empty(draws.shape, dtype=torch.int64)
    return ids, h0.new_empty(h0.shape), c0.new_empty(c0.shape)


@fake("lstm_sequence")
def _(
    gates: Tensor,
    ids: Tensor | None,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T = (gates if ids is None else ids).shape[0]
    B, H = h0.shape
    new = gates.new_empty
    saved = (new(T, B, 4 * H), new(T, B, H)) if save else (new(0), new(0))
    return new(T, B, H), new(B, H), new(B, H), *saved


@fake("lstm_sequence_backward")
def _(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    act: Tensor,
    cell: Tensor,
    y: Tensor,
    ids: Tensor | None,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None,
    reverse: bool,
    num_rows: int,
    need_h0: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    new = act.new_empty
    grad_gates = new(act.shape) if ids is None else new(num_rows, act.shape[2])
    return grad_gates, new(w_hh.shape), new(h0.shape) if need_h0 else new(0), new(c0.shape)


@fake("lstm_layer")
def _(
    x: Tensor,
    table: Tensor | None,
    w_ih: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None,
    padding_idx: int,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (T, B), H, new = x.shape[:2], w_hh.shape[1], w_hh.new_empty
    saved = (new(T, B, 4 * H), new(T, B, H)) if save else (new(0), new(0))
    return new(T, B, H), new(B, H), new(B, H), *saved


@fake("lstm_layer_backward")
def _(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    act: Tensor,
    cell: Tensor,
    y: Tensor,
    x: Tensor,
    table: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None,
    padding_idx: int,
    reverse: bool,
    need_x: bool,
    need_w_ih: bool,
    need_bias: bool,
    need_h0: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = w_hh.new_empty
    gates = w_ih.shape[0] if need_bias else 0
    return (
        new((x if table is None else table).shape) if need_x else new(0),
        new(w_ih.shape) if need_w_ih else new(0),
        new(gates),
        new(gates),
        new(w_hh.shape),
        new(h0.shape) if need_h0 else new(0),
        new(c0.shape),
    )


@fake("linear")
def _(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty(input.shape[0], weight.shape[0])


@fake("linear_input_grad")
def _(grad: Tensor, weight: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[0], weight.shape[1])


@fake("linear_weight_grad")
def _(grad: Tensor, input: Tensor, need_bias: bool) -> tuple[Tensor, Tensor]:
    N = grad.shape[1]
    return grad.new_empty(N, input.shape[1]), grad.new_empty(N if need_bias else 0)


@fake("lstm_step_weight_grad")
def _(grad_gates: list[Tensor], input: list[Tensor], need_bias: bool) -> tuple[Tensor, Tensor]:
    gates = grad_gates[0].shape[1]
    new = grad_gates[0].new_empty
    return new(gates, input[0].shape[1]), new(gates if need_bias else 0)


@fake("linear_cross_entropy")
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    return input.new_empty(input.shape[0])


@fake("linear_cross_entropy_backward")
def _(
    grad_loss: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    V = weight.shape[0]
    return input.new_empty(input.shape), weight.new_empty(weight.shape), weight.new_empty(V)


@fake("linear_cross_entropy_reduced")
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    mean: bool,
    grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    new, V = input.new_empty, weight.shape[0]
    grads = (new(input.shape), new(weight.shape), new(V)) if grad else (new(0), new(0), new(0))
    return new(()), *grads
