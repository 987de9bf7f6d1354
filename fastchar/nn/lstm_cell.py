"""`nn.LSTMCell` on fastchar's kernels."""

import torch
from torch import Tensor, nn

from fastchar import functional
from fastchar.nn.scripting import torchs_twin
from fastchar.reference.cell import State


class LSTMCell(nn.LSTMCell):
    """`nn.LSTMCell`: input [B,E] or [E], hx two of [B,H] or [H] or None, to (h', c') likewise."""

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        if input.dim() not in (1, 2):
            raise ValueError(f"LSTMCell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for k, state in enumerate(() if hx is None else hx):
            if state.dim() not in (1, 2):
                raise ValueError(
                    f"LSTMCell: Expected hx[{k}] to be 1D or 2D, got {state.dim()}D instead"
                )
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if hx is None:
            zeros = torch.zeros(x.size(0), self.hidden_size, dtype=input.dtype, device=input.device)
            hx = (zeros, zeros)
        elif not batched:
            hx = (hx[0].unsqueeze(0), hx[1].unsqueeze(0))
        h, c = functional.lstm_cell(
            x, hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
        )
        return (h, c) if batched else (h.squeeze(0), c.squeeze(0))

    def __prepare_scriptable__(self) -> nn.Module:
        return torchs_twin(self, LSTMCell, nn.LSTMCell)
