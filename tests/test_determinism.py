"""The same bits for the same input: over runs, thread counts, and torch's deterministic mode."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import fastchar
from fastchar import functional

pytestmark = pytest.mark.usefixtures("by_kernels")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def training_step(V: int, E: int, H: int, T: int, B: int, ragged: bool) -> list[Tensor]:
    """Loss and every gradient of embedding, bidirectional LSTM and loss."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = fastchar.EmbeddingLSTM(V, E, H, 2, bidirectional=True, padding_idx=0)
    plain = fastchar.Embedding(V, E)
    lstm = fastchar.LSTM(E, H)
    head = torch.randn(V, 2 * H, generator=g, requires_grad=True)
    ids = torch.randint(V, (T, B), generator=g)
    lengths = torch.randint(1, T + 1, (B,), generator=g) if ragged else None
    y, (h, c) = model(ids, lengths=lengths)
    z, _ = lstm(plain(ids), lengths=lengths)
    loss = functional.linear_cross_entropy(y, head, ids, ignore_index=0, label_smoothing=0.1)
    loss = loss + h.sum() + c.sum() + z.square().mean()
    parameters = [*model.parameters(), *plain.parameters(), *lstm.parameters(), head]
    return [loss, *torch.autograd.grad(loss, parameters)]


SHAPES = [(31, 24, 40, 9, 13), (40, 64, 96, 40, 32)]
COUNTS = (1, 2, 3, 5, 1)


def assert_same_bits(results: list[list[Tensor]]) -> None:
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def every_op(V: int, E: int, H: int, T: int, B: int) -> list[Tensor]:
    """All that the native ops return, forward and backward, uniform and ragged."""
    ops, g = torch.ops.fastchar, torch.Generator().manual_seed(0)

    def real(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    ids = torch.randint(V, (T, B), generator=g)
    out = [ops.embedding(real(V, E), ids, -1, False)]
    for width in (E, E + 1024):  # by tables, and sorted
        grad = real(T, B, width)
        out += [ops.embedding_backward(grad, ids, V, 0, by_freq) for by_freq in (False, True)]

    c0 = real(B, H)
    h, c, act = ops.lstm_cell(real(B, 4 * H), c0)
    out += [h, c, act, *ops.lstm_cell_backward(real(B, H), real(B, H), act, c0)]
    weights = real(4 * H, E), real(4 * H, H)
    h, c, act = ops.lstm_step(real(B, E), real(B, H), c0, *weights, real(4 * H), None)
    grads = real(B, H), real(B, H)
    out += [h, c, act, *ops.lstm_step_backward(*grads, act, c0, *weights, True, True)]
    x, w, grad = real(T * B, E), real(4 * H, E), real(T * B, 4 * H)
    out += [ops.linear(x, w, real(4 * H)), ops.linear_input_grad(grad, w)]
    out += ops.linear_weight_grad(grad, x, True)

    w_hh, h0 = real(4 * H, H) / H**0.5, real(B, H)
    lengths = torch.randint(0, T + 1, (B,), generator=g)
    for n, reverse in ((None, False), (lengths, True)):
        for rows, i in ((real(T, B, 4 * H), None), (real(V, 4 * H), ids)):
            sequence = ops.lstm_sequence(rows, i, w_hh, h0, c0, n, reverse, True)
            grads = (real(T, B, H), real(B, H), real(B, H))
            out += sequence
            saved = (*sequence[3:], sequence[0], i, w_hh, h0, c0, n, reverse, V, True)
            out += ops.lstm_sequence_backward(*grads, *saved)
            zeros = torch.zeros_like(h0)  # and where the first steps add nothing
            saved = (*saved[:5], zeros, *saved[6:-1], False)
            out += ops.lstm_sequence_backward(*grads, *saved)

    head = (real(T * B, H), real(V, H), real(V), ids.flatten(), None, 0, 0.1)
    out += [ops.linear_cross_entropy(*head)]
    out += ops.linear_cross_entropy_backward(real(T * B), *head)
    out += ops.linear_cross_entropy_reduced(*head, True, True)
    return out


@pytest.mark.native
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("threads", "isa")
def test_no_ops_bits_depend_on_threads(shape: tuple[int, ...]) -> None:
    """Every native op gives with two, three and five threads what it gives with one."""
    results = []
    for count in COUNTS:
        torch.set_num_threads(count)
        results.append(every_op(*shape))
    assert_same_bits(results)


@pytest.mark.native
@pytest.mark.parametrize("V", [1, 2, 30])
@pytest.mark.parametrize("padding_idx", [-1, 0])
@pytest.mark.parametrize("by_freq", [False, True])
@pytest.mark.usefixtures("threads", "isa")
def test_one_symbol_may_be_most_of_a_text(V: int, padding_idx: int, by_freq: bool) -> None:
    """The threads share out a table's gradient by tokens and columns, so that several work on one
    row where symbols are fewer than threads, or one of them is most of the text; more of them than
    sort the tokens. The sums are those of the definition, with the same bits."""
    g = torch.Generator().manual_seed(V)
    ids = torch.randint(V, (240,), generator=g) * (torch.rand(240, generator=g) < 0.4)
    grad = torch.randn(240, 1003, generator=g)
    results = []
    for count in (1, 2, 3, 9, 13):
        torch.set_num_threads(count)
        results.append([torch.ops.fastchar.embedding_backward(grad, ids, V, padding_idx, by_freq)])
    assert_same_bits(results)
    exact = torch.zeros(V, 1003, dtype=torch.float64).index_add_(0, ids, grad.double())
    if by_freq:
        exact /= torch.bincount(ids, minlength=V).clamp_min(1)[:, None]
    if padding_idx >= 0:
        exact[padding_idx] = 0
    torch.testing.assert_close(results[0][0].double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.native
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.usefixtures("threads")
def test_a_training_steps_bits_do_not_depend_on_threads(
    ragged: bool, shape: tuple[int, ...]
) -> None:
    """The same of a whole step, as the modules call the ops."""
    results = []
    for count in COUNTS:
        torch.set_num_threads(count)
        results.append(training_step(*shape, ragged))
    assert_same_bits(results)


def test_deterministic_mode_changes_nothing_and_warns_of_nothing() -> None:
    """use_deterministic_algorithms(True): same bits, no error, no warning."""
    plain = training_step(*SHAPES[0], True)
    torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            strict = training_step(*SHAPES[0], True)
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(plain, strict, strict=True):
        assert torch.equal(a, b)
