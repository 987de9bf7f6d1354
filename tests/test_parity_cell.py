"""lstm_cell stays within the error rule, and raises as torch does."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from isas import Samples
from strategies import batches, dtypes, laid_out, layouts, seeds, widths
from torch import Tensor, nn

import fastchar
from fastchar import functional, reference


@pytest.mark.usefixtures("poisoned")
def test_lstm_cell() -> None:
    """Both results and the gradient to every argument, from either result or both.

    From 32 rows on the weights are packed, backward 1024 of their 4H rows at a time. Weights are of
    the size that modules start with: with larger ones almost every gate is saturated, a result's
    error is that of the one or two elements that are not, and the ratio of two such is luck
    (`test_saturated_gates` has the pools of them).
    """
    samples = Samples()

    @settings(max_examples=150)
    @given(
        B=st.one_of(st.sampled_from((0, 32, 33, 150)), batches), E=widths,
        H=st.one_of(widths, st.just(290)), bias=st.booleans(),
        use=st.sampled_from(("h", "c", "hc")), dtype=dtypes, layout=layouts, seed=seeds,
    )  # fmt: skip
    def run(B, E, H, bias, use, dtype, layout, seed):  # type: ignore
        scale = (E + H) ** -0.5
        compare(samples, B, E, H, bias, use, dtype, layout, seed, scale)

    run()
    samples.check()


def test_saturated_gates() -> None:
    """With weights ten times as large as modules start with, errors pooled over 60 steps."""
    samples = Samples()
    for seed in range(60):
        compare(samples, 5, 12, 12, True, "hc", torch.float32, "contiguous", seed, 2)
    samples.check()


def compare(
    samples: Samples, B: int, E: int, H: int, bias: bool, use: str, dtype: torch.dtype,
    layout: str, seed: int, scale: float,
) -> None:  # fmt: skip
    """Adds a step's results in `use`, and its gradients."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(B, E), (B, H), (B, H), (4 * H, E), (4 * H, H), *([(4 * H,)] * 2 * bias)]
    tensors = [torch.randn(s, generator=g) for s in shapes]
    tensors[3:] = [t * scale for t in tensors[3:]]
    grads = [torch.randn(B, H, generator=g) for _ in use]

    def results(call: Any, dtype: torch.dtype, layout: str) -> list[Tensor]:
        leaves = [t.detach().to(dtype).requires_grad_() for t in tensors]
        x, h, c, *weights = (laid_out(t, layout) for t in leaves)
        out = dict(zip("hc", call(x, (h, c), *weights), strict=True))
        out = [out[name] for name in use]
        grad = torch.autograd.grad(out, leaves, [a.to(dtype) for a in grads], allow_unused=True)
        return [*out, *grad]

    exact = results(reference.lstm_cell, torch.float64, "contiguous")
    theirs = results(torch.lstm_cell, torch.float32, "contiguous")
    names = [*use, "dx", "dh", "dc", "dw_ih", "dw_hh", "db_ih", "db_hh"]
    for isa, sample in samples.each():
        ours = results(functional.lstm_cell, dtype, layout)
        for name, *values in zip(names, ours, theirs, exact, strict=False):
            sample.add(f"{isa} {name}", *values)


@pytest.mark.native
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("B", [2, 6, 33])
def test_no_hidden_units_give_the_input_no_gradient(B: int, isa: str) -> None:
    """With H = 0 the gradient of x is a sum of nothing."""
    none, w_ih, w_hh = torch.empty(B, 0), torch.empty(0, 5), torch.empty(0, 0)
    call = torch.ops.fastchar.lstm_step_backward
    grad_x = call(None, None, none, none, w_ih, w_hh, True, True)[1]
    assert torch.equal(grad_x, torch.zeros(B, 5))


@pytest.mark.parametrize(
    "arguments",
    [
        ((2, 5), (2, 4), (2, 4)),
        ((2, 3), (2, 5), (2, 4)),
        ((2, 3), (3, 4), (3, 4)),
        ((2, 3), (2, 4), (2, 5)),
    ],
)
def test_wrong_shapes_raise_as_torch(arguments: tuple[tuple[int, int], ...]) -> None:
    """Same exception type, same message."""
    x, h, c = (torch.randn(s) for s in arguments)
    weights = [torch.randn(s) for s in ((16, 3), (16, 4), (16,), (16,))]
    with pytest.raises(RuntimeError) as theirs:
        torch.lstm_cell(x, (h, c), *weights)
    with pytest.raises(RuntimeError) as ours:
        functional.lstm_cell(x, (h, c), *weights)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("x", "state"),
    [
        ((2, 3, 1), None),
        ((), None),
        ((2, 5), None),
        ((5,), None),
        ((2, 3), (2, 1, 4)),
        ((2, 3), (3, 4)),
        ((2, 3), (2, 5)),
        ((2, 3), (4,)),
        ((3,), (1, 4)),
        ((3,), (5,)),
    ],
)
def test_the_modules_errors_are_torchs(x: tuple[int, ...], state: tuple[int, ...] | None) -> None:
    """Same exception type and message for wrong dimensions and sizes of input and state."""
    hx = None if state is None else (torch.randn(state), torch.randn(state))
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        nn.LSTMCell(3, 4)(torch.randn(x), hx)
    with pytest.raises(theirs.type) as ours:
        fastchar.LSTMCell(3, 4)(torch.randn(x), hx)
    assert str(ours.value) == str(theirs.value)
