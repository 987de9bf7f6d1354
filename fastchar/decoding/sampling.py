"""Drawing the next symbol from a model's distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastchar import reference


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises `ValueError` for a setting of `sample` that makes no sense."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected 0 or more, and finite, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: expected 1 or more, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected more than 0 and at most 1, got {top_p}")


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One symbol of each row of logits [B, V]: ids int64 [B], on the CPU.

    Logits are divided by `temperature` first; 0 takes the most probable. `top_k` keeps the k most
    probable symbols (of equal ones the first), `top_p` the fewest that together have at least that
    probability (the nucleus, Holtzman 2020); with both, the nucleus is sought among the k. Draws
    are made on the CPU, so that a `generator`'s seed means the same wherever the model is.
    `ValueError` for an option that makes no sense, and for logits that make no distribution.
    """
    check_sampling(temperature, top_k, top_p)
    logits = logits.detach().cpu()
    count = len(logits)
    draws = torch.rand(count, dtype=torch.float64, device="cpu", generator=generator)
    return drawn(reference.draw(logits, draws, temperature, top_k, top_p))


def drawn(ids: Tensor) -> Tensor:
    """The ids; ValueError where one is -1, of logits that made no distribution."""
    if (ids < 0).any():
        raise ValueError(
            "logits: expected a finite one at least, and no NaN or inf, got no distribution"
        )
    return ids
