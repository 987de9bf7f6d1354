"""lstm and embedding_lstm stay within the error rule, values and gradients, ragged and uniform."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from isas import Samples
from strategies import batches, dtypes, laid_out, layouts, ragged, seeds, steps, widths
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fastchar import functional, reference

Results = tuple[Tensor, Tensor, Tensor]
Call = Callable[..., Results]


def torch_lstm(
    x: Tensor,
    hx: tuple[Tensor, Tensor],
    params: list[Tensor],
    *stack: Any,
    lengths: Tensor | None,
) -> Results:
    """torch.lstm; with lengths its packed form, over the sequences that are not empty."""
    if lengths is None:
        return torch.lstm(x, hx, params, *stack)
    *stack, batch_first = stack
    x = x.transpose(0, 1) if batch_first else x
    T, B, _ = x.shape
    some = lengths.nonzero()[:, 0]
    y = x.new_zeros(T, B, hx[0].shape[2] * (2 if stack[4] else 1))
    h, c = hx
    if len(some):
        packed = pack_padded_sequence(x[:, some], lengths[some], enforce_sorted=False)
        order = some[packed.sorted_indices]
        data, h_n, c_n = torch.lstm(
            packed.data, packed.batch_sizes, (h[:, order], c[:, order]), params, *stack
        )
        padded, _ = pad_packed_sequence(packed._replace(data=data), total_length=T)
        y, h, c = (
            y.index_copy(1, some, padded),
            h.index_copy(1, order, h_n),
            c.index_copy(1, order, c_n),
        )
    return (y.transpose(0, 1) if batch_first else y), h, c


def compare(
    samples: Samples,
    first: str,
    ours: Call,
    theirs: Call,
    exact: Call,
    tensors: list[Tensor],
    dtype: torch.dtype,
) -> None:
    """Adds the three results and the gradients to every tensor of a random weighting of them.

    The tensors are float32; ours runs in `dtype` on the same numbers. A kind of weight has one name
    in all layers and directions: of the last one's alone a sample has too few.
    """
    kinds = ["db" if p.dim() == 1 else ("dw_ih", "dw_hh")[k % 2] for k, p in enumerate(tensors[3:])]
    names = ["y", "h_n", "c_n", first, "dh0", "dc0", *kinds]
    weights: list[Tensor] = []

    def results(call: Call, kind: torch.dtype) -> list[Tensor]:
        leaves = [t.detach().to(kind).requires_grad_() for t in tensors]
        out = call(*leaves)
        if not weights:
            weights.extend(torch.randn(t.shape) for t in out)
        loss = sum((a * w.to(a.dtype)).sum() for a, w in zip(out, weights, strict=True))
        return [*out, *torch.autograd.grad(loss, leaves, materialize_grads=True)]

    true, his = results(exact, torch.float64), results(theirs, torch.float32)
    for isa, sample in samples.each():
        for name, *values in zip(names, results(ours, dtype), his, true, strict=True):
            sample.add(f"{isa} {name}", *values)


def random_params(E: int, H: int, L: int, bi: bool, bias: bool, g: torch.Generator) -> list[Tensor]:
    ways = 1 + bi
    shapes: list[tuple[int, ...]] = []
    for layer in range(L):
        one = [(4 * H, E if layer == 0 else H * ways), (4 * H, H)]
        shapes += (one + ([(4 * H,)] * 2 if bias else [])) * ways
    return [torch.randn(s, generator=g) * (E + H) ** -0.5 for s in shapes]


def padding(T: int, B: int, lengths: Tensor | None, batch_first: bool) -> Tensor:
    """Which steps are past an end, in the layout of the input."""
    past = torch.arange(T)[:, None] >= (torch.full((B,), T) if lengths is None else lengths)
    return past.t() if batch_first else past


@pytest.mark.usefixtures("poisoned")
def test_lstm() -> None:
    """Any layers, directions, biases, layouts and lengths; the padding of the input is NaN."""
    samples = Samples()

    @settings(max_examples=150)  # fewer, and two results over by luck are more than 2 %
    @given(
        T=steps, B=batches, E=widths, H=widths, L=st.sampled_from((1, 1, 2)), bi=st.booleans(),
        bias=st.booleans(), batch_first=st.booleans(), rag=st.booleans(), dtype=dtypes,
        layout=layouts, seed=seeds,
    )  # fmt: skip
    def run(T, B, E, H, L, bi, bias, batch_first, rag, dtype, layout, seed):  # type: ignore
        g = torch.Generator().manual_seed(seed)
        lengths = ragged(T, B, g) if rag else None
        params = random_params(E, H, L, bi, bias, g)
        x = torch.randn((B, T, E) if batch_first else (T, B, E), generator=g)
        hx = [torch.randn(L * (1 + bi), B, H, generator=g) for _ in range(2)]
        stack = (bias, L, 0.0, True, bi, batch_first)
        past = padding(T, B, lengths, batch_first)[..., None]

        def ours(x: Tensor, *rest: Tensor) -> Results:
            x = x.masked_fill(past, float("nan"))
            x, h, c, *weights = (laid_out(t, layout) for t in (x, *rest))
            return functional.lstm(x, (h, c), weights, *stack, lengths=lengths)

        def theirs(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Results:
            return torch_lstm(x, (h, c), list(weights), *stack, lengths=lengths)

        def exact(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Results:
            return reference.lstm(x, (h, c), list(weights), *stack, lengths=lengths)

        compare(samples, "dx", ours, theirs, exact, [x, *hx, *params], dtype)

    run()
    samples.check()


@pytest.mark.usefixtures("poisoned")
def test_embedding_lstm() -> None:
    """The fold, and with few tokens the plain way; the ids in the padding are absurd."""
    samples = Samples()

    @settings(max_examples=150)  # fewer, and two results over by luck are more than 2 %
    @given(
        T=steps, B=batches, V=st.sampled_from((1, 2, 31, 70)), E=widths, H=widths, bi=st.booleans(),
        batch_first=st.booleans(), rag=st.booleans(), pad=st.booleans(), dtype=dtypes,
        int32=st.booleans(), layout=layouts, seed=seeds,
    )  # fmt: skip
    def run(T, B, V, E, H, bi, batch_first, rag, pad, dtype, int32, layout, seed):  # type: ignore
        g = torch.Generator().manual_seed(seed)
        lengths = ragged(T, B, g) if rag else None
        params = random_params(E, H, 1, bi, True, g)
        table = torch.randn(V, E, generator=g)
        hx = [torch.randn(1 + bi, B, H, generator=g) for _ in range(2)]
        ids = torch.randint(V, (B, T) if batch_first else (T, B), generator=g)
        stack = (True, 1, 0.0, True, bi, batch_first)
        spoilt = ids.masked_fill(padding(T, B, lengths, batch_first), 10**9)
        padding_idx = V - 1 if pad else None

        def ours(*tensors: Tensor) -> Results:
            i = laid_out(spoilt.int() if int32 else spoilt, layout)
            table, h, c, *weights = (laid_out(t, layout) for t in tensors)
            return functional.embedding_lstm(
                i, table, (h, c), weights, *stack, padding_idx=padding_idx, lengths=lengths
            )

        def theirs(table: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Results:
            x = F.embedding(ids, table, padding_idx)
            return torch_lstm(x, (h, c), list(weights), *stack, lengths=lengths)

        def exact(table: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Results:
            return reference.embedding_lstm(
                ids, table, (h, c), weights, *stack, padding_idx=padding_idx, lengths=lengths
            )

        compare(samples, "dtable", ours, theirs, exact, [table, *hx, *params], dtype)

    run()
    samples.check()
