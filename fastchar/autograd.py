"""Derivatives of the native ops (torch.ops.fastchar.*).

Import only with the native library loaded.

Second derivatives: a backward that is differentiated itself (create_graph=True, or forward mode
over the backward) runs the reference's hand-derived one, which is made of differentiable torch
operations. It reads the saved `act` and `cell`, which are outputs of the forward op, so what flows
back into them arrives here again as their gradient; the reference takes those too. No recompute,
and every order is right.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastchar import reference
from fastchar.calls import Grads, contiguous, differentiable, differentiated, last
from fastchar.reference.embedding import row_scale
from fastchar.reference.layers import mask_padding
from fastchar.routing import floats

Rows = tuple[Tensor, ...]  # step by step


def _embedding_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, ids, ctx.padding_idx, ctx.by_freq = inputs
    ctx.save_for_backward(ids)
    ctx.num_weights = weight.shape[0]


def _embedding_backward(ctx: Any, grad: Tensor) -> Grads:
    """Of a table in half precision the sums are float32's on the CPU, and rounded once."""
    (ids,) = ctx.saved_tensors
    wide = grad if grad.is_cuda else floats([grad])[0]
    rows = scatter_add(wide, ids, ctx.num_weights, ctx.padding_idx, ctx.by_freq)
    return rows.to(grad.dtype), None, None, None


def scatter_add(grad: Tensor, ids: Tensor, *options: Any) -> Tensor:
    """`embedding_backward`, which is its own second derivative where ops have one at all."""
    if _torchs_alone(grad):
        return reference.embedding_backward(grad, ids, *options)
    rows: Tensor = embedding_backward(grad.contiguous(), ids, *options)
    return rows


def _torchs_alone(grad: Tensor) -> bool:
    """Whether a derivative of what is done to `grad` has to come from torch's operations.

    So in forward mode, and for the graph of a batch of gradients (is_grads_batched): our op would
    get each of them alone, without one.
    """
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and torch._C._functorch.is_legacy_batchedtensor(grad)


def _embedding_backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ids, ctx.num_weights, ctx.padding_idx, ctx.by_freq = inputs
    ctx.save_for_backward(ids)


def _embedding_backward_backward(ctx: Any, grad: Tensor) -> Grads:
    """(E1) is linear in the rows' gradient: its transpose is the gather of scaled rows."""
    (ids,) = ctx.saved_tensors
    if ctx.padding_idx >= 0 or ctx.by_freq:
        scale = row_scale(ids, ctx.num_weights, ctx.padding_idx, ctx.by_freq)
        grad = grad * scale.to(grad.dtype).unsqueeze(1)
    if _torchs_alone(grad):
        return reference.embedding(ids, grad), None, None, None, None
    return embedding(grad.contiguous(), ids, -1, False), None, None, None, None


def _cell_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[1], output[2])


def _cell_backward(
    ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None, grad_act: Tensor | None
) -> Grads:
    c, act = ctx.saved_tensors
    if differentiated() or grad_act is not None:
        return reference.cell_step_backward(grad_h, grad_c, act, c, grad_act)
    return _lstm_cell_backward(contiguous(grad_h), contiguous(grad_c), act, c)


def _step_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])


def _step_backward(ctx: Any, *grads: Tensor | None) -> Grads:
    x, h, c, w_ih, w_hh, act = ctx.saved_tensors
    need_x, need_h = ctx.needs_input_grad[:2]
    gates, grad_x, grad_h, grad_c = step_gradients(grads, act, c, w_ih, w_hh, need_x, need_h)
    # torch's products: of a loop's steps a compiler makes products that add to one sum.
    of_ih, of_hh, of_b_ih, of_b_hh = ctx.needs_input_grad[3:]
    bias = gates.sum(0) if of_b_ih or of_b_hh else None
    return (
        grad_x,
        grad_h,
        grad_c,
        gates.t() @ x if of_ih else None,
        gates.t() @ h if of_hh else None,
        *for_both(bias, of_b_ih, of_b_hh),
    )


def for_both(bias: Tensor | None, of_b_ih: bool, of_b_hh: bool) -> tuple[Tensor | None, ...]:
    """The biases' one gradient, as two tensors: what is done to one in place is none of the
    other's business."""
    if bias is None or not (of_b_ih and of_b_hh):
        return bias if of_b_ih else None, bias if of_b_hh else None
    return bias, bias.clone()


def step_weight_gradients(
    gates: Rows, x: Rows | None, h: Rows | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Of w_ih [4H,E], w_hh [4H,H] and the biases [4H], from the rows of any number of steps.

    gates [B,4H] are the gradients of a step's pre-activations, x [B,E] and h [B,H], no list where
    their weight needs none; B may differ from step to step.
    """
    need_bias = needs[2] or needs[3]
    # torch's operations want the rows in one piece, and so does a batch of gradients
    # (is_grads_batched), for which there are no ops of lists.
    if differentiated() or torch._C._functorch.is_legacy_batchedtensor(gates[0]):
        rows = torch.cat(gates)
        grad_ih, grad_bias = _weight_gradients(rows, None if x is None else torch.cat(x), need_bias)
        grad_hh, _ = _weight_gradients(rows, None if h is None else torch.cat(h), False)
    else:
        grad_ih, grad_bias = _weight_gradients_of_steps(gates, x, need_bias)
        grad_hh, _ = _weight_gradients_of_steps(gates, h, False)
    return grad_ih, grad_hh, *for_both(grad_bias, *needs[2:])


def _weight_gradients_of_steps(
    gates: Rows, input: Rows | None, need_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """`_weight_gradients` of rows that lie by step."""
    if input is None:
        return None, torch.cat(gates).sum(0) if need_bias else None
    of_weight, of_bias = _lstm_step_weight_grad(gates, input, need_bias)
    return of_weight, of_bias if need_bias else None


def _weight_gradients(
    grad: Tensor, x: Tensor | None, need_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dW [N,K] and db [N] of y = x W^T + b, from dy [M,N] and x [M,K], or None for no dW."""
    if differentiated() or x is None:
        of_weight = None if x is None else grad.t() @ x
        return of_weight, grad.sum(0) if need_bias else None
    of_weight, of_bias = _linear_weight_grad(grad, x, need_bias)
    return of_weight, of_bias if need_bias else None


def step_gradients(
    grads: tuple[Tensor | None, ...],
    act: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    need_x: bool,
    need_h: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients of one step's gates [B,4H], x [B,E], h and c [B,H], from those of (h', c', act).

    Any of `grads` may be None, and x's and h's are where nobody needs them.
    """
    grad_h_new, grad_c_new, grad_act = grads
    if differentiated() or grad_act is not None:
        gates, grad_c = reference.cell_step_backward(grad_h_new, grad_c_new, act, c, grad_act)
        grad_x, grad_h = gates @ w_ih, gates @ w_hh
    else:
        gates, grad_x, grad_h, grad_c = _lstm_step_backward(
            contiguous(grad_h_new),
            contiguous(grad_c_new),
            act,
            c,
            w_ih,
            w_hh,
            need_x,
            need_h,
        )
    return gates, grad_x if need_x else None, grad_h if need_h else None, grad_c


def _sequence_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    gates, ids, w_hh, h0, c0, lengths, ctx.reverse, ctx.saved = inputs
    y, _, _, act, cell = output
    # Not gates.shape[0] = T where there is no table: an int argument would fix T for the compiler.
    ctx.num_rows = 0 if ids is None else gates.shape[0]
    ctx.save_for_backward(ids, w_hh, h0, c0, lengths, y, act, cell)


def _sequence_backward(
    ctx: Any,
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    grad_act: Tensor | None,
    grad_cell: Tensor | None,
) -> Grads:
    if not ctx.saved:  # not earlier: graphs made under no_grad are run with gradients enabled too
        raise ValueError("fastchar::lstm_sequence: gradients need save=True, got False")
    ids, w_hh, h0, c0, lengths, y, act, cell = ctx.saved_tensors
    need_h0 = ctx.needs_input_grad[3]
    if not differentiated() and grad_act is None and grad_cell is None:
        grad_gates, grad_w_hh, grad_h0, grad_c0 = _lstm_sequence_backward(
            *map(contiguous, (grad_y, grad_h_n, grad_c_n)),
            *(act, cell, y, ids, w_hh, h0, c0, lengths, ctx.reverse, ctx.num_rows, need_h0),
        )
        of_h0 = grad_h0 if need_h0 else None
        return grad_gates, None, grad_w_hh, of_h0, grad_c0, None, None, None
    grad_gates, grad_h0, grad_c0 = reference.lstm_sequence_backward(
        *(grad_y, grad_h_n, grad_c_n, act, cell, w_hh, c0, lengths, ctx.reverse),
        *(grad_act, grad_cell),
    )
    grad_w_hh = None
    if ctx.needs_input_grad[2]:
        grad_w_hh = recurrent_weight_grad(grad_gates, y, h0, lengths, ctx.reverse)
    if ids is not None and ctx.needs_input_grad[0]:
        if lengths is not None:  # whatever stands in the padding; its gate gradients are zero
            ids = mask_padding(ids, lengths)
        grad_gates = scatter_add(grad_gates, ids, ctx.num_rows, -1, False)
    return grad_gates, None, grad_w_hh, grad_h0, grad_c0, None, None, None


def recurrent_weight_grad(
    grad_gates: Tensor, y: Tensor, h0: Tensor, lengths: Tensor | None, reverse: bool
) -> Tensor:
    """(S5): one product over all steps but each sequence's first, whose h_{t-1} is h0.

    y is zero past each end and grad_gates too, so ragged batches need no further care; only in
    reverse do sequences start at different steps.
    """
    if not reverse:
        first, later, before = grad_gates[0], grad_gates[1:], y[:-1]
    else:
        later, before = grad_gates[:-1], y[1:]
        if lengths is None:
            first = grad_gates[-1]
        else:  # an empty sequence takes step 0, where its gradient is zero
            start = (lengths - 1).clamp(min=0)
            first = grad_gates[start, torch.arange(len(start), device=start.device)]
    recurrent = later.reshape(-1, later.shape[2]).t() @ before.reshape(-1, before.shape[2])
    return torch.addmm(recurrent, first.t(), h0)


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _linear_backward(ctx: Any, grad: Tensor) -> Grads:
    """Of y = x W^T + b: dx = dy W, dW = dy^T x, db = sum of dy's rows."""
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad
    grad = grad.contiguous()
    grad_x = None
    if need_x:
        grad_x = grad @ weight if differentiated() else _linear_input_grad(grad, weight)
    return grad_x, *_weight_gradients(grad, x if need_weight else None, need_bias)


def _loss_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.ignore_index, ctx.label_smoothing = inputs
    ctx.save_for_backward(*tensors)


def _loss_backward(ctx: Any, grad_loss: Tensor) -> Grads:
    input, weight, bias, target, class_weight = ctx.saved_tensors
    options = (ctx.ignore_index, ctx.label_smoothing)
    arguments = (input, weight, bias, target, class_weight, *options)
    if differentiated():
        grads = reference.linear_cross_entropy_backward(grad_loss, *arguments)
    else:
        grads = _linear_cross_entropy_backward(grad_loss.contiguous(), *arguments)
    return *grads[:2], grads[2] if ctx.needs_input_grad[2] else None, None, None, None, None


def _reduced_loss_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.ignore_index, ctx.label_smoothing, ctx.mean, ctx.grad = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _reduced_loss_backward(ctx: Any, grad_loss: Tensor, *_: None) -> Grads:
    if not ctx.grad:
        raise ValueError("fastchar::linear_cross_entropy_reduced: gradients need grad=True")
    input, weight, bias, target, class_weight, *grads = ctx.saved_tensors
    if differentiated():
        by_token = grad_loss.expand(target.shape)
        if ctx.mean:
            by_token = by_token / reference.kept_weight(target, class_weight, ctx.ignore_index)
        grads = reference.linear_cross_entropy_backward(
            *(by_token, input, weight, bias, target, class_weight),
            *(ctx.ignore_index, ctx.label_smoothing),
        )
    elif not _hand_out_unscaled(grad_loss):
        grads = [grad * grad_loss for grad in grads]
    return *grads[:2], grads[2] if ctx.needs_input_grad[2] else None, *(None,) * 6


def _hand_out_unscaled(factor: Tensor) -> bool:
    """Whether saved gradients may go out as they are: factor is 1, as in `loss.backward()`.

    That saves a pass over [N,H]. Not while compiling nor in a batch of gradients, where the value
    isn't there, and not when the graph is kept: a second backward would hand out the same memory.
    """
    return (
        type(factor) is Tensor
        and factor.device.type == "cpu"
        and not torch._C._functorch.is_legacy_batchedtensor(factor)
        and factor.item() == 1
        and not torch._C._autograd._get_current_graph_task_keep_graph()
    )


embedding = differentiable("embedding", _embedding_setup, _embedding_backward)
embedding_backward = differentiable(
    "embedding_backward", _embedding_backward_setup, _embedding_backward_backward
)
lstm_cell = differentiable("lstm_cell", _cell_setup, _cell_backward)
lstm_step = differentiable("lstm_step", _step_setup, _step_backward)
lstm_sequence = differentiable("lstm_sequence", _sequence_setup, _sequence_backward)
linear = differentiable("linear", _linear_setup, _linear_backward)
linear_cross_entropy = differentiable("linear_cross_entropy", _loss_setup, _loss_backward)
linear_cross_entropy_reduced = differentiable(
    "linear_cross_entropy_reduced", _reduced_loss_setup, _reduced_loss_backward
)


_lstm_cell_backward = last("lstm_cell_backward")
_lstm_step_backward = last("lstm_step_backward")
_lstm_step_weight_grad = last("lstm_step_weight_grad")
_lstm_sequence_backward = last("lstm_sequence_backward")
_linear_input_grad = last("linear_input_grad")
_linear_weight_grad = last("linear_weight_grad")
_linear_cross_entropy_backward = last("linear_cross_entropy_backward")
