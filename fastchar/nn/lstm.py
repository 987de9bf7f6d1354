"""`nn.LSTM` on fastchar's kernels, with `lengths=` for ragged batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.utils.rnn import PackedSequence

from fastchar import functional, packed_lstm
from fastchar.nn.scripting import torchs_twin
from fastchar.reference.cell import State
from fastchar.routing import Result

Run = Callable[[Tensor, State | None], Result]


class LSTM(nn.RNNBase):
    """`nn.LSTM`, every option, as an `nn.RNNBase` (Dynamo refuses subclasses of `nn.LSTM`).

    forward(input, hx=None, *, lengths=None) takes what `nn.LSTM` takes: input [T,B,E],
    [B,T,E] with batch_first, [T,E] unbatched, or a PackedSequence, and returns (output, (h_n, c_n))
    in torch's shapes. `lengths` [B], int32 or int64 on any device, each in 0..T, makes the batch
    ragged without packing: all T steps come back, zero past each end, h_n and c_n are those at
    each sequence's own end, and what `input` holds in the padding, NaN too, changes nothing.
    ValueError where lengths do not fit. `state_dict` is `nn.LSTM`'s, both ways.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: expected None with a PackedSequence, which has its own")
            if torch.compiler.is_compiling():
                return _packed_outside(self, input, hx)
            return self._forward_packed(input, hx)

        def run(x: Tensor, hx: State | None) -> Result:
            return functional.lstm(x, hx, self._weights(), *self._stack_options(), lengths=lengths)

        return self._run_padded(input, hx, 1, run)

    def _run_padded(
        self, input: Tensor, hx: State | None, features: int, run: Run
    ) -> tuple[Tensor, State]:
        """Checks arguments, and calls `run` on the batched form; the results in input's form.

        `features` is the number of dimensions that one step of one sequence has: 1, or 0 for ids.
        """
        if input.dim() not in (1 + features, 2 + features):
            raise ValueError(
                f"LSTM: Expected input to be {1 + features}D or {2 + features}D, "
                f"got {input.dim()}D instead"
            )
        batched = input.dim() == 2 + features
        batch_dim = 0 if self.batch_first else 1
        x = input if batched else input.unsqueeze(batch_dim)
        if features and hx is None:
            self.check_input(x, None)
        if hx is not None:
            form = "batched 3-D" if batched else "unbatched 2-D"
            dim = 3 if batched else 2
            if hx[0].dim() != dim or hx[1].dim() != dim:
                raise RuntimeError(
                    f"For {form} input, hx and cx should also be {dim}-D "
                    f"but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
                )
            if not batched:
                hx = (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            if features:
                self.check_forward_args(x, hx, None)
            else:
                self._check_states(x, hx)
        y, h_n, c_n = run(x, hx)
        if not batched:
            return y.squeeze(batch_dim), (h_n.squeeze(1), c_n.squeeze(1))
        return y, (h_n, c_n)

    permute_hidden: Any = nn.LSTM.permute_hidden
    check_forward_args: Any = nn.LSTM.check_forward_args
    get_expected_cell_size: Any = nn.LSTM.get_expected_cell_size

    def _weights(self) -> list[Tensor]:
        """Parameters in `torch.lstm`'s order, read by name: whatever stands there now counts."""
        return [getattr(self, name) for name in self._flat_weights_names]

    def _stack_options(self) -> tuple[bool, int, float, bool, bool, bool]:
        """`torch.lstm`'s arguments after the parameters."""
        return (
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
            self.batch_first,
        )

    def _forward_packed(
        self, packed: PackedSequence, hx: State | None
    ) -> tuple[PackedSequence, State]:
        """Order in and out is the packed one's, that of states the caller's."""
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        if hx is not None:
            hx = self.permute_hidden(hx, sorted_indices)
        output, h_n, c_n = packed_lstm.lstm_packed(
            data, batch_sizes, hx, self._weights(), *self._stack_options()[:5]
        )
        state = self.permute_hidden((h_n, c_n), unsorted_indices)
        return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), state

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """torch's check, in its words, against the weight that is there now."""
        dtype = getattr(self, self._flat_weights_names[0]).dtype
        if input.dtype != dtype and not torch._C._is_any_autocast_enabled():
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
                f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
            )
        expected = 2 if batch_sizes is not None else 3
        if input.dim() != expected:
            raise RuntimeError(f"input must have {expected} dimensions, got {input.dim()}")
        if self.input_size != input.size(-1):
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {input.size(-1)}"
            )

    def _check_states(self, ids: Tensor, hx: State) -> None:
        """`check_forward_args` where the input has no features to check."""
        sizes = (self.get_expected_hidden_size(ids, None), self.get_expected_cell_size(ids, None))
        for k in range(2):
            self.check_hidden_size(hx[k], sizes[k], f"Expected hidden[{k}] size {{}}, got {{}}")

    def __prepare_scriptable__(self) -> nn.Module:
        return torchs_twin(self, LSTM, nn.LSTM)


@_disable_dynamo  # not torch.compiler.disable, which would import Dynamo with us
def _packed_outside(module: LSTM, packed: PackedSequence, hx: State | None) -> Any:
    """A packed batch breaks a graph in two: its shape stands in the values of batch_sizes."""
    return module._forward_packed(packed, hx)
