"""The product of many rows with a weight, and its gradients, stay within the error rule."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from error_rule import Sample
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import seeds
from torch import Tensor

from fastchar import functional

rows = st.sampled_from((0, 1, 5, 6, 7, 63, 64, 65, 131, 300, 2100))
sizes = st.sampled_from((1, 15, 16, 17, 40, 64, 65, 130, 257, 520))
Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, 64 products of an element at a time. What a BLAS sums in one row of 2100 has, in
    float64, four times the error that it is to judge."""
    parts = zip(a.split(64, 1), b.split(64, 0), strict=True)
    return torch.stack([p @ q for p, q in parts]).sum(0)


@pytest.mark.native
@pytest.mark.usefixtures("poisoned")
def test_linear(isa: str) -> None:
    """Output and every gradient of the op, whatever the sizes: also those left to torch."""
    from fastchar import ops

    sample = Sample()

    # More rows, and more columns, than the weight's gradient is summed over at a time.
    @example(M=2100, N=17, K=520, bias=True, dtype=torch.float32, seed=0)
    @settings(max_examples=60)
    @given(
        M=rows, N=sizes, K=st.one_of(st.just(0), sizes), bias=st.booleans(),
        dtype=st.sampled_from((torch.float32, torch.float32, torch.float64)), seed=seeds,
    )  # fmt: skip
    def run(M, N, K, bias, dtype, seed):  # type: ignore
        g = torch.Generator().manual_seed(seed)
        shapes = [(M, K), (N, K), *([(N,)] * bias)]
        tensors = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
        grad = torch.randn(M, N, generator=g, dtype=torch.float64)

        def results(call: Call, dtype: torch.dtype) -> list[Tensor]:
            leaves = [t.to(dtype).requires_grad_() for t in tensors]
            out = call(*leaves, *([None] * (not bias)))
            return [out, *torch.autograd.grad(out, leaves, grad.to(dtype))]

        x, w, *b = tensors
        exact = [product(x, w.t()) + (b[0] if bias else 0), product(grad, w), product(grad.t(), x)]
        exact += [grad.sum(0)] * bias
        ours, theirs = results(ops.linear, dtype), results(F.linear, torch.float32)
        for name, a, b, c in zip(("y", "dx", "dw", "db"), ours, theirs, exact, strict=False):
            sample.add(name, a, b, c)

    run()
    sample.check()


@pytest.mark.native
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("need_bias", [False, True])
@pytest.mark.parametrize(
    "parts",
    [(1,) * 300, (0, 5, 0, 0, 130, 127, 1, 0), (128, 256, 128), (3000,), (7,) * 400, (0, 0)],
)
def test_rows_in_parts(isa: str, parts: tuple[int, ...], need_bias: bool) -> None:
    """The steps of a loop leave their rows where they are: the bits of the same rows together."""
    from fastchar import ops  # noqa: F401  registers the ops

    torch.manual_seed(0)
    for N, K in ((68, 33), (260, 520)):
        grad, input = torch.randn(sum(parts), N), torch.randn(sum(parts), K)
        found = torch.ops.fastchar.lstm_step_weight_grad(
            [rows.clone() for rows in grad.split(parts)],
            [rows.clone() for rows in input.split(parts)],
            need_bias,
        )
        # As in a compiled graph that was told other strides.
        strided = torch.ops.fastchar.lstm_step_weight_grad(
            grad.t().contiguous().t().split(parts),
            input.t().contiguous().t().split(parts),
            need_bias,
        )
        together = torch.ops.fastchar.linear_weight_grad(grad, input, need_bias)
        for a, b, c in zip(found, strided, together, strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, c)


@pytest.mark.native
def test_parts_that_do_not_fit() -> None:
    """Each names the argument, what was expected and what came."""
    from fastchar import ops  # noqa: F401  registers the ops

    op, x = torch.ops.fastchar.lstm_step_weight_grad, torch.zeros
    for grad, input, message in (
        ([], [x(2, 4)], "'grad_gates': expected at least one tensor, got none"),
        ([x(2, 8)], [], "'input': expected as many tensors as in 'grad_gates', got 0"),
        ([x(2, 8)], [x(3, 4)], r"'input': expected shape \[2, 4\], got \[3, 4\]"),
        ([x(2, 8), x(2, 4)], [x(2, 4)] * 2, r"'grad_gates': expected shape \[\*, 8\], got"),
        ([x(2, 8)] * 2, [x(2, 4), x(2, 4).double()], "'input': expected Float, got Double"),
    ):
        with pytest.raises(RuntimeError, match=message):
            op(grad, input, True)


def test_only_what_is_asked_for() -> None:
    """Gradients of some arguments alone, of expanded upstream gradients, and second ones."""
    x, w, b = (torch.randn(s, dtype=torch.float64) for s in ((4, 100, 160), (96, 160), (96,)))
    for needs in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1)):
        found = []
        for call in (functional.linear, F.linear):
            leaves = [
                t.clone().requires_grad_(bool(n)) for t, n in zip((x, w, b), needs, strict=True)
            ]
            asked = [leaf for leaf in leaves if leaf.requires_grad]
            first = torch.autograd.grad(call(*leaves).sum(), asked)
            again = torch.autograd.grad(call(*leaves).square().sum(), asked, create_graph=True)
            sum(g.square().sum() for g in again).backward()
            found.append([*first, *(leaf.grad for leaf in asked)])
        torch.testing.assert_close(*found)


@pytest.mark.native
def test_who_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows run on the kernel; few, low precision, and what torch would refuse on torch."""
    from fastchar import ops

    seen = []
    monkeypatch.setattr(ops, "linear", lambda *args: seen.append(args) or F.linear(*args))
    x, w = torch.randn(3, 100, 160), torch.randn(96, 160)
    assert functional.linear(x, w).shape == (3, 100, 96)
    assert len(seen) == 1
    functional.linear(x[:1, :20], w)
    functional.linear(x.bfloat16(), w.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.linear(x, w).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        functional.linear(x, w[:, 1:])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        functional.linear(x, w)
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(seen) == 1
