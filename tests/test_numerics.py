"""Numbers at the edge: denormals, saturation, NaN in gradients, indices past 2^31, precision."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from error_rule import Sample
from torch import Tensor, nn

import fastchar

SLOW = bool(os.environ.get("FASTCHAR_SLOW_TESTS"))


def pair(E: int, H: int, scale: float = 1.0) -> tuple[fastchar.LSTM, nn.LSTM]:
    ours, theirs = fastchar.LSTM(E, H), nn.LSTM(E, H)
    for p in ours.parameters():
        p.data.mul_(scale)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def step(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs and gradients of their squares to the input and every parameter."""
    x = x.detach().requires_grad_()
    y, (h, c) = module(x)
    loss = y.square().sum() + h.sum() + c.square().sum()
    return [y, h, c, *torch.autograd.grad(loss, [x, *module.parameters()])]


@pytest.fixture(params=[False, True], ids=["denormals", "flushed"])
def flush(request: pytest.FixtureRequest) -> Iterator[bool]:
    if not torch.set_flush_denormal(request.param):
        pytest.skip("this CPU has no mode for denormals")
    yield request.param
    torch.set_flush_denormal(False)


def denormals_live() -> Tensor:
    """Which of many denormals survive a product; every thread of torch's pool takes part."""
    return torch.full((2**20,), 1e-40) * torch.ones(2**20) != 0


def test_the_denormal_mode_is_the_callers(flush: bool, isa: str) -> None:
    """Our loops flush denormals; before and after, on every thread, it is as the caller set it."""
    here = denormals_live()
    assert bool(here[0]) is not flush
    model = fastchar.EmbeddingLSTM(31, 16, 40)
    cell = fastchar.LSTMCell(40, 40)
    y, _ = model(torch.randint(31, (20, 16)))
    h, c = cell(y[0])
    fastchar.functional.linear_cross_entropy(y, y[:, 0], torch.zeros(20, 16).long()).backward(
        retain_graph=True
    )
    (h + c).sum().backward()
    assert torch.equal(denormals_live(), here)


def pooled(
    sizes: tuple[int, int],
    scale: float,
    shape: tuple[int, int, int],
    size: float,
    least: float = 0.0,
) -> None:
    """The rule over 60 modules, whose weights are `scale` times as large as usual, and as many
    inputs of about `size`; everything pooled, since a few elements carry the errors of each.

    Results below `least` count as zero, everybody's.
    """
    sample = Sample(few=float("inf"))
    for seed in range(60):
        torch.manual_seed(seed)
        ours, theirs = pair(*sizes, scale)
        x = torch.randn(shape) * size
        mine, his = step(ours, x), step(theirs, x)
        if scale > 1:
            assert float(mine[0].detach().abs().max()) > 0.99
        for k, values in enumerate(zip(mine, his, step(theirs.double(), x.double()), strict=True)):
            kept = (torch.where(v.detach().abs() < least, 0, v) for v in values)
            sample.add(f"result {k}", *kept)
    sample.check()


def test_denormal_inputs_and_states_are_within_the_rule(isa: str) -> None:
    """Numbers too small for a normal float count as such or as zero, the gradients that come of
    them too: an error below all others."""
    pooled((6, 9), 1.0, (7, 5, 6), 1e-40, torch.finfo(torch.float32).tiny)


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_saturated_gates_are_within_the_rule(scale: float, isa: str) -> None:
    """Gates at 0 and 1 to the last bit, in the forward and in the gradients."""
    pooled((16, 24), scale, (11, 19, 16), 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_reach_the_gradients_as_torchs_do(value: float, isa: str) -> None:
    """NaN stands in the same gradients, and in the input's of the same sequences only."""
    ours, theirs = pair(4, 9)
    x = torch.randn(5, 19, 4)
    x[2, 1, 3] = value
    for mine, his in zip(step(ours, x)[3:], step(theirs, x)[3:], strict=True):
        assert torch.equal(mine.isnan(), his.isnan())
        torch.testing.assert_close(mine, his, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.native
def test_precision_set_by_backend() -> None:
    """torch's newer switches: TF32 for cuBLAS leaves the CPU's products as they are. Asked for one
    answer for all of them, torch raises."""
    cuda, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    x, weight = torch.randn(64, 256), torch.randn(128, 256)
    before = cuda.fp32_precision, cpu.fp32_precision
    expected = fastchar.functional.linear(x, weight)
    try:
        cuda.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        assert torch.equal(fastchar.functional.linear(x, weight), expected)
        cpu.fp32_precision = "bf16"
        assert torch.equal(fastchar.functional.linear(x, weight), F.linear(x, weight))
    finally:
        cuda.fp32_precision, cpu.fp32_precision = before


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.native
def test_matmul_precision_is_that_of_torchs_products(precision: str) -> None:
    """Where less precision is allowed the input projection is torch's; the recurrence never is."""
    lstm, native = fastchar.LSTM(256, 64), torch.ops.fastchar
    weight, weight_hh, *biases = lstm.all_weights[0]
    x, zero = torch.randn(20, 64, 256), torch.zeros(64, 64)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        y, _ = lstm(x)
        gates = F.linear(x, weight, sum(biases))
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    rest = (weight_hh, zero, zero, None)
    if precision == "highest":
        expected = native.lstm_layer(x, None, weight, *biases, *rest, -1, False, False)
    else:
        expected = native.lstm_sequence(gates, None, *rest, False, False)
    assert torch.equal(y, expected[0])


def zeros(*shape: int) -> Tensor:
    """Zeros that take no memory until they are written, however many."""
    try:
        return torch.from_numpy(np.zeros(shape, np.float32))
    except MemoryError:
        pytest.skip(f"no address space for {np.prod(shape)} floats")


def test_a_table_of_more_than_2_to_the_31_elements() -> None:
    """The last rows of a table [V,E] with V*E > 2^31 are found where they are."""
    E, V = 128, 2**24 + 5
    weight = zeros(V, E)
    ids = torch.tensor([0, 2**24 - 1, 2**24, V - 1])
    weight[ids] = torch.randn(4, E)
    with torch.no_grad():
        rows = fastchar.functional.embedding(ids, weight)
    assert torch.equal(rows, weight[ids])


@pytest.mark.native
def test_a_gradient_of_more_than_2_to_the_31_elements() -> None:
    """The last token's gradient, past 2^31 elements, arrives in its row, and no other."""
    E, N = 512, 2**22 + 5
    grad = zeros(N, E)
    grad[-1] = torch.randn(E)
    ids = torch.zeros(N, dtype=torch.int32)
    ids[-1] = 2
    table = torch.ops.fastchar.embedding_backward(grad, ids, 4, -1, False)
    assert torch.equal(table[2], grad[-1])
    assert not table[[0, 1, 3]].any()


@pytest.mark.native
@pytest.mark.skipif(not SLOW, reason="ten seconds and 4 GiB; FASTCHAR_SLOW_TESTS=1 runs it")
def test_a_sequence_of_more_than_2_to_the_31_gates() -> None:
    """T*B*4H > 2^31: the last steps are those of the last sequences run alone."""
    T, B, H = 1024, 2**16, 9
    lstm = fastchar.EmbeddingLSTM(31, 4, H)
    ids = torch.randint(31, (T, B), dtype=torch.int32)
    with torch.no_grad():
        y, (h, c) = lstm(ids)
        z, (k, d) = lstm(ids[:, -3:])
    for a, b in ((y[:, -3:], z), (h[:, -3:], k), (c[:, -3:], d)):
        torch.testing.assert_close(a, b)
