"""lstm_generate draws what its reference draws, from states within the error rule."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from error_rule import Sample
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds, widths
from torch import Tensor, nn

from fastchar import functional, reference

# V symbols, E embedding, H hidden, L layers; those that fill no vector and more than one of them.
models = st.tuples(st.sampled_from((1, 4, 7, 40, 70)), widths, widths, st.integers(1, 3))
ways = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from((0.0, 0.3, 1.0, 2.5)),
        "top_k": st.sampled_from((None, 1, 3, 100)),
        "top_p": st.sampled_from((None, 0.3, 0.9, 1.0)),
    }
)


class Model(NamedTuple):
    """`lstm_generate`'s arguments up to the draws, and these."""

    first: int
    table: Tensor
    weights: list[Tensor]
    output_weight: Tensor
    output_bias: Tensor
    h0: Tensor
    c0: Tensor
    draws: Tensor

    def to(self, dtype: torch.dtype) -> Model:
        first, *tensors, draws = self
        moved = [[w.to(dtype) for w in t] if isinstance(t, list) else t.to(dtype) for t in tensors]
        return Model(first, *moved, draws)  # type: ignore[arg-type]


def made(V: int, E: int, H: int, L: int, n: int, seed: int) -> Model:
    g = torch.Generator().manual_seed(seed)

    def real(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    weights = []
    for layer in range(L):
        width = H if layer else E
        scale = (width + H) ** -0.5
        weights += [real(4 * H, width) * scale, real(4 * H, H) * scale, real(4 * H), real(4 * H)]
    draws = torch.rand(n, dtype=torch.float64, generator=g)
    first = int(torch.randint(V, (), generator=g))
    return Model(
        first, real(V, E), weights, real(V, H), real(V), real(L, H), real(L, H), draws
    )  # fmt: skip


@pytest.mark.usefixtures("poisoned")
def test_in_float64_the_text_is_the_references(isa: str) -> None:
    """The same symbols whatever the options, and the same states."""

    @settings(max_examples=80)
    @given(model=models, n=st.sampled_from((0, 1, 25)), way=ways, seed=seeds)
    def run(model, n, way, seed):  # type: ignore
        arguments = made(*model, n, seed).to(torch.float64)
        ours = functional.lstm_generate(*arguments, **way, end=2)
        theirs = reference.lstm_generate(*arguments, **way, end=2)
        assert torch.equal(ours[0], theirs[0])
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)

    run()


def lstm_over(model: Model, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """torch's LSTM over given symbols: its output [n,H], h_n and c_n [L,H]."""
    L, H = model.h0.shape
    lstm = nn.LSTM(model.table.shape[1], H, L).to(model.table.dtype)
    for parameter, weight in zip(lstm.parameters(), model.weights, strict=True):
        parameter.data = weight
    with torch.no_grad():
        y, (h, c) = lstm(model.table[ids], (model.h0, model.c0))
    return y, h, c


@pytest.mark.usefixtures("poisoned")
def test_float32_keeps_the_error_rule(isa: str) -> None:
    """After a text's symbols the states are as near to the exact ones as torch's; and each symbol
    is the one whose share of the exact probability lies at its draw."""
    sample = Sample()

    @settings(max_examples=80)
    @given(model=models, seed=seeds)
    def run(model, seed):  # type: ignore
        arguments = made(*model, 12, seed)
        ids, *states = functional.lstm_generate(*arguments)
        read = torch.cat([torch.tensor([arguments.first]), ids[:-1]])
        exact = arguments.to(torch.float64)
        y, *right = lstm_over(exact, read)
        _, *theirs = lstm_over(arguments, read)
        for name, a, b, c in zip(("h", "c"), states, theirs, right, strict=True):
            sample.add(name, a, b, c)
        passed = (y @ exact.output_weight.T + exact.output_bias).softmax(-1).cumsum(-1)
        after = passed.gather(1, ids.unsqueeze(1)).squeeze(1)
        before = torch.cat([torch.zeros(12, 1), passed], 1).gather(1, ids.unsqueeze(1)).squeeze(1)
        assert (before <= exact.draws + 1e-5).all()
        assert (exact.draws <= after + 1e-5).all()

    run()
    sample.check()


@pytest.mark.native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded_at_the_end(dtype: torch.dtype, isa: str) -> None:
    """The symbols of float32 on the same numbers, and its states, rounded: also where the kernel
    reads matrices in bfloat16 as they are."""
    low = made(40, 9, 17, 2, 30, 0).to(dtype)
    ids, h, c = functional.lstm_generate(*low)
    expected = functional.lstm_generate(*low.to(torch.float32))
    assert torch.equal(ids, expected[0])
    assert torch.equal(h, expected[1].to(dtype))
    assert torch.equal(c, expected[2].to(dtype))


@pytest.mark.native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_threads_writes_the_same(dtype: torch.dtype, isa: str) -> None:
    """Symbols and states to the bit, with members that get a vector, several, or none."""
    arguments = made(70, 33, 290, 2, 40, 0).to(dtype)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found.append(functional.lstm_generate(*arguments, temperature=2.0))
    torch.set_num_threads(before)
    assert len(found[0][0].unique()) > 10
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_the_end_is_the_last_symbol() -> None:
    """After `end` only that follows, and the state is the one that it was drawn from."""
    model = made(5, 4, 6, 1, 200, 1)
    ids, h, c = functional.lstm_generate(*model, end=3)
    n = int((ids == 3).int().argmax()) + 1
    assert 1 < n < 200
    assert (ids[n:] == 3).all()
    short = functional.lstm_generate(*model._replace(draws=model.draws[:n]))
    assert torch.equal(ids[:n], short[0])
    assert torch.equal(h, short[1])
    assert torch.equal(c, short[2])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_distribution_no_symbol(wrong: float, temperature: float) -> None:
    """-1 from the step on whose logits have a NaN, an infinity, or are -inf throughout."""
    model = made(5, 4, 6, 1, 8, 0)
    bias = model.output_bias.clone()
    bias[slice(None) if wrong == float("-inf") else 2] = wrong
    ids, _, _ = functional.lstm_generate(*model._replace(output_bias=bias), temperature=temperature)
    assert (ids == -1).all()


@pytest.mark.native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 5}, "'first': expected a row of table, got 5"),
        ({"first": -1}, "'first': expected a row of table, got -1"),
        ({"table": torch.zeros(0, 4)}, "'output_weight': expected shape"),
        ({"weights": []}, "'weights': expected 4 tensors for each layer, got 0"),
        ({"h0": torch.zeros(0, 6)}, "'c0': expected shape"),
        ({"output_bias": torch.zeros(4)}, "'output_bias': expected shape"),
        ({"draws": torch.zeros(3)}, "'draws': expected Double, got Float"),
        ({"temperature": -1.0}, "'temperature': expected 0 or more, and finite, got -1"),
        ({"temperature": float("nan")}, "'temperature': expected 0 or more, and finite, got nan"),
        ({"top_k": 0}, "'top_k': expected 1 or more, got 0"),
        ({"top_p": 0.0}, "'top_p': expected more than 0 and at most 1, got 0"),
    ],
)  # fmt: skip
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    """Each is named, with what was expected and what came."""
    arguments = made(5, 4, 6, 1, 3, 0)._asdict() | change
    with pytest.raises(RuntimeError, match=f"fastchar::lstm_generate: argument {message}"):
        functional.lstm_generate(**arguments)


@pytest.mark.native
def test_it_has_no_derivative() -> None:
    """Called past `functional` with what requires grad, its states raise instead of lacking one."""
    model = made(5, 4, 6, 1, 3, 0)
    call = torch.ops.fastchar.lstm_generate
    _, h, _ = call(*model._replace(table=model.table.requires_grad_()), 1.0, 5, 1.0, -1)
    with pytest.raises(NotImplementedError, match="lstm_generate has no derivative"):
        h.sum().backward()
