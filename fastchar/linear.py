"""The functions of linear layers: the product, and cross entropy of one whose logits aren't kept.

As in `functional`, which gives both to the world: native kernels where they serve, else the
reference.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastchar import backend, reference
from fastchar.routing import (
    autocast_dtype,
    cuda_autocast_dtype,
    floats,
    index_error,
    kernel_dtype,
)

if backend.native():
    from fastchar import ops


# Rows and multiplications from which the native product, which packs its weight in every call,
# is faster than torch's.
_LINEAR_ROWS, _LINEAR_PRODUCTS = 32, 1 << 20


def full_precision() -> bool:
    """Whether torch's float32 products are to be float32. Dynamo, which guards the setting, takes
    the answer for a constant."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # one of torch.backends.*.fp32_precision is set: there's no one answer
        own: Any = torch.backends.mkldnn
        return own.matmul.fp32_precision in ("none", "ieee")


# What `torch.compiler.assume_constant_result` sets; calling it imports all of Dynamo with fastchar.
full_precision._dynamo_marked_constant = True  # type: ignore[attr-defined]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: input [*,K], weight [N,K], bias [N] -> [*,N].

    Products of many rows in float32 or float64 on the CPU run on the kernel, everything else on
    torch's own code; so does all that is exported, since the number of rows may be any there.
    """
    rows = math.prod(input.shape[:-1])
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if (
        torch.compiler.is_exporting()
        or input.device.type != "cpu"
        or rows < _LINEAR_ROWS
        or rows * weight.numel() < _LINEAR_PRODUCTS
        or not full_precision()
        or autocast_dtype(input) is not None
        or input.shape[-1:] != weight.shape[1:]
        or kernel_dtype(tensors) is not input.dtype
    ):
        return reference.linear(input, weight, bias)
    rows_out = ops.linear(input.reshape(-1, input.shape[-1]), weight, bias)
    return rows_out.view(*input.shape[:-1], weight.shape[0])


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
    dtype = kernel_dtype(tensors if low is None else floats(tensors))
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
        loss = index_error(ops.linear_cross_entropy, *arguments).reshape(target.shape)
    else:
        loss = index_error(ops.linear_cross_entropy_reduced, *arguments, reduction == "mean")
    return loss.to(result)
