"""Linear layer and cross entropy in one: (L1) to (L4)."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Cross entropy of the logits input @ linear_weight^T + linear_bias, as `F.cross_entropy`.

    input [*,H], linear_weight [V,H], linear_bias [V], target int64 [*] (or class probabilities
    [*,V]), weight [V] by class. ValueError where the target has other tokens than the input, in
    number or in order. Per token, with eps = label_smoothing, w = weight, y = target:

    (L1)  z = x W^T + b      lse = log sum_v exp(z_v)
    (L2)  loss = (1-eps) w_y (lse - z_y) + eps/V sum_v w_v (lse - z_v);  0 where y = ignore_index
    `reduction="mean"` divides the sum by the sum of w_y over the tokens that are not ignored.
    """
    logits = F.linear(input, linear_weight, linear_bias)
    if target.is_floating_point():
        target = target.reshape(-1, target.shape[-1])
        shape = input.shape[:-1]
    else:
        tokens, shape = input.shape[:-1], target.shape
        if not torch.jit.is_tracing() and tokens != shape:  # a trace's sizes are for others
            theirs, ours = (", ".join(map(str, sizes)) for sizes in (tokens, shape))
            raise ValueError(
                f"Expected input batch_size ({theirs}) to match target batch_size ({ours})."
            )
        target = target.reshape(-1)
    loss = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        target,
        weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    return loss.reshape(shape) if reduction == "none" else loss


def linear_cross_entropy_backward(
    grad_loss: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx [N,H], dW [V,H], db [V]) from the gradient of each token's loss, grad_loss [N].

    (L3)  dz_v = dloss * ( ((1-eps) w_y + eps/V sum_u w_u) softmax(z)_v - (1-eps) w_y [v=y]
                           - eps/V w_v );  0 where y = ignore_index
    (L4)  dx = dz W      dW = dz^T x      db = sum_n dz
    """
    V = weight.shape[0]
    w = weight.new_ones(V) if class_weight is None else class_weight
    kept = (target != ignore_index).unsqueeze(1)
    y = torch.where(kept[:, 0], target, 0)
    p = F.linear(input, weight, bias).softmax(-1)
    sharp = (1 - label_smoothing) * w[y].unsqueeze(1)
    smooth = label_smoothing / V * w
    dz = (sharp + smooth.sum()) * p - sharp * F.one_hot(y, V) - smooth
    dz = torch.where(kept, grad_loss.unsqueeze(1) * dz, 0)
    return dz @ weight, dz.t() @ input, dz.sum(0)


def kept_weight(target: Tensor, class_weight: Tensor | None, ignore_index: int) -> Tensor:
    """What "mean" divides by: the sum of w_y over the tokens that are not ignored; a scalar."""
    kept = target[target != ignore_index]
    if class_weight is not None:
        return class_weight[kept].sum()
    return torch.tensor(kept.numel(), device=target.device)
