"""Embedding: the gather and its scatter-add gradient, equation (E1)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of `weight` [V,E] at `input` (ids, any shape): ids.shape + [E]. See `F.embedding`."""
    return F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)


def embedding_backward(
    grad: Tensor,
    ids: Tensor,
    num_weights: int,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
) -> Tensor:
    """Gradient of the table [V,E] from that of the rows (ids.shape + [E]); -1: no padding row.

    (E1)  dW[v] = s_v * sum over n with ids[n] = v of dY[n],
          s_v = 1/count(v) with scale_grad_by_freq, else 1; 0 for v = padding_idx.
    """
    flat = ids.reshape(-1).long()
    scale = row_scale(flat, num_weights, padding_idx, scale_grad_by_freq).to(grad.dtype)
    rows = grad.reshape(flat.numel(), grad.shape[-1]) * scale[flat].unsqueeze(1)
    return rows.new_zeros(num_weights, grad.shape[-1]).index_add(0, flat, rows)


def row_scale(ids: Tensor, num_weights: int, padding_idx: int, by_freq: bool) -> Tensor:
    """The s_v of (E1), float64 [V]."""
    scale = torch.ones(num_weights, dtype=torch.float64, device=ids.device)
    if by_freq:
        flat = ids.reshape(-1).long()
        scale = 1 / torch.zeros_like(scale).index_add(0, flat, scale[flat]).clamp(min=1)
    if padding_idx >= 0:
        scale = scale.index_fill(0, torch.tensor([padding_idx], device=ids.device), 0)
    return scale
