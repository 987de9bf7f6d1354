"""Few tokens through wide layers, which take w_hh unpacked (`packs` in csrc/cpu/lstm.cpp)."""

import pytest
import torch
from isas import Samples
from strategies import ragged
from test_parity_lstm import Results, compare, random_params, torch_lstm

import fastchar
from fastchar import functional, reference

pytestmark = pytest.mark.native
E = 5
# (T, B): whole tiles of rows and parts of them, on both sides of the rule.
SIZES = [(2, 1), (20, 1), (21, 1), (10, 2), (6, 3), (5, 4), (4, 5), (5, 5), (3, 6)]


# The narrowest layers of the kind, and some that don't fill whole vectors.
@pytest.mark.parametrize(
    ("H", "dtype"),
    [(256, torch.float32), (269, torch.float32), (128, torch.float64), (133, torch.float64)],
)
@pytest.mark.usefixtures("poisoned")
def test_error_rule(H: int, dtype: torch.dtype) -> None:
    """Both directions, uniform and ragged, every result and gradient."""
    samples = Samples()
    stack = (True, 1, 0.0, True, True, False)
    for T, B in SIZES:
        g = torch.Generator().manual_seed(T)
        x, *hx = (torch.randn(*s, generator=g) for s in ((T, B, E), (2, B, H), (2, B, H)))
        params = random_params(E, H, 1, True, True, g)
        for lengths in (None, ragged(T, B, g)):

            def call(f, x, h, c, *weights, lengths=lengths) -> Results:  # type: ignore
                return f(x, (h, c), list(weights), *stack, lengths=lengths)

            ours, theirs, exact = (
                lambda *tensors, f=f, call=call: call(f, *tensors)
                for f in (functional.lstm, torch_lstm, reference.lstm)
            )
            compare(samples, "dx", ours, theirs, exact, [x, *hx, *params], dtype)
    samples.check()


def test_rows_know_nothing_of_each_other(isa: str) -> None:
    """A sequence has the same bits alone and in a batch, first and last in it."""
    torch.manual_seed(0)
    lstm = fastchar.LSTM(E, 269)
    x = torch.randn(4, 5, E)
    together, (h, c) = lstm(x)
    for b in range(5):
        alone, (h_b, c_b) = lstm(x[:, b : b + 1])
        assert torch.equal(alone[:, 0], together[:, b])
        assert torch.equal(h_b[:, 0], h[:, b])
        assert torch.equal(c_b[:, 0], c[:, b])


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_weights_that_are_not_finite(bad: float, isa: str) -> None:
    """A state of zeros hides them no more than in torch: 0 times Inf is NaN."""
    lstm = fastchar.LSTM(E, 256)
    with torch.no_grad():
        lstm.weight_hh_l0[3, 7] = bad  # of unit 3's input gate
    y, _ = lstm(torch.zeros(2, 1, E))
    assert y[0, 0].isnan().nonzero().flatten().tolist() == [3]
    assert y[1].isnan().all()
