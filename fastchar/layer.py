"""Derivative of `lstm_layer`, one direction of a layer with the projection of its input.

Import only with the native library loaded.
"""

from typing import Any

from torch import Tensor

from fastchar import reference
from fastchar.autograd import for_both, recurrent_weight_grad, scatter_add
from fastchar.calls import Grads, contiguous, differentiable, differentiated, last
from fastchar.reference.layers import mask_padding


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, table, w_ih, _, _, w_hh, h0, c0, lengths, ctx.padding_idx, ctx.reverse, ctx.saved = inputs
    y, _, _, act, cell = output
    ctx.save_for_backward(act, cell, y, x, table, w_ih, w_hh, h0, c0, lengths)


def _backward(
    ctx: Any,
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    grad_act: Tensor | None,
    grad_cell: Tensor | None,
) -> Grads:
    if not ctx.saved:  # not earlier: graphs made under no_grad are run with gradients enabled too
        raise ValueError("fastchar::lstm_layer: gradients need save=True, got False")
    of_x, of_table, of_w_ih, of_b_ih, of_b_hh, _, of_h0, _ = ctx.needs_input_grad[:8]
    if differentiated() or grad_act is not None or grad_cell is not None:
        grads = _by_reference(ctx, grad_y, grad_h_n, grad_c_n, grad_act, grad_cell)
    else:
        grads = _lstm_layer_backward(
            *map(contiguous, (grad_y, grad_h_n, grad_c_n)),
            *(*ctx.saved_tensors, ctx.padding_idx, ctx.reverse),
            *(of_x or of_table, of_w_ih, of_b_ih or of_b_hh, of_h0),
        )
    grad_x, grad_w_ih, grad_b_ih, grad_b_hh, grad_w_hh, grad_h0, grad_c0 = grads
    return (
        grad_x if of_x else None,
        grad_x if of_table else None,
        grad_w_ih if of_w_ih else None,
        grad_b_ih if of_b_ih else None,
        grad_b_hh if of_b_hh else None,
        grad_w_hh,
        grad_h0 if of_h0 else None,
        grad_c0,
        *(None,) * 4,
    )


def _by_reference(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, ...]:
    """`lstm_layer_backward` made of differentiable operations, and of the gradients of act and
    cell too."""
    act, cell, y, x, table, w_ih, w_hh, h0, c0, lengths = ctx.saved_tensors
    grad_y, grad_h_n, grad_c_n, grad_act, grad_cell = grads
    gates, grad_h0, grad_c0 = reference.lstm_sequence_backward(
        *(grad_y, grad_h_n, grad_c_n, act, cell, w_hh, c0, lengths, ctx.reverse),
        *(grad_act, grad_cell),
    )
    grad_w_hh = recurrent_weight_grad(gates, y, h0, lengths, ctx.reverse)
    if lengths is not None:  # whatever stands in the padding; its gate gradients are zero
        x = mask_padding(x, lengths)
    ids = x
    if table is not None:
        x = reference.embedding(ids, table, ctx.padding_idx if ctx.padding_idx >= 0 else None)
    grad_x = gates @ w_ih
    if table is not None:
        grad_x = scatter_add(grad_x, ids, table.shape[0], ctx.padding_idx, False)
    rows = gates.reshape(-1, gates.shape[2])  # no flatten: a batch of gradients knows none
    grad_bias = rows.sum(0)
    grad_w_ih = rows.t() @ x.reshape(-1, x.shape[2])
    return grad_x, grad_w_ih, *for_both(grad_bias, True, True), grad_w_hh, grad_h0, grad_c0


lstm_layer = differentiable("lstm_layer", _setup, _backward)
_lstm_layer_backward = last("lstm_layer_backward")
