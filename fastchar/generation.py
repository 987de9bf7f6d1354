"""A language model's own text: one call for many symbols, where the kernel serves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastchar import backend, reference
from fastchar.routing import kernel_dtype

if backend.native():
    from fastchar import ops


def lstm_generate(
    first: int,
    table: Tensor,
    weights: Sequence[Tensor],
    output_weight: Tensor,
    output_bias: Tensor,
    h0: Tensor,
    c0: Tensor,
    draws: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    end: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """ids int64 [n] drawn after symbol `first`, h_n, c_n [L,H]; see `reference.lstm_generate`.

    Without gradients. On the CPU the steps, the draws and what is between them are one call;
    bfloat16 and float16 are computed in float32, and the states rounded at its end. Matrices in
    bfloat16 are read as they are, which are half as many bytes: most of the time goes there.
    RuntimeError for an argument of another shape or outside its range, with its name.
    """
    tensors = (table, output_weight, output_bias, h0, c0, *weights)
    dtype = kernel_dtype(tensors)
    if dtype is None or not table.is_cpu:
        return reference.lstm_generate(
            first, table, weights, output_weight, output_bias, h0, c0, draws,
            temperature, top_k, top_p, end,
        )  # fmt: skip
    given, V = table.dtype, table.shape[0]
    held = given if given is torch.bfloat16 else dtype
    ids, h_n, c_n = ops.lstm_generate(
        first,
        table.to(dtype),
        [w.to(held if w.dim() == 2 else dtype) for w in weights],
        output_weight.to(held),
        output_bias.to(dtype),
        h0.to(dtype),
        c0.to(dtype),
        draws,
        temperature,
        V if top_k is None else top_k,
        1.0 if top_p is None else top_p,
        end,
    )
    return ids, h_n.to(given), c_n.to(given)
