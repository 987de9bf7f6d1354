"""The native ops (torch.ops.fastchar.*) as torch sees them: autograd and how they are called.

Import only with the native library loaded. The wrappers at the end are what `functional` calls:
they make arguments contiguous and decide whether a call saves anything for a backward.

Second derivatives: a backward that autograd records (create_graph=True) runs the reference's
hand-derived one, which is made of differentiable torch operations. It reads the saved `act` and
`cell`, which are outputs of the forward op, so what flows back into them arrives here again as
their gradient; the reference takes those too. No recompute, and every order is right.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd

from fastchar import fakes, reference  # noqa: F401  (registers the fakes)
from fastchar.reference.embedding import row_scale
from fastchar.reference.layers import mask_padding

_ops = torch.ops.fastchar
Grads = tuple[Tensor | None, ...]

# ----------------------------------------------------------------------------------- autograd


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _embedding_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, ids, ctx.padding_idx, ctx.by_freq = inputs
    ctx.save_for_backward(ids)
    ctx.num_weights = weight.shape[0]


def _embedding_backward(ctx: Any, grad: Tensor) -> Grads:
    (ids,) = ctx.saved_tensors
    grad_weight = embedding_backward(grad, ids, ctx.num_weights, ctx.padding_idx, ctx.by_freq)
    return grad_weight, None, None, None


def _embedding_backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ids, ctx.num_weights, ctx.padding_idx, ctx.by_freq = inputs
    ctx.save_for_backward(ids)


def _embedding_backward_backward(ctx: Any, grad: Tensor) -> Grads:
    """(E1) is linear in the rows' gradient: its transpose is the gather of scaled rows."""
    (ids,) = ctx.saved_tensors
    if ctx.padding_idx >= 0 or ctx.by_freq:
        scale = row_scale(ids, ctx.num_weights, ctx.padding_idx, ctx.by_freq)
        grad = grad * scale.to(grad.dtype).unsqueeze(1)
    return embedding(grad, ids), None, None, None, None


def _cell_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[1], output[1], output[2])
    ctx.set_materialize_grads(False)


def _cell_backward(
    ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None, grad_act: Tensor | None
) -> Grads:
    c, c_new, act = ctx.saved_tensors
    if torch.is_grad_enabled() or grad_act is not None:
        return reference.cell_step_backward(grad_h, grad_c, act, c, c_new, grad_act)
    return _ops.lstm_cell_backward.default(_contiguous(grad_h), _contiguous(grad_c), act, c, c_new)


def _sequence_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    gates, ids, w_hh, h0, c0, lengths, ctx.reverse, save = inputs
    if not save:
        raise ValueError("fastchar::lstm_sequence: gradients need save=True, got False")
    y, _, _, act, cell = output
    # Not gates.shape[0] = T where there is no table: an int argument would fix T for the compiler.
    ctx.num_rows = 0 if ids is None else gates.shape[0]
    ctx.save_for_backward(ids, w_hh, h0, c0, lengths, y, act, cell)
    ctx.set_materialize_grads(False)


def _sequence_backward(
    ctx: Any,
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    grad_act: Tensor | None,
    grad_cell: Tensor | None,
) -> Grads:
    ids, w_hh, h0, c0, lengths, y, act, cell = ctx.saved_tensors
    if not torch.is_grad_enabled() and grad_act is None and grad_cell is None:
        grad_gates, grad_w_hh, grad_h0, grad_c0 = _ops.lstm_sequence_backward.default(
            *map(_contiguous, (grad_y, grad_h_n, grad_c_n)),
            *(act, cell, y, ids, w_hh, h0, c0, lengths, ctx.reverse, ctx.num_rows),
        )
        return grad_gates, None, grad_w_hh, grad_h0, grad_c0, None, None, None
    grad_gates, grad_h0, grad_c0 = reference.lstm_sequence_backward(
        *(grad_y, grad_h_n, grad_c_n, act, cell, w_hh, c0, lengths, ctx.reverse),
        *(grad_act, grad_cell),
    )
    grad_w_hh = None
    if ctx.needs_input_grad[2]:
        grad_w_hh = _recurrent_weight_grad(grad_gates, y, h0, lengths, ctx.reverse)
    if ids is not None and ctx.needs_input_grad[0]:
        if lengths is not None:  # whatever stands in the padding; its gate gradients are zero
            ids = mask_padding(ids, lengths)
        grad_gates = embedding_backward(grad_gates, ids, ctx.num_rows)
    return grad_gates, None, grad_w_hh, grad_h0, grad_c0, None, None, None


def _recurrent_weight_grad(
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
    recurrent = later.flatten(0, 1).t() @ before.flatten(0, 1)
    return torch.addmm(recurrent, first.t(), h0)


def _loss_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.ignore_index, ctx.label_smoothing = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _loss_backward(ctx: Any, grad_loss: Tensor | None) -> Grads:
    if grad_loss is None:
        return (None,) * 7
    input, weight, bias, target, class_weight = ctx.saved_tensors
    options = (ctx.ignore_index, ctx.label_smoothing)
    arguments = (input, weight, bias, target, class_weight, *options)
    if torch.is_grad_enabled():
        grads = reference.linear_cross_entropy_backward(grad_loss, *arguments)
    else:
        grads = _ops.linear_cross_entropy_backward.default(grad_loss.contiguous(), *arguments)
    return *grads[:2], grads[2] if ctx.needs_input_grad[2] else None, None, None, None, None


def _reduced_loss_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.ignore_index, ctx.label_smoothing, ctx.mean, grad = inputs
    if not grad:
        raise ValueError("fastchar::linear_cross_entropy_reduced: gradients need grad=True")
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _reduced_loss_backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> Grads:
    if grad_loss is None:
        return (None,) * 9
    input, weight, bias, target, class_weight, *grads = ctx.saved_tensors
    if torch.is_grad_enabled():
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

    That saves a pass over [N,H]. Not while compiling, where the value isn't there, and not when
    the graph is kept: a second backward would hand out the same memory again.
    """
    return (
        type(factor) is Tensor
        and factor.device.type == "cpu"
        and factor.item() == 1
        and not torch._C._autograd._get_current_graph_task_keep_graph()
    )


register_autograd("fastchar::embedding", _embedding_backward, setup_context=_embedding_setup)
register_autograd(
    "fastchar::embedding_backward",
    _embedding_backward_backward,
    setup_context=_embedding_backward_setup,
)
register_autograd("fastchar::lstm_cell", _cell_backward, setup_context=_cell_setup)
register_autograd("fastchar::lstm_sequence", _sequence_backward, setup_context=_sequence_setup)
register_autograd("fastchar::linear_cross_entropy", _loss_backward, setup_context=_loss_setup)
register_autograd(
    "fastchar::linear_cross_entropy_reduced",
    _reduced_loss_backward,
    setup_context=_reduced_loss_setup,
)


def _refuse_second_derivative(op: str) -> None:
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        raise NotImplementedError(
            f"fastchar::{op} has no derivative. Second derivatives come from differentiating the "
            f"forward op with create_graph=True, which does not run this one."
        )

    register_autograd(f"fastchar::{op}", backward)


for _op in ("lstm_cell_backward", "lstm_sequence_backward", "linear_cross_entropy_backward"):
    _refuse_second_derivative(_op)

# ----------------------------------------------------------------------------------- wrappers


def _recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a backward of a call with these arguments."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def embedding(
    weight: Tensor, ids: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False
) -> Tensor:
    """Rows of weight [V,E]: ids.shape + [E]."""
    return _ops.embedding.default(
        weight.contiguous(), ids.contiguous(), padding_idx, scale_grad_by_freq
    )


def embedding_backward(
    grad: Tensor,
    ids: Tensor,
    num_weights: int,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
) -> Tensor:
    """Scatter-add of grad, ids.shape + [E], into [V,E]; see `reference.embedding_backward`."""
    return _ops.embedding_backward.default(
        grad.contiguous(), ids.contiguous(), num_weights, padding_idx, scale_grad_by_freq
    )


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(h', c') [B,H]; see `reference.cell_step`."""
    return _ops.lstm_cell.default(gates.contiguous(), c.contiguous())[:2]


def lstm_sequence(
    gates: Tensor,
    ids: Tensor | None,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, h_n, c_n); see `reference.lstm_sequence`. lengths int64 on the CPU, checked."""
    return _ops.lstm_sequence.default(
        gates.contiguous(),
        _contiguous(ids),
        w_hh.contiguous(),
        h0.contiguous(),
        c0.contiguous(),
        _contiguous(lengths),
        reverse,
        _recorded(gates, w_hh, h0, c0),
    )[:3]


def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """Loss of each token [N]; see `reference.linear_cross_entropy`."""
    return _ops.linear_cross_entropy.default(
        input.contiguous(),
        weight.contiguous(),
        _contiguous(bias),
        target.contiguous(),
        _contiguous(class_weight),
        ignore_index,
        label_smoothing,
    )


def linear_cross_entropy_reduced(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    mean: bool,
) -> Tensor:
    """The tokens' mean or summed loss, a scalar, with its gradients made in the same pass."""
    return _ops.linear_cross_entropy_reduced.default(
        input.contiguous(),
        weight.contiguous(),
        _contiguous(bias),
        target.contiguous(),
        _contiguous(class_weight),
        ignore_index,
        label_smoothing,
        mean,
        _recorded(input, weight, bias),
    )[0]
