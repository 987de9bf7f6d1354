"""One LSTM layer in one direction over a whole, possibly ragged, sequence: (S1) to (S6)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastchar.reference.cell import cell_step, cell_step_backward


def lstm_sequence(
    gates: Tensor,
    ids: Tensor | None,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    lengths: Tensor | None = None,
    reverse: bool = False,
    w_hr: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One layer in one direction, its input's part of the pre-activations already made.

    `gates` is x W_ih^T + b [T,B,4H]; with `ids` [T,B] it is the folded table E W_ih^T + b [V,4H],
    of which step t takes row ids[t,b]. w_hh [4H,P], h0 [B,P], c0 [B,H], w_hr [P,H], lengths [B]
    (0..T, any order): sequence b has the steps t < lengths[b] and is run over them alone, from its
    last to its first with `reverse`. Returns (y [T,B,P], zero past each end; h_n [B,P] and
    c_n [B,H] where each sequence stops; act [T,B,4H], zero past each end; cell [T,B,H]).

    (S1)  a_t = gates_t + h_{t-1} W_hh^T, then (C1-3); h_t = W_hr h'_t with projection
    (S2)  a sequence that has ended keeps h and c; y there is 0
    """
    T = (gates if ids is None else ids).shape[0]
    h, c = h0, c0
    y, act, cell = [h0] * T, [gates] * T, [c0] * T
    for t in steps(T, reverse):
        alive = None if lengths is None else (t < lengths).unsqueeze(1)
        a = gates[t] if ids is None else F.embedding(mask(ids[t], alive), gates)
        h_new, c_new, act_t = cell_step(mask(a, alive) + F.linear(h, w_hh), c)
        if w_hr is not None:
            h_new = F.linear(h_new, w_hr)
        h = h_new if alive is None else torch.where(alive, h_new, h)
        c = c_new if alive is None else torch.where(alive, c_new, c)
        y[t], act[t], cell[t] = mask(h_new, alive), mask(act_t, alive), mask(c_new, alive)
    return torch.stack(y), h, c, torch.stack(act), torch.stack(cell)


def lstm_sequence_backward(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    act: Tensor,
    cell: Tensor,
    w_hh: Tensor,
    c0: Tensor,
    lengths: Tensor | None = None,
    reverse: bool = False,
    grad_act: Tensor | None = None,
    grad_cell: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(d gates [T,B,4H], dh0, dc0) without projection, from what `lstm_sequence` returned.

    Against the order of the forward, from dh = dh_n and dc = dc_n; t-1 is the step run before t:
    (S3)  dh'_t = dy_t + dh      dc'_t = dc + dcell_t      (da_t, dc) = (C4-6)(dh'_t, dc'_t)
    (S4)  dh = da_t W_hh         both pass unchanged through the steps of an ended sequence
    The rest follows from da, with N = T*B:
    (S5)  dW_hh = sum_t da_t^T h_{t-1}      dP[v] = sum of da_t[b] over ids[t,b] = v, by (E1)
    (S6)  dW_ih = da^T x        dx = da W_ih        db_ih = db_hh = sum_N da
    dy, act and cell are not read past a sequence's end; da is 0 there. d(act) and d(cell) are the
    gradients of the saved values, which only second derivatives have: with them this function is
    its own double backward's recipe, since it is differentiable itself.
    """
    T = act.shape[0]
    dh = torch.zeros_like(c0) if grad_h_n is None else grad_h_n
    dc = torch.zeros_like(c0) if grad_c_n is None else grad_c_n
    grad_gates = [act] * T
    order = list(steps(T, reverse))
    for t, before in reversed(list(zip(order, [None, *order[:-1]], strict=True))):
        alive = None if lengths is None else (t < lengths).unsqueeze(1)
        c_prev = c0 if before is None else cell[before]
        if lengths is not None and reverse and before is not None:
            c_prev = torch.where((before < lengths).unsqueeze(1), c_prev, c0)
        dh_t = dh if grad_y is None else dh + mask(grad_y[t], alive)
        dc_t = dc if grad_cell is None else dc + mask(grad_cell[t], alive)
        da, dc_prev = cell_step_backward(
            mask(dh_t, alive),
            mask(dc_t, alive),
            mask(act[t], alive),
            mask(c_prev, alive),
            None if grad_act is None else mask(grad_act[t], alive),
        )
        grad_gates[t] = mask(da, alive)
        dh_prev = grad_gates[t] @ w_hh
        dh = dh_prev if alive is None else torch.where(alive, dh_prev, dh)
        dc = dc_prev if alive is None else torch.where(alive, dc_prev, dc)
    return torch.stack(grad_gates), dh, dc


def steps(T: int, reverse: bool) -> range:
    """The steps in the order in which a direction runs them."""
    return range(T - 1, -1, -1) if reverse else range(T)


def mask(x: Tensor, alive: Tensor | None) -> Tensor:
    """x [B,*] with the rows of ended sequences (alive [B,1] False) set to 0, whatever they hold."""
    if alive is None:
        return x
    return torch.where(alive.reshape(alive.shape[:1] + (1,) * (x.dim() - 1)), x, 0)
