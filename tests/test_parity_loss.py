"""linear_cross_entropy stays within the error rule, and raises as torch does."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from error_rule import Sample
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dtypes, laid_out, layouts, seeds, widths
from torch import Tensor

from fastchar import functional, reference


def torch_loss(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """The two torch functions that ours stands for."""
    logits = F.linear(input, linear_weight, linear_bias)
    loss = F.cross_entropy(logits.flatten(0, -2), target.flatten(), **options)
    return loss.reshape(target.shape) if options["reduction"] == "none" else loss


@pytest.mark.usefixtures("poisoned")
def test_linear_cross_entropy(isa: str) -> None:
    """Every option; the loss and the gradient to input, weight and bias.

    Where inputs are large, one class has nearly all of most tokens' probability, and the errors are
    those of the few other tokens; where smoothing is all there is, gradients are small differences
    of probabilities. These results are pooled, however many elements they have.
    """
    sample, pooled = Sample(), Sample(few=float("inf"))

    @settings(max_examples=150)
    @given(
        shape=st.sampled_from(((1,), (5,), (7, 3), (67,), (2, 3, 4), (300,))),
        H=widths,
        V=st.sampled_from((2, 5, 31, 64, 129)),
        bias=st.booleans(),
        weighted=st.booleans(),
        ignore_index=st.sampled_from((-100, 0)),
        smoothing=st.sampled_from((0.0, 0.1, 1.0)),
        reduction=st.sampled_from(("none", "sum", "mean")),
        scale=st.sampled_from((1.0, 4.0)),
        dtype=dtypes,
        layout=layouts,
        seed=seeds,
    )
    def run(shape, H, V, bias, weighted, ignore_index, smoothing, reduction, scale, dtype,
            layout, seed):  # type: ignore  # fmt: skip
        g = torch.Generator().manual_seed(seed)
        target = torch.randint(V, shape, generator=g)
        target = torch.where(torch.rand(shape, generator=g) < 0.2, ignore_index, target)
        # One token always counts: the mean of none is NaN, which has its own test.
        target.view(-1)[0] = V - 1
        tensors = [
            torch.randn(*shape, H, generator=g) * scale,
            torch.randn(V, H, generator=g) * H**-0.5,
            torch.randn(V, generator=g),
        ][: 2 + bias]
        class_weight = torch.rand(V, generator=g) + 0.1 if weighted else None
        grad = torch.randn(shape if reduction == "none" else (), generator=g)

        def results(call: Any, dtype: torch.dtype, layout: str) -> list[Tensor]:
            leaves = [t.detach().to(dtype).requires_grad_() for t in tensors]
            x, w, *b = (laid_out(t, layout) for t in leaves)
            loss = call(
                x,
                w,
                laid_out(target, layout),
                linear_bias=b[0] if b else None,
                weight=None if class_weight is None else class_weight.to(dtype),
                ignore_index=ignore_index,
                label_smoothing=smoothing,
                reduction=reduction,
            )
            return [loss, *torch.autograd.grad(loss, leaves, grad.to(dtype))]

        names = ("loss", "dx", "dw", "db")
        exact = results(reference.linear_cross_entropy, torch.float64, "contiguous")
        ours = results(functional.linear_cross_entropy, dtype, layout)
        theirs = results(torch_loss, torch.float32, "contiguous")
        for name, a, b, c in zip(names, ours, theirs, exact, strict=False):
            if scale == 1 and smoothing < 1:
                sample.add(name, a, b, c)
            else:
                pooled.add(f"{name} in {dtype}, smoothing {smoothing}", a, b, c)

    run()
    sample.check()
    pooled.check()


@pytest.mark.native
@pytest.mark.parametrize("V", [129, 1000])
def test_uniform_targets_of_equal_logits_are_right(V: int, isa: str) -> None:
    """Smoothing of 1 asks for 1/V each: where each has it, the float64 gradient is a rounding."""
    b = torch.zeros(V, dtype=torch.float64, requires_grad=True)
    x, w = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(V, 3, dtype=torch.float64)
    loss = functional.linear_cross_entropy(
        x, w, torch.zeros(1, dtype=torch.int64), linear_bias=b, label_smoothing=1.0
    )
    assert torch.autograd.grad(loss, b)[0].abs().max() <= 2 * torch.finfo(b.dtype).eps / V


def test_one_class_costs_nothing() -> None:
    """With V = 1 the loss is 0, and the gradients are, to a rounding of the probability 1."""
    x, w = torch.randn(6, 3, requires_grad=True), torch.randn(1, 3, requires_grad=True)
    loss = functional.linear_cross_entropy(x, w, torch.zeros(6, dtype=torch.int64))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    for grad in torch.autograd.grad(loss, (x, w)):
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_no_input_columns_leave_the_bias(reduction: str, isa: str) -> None:
    """With H = 0 the logits are the bias, whose gradient is torch's."""
    x, w = torch.randn(6, 0, requires_grad=True), torch.randn(5, 0, requires_grad=True)
    b, target = torch.randn(5, requires_grad=True), torch.tensor([0, 4, -100, 1, 1, 3])
    ours = functional.linear_cross_entropy(x, w, target, linear_bias=b, reduction=reduction)
    theirs = F.cross_entropy(x @ w.t() + b, target, reduction=reduction)
    torch.testing.assert_close(ours, theirs)
    for i, j in zip(
        *(torch.autograd.grad(t.sum(), (x, w, b)) for t in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(i, j)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_nothing_to_count_is_torchs(reduction: str) -> None:
    """All tokens ignored, and no tokens: the loss and gradients torch gives, NaN included."""
    for target in (torch.full((4,), -100), torch.empty(0, dtype=torch.int64)):
        x = torch.randn(len(target), 3, requires_grad=True)
        w = torch.randn(5, 3, requires_grad=True)
        results = []
        for call in (functional.linear_cross_entropy, torch_loss):
            loss = call(x, w, target, reduction=reduction)
            results.append([loss, *torch.autograd.grad(loss.sum(), (x, w))])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_kept_graph_gives_its_gradients_again(reduction: str) -> None:
    """Whatever was done to the first ones, which were made in the forward."""
    x, weight = torch.randn(6, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    loss = functional.linear_cross_entropy(x, weight, torch.arange(6) % 5, reduction=reduction)
    first = torch.autograd.grad(loss, (x, weight), retain_graph=True)
    expected = [g.clone() for g in first]
    for g in first:
        g.zero_()
    for g, e in zip(torch.autograd.grad(loss, (x, weight)), expected, strict=True):
        assert torch.equal(g, e)


def test_class_probabilities_are_torchs() -> None:
    """A floating point target is a distribution over classes."""
    x, w = torch.randn(4, 3), torch.randn(5, 3)
    target = torch.rand(4, 5).softmax(1)
    ours = functional.linear_cross_entropy(x, w, target)
    torch.testing.assert_close(ours, F.cross_entropy(x @ w.t(), target))


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (torch.tensor([0, 5]), {}),
        (torch.tensor([0, -1]), {}),
        (torch.tensor([0, 1]), {"reduction": "average"}),
        (torch.tensor([0, 1]), {"label_smoothing": 1.5}),
        (torch.tensor([0, 1, 2]), {}),
    ],
)
def test_wrong_input_raises_as_torch(target: Tensor, options: dict[str, Any]) -> None:
    """Same exception type."""
    x, w = torch.randn(2, 3), torch.randn(5, 3)
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        torch_loss(x, w, target, **{"reduction": "mean", **options})
    with pytest.raises(theirs.type):
        functional.linear_cross_entropy(x, w, target, **options)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_turned_target_is_an_error(reduction: str) -> None:
    """As many tokens as the input has, in another order."""
    x, w, target = torch.randn(5, 3, 4), torch.randn(7, 4), torch.randint(7, (3, 5))
    with pytest.raises(ValueError, match=r"batch_size \(5, 3\) .* batch_size \(3, 5\)"):
        functional.linear_cross_entropy(x, w, target, reduction=reduction)
