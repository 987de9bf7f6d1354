"""Drawing the next symbol from a model's distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
    """
    check_sampling(temperature, top_k, top_p)
    logits = logits.detach().cpu().double()
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None:
        kept = logits.sort(descending=True, stable=True).indices[:, :top_k]
        out = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, kept, False)
        logits = logits.masked_fill(out, float("-inf"))
    # The largest at 0, so that no temperature makes an infinity of it.
    logits = logits - logits.amax(-1, keepdim=True)
    probabilities = (logits / temperature).softmax(-1)
    if top_p is not None:
        ranked, order = probabilities.sort(descending=True, stable=True)
        # A symbol is out if those before it have enough already; the first one never is.
        out = ranked.cumsum(-1) - ranked >= top_p
        probabilities = ranked.masked_fill(out, 0).gather(-1, order.argsort())
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
