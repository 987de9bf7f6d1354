"""Gradients: gradcheck, second order, subsets, and what functorch and forward mode get."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck
from torch.func import functional_call, jvp, vmap

import fastchar
from fastchar import functional

pytestmark = pytest.mark.usefixtures("by_kernels")
D = torch.float64
T, B, E, H, V = 4, 3, 2, 3, 5
IDS = torch.randint(V, (T, B), generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 4, -100, 2])
LENGTHS = torch.tensor([2, 0, 4])


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(s, dtype=D, requires_grad=True) for s in shapes]


def weights(bi: bool) -> list[tuple[int, ...]]:
    return [(4 * H, E), (4 * H, H), (4 * H,), (4 * H,)] * (1 + bi)


def lstm(bi: bool, lengths: Tensor | None) -> tuple[Any, list[Tensor]]:
    def call(x: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> Any:
        return functional.lstm(x, (h, c), params, True, 1, 0.0, True, bi, False, lengths=lengths)

    return call, leaves((T, B, E), (1 + bi, B, H), (1 + bi, B, H), *weights(bi))


def embedding_lstm(lengths: Tensor | None) -> tuple[Any, list[Tensor]]:
    def call(table: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> Any:
        return functional.embedding_lstm(
            IDS, table, (h, c), params, True, 1, 0.0, True, False, False, lengths=lengths
        )

    return call, leaves((V, E), (1, B, H), (1, B, H), *weights(False))


def embedding(**options: Any) -> tuple[Any, list[Tensor]]:
    return (lambda weight: functional.embedding(IDS, weight, **options)), leaves((V, E))


def cell() -> tuple[Any, list[Tensor]]:
    def call(x: Tensor, h: Tensor, c: Tensor, *params: Tensor) -> Any:
        return functional.lstm_cell(x, (h, c), *params)

    return call, leaves((B, E), (B, H), (B, H), *weights(False))


def loss(reduction: str) -> tuple[Any, list[Tensor]]:
    def call(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return functional.linear_cross_entropy(
            x, w, TARGET, linear_bias=b, reduction=reduction, label_smoothing=0.1
        )

    return call, leaves((4, H), (V, H), (V,))


CASES = {
    "lstm": lambda: lstm(False, None),
    "lstm_bidirectional_ragged": lambda: lstm(True, LENGTHS),
    "embedding_lstm": lambda: embedding_lstm(None),
    "embedding_lstm_ragged": lambda: embedding_lstm(LENGTHS),
    "embedding": lambda: embedding(),
    "embedding_by_freq": lambda: embedding(scale_grad_by_freq=True),
    "lstm_cell": cell,
    "loss_mean": lambda: loss("mean"),
    "loss_none": lambda: loss("none"),
}
cases = pytest.mark.parametrize("case", CASES)
# scale_grad_by_freq gives another gradient than the function's own, by definition.
smooth = pytest.mark.parametrize("case", [name for name in CASES if "freq" not in name])


@smooth
def test_gradcheck(case: str) -> None:
    """Against finite differences, every output to every input; in batches of gradients too."""
    call, inputs = CASES[case]()
    assert gradcheck(call, inputs, fast_mode=True, check_batched_grad=True)


@smooth
def test_second_order(case: str) -> None:
    """Double backward is right for every input and for the incoming gradients."""
    call, inputs = CASES[case]()
    assert gradgradcheck(call, inputs, fast_mode=True, check_batched_grad=True)


@cases
def test_gradient_penalty_trains(case: str) -> None:
    """A loss on the norm of a gradient reaches the parameters as through torch's own modules."""
    call, inputs = CASES[case]()

    def penalty(call: Any) -> tuple[Tensor, ...]:
        out = call(*inputs)
        out = out if isinstance(out, tuple) else (out,)
        first = grad(sum(o.square().sum() for o in out), inputs[:1], create_graph=True)
        return grad(first[0].square().sum(), inputs, materialize_grads=True)

    plain = {
        "embedding": lambda w: F.embedding(IDS, w),
        "embedding_by_freq": lambda w: F.embedding(IDS, w),
        "lstm": lambda x, h, c, *p: torch.lstm(x, (h, c), p, True, 1, 0.0, True, False, False),
        "lstm_cell": lambda x, h, c, *p: torch.lstm_cell(x, (h, c), *p),
    }.get(case)
    ours = penalty(call)
    assert all(g.isfinite().all() for g in ours)
    if plain and "freq" not in case:
        for a, b in zip(ours, penalty(plain), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("form", ["rows", "ids", "few ids"])
def test_second_order_of_what_stands_in_the_padding(
    form: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN there, and ids of no row, change nothing; with fewer ids than symbols neither."""
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    symbols = V if form == "ids" else 3 * T * B
    table, *params = leaves((symbols, E), *weights(False))
    options = (None, params, True, 1, 0.0, True, False, False)
    padding = torch.arange(T).unsqueeze(1) >= LENGTHS
    penalties = []
    for wild in (False, True):
        inputs = params if form == "rows" else [table, *params]
        if form == "rows":
            x = table[IDS].detach().masked_fill(padding.unsqueeze(2), torch.nan if wild else 0)
            out = functional.lstm(x, *options, lengths=LENGTHS)
        else:
            ids = IDS.masked_fill(padding, 10**9 if wild else 0)
            out = functional.embedding_lstm(ids, table, *options, lengths=LENGTHS)
        first = grad(sum(o.square().sum() for o in out), inputs, create_graph=True)
        penalties.append((*first, *grad(sum(g.square().sum() for g in first), inputs)))
    for plain, found in zip(*penalties, strict=True):
        assert torch.equal(plain, found)


@pytest.mark.parametrize("ours", [functional.embedding, fastchar.reference.embedding])
def test_second_order_of_a_row_without_gradient(ours: Any) -> None:
    """padding_idx's row has none of the first, so what comes back through it counts for nothing."""
    (weight,) = leaves((V, E))
    found = []
    for call in (ours, F.embedding):
        (first,) = grad(call(IDS, weight, 2).pow(3).sum(), weight, create_graph=True)
        found.append(grad(first.pow(2).sum() + first.sum(), weight)[0])
    assert (IDS == 2).any()
    assert not found[0][2].any()
    torch.testing.assert_close(*found)


@pytest.mark.native
def test_second_order_of_frequencies() -> None:
    """scale_grad_by_freq divides a row's gradient by how often it was looked up, and in the same
    way the derivative of that gradient by what came in (torch's own code leaves it out there)."""
    (weight,) = leaves((V, E))
    counts = torch.bincount(IDS.flatten(), minlength=V).clamp(min=1).to(D).unsqueeze(1)
    v = torch.randn(T, B, E, dtype=D, requires_grad=True)
    rows = functional.embedding(IDS, weight, scale_grad_by_freq=True)
    (first,) = grad(rows, weight, v, create_graph=True)
    u = torch.randn(V, E, dtype=D)
    torch.testing.assert_close(grad(first, v, u)[0], (u / counts)[IDS])


@pytest.mark.native
def test_backward_ops_refuse_to_be_differentiated() -> None:
    """A direct second derivative of a backward op is an error, never a silent zero or None."""
    act, c = leaves((B, 4 * H), (B, H))
    grad_h = torch.randn(B, H, dtype=D)
    out = torch.ops.fastchar.lstm_cell_backward(grad_h, None, act, c)
    with pytest.raises(NotImplementedError, match="lstm_cell_backward has no derivative"):
        out[0].sum().backward()


@pytest.mark.parametrize("use", [(0,), (1,), (2,), (0, 2), (1, 2)])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_any_subset_of_outputs(use: tuple[int, ...], lengths: Tensor | None) -> None:
    """Gradients through some of output, h_n, c_n equal those of all with zeros for the rest."""
    call, inputs = lstm(True, lengths)
    out = call(*inputs)
    some = grad([out[k].sum() for k in use], inputs, retain_graph=True, materialize_grads=True)
    every = grad(sum(out[k].sum() * (k in use) for k in range(3)), inputs)
    for a, b in zip(some, every, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_only_what_requires_grad_gets_it() -> None:
    """With all but one input frozen, that one's gradient is the same and the rest stay None."""
    call, inputs = lstm(False, None)
    every = grad(sum(o.sum() for o in call(*inputs)), inputs)
    for k in range(len(inputs)):
        frozen = [t.detach().clone().requires_grad_(j == k) for j, t in enumerate(inputs)]
        sum(o.sum() for o in call(*frozen)).backward()
        assert [t.grad is not None for t in frozen] == [j == k for j in range(len(inputs))]
        torch.testing.assert_close(frozen[k].grad, every[k], rtol=1e-12, atol=1e-14)


@smooth
def test_functorch_and_forward_mode(case: str) -> None:
    """func.grad, jvp, vmap and dual numbers agree with backward; none is silently zero."""
    call, inputs = CASES[case]()

    def total(*inputs: Tensor) -> Tensor:
        out = call(*inputs)
        return sum(o.square().sum() for o in (out if isinstance(out, tuple) else (out,)))

    every = grad(total(*inputs), inputs)
    plain = [t.detach() for t in inputs]
    ours = torch.func.grad(total, argnums=tuple(range(len(inputs))))(*plain)
    for a, b in zip(ours, every, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    tangents = [torch.randn_like(t) for t in plain]
    expected = sum((g * t).sum() for g, t in zip(every, tangents, strict=True))
    _, tangent = jvp(total, tuple(plain), tuple(tangents))
    torch.testing.assert_close(tangent, expected)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(p, t) for p, t in zip(plain, tangents, strict=True)]
        _, tangent = forward_ad.unpack_dual(total(*duals))
        torch.testing.assert_close(tangent, expected)
    stacked = [torch.stack([p, 2 * p]) for p in plain]
    batched = vmap(total)(*stacked)
    single = torch.stack([total(*plain), total(*(2 * p for p in plain))])
    torch.testing.assert_close(batched, single)


def test_functional_call_uses_the_given_weights() -> None:
    """Weights swapped for one call count in it, and only in it; func.grad goes through."""
    module = fastchar.LSTM(E, H, dtype=D)
    x = torch.randn(T, B, E, dtype=D)
    other = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    before = module(x)[0]
    swapped = functional_call(module, other, (x,))[0]
    twin = fastchar.LSTM(E, H, dtype=D)
    twin.load_state_dict(other)
    assert torch.equal(swapped, twin(x)[0])
    assert torch.equal(module(x)[0], before)
    grads = torch.func.grad(lambda p: functional_call(module, p, (x,))[0].sum())(other)
    twin(x)[0].sum().backward()
    for name, p in twin.named_parameters():
        torch.testing.assert_close(grads[name], p.grad)
