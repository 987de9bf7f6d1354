"""The native ops as `functional` calls them: arguments made contiguous, saving decided.

Import only with the native library loaded.
"""

import torch
from torch import Tensor

from fastchar import autograd, ragged_layer, steps
from fastchar.autograd import contiguous, recorded


def embedding(
    weight: Tensor, ids: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False
) -> Tensor:
    """Rows of weight [V,E]: ids.shape + [E]."""
    return autograd.embedding(
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
    return autograd.embedding_backward(
        grad.contiguous(), ids.contiguous(), num_weights, padding_idx, scale_grad_by_freq
    )


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(h', c') [B,H]; see `reference.cell_step`."""
    return autograd.lstm_cell(gates.contiguous(), c.contiguous())[:2]


def lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(h', c') [B,H] of x [B,E]; see `reference.lstm_cell`. CPU only."""
    call: autograd.Call = autograd.lstm_step if torch.compiler.is_compiling() else steps.lstm_step
    tensors = (x, h, c, w_ih, w_hh, b_ih, b_hh)
    h_new, c_new, _ = call(*map(contiguous, tensors))
    return h_new, c_new


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
    return autograd.lstm_sequence(
        gates.contiguous(),
        contiguous(ids),
        w_hh.contiguous(),
        h0.contiguous(),
        c0.contiguous(),
        contiguous(lengths),
        reverse,
        recorded(gates, w_hh, h0, c0),
    )[:3]


def lstm_ragged(
    x: Tensor,
    lengths: Tensor,
    w_ih: Tensor,
    bias: Tensor | None,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`lstm_sequence` of x's projection, x [T,B,K]: the padding of x counts for nothing.

    For compiled graphs: eager, `functional` projects real tokens with fewer detours.
    """
    tensors = map(contiguous, (x, lengths, w_ih, bias, w_hh, h0, c0))
    save = recorded(x, w_ih, bias, w_hh, h0, c0)
    y, h_n, c_n, _, _ = ragged_layer.lstm_ragged(*tensors, reverse, save)
    return y, h_n, c_n


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """input [M,K], weight [N,K], bias [N]: [M,N]; see `reference.linear`. CPU only."""
    return autograd.linear(input.contiguous(), weight.contiguous(), contiguous(bias))


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
    return autograd.linear_cross_entropy(
        input.contiguous(),
        weight.contiguous(),
        contiguous(bias),
        target.contiguous(),
        contiguous(class_weight),
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
    return autograd.linear_cross_entropy_reduced(
        input.contiguous(),
        weight.contiguous(),
        contiguous(bias),
        target.contiguous(),
        contiguous(class_weight),
        ignore_index,
        label_smoothing,
        mean,
        recorded(input, weight, bias),
    )[0]
