"""A language model's own text: each symbol drawn from the logits of the step before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastchar.reference.cell import lstm_cell


def draw(
    logits: Tensor,
    u: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """One symbol of each row: logits [B,V] and u float64 [B] in [0, 1) to ids int64 [B].

    The symbol at which the sum of probabilities, in the order of ids, passes u. Probabilities are
    the softmax of logits / temperature, in float64; temperature 0 takes the most probable. `top_k`
    keeps the k most probable symbols (of equal ones the first), `top_p` the fewest that together
    have at least that probability, sought among the k. -1 for a row that makes no distribution: its
    largest is not finite, or a NaN is in it.
    """
    logits = logits.double()
    best = logits.amax(-1, keepdim=True)
    if temperature == 0:
        ids = (logits == best).int().argmax(-1)  # of equal ones the first
    else:
        if top_k is not None:
            kept = logits.sort(descending=True, stable=True).indices[:, :top_k]
            out = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, kept, False)
            logits = logits.masked_fill(out, float("-inf"))
        # The largest at 0, so that no temperature makes an infinity of it.
        p = ((logits - best) / temperature).softmax(-1)
        if top_p is not None:
            ranked, order = p.sort(descending=True, stable=True)
            # A symbol is out if those before it have enough already; the first one never is.
            out = ranked.cumsum(-1) - ranked >= top_p
            p = ranked.masked_fill(out, 0).gather(-1, order.argsort())
        passed = p.cumsum(-1)
        ids = torch.searchsorted(passed, u.unsqueeze(-1) * passed[:, -1:], right=True).squeeze(-1)
    return ids.masked_fill(~best.squeeze(-1).isfinite(), -1)


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
    """The text that a language model writes after symbol `first`: ids int64 [n], h_n, c_n [L,H].

    table [V,E]; weights w_ih, w_hh, b_ih, b_hh of each of the L layers; output_weight [V,H] and
    output_bias [V], where -inf keeps a symbol from coming; h0, c0 [L,H] before `first` is read. A
    symbol comes of each of draws float64 [n], as in `draw`, both on the CPU. After the symbol
    `end`, or -1, only that follows, and the state is the one that it was drawn from.
    """
    h, c = list(h0.unsqueeze(1)), list(c0.unsqueeze(1))  # of each layer, [1,H]
    ids = torch.empty(draws.shape, dtype=torch.int64, device="cpu")
    symbol = first
    for t, u in enumerate(draws):
        x = table[symbol].unsqueeze(0)
        for layer in range(len(h)):
            h[layer], c[layer] = lstm_cell(
                x, (h[layer], c[layer]), *weights[4 * layer : 4 * layer + 4]
            )
            x = h[layer]
        logits = F.linear(x, output_weight, output_bias)
        symbol = int(draw(logits.cpu(), u.unsqueeze(0), temperature, top_k, top_p))
        ids[t:] = symbol
        if symbol in (end, -1):
            break
    return ids, torch.cat(h), torch.cat(c)
