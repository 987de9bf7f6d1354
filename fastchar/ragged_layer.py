"""One direction of a ragged layer as one op, so that compiled graphs project real tokens only.

Their number depends on the data, and a graph can't hold tensors of unknown size; here they live
inside the op. It is made of Python, so exported programs, which may run without, don't use it.

Import only with the native library loaded.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import Library

from fastchar.autograd import Grads, contiguous, differentiable, last
from fastchar.fakes import fake
from fastchar.ragged import real_tokens
from fastchar.reference.layers import mask_padding

_ops = torch.ops.fastchar
_library = Library("fastchar", "FRAGMENT")  # whoever drops it drops the ops
_SCHEMAS = {
    "lstm_ragged": "(Tensor x, Tensor lengths, Tensor w_ih, Tensor? bias, Tensor w_hh, Tensor h0, "
    "Tensor c0, bool reverse, bool save) "
    "-> (Tensor y, Tensor h_n, Tensor c_n, Tensor act, Tensor cell)",
    "lstm_ragged_backward": "(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor act, "
    "Tensor cell, Tensor y, Tensor x, Tensor lengths, Tensor w_ih, Tensor w_hh, Tensor h0, "
    "Tensor c0, bool reverse, bool need_x) "
    "-> (Tensor grad_x, Tensor grad_w_ih, Tensor grad_bias, Tensor grad_w_hh, Tensor grad_h0, "
    "Tensor grad_c0)",
}
Results = tuple[Tensor, ...]


def _forward(
    x: Tensor,
    lengths: Tensor,
    w_ih: Tensor,
    bias: Tensor | None,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    reverse: bool,
    save: bool,
) -> Results:
    real = real_tokens(lengths, x.shape[0])
    if real is None:
        gates, place = F.linear(mask_padding(x, lengths), w_ih, bias), None
    else:
        index, place = real
        gates = F.linear(x.flatten(0, 1).index_select(0, index), w_ih, bias)
    results: Results = _ops.lstm_sequence.plain(gates, place, w_hh, h0, c0, lengths, reverse, save)
    return results


def _backward(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    act: Tensor,
    cell: Tensor,
    y: Tensor,
    x: Tensor,
    lengths: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    reverse: bool,
    need_x: bool,
) -> Results:
    """grad_x has no elements where nobody needs it."""
    real = real_tokens(lengths, x.shape[0])
    index, place = (None, None) if real is None else real
    if index is None:
        tokens = mask_padding(x, lengths).flatten(0, 1)
    else:
        tokens = x.flatten(0, 1).index_select(0, index)
    gates, grad_w_hh, grad_h0, grad_c0 = _ops.lstm_sequence_backward.plain(
        *(grad_y, grad_h_n, grad_c_n, act, cell, y, place, w_hh, h0, c0, lengths, reverse),
        *(len(tokens) if place is not None else 0, True),
    )
    gates = gates.view(-1, w_ih.shape[0])
    if not need_x:
        grad_x = x.new_empty(0)
    elif index is None:
        grad_x = (gates @ w_ih).view(x.shape)
    else:
        grad_x = x.new_zeros(x.shape)
        grad_x.view(-1, w_ih.shape[1]).index_copy_(0, index, gates @ w_ih)
    return grad_x, gates.t() @ tokens, gates.sum(0), grad_w_hh, grad_h0, grad_c0


for _name, _kernel in (("lstm_ragged", _forward), ("lstm_ragged_backward", _backward)):
    for _overload in ("", ".plain"):  # as csrc/registration.h does
        _library.define(f"{_name}{_overload}{_SCHEMAS[_name]}")
        _library.impl(f"{_name}{_overload}", _kernel, "CPU")


@fake("lstm_ragged")
def _(
    x: Tensor,
    lengths: Tensor,
    w_ih: Tensor,
    bias: Tensor | None,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    reverse: bool,
    save: bool,
) -> Results:
    (T, B), H, new = x.shape[:2], w_hh.shape[1], x.new_empty
    saved = (new(T, B, 4 * H), new(T, B, H)) if save else (new(0), new(0))
    return new(T, B, H), new(B, H), new(B, H), *saved


@fake("lstm_ragged_backward")
def _(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    act: Tensor,
    cell: Tensor,
    y: Tensor,
    x: Tensor,
    lengths: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    reverse: bool,
    need_x: bool,
) -> Results:
    new = x.new_empty
    grad_x = new(x.shape) if need_x else new(0)
    shapes = (w_ih.shape, w_ih.shape[:1], w_hh.shape, h0.shape, c0.shape)
    return grad_x, *(new(shape) for shape in shapes)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Results) -> None:
    x, lengths, w_ih, _, w_hh, h0, c0, ctx.reverse, ctx.saved = inputs
    y, _, _, act, cell = output
    ctx.save_for_backward(act, cell, y, x, lengths, w_ih, w_hh, h0, c0)
    ctx.mark_non_differentiable(act, cell)
    ctx.set_materialize_grads(False)


def _derivative(ctx: Any, *grads: Tensor | None) -> Grads:
    if not ctx.saved:
        raise ValueError("fastchar::lstm_ragged: gradients need save=True, got False")
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "fastchar::lstm_ragged has no second derivative; LSTM(lengths=...) has, uncompiled"
        )
    grad_x, grad_w_ih, grad_bias, *rest = _lstm_ragged_backward(
        *map(contiguous, grads[:3]), *ctx.saved_tensors, ctx.reverse, ctx.needs_input_grad[0]
    )
    return (
        grad_x if ctx.needs_input_grad[0] else None,
        None,
        grad_w_ih,
        grad_bias if ctx.needs_input_grad[3] else None,
        *rest,
        None,
        None,
    )


lstm_ragged = differentiable("lstm_ragged", _setup, _derivative)
_lstm_ragged_backward = last("lstm_ragged_backward")
