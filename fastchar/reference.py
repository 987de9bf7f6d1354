"""The specification: every function of `fastchar.functional`, in plain torch operations.

Three uses: it is what the kernels are tested against (in float64), what runs where no kernel does,
and what a reader should read first. Each forward is differentiable by autograd; beside it stands
the backward derived by hand, which is the one the kernels implement.

Shapes: T steps, B sequences, N = T*B tokens, V symbols, E embedding, H hidden, P projected hidden
(P = H without projection). Gates are stored in torch's order i, f, g, o along a dimension of 4H.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, Tensor]

# ---------------------------------------------------------------------------------- embedding


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


# --------------------------------------------------------------------------------------- cell


def cell_step(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One cell update: pre-activations a [B,4H] and cell state [B,H] to (h [B,H], c [B,H], act [B,4H]).

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
    c_new: Tensor,
    grad_act: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of (C1-3): (da [B,4H], dc [B,H]) from dh', dc' and, for second derivatives, d(act).

    (C4)  do  = dh' * tanh(c')                    dc* = dc' + dh' * o * (1 - tanh(c')^2)
    (C5)  di  = dc* * g      df = dc* * c         dg  = dc* * i      dc = dc* * f
    (C6)  da_i = di * i(1-i)  da_f = df * f(1-f)  da_g = dg * (1 - g^2)  da_o = do * o(1-o)
    """
    i, f, g, o = act.chunk(4, -1)
    tanh_c = c_new.tanh()
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


# ----------------------------------------------------------------------------------- sequence


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
    for t in reversed(range(T)) if reverse else range(T):
        alive = None if lengths is None else (t < lengths.to(h0.device)).unsqueeze(1)
        a = gates[t] if ids is None else F.embedding(_mask(ids[t : t + 1].t(), alive)[:, 0], gates)
        h_new, c_new, act[t] = cell_step(_mask(a, alive) + F.linear(h, w_hh), c)
        if w_hr is not None:
            h_new = F.linear(h_new, w_hr)
        y[t], act[t] = _mask(h_new, alive), _mask(act[t], alive)
        h = h_new if alive is None else torch.where(alive, h_new, h)
        c = c_new if alive is None else torch.where(alive, c_new, c)
        cell[t] = c
    if T == 0:
        B, P = h0.shape
        empty = (h0.new_zeros(0, B, P), h0.new_zeros(0, B, 4 * c0.shape[1]), torch.zeros_like(c0)[None, :0][0])
        return empty[0], h, c, empty[1], c0.new_zeros(0, *c0.shape)
    return torch.stack(y), h, c, torch.stack(act), torch.stack(cell)


def _mask(x: Tensor, alive: Tensor | None) -> Tensor:
    """x [B,*] with the rows of ended sequences set to 0, so that what they held is never read."""
    return x if alive is None else torch.where(alive, x, torch.zeros_like(x))
