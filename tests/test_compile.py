"""torch.compile(fullgraph=True), dynamic sizes, meta and fake tensors."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.aot_autograd import aot_module_simplified, make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import fastchar
from fastchar import functional

# What Inductor and AOTInductor look for first.
CXX = any(shutil.which(name) for name in ("g++", "clang++", "c++"))


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
def test_compiled_projections_follow_size_and_precision() -> None:
    """Many rows in full precision go to the kernel, others to torch's product, each compiled once;
    an exported product takes any number of rows."""
    before = torch.get_float32_matmul_precision()
    counter = CompileCounterWithBackend("aot_eager")

    def native(x: Tensor, w: Tensor) -> Tensor:
        return functional.linear(x, w).sin()

    compiled = torch.compile(native, fullgraph=True, dynamic=True, backend=counter)
    w = torch.randn(256, 128)
    many, few = torch.randn(40, 10, 128), torch.randn(2, 10, 128)
    other_many = torch.randn(60, 7, 128)
    torch._dynamo.reset()
    try:
        frames = []
        for x, precision in (
            (many, "highest"), (other_many, "highest"), (few, "highest"),
            (many, "high"), (other_many, "high"), (many, "highest"),
        ):  # fmt: skip
            torch.set_float32_matmul_precision(precision)
            assert torch.equal(compiled(x, w), native(x, w))
            frames.append(counter.frame_count)
    finally:
        torch.set_float32_matmul_precision(before)
    assert frames == [1, 1, 2, 3, 3, 3]
    names = [
        {node.name for node in graph.graph.nodes if "fastchar" in str(node.target)}
        for graph in counter.graphs
    ]
    assert [bool(found) for found in names] == [True, False, False]

    class Product(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, w)

    dims = {"x": {0: torch.export.Dim("T"), 1: torch.export.Dim("B")}}
    program = torch.export.export(Product(), (many,), dynamic_shapes=dims).module()
    for x in (many, few):
        torch.testing.assert_close(program(x), x @ w.t())


@pytest.mark.native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("need_x", [True, False])
def test_compiled_ragged_batches(bias: bool, need_x: bool) -> None:
    """Any lengths through one graph: results and gradients of eager, NaN in the padding or not."""
    model = fastchar.LSTM(6, 8, 2, bidirectional=True, bias=bias, dtype=torch.float64)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for lengths in ([7, 1, 4, 2], [7, 7, 7, 7], [0, 0, 0, 0], [1, 0, 7, 6]):
        n = torch.tensor(lengths)
        x = torch.randn(7, 4, 6, dtype=torch.float64)
        x[torch.arange(7).unsqueeze(1) >= n] = float("nan")
        x.requires_grad_(need_x)
        inputs = [*model.parameters(), *([x] if need_x else [])]
        ends = []
        for call in (compiled, model):
            y, (h, c) = call(x, lengths=n)
            loss = (y.square().sum() + h.sum() * 2 + c.sin().sum()) / 3
            ends.append([y, h, c, *torch.autograd.grad(loss, inputs)])
        for a, b in zip(*ends, strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


class Encoder(nn.Module):
    """The folded LSTM and, on its output, the plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.folded = fastchar.EmbeddingLSTM(11, 6, 8, bidirectional=True)
        self.lstm = fastchar.LSTM(16, 8)

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, _ = self.folded(ids, lengths=lengths)
        z, (h, c) = self.lstm(y)
        return z, h, c


def batch(T: int, B: int) -> tuple[Tensor, Tensor]:
    return torch.randint(11, (T, B)), torch.randint(1, T + 1, (B,))


@pytest.mark.native
@pytest.mark.skipif(not CXX, reason="no C++ compiler")
def test_the_default_compiler_trains() -> None:
    """Optimizer steps of the graph that Inductor makes end where those of eager do."""
    ids = torch.randint(11, (7, 5))
    ends = []
    for compiled in (False, True):
        torch.manual_seed(1)
        model = fastchar.EmbeddingLSTM(11, 6, 8)
        call = torch.compile(model, fullgraph=True) if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            call(ids)[0].square().sum().backward()
            optimizer.step()
        ends.append([p.detach() for p in model.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b)


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


@pytest.mark.native
def test_packed_batches_break_a_graph_and_run() -> None:
    """As with nn.LSTM: without fullgraph, what packs, runs and unpacks gives what eager gives."""

    class Packing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = fastchar.LSTM(6, 8, 2)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
            y: Tensor = pad_packed_sequence(self.lstm(packed)[0])[0]
            return y

    model = Packing()
    compiled = torch.compile(model, backend="aot_eager")
    for lengths in (torch.tensor([5, 1, 3]), torch.tensor([2, 5, 5])):
        x = torch.randn(5, 3, 6)
        ends = []
        for call in (compiled, model):
            y = call(x, lengths)
            ends.append([y, *torch.autograd.grad(y.sin().sum(), list(model.parameters()))])
        for a, b in zip(*ends, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("lengths", [False, True])
def test_fake_tensors_go_through_eager(lengths: bool) -> None:
    """Lengths too: fake ones have no values to check."""
    with FakeTensorMode():
        n = torch.tensor([1, 2, 3]) if lengths else None
        y, (h, _) = fastchar.LSTM(4, 6, 2)(torch.randn(5, 3, 4), lengths=n)
        z, _ = fastchar.EmbeddingLSTM(7, 4, 6)(torch.randint(7, (5, 3)), lengths=n)
        z.sum().backward()
    assert (y.shape, h.shape, z.shape) == ((5, 3, 6), (2, 3, 6), (5, 3, 6))


@pytest.mark.native
@pytest.mark.parametrize("ragged", [False, True])
def test_dimensions_marked_as_dynamic(ragged: bool) -> None:
    """mark_dynamic on T and B holds: our code fixes neither, so one graph serves from the start."""
    counter = CompileCounterWithBackend("aot_eager")
    model = Tagger()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for T, B in ((7, 5), (9, 6), (3, 40)):
        ids, lengths = batch(T, B)
        given = (ids, lengths) if ragged else (ids,)
        for tensor in given:
            for dim in range(tensor.dim()):
                torch._dynamo.mark_dynamic(tensor, dim)
        torch.testing.assert_close(compiled(*given), model(*given), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.native
def test_exported_ids_may_be_fewer_than_symbols() -> None:
    """Whether the table is folded is decided in the op, not for all sizes by the example's."""
    model = fastchar.EmbeddingLSTM(11, 4, 6).eval()
    sizes = {0: torch.export.Dim("T", min=2, max=64), 1: torch.export.Dim("B", min=2, max=64)}
    ids = torch.randint(11, (7, 5))
    program = torch.export.export(model, (ids,), dynamic_shapes=(sizes,)).module()
    for some in (ids, ids[:2, :3]):
        torch.testing.assert_close(program(some), model(some))


def test_transforms_and_checkpoints_inside_a_graph() -> None:
    """func.grad, vmap, jvp, checkpoint and autocast within what is compiled, as in eager."""
    lstm = fastchar.LSTM(4, 6)
    weights = {k: p.detach() for k, p in lstm.named_parameters()}
    x = torch.randn(5, 3, 4)

    def loss(weights: Any, x: Tensor) -> Tensor:
        return torch.func.functional_call(lstm, weights, (x,))[0].square().sum()

    def autocast(x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return lstm(x)

    for call, args in (
        (torch.func.grad(loss), (weights, x)),
        (torch.func.vmap(lambda x: lstm(x.unsqueeze(1))[0], 1), (x,)),
        (lambda x: torch.func.jvp(lambda x: lstm(x)[0], (x,), (x,)), (x,)),
        (lambda x: checkpoint(lambda x: lstm(x)[0], x, use_reentrant=False), (x,)),
        (autocast, (x,)),
    ):
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), call(*args))


def test_more_modules_in_whole_graphs() -> None:
    """State given, dropout off and on, projections, computed weights, options of lookups, and a
    user's accelerated subclass: none breaks a graph."""

    class Scaled(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return 2 * super().forward(ids)

    x, ids, state = torch.randn(5, 3, 4), torch.randint(7, (5, 3)), torch.randn(2, 1, 3, 6)
    normed = nn.utils.parametrizations.weight_norm(fastchar.LSTM(4, 6), "weight_hh_l0")
    for module, args, kwargs in (
        (fastchar.LSTM(4, 6), (x, tuple(state)), {}),
        (fastchar.LSTM(4, 6, 2, dropout=0.5).eval(), (x,), {}),
        (fastchar.LSTM(4, 6, proj_size=2), (x,), {}),
        (fastchar.LSTM(4, 6, proj_size=2), (x,), {"lengths": torch.tensor([5, 0, 2])}),
        (normed, (x,), {}),
        (fastchar.Embedding(7, 4, max_norm=0.5), (ids,), {}),
        (fastchar.Embedding(7, 4, padding_idx=0, scale_grad_by_freq=True), (ids,), {}),
        (fastchar.accelerate(Scaled(7, 4)), (ids,), {}),
    ):
        torch._dynamo.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        ends = []
        for call in (compiled, module):
            out = torch.utils._pytree.tree_leaves(call(*args, **kwargs))
            total = sum(t.square().sum() for t in out)
            ends.append([*out, *torch.autograd.grad(total, list(module.parameters()))])
        for a, b in zip(*ends, strict=True):
            torch.testing.assert_close(a, b)
    backend = "inductor" if CXX else "aot_eager"
    dropped = torch.compile(fastchar.LSTM(4, 6, 2, dropout=0.5), fullgraph=True, backend=backend)
    assert not torch.equal(dropped(x)[0], dropped(x)[0])


@pytest.mark.native
def test_graphs_call_the_plain_ops() -> None:
    """Past autograd nothing calls its formulas, which are Python: every op that a compiler is left
    with, forward and backward, is the overload without one."""
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        def compiler(graph: torch.fx.GraphModule, inputs: Any) -> Any:
            seen.extend(str(node.target) for node in graph.graph.nodes)
            return make_boxed_func(graph.forward)

        return aot_module_simplified(graph, inputs, fw_compiler=compiler, bw_compiler=compiler)

    model = Tagger()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    ids = torch.randint(11, (7, 5))
    compiled(ids, torch.tensor([7, 1, 4, 2, 7])).backward()
    compiled(ids).backward()
    ours = [name for name in seen if name.startswith("fastchar.")]
    assert len(ours) > 12
    assert all(name.endswith(".plain") for name in ours), ours


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = fastchar.LSTMCell(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[1], 6)
        for step in x:
            h, c = self.cell(step, (h, c))
        return h


@pytest.mark.native
@pytest.mark.skipif(not CXX, reason="no C++ compiler")
@pytest.mark.parametrize("make", [lambda: fastchar.LSTM(4, 6), Loop], ids=["LSTM", "LSTMCell"])
def test_compiled_autograd(make: Callable[[], nn.Module]) -> None:
    """Compiled autograd over eager modules: two backwards add up to twice the gradients of one."""
    module, x = make(), torch.randn(2, 3, 4)  # of more steps Loop's graph takes seconds
    parameters = list(module.parameters())

    def loss() -> Tensor:
        first: Tensor = torch.utils._pytree.tree_leaves(module(x))[0]
        return first.square().sum()

    expected = torch.autograd.grad(loss(), parameters)
    with torch._dynamo.compiled_autograd._enable(torch.compile):
        loss().backward()
        loss().backward()
    for p, grad in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, 2 * grad)


class Dropped(nn.Module):
    """Ids [B,T] to embedded symbols [T,B,E], as of encoders that take batches first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = fastchar.Embedding(9, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.dropout(self.embedding(ids), 0.3).transpose(0, 1).tanh()


def test_strides_that_a_graph_did_not_foretell() -> None:
    """Of torch's dropout the fake backward is contiguous and the real one lies as the gradient
    does: a compiler that trusts the fake hands our ops what it took for contiguous."""
    model, ids, grads = Dropped(), torch.randint(9, (3, 5)), []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)
        grads += torch.autograd.grad(run(ids).square().sum(), list(model.parameters()))
    torch.testing.assert_close(*grads)
