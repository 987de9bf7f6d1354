"""Dropout that costs a training step on the CPU little.

torch draws 64 random bits for each element there, one after the other in one thread (but on Intel's
processors, for which MKL does it). Here four elements share a draw.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastchar.routing import traced, transformed

_NUMBERS = 1 << 16  # that an element can draw; four of them are an int64


class Dropout(nn.Dropout):
    """`nn.Dropout`, of other elements: those that 16 bits each of torch's generator choose.

    Input of any shape and floating dtype; the result has both.
    The probability to be kept is rounded to k / 65536, and what is kept is scaled by 65536 / k, so
    that the mean stays. `torch.manual_seed` and the generator's state decide what is dropped, as
    ever, and the number of threads does not. Beside eager calls on plain CPU tensors it is torch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        k = round((1 - self.p) * _NUMBERS)
        if not self.training or not 0 < k < _NUMBERS or self.inplace or not _served(input):
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64, device="cpu")
        draws.random_(-(2**63), None)
        numbers = draws.view(torch.int16)[: input.numel()].view(input.shape)
        kept = numbers < k - _NUMBERS // 2  # of numbers with a sign
        return input * (kept.to(input.dtype) * (_NUMBERS / k))


def _served(x: Tensor) -> bool:
    """Whether x is a plain CPU tensor of numbers in an eager call, without transforms."""
    aside = torch.compiler.is_compiling() or traced() or transformed((x,))
    return not aside and x.is_cpu and x.is_floating_point() and not x.is_nested
