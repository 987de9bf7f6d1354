"""The LSTM cell: equations (C0) to (C6)."""

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, Tensor]


def cell_step(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One update, a [B,4H] pre-activations and c [B,H] to (h' [B,H], c' [B,H], act [B,4H]).

    (C1)  i = sigmoid(a_i)   f = sigmoid(a_f)   g = tanh(a_g)   o = sigmoid(a_o)
    (C2)  c' = f * c + i * g
    (C3)  h' = o * tanh(c')
    """
    a_i, a_f, a_g, a_o = gates.chunk(4, -1)
    i, f, g, o = a_i.sigmoid(), a_f.sigmoid(), a_g.tanh(), a_o.sigmoid()
    c_new = f * c + i * g
    return o * c_new.tanh(), c_new, torch.cat([i, f, g, o], -1)


def cell_step_backward(
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    act: Tensor,
    c: Tensor,
    grad_act: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of (C1-3): (da [B,4H], dc [B,H]) from dh', dc' and, for second derivatives, d(act).

    c' is made again by (C2), so that an output changed in place does no harm.
    (C4)  do  = dh' * tanh(c')                    dc* = dc' + dh' * o * (1 - tanh(c')^2)
    (C5)  di  = dc* * g      df = dc* * c         dg  = dc* * i      dc = dc* * f
    (C6)  da_i = di * i(1-i)  da_f = df * f(1-f)  da_g = dg * (1 - g^2)  da_o = do * o(1-o)
    """
    i, f, g, o = act.chunk(4, -1)
    tanh_c = (f * c + i * g).tanh()
    dc = torch.zeros_like(c) if grad_c is None else grad_c
    do = torch.zeros_like(o)
    if grad_h is not None:
        do = grad_h * tanh_c
        dc = dc + grad_h * o * (1 - tanh_c * tanh_c)
    d_act = torch.cat([dc * g, dc * c, dc * i, do], -1)
    if grad_act is not None:
        d_act = d_act + grad_act
    slope = torch.cat([i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)], -1)
    return d_act * slope, dc * f


def lstm_cell(
    input: Tensor,
    hx: State,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> State:
    """One step: input [B,E], (h, c) [B,H] to (h', c'). See `torch.lstm_cell`.

    (C0)  a = x W_ih^T + b_ih + h W_hh^T + b_hh
    """
    h, c = hx
    h_new, c_new, _ = cell_step(F.linear(input, w_ih, b_ih) + F.linear(h, w_hh, b_hh), c)
    return h_new, c_new
