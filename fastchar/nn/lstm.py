"""`nn.LSTM` on fastchar's kernels, with `lengths=` for ragged batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.utils.rnn import PackedSequence

from fastchar import functional

State = tuple[Tensor, Tensor]
Run = Callable[[Tensor, State | None], tuple[Tensor, Tensor, Tensor]]


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

        def run(x: Tensor, hx: State | None) -> tuple[Tensor, Tensor, Tensor]:
            return functional.lstm(x, hx, self.weights(), *self.stack_options(), lengths=lengths)

        return self.run_padded(input, hx, 1, run)

    def run_padded(
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
        if features:
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
            self._check_state(hx, x.size(batch_dim))
        y, h_n, c_n = run(x, hx)
        if not batched:
            return y.squeeze(batch_dim), (h_n.squeeze(1), c_n.squeeze(1))
        return y, (h_n, c_n)

    # Ours has no use for them; code that was written for nn.LSTM may call them.
    check_forward_args: Any = nn.LSTM.check_forward_args
    get_expected_cell_size: Any = nn.LSTM.get_expected_cell_size
    permute_hidden: Any = nn.LSTM.permute_hidden

    def weights(self) -> list[Tensor]:
        """Parameters in `torch.lstm`'s order, read by name: whatever stands there now counts."""
        return [getattr(self, name) for name in self._flat_weights_names]

    def stack_options(self) -> tuple[bool, int, float, bool, bool, bool]:
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
        """Runs the padded form with its lengths; order in and out is the packed one's.

        Sequences of one length have no padding: their steps lie in `data` as they are.
        """
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        if hx is not None or data.dtype == self.weights()[0].dtype:  # else torch's error differs
            self.check_input(data, batch_sizes)
        if hx is not None:
            if sorted_indices is not None:
                hx = (hx[0].index_select(1, sorted_indices), hx[1].index_select(1, sorted_indices))
            self._check_state(hx, int(batch_sizes[0]))
        T, B = batch_sizes.size(0), int(batch_sizes[0])
        x, lengths = data, None
        if int(batch_sizes[-1]) == B:
            x = data.view(T, B, *data.shape[1:])
        else:
            x, lengths = torch._VF._pad_packed_sequence(data, batch_sizes, False, 0.0, T)
        y, h_n, c_n = functional.lstm(
            x, hx, self.weights(), *self.stack_options()[:5], False, lengths=lengths
        )
        low = functional.autocast_dtype(data)
        if low is not None:  # torch's packed path leaves the state in its own precision
            kind = torch.promote_types(low, (data if hx is None else hx[0]).dtype)
            y, h_n, c_n = y.to(kind), h_n.to(kind), c_n.to(kind)
        if lengths is None:
            output = y.flatten(0, 1)
        else:
            output, _ = torch._VF._pack_padded_sequence(y, lengths, False)
        if unsorted_indices is not None:
            h_n, c_n = h_n.index_select(1, unsorted_indices), c_n.index_select(1, unsorted_indices)
        return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), (h_n, c_n)

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

    def _check_state(self, hx: State, batch: int) -> None:
        count = self.num_layers * (2 if self.bidirectional else 1)
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        for k in range(2):
            self.check_hidden_size(
                hx[k], (count, batch, sizes[k]), f"Expected hidden[{k}] size {{}}, got {{}}"
            )


@_disable_dynamo  # not torch.compiler.disable, which would import Dynamo with us
def _packed_outside(module: LSTM, packed: PackedSequence, hx: State | None) -> Any:
    """A packed batch breaks a graph in two: its shape stands in the values of batch_sizes."""
    return module._forward_packed(packed, hx)
