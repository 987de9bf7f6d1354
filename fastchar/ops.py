"""The native ops as `functional` calls them: arguments made contiguous, saving decided.

Import only with the native library loaded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastchar import autograd, layer, steps
from fastchar.calls import Call, contiguous, last, recorded


def embedding(
    weight: Tensor, ids: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False
) -> Tensor:
    """Rows of weight [V,E]: ids.shape + [E]; see `reference.embedding`."""
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
    call: Call = autograd.lstm_step if torch.compiler.is_compiling() else steps.lstm_step
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


def lstm_layer(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, h_n, c_n) of the projection of x [T,B,K], or of ids x [T,B] into `table` [V,K].

    See `reference.lstm_sequence` for what follows the projection. What x holds in the padding
    counts for nothing. padding_idx: a row of the table without a gradient, or -1. CPU only.
    """
    tensors = map(contiguous, (x, table, w_ih, b_ih, b_hh, w_hh, h0, c0, lengths))
    save = recorded(x, table, w_ih, b_ih, b_hh, w_hh, h0, c0)
    y, h_n, c_n, _, _ = layer.lstm_layer(*tensors, padding_idx, reverse, save)
    return y, h_n, c_n


def lstm_generate(
    first: int,
    table: Tensor,
    weights: Sequence[Tensor],
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
    """(ids [n], h_n, c_n [L,H]); see `reference.lstm_generate`. CPU only, without a derivative."""
    ids, h_n, c_n = _lstm_generate(
        first,
        table.contiguous(),
        [w.contiguous() for w in weights],
        *(t.contiguous() for t in (output_weight, output_bias, h0, c0, draws)),
        *(temperature, top_k, top_p, end),
    )
    return ids, h_n, c_n


_lstm_generate = last("lstm_generate", "Its results are drawn, symbol by symbol.")


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
    """The tokens' mean or summed loss, a scalar, with its gradients made in the same pass.

    See `reference.linear_cross_entropy`.
    """
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
