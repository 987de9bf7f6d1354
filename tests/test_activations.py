"""sigmoid and tanh are as accurate as csrc/cpu/activations.h says, on every instruction set."""

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.native

MAX_ULP = 3.0  # what activations.h states for both


def activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """sigmoid(x) and tanh(x) as the cell computes them: its i and g gates, 16 units a row."""
    from fastchar import ops  # noqa: F401  registers the op

    H = 16
    rows = x.view(-1, H)
    gates = torch.cat([rows, rows, rows, rows], dim=1)
    act = torch.ops.fastchar.lstm_cell(gates, torch.zeros_like(rows))[2]
    i, _, g, _ = act.chunk(4, dim=1)
    return i.reshape(-1), g.reshape(-1)


def ulp_error(got: Tensor, exact: Tensor) -> Tensor:
    """|got - exact| in units of got's spacing at `exact`, which is float64."""
    nearest = exact.to(got.dtype).abs()
    spacing = torch.nextafter(nearest, torch.full_like(nearest, float("inf"))) - nearest
    return (got.double() - exact).abs() / spacing.double()


def test_float32_error_in_ulp(isa: str) -> None:
    """Max error over a dense grid where float32 results are normal numbers."""
    x = torch.cat([torch.linspace(-80, 80, 1 << 20), torch.logspace(-30, 1.9, 1 << 18)])
    x = torch.cat([x, -x])
    sigmoid, tanh = activations(x)
    assert ulp_error(sigmoid, torch.sigmoid(x.double())).max() <= MAX_ULP
    assert ulp_error(tanh, torch.tanh(x.double())).max() <= MAX_ULP


def test_ends_and_specials(isa: str) -> None:
    """Saturated, infinite and NaN inputs give what torch gives."""
    inf = float("inf")
    x = torch.tensor([0.0, -0.0, 90.0, -90.0, 1e30, -1e30, inf, -inf, float("nan")]).repeat(16)
    sigmoid, tanh = activations(x)
    # Below the smallest normal number sigmoid is flushed to zero.
    torch.testing.assert_close(sigmoid, torch.sigmoid(x), equal_nan=True, rtol=3e-7, atol=1.2e-38)
    torch.testing.assert_close(tanh, torch.tanh(x), equal_nan=True, rtol=3e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_hole_before_saturation(dtype: torch.dtype, isa: str) -> None:
    """Where exp leaves the range of numbers: close steps around every such place."""
    ends = torch.tensor([20.0, 40.0, 87.3, 88.376, 88.72, 104.0, 708.3, 709.43, 709.78, 745.0])
    x = (ends.double().unsqueeze(1) + torch.linspace(-1, 1, 4096).double()).flatten().to(dtype)
    x = torch.cat([x, -x])
    sigmoid, tanh = activations(x)
    tiny = torch.finfo(dtype).tiny
    torch.testing.assert_close(sigmoid, torch.sigmoid(x), rtol=1e-6, atol=tiny)
    torch.testing.assert_close(tanh, torch.tanh(x), rtol=1e-6, atol=0)
