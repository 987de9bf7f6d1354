"""The product of many rows with a weight."""

import torch.nn.functional as F
from torch import Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b: input [*,K], weight [N,K], bias [N] -> [*,N].

    Backward: dx = dy W, dW = dy^T x, db = the sum of dy's rows.
    """
    return F.linear(input, weight, bias)
