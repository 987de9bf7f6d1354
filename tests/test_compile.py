"""torch.compile(fullgraph=True), dynamic sizes, torch.export, meta and fake tensors."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import fastchar
from fastchar import functional


class Tagger(nn.Module):
    """One of each: embedding, LSTM, folded LSTM, cell and loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = fastchar.Embedding(11, 6, padding_idx=0)
        self.lstm = fastchar.LSTM(6, 8, 2, bidirectional=True)
        self.folded = fastchar.EmbeddingLSTM(11, 6, 16)
        self.cell = fastchar.LSTMCell(16, 16)
        self.head = nn.Linear(16, 11)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        x, _ = self.lstm(self.embedding(ids), lengths=lengths)
        y, (h, c) = self.folded(ids, lengths=lengths)
        h, c = self.cell(h[0], (h[0], c[0]))
        return functional.linear_cross_entropy(
            x + y + h * c, self.head.weight, ids, linear_bias=self.head.bias, ignore_index=0
        )


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def step(call: Any, model: nn.Module, *inputs: Any) -> list[Tensor]:
    loss = call(*inputs)
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("ragged", [False, True])
def test_fullgraph_trains(ragged: bool) -> None:
    """No graph break; loss and gradients are those of eager."""
    model = Tagger()
    ids = torch.randint(11, (7, 5))
    lengths = torch.tensor([7, 1, 4, 2, 7]) if ragged else None
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    eager = step(model, model, ids, lengths)
    for a, b in zip(step(compiled, model, ids, lengths), eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.native
def test_new_sizes_do_not_recompile() -> None:
    """A second size makes the graph dynamic; after that T and B may be anything above 1."""
    counter = CompileCounterWithBackend("aot_eager")
    model = Tagger()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for T, B in ((7, 5), (9, 6), (5, 3), (12, 8), (30, 2), (4, 40)):
        ids = torch.randint(11, (T, B))
        torch.testing.assert_close(compiled(ids), model(ids), rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= 3


@pytest.mark.native
def test_export_round_trip() -> None:
    """torch.export with dynamic T and B gives a program that runs at other sizes."""
    model = fastchar.EmbeddingLSTM(11, 6, 16, 2, bidirectional=True).eval()
    ids = torch.randint(11, (7, 5))
    dims = {0: torch.export.Dim("T", min=3, max=500), 1: torch.export.Dim("B", min=4, max=500)}
    program = torch.export.export(model, (ids,), dynamic_shapes={"ids": dims})
    other = torch.randint(11, (13, 4))
    torch.testing.assert_close(program.module()(other), model(other))


@pytest.mark.native
@pytest.mark.parametrize("batch_first", [False, True])
def test_meta_and_fake_match_real(batch_first: bool) -> None:
    """Shapes, strides and dtypes on meta and under FakeTensor are those of a real run."""
    shape = (3, 5, 4) if batch_first else (5, 3, 4)
    for dtype in (torch.float32, torch.bfloat16):
        options = {"bidirectional": True, "batch_first": batch_first, "dtype": dtype}
        y, (h, c) = fastchar.LSTM(4, 6, 2, **options)(torch.randn(shape, dtype=dtype))
        meta = fastchar.LSTM(4, 6, 2, device="meta", **options)
        my, (mh, mc) = meta(torch.empty(shape, dtype=dtype, device="meta"))
        with FakeTensorMode():
            fy, (fh, fc) = fastchar.LSTM(4, 6, 2, **options)(torch.randn(shape, dtype=dtype))
        for real, *others in zip((y, h, c), (my, mh, mc), (fy, fh, fc), strict=True):
            for other in others:
                assert (real.shape, real.stride(), real.dtype) == (
                    other.shape,
                    other.stride(),
                    other.dtype,
                )
