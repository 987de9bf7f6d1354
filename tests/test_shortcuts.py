"""What the kernels leave out or store differently at some shapes changes no result."""

import pytest
import torch
from strategies import ragged
from torch import Tensor, nn

import fastchar
from fastchar import functional

pytestmark = pytest.mark.native


def inputs(T: int, B: int, H: int) -> tuple[Tensor, Tensor, Tensor]:
    """gates [T,B,4H], w_hh [4H,H], c0 [B,H]."""
    return torch.randn(T, B, 4 * H), torch.randn(4 * H, H), torch.randn(B, H)


def sequence(
    h0: Tensor,
    gates: Tensor,
    w_hh: Tensor,
    c0: Tensor,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, ...]:
    """y, h_n, c_n, act, cell of the native op from h0 [B,H]."""
    from fastchar import ops  # noqa: F401  registers the op

    results: tuple[Tensor, ...] = torch.ops.fastchar.lstm_sequence(
        gates, None, w_hh, h0, c0, lengths, reverse, True
    )
    return results


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("uniform", [False, True])
def test_zero_initial_state(reverse: bool, uniform: bool, isa: str) -> None:
    """A batch that starts from zeros gets the bits that it gets next to one that doesn't."""
    T, B, H = 7, 23, 40
    lengths = None if uniform else ragged(T, B, torch.Generator().manual_seed(2))
    h0, arguments = torch.zeros(B, H), inputs(T, B, H)
    skipped = sequence(h0, *arguments, lengths, reverse)
    h0[-1] = 1
    multiplied = sequence(h0, *arguments, lengths, reverse)
    for a, b in zip(skipped, multiplied, strict=True):
        rows = [x[..., :-1, :] for x in (a, b)]  # [B,H] or [T,B,*] without the last sequence
        assert torch.equal(*rows)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_gradients_from_zero_initial_state(
    reverse: bool, uniform: bool, folded: bool, isa: str
) -> None:
    """Without grad_h0, and with first steps left out of dW_hh, the other gradients stay."""
    T, B, H, V = 7, 23, 40, 11
    lengths = None if uniform else ragged(T, B, torch.Generator().manual_seed(2))
    h0, ids = torch.zeros(B, H), torch.randint(V, (T, B)) if folded else None
    gates, w_hh, c0 = inputs(T, B, H)
    gates = gates[0, :V].contiguous() if folded else gates
    y, _, _, act, cell = torch.ops.fastchar.lstm_sequence(
        gates, ids, w_hh, h0, c0, lengths, reverse, True
    )
    grads = torch.randn(T, B, H), torch.randn(B, H), torch.randn(B, H)

    def backward(h0: Tensor, need_h0: bool) -> tuple[Tensor, ...]:
        saved = (act, cell, y, ids, w_hh, h0, c0, lengths, reverse, V, need_h0)
        results: tuple[Tensor, ...] = torch.ops.fastchar.lstm_sequence_backward(*grads, *saved)
        return results

    short, whole = backward(h0, need_h0=False), backward(h0 + 1e-30, need_h0=True)
    assert short[2].shape == (0,)
    for k in (0, 1, 3):
        torch.testing.assert_close(short[k], whole[k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_wild_gradients_show_in_the_weights(value: float, isa: str) -> None:
    """Also those of a first step, whose h is 0: torch's dW_hh is NaN then."""
    ours, theirs = fastchar.LSTM(4, 40), nn.LSTM(4, 40)
    theirs.load_state_dict(ours.state_dict())
    grad = torch.ones(3, 2, 40)
    grad[0, 1, 7] = value
    x = torch.randn(3, 2, 4)
    for lstm in (ours, theirs):
        lstm(x)[0].backward(grad)
    found, expected = ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad
    assert found is not None
    assert expected is not None
    assert torch.equal(found.isnan(), expected.isnan())


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_wild_weights_show_at_the_first_step(value: float, T: int, isa: str) -> None:
    """0 times NaN or Inf is NaN: torch's output, also where the state starts from zeros; of one
    step, which is another kernel's, and of more."""
    ours, theirs = fastchar.LSTM(4, 40), nn.LSTM(4, 40)
    with torch.no_grad():
        ours.weight_hh_l0[35, 17] = value
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(T, 3, 4)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], equal_nan=True)


def test_large_saved_state(isa: str) -> None:
    """State of 6 MiB is stored past the caches, of 3 MiB through them: the same bits."""
    T, B, H = 40, 64, 128
    arguments = inputs(T, B, H)
    whole = sequence(torch.zeros(B, H), *arguments)
    gates, w_hh, c0 = arguments
    half = B // 2
    part = sequence(torch.zeros(half, H), gates[:, :half].contiguous(), w_hh, c0[:half])
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a[..., :half, :], b)


def test_large_lookup(isa: str) -> None:
    """Results of 32 MiB are stored past the caches, rows copied exactly."""
    weight = torch.randn(50, 64)
    ids = torch.randint(50, (1 << 17,))
    assert torch.equal(functional.embedding(ids, weight), weight[ids])


def test_little_lookups_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a call costs more than its rows; its gradient too, but one that torch makes in another
    way. An id out of range is named all the same."""
    called = []
    kernel = functional.ops.embedding
    monkeypatch.setattr(
        functional.ops, "embedding", lambda *args: called.append(args) or kernel(*args)
    )
    E = 64
    few, more, many = (
        torch.arange(elements // E) % 7
        for elements in (functional._LITTLE_TRAINED, functional._LITTLE, 2 * functional._LITTLE)
    )
    table = fastchar.Embedding(7, E)
    with torch.no_grad():
        for ids in (few, more):
            assert torch.equal(table(ids), table.weight[ids])
    table(few).sum().backward()
    assert not called
    assert torch.equal(table.weight.grad[:, 0], torch.bincount(few).float())

    low = fastchar.Embedding(7, E, dtype=torch.bfloat16)
    by_frequency = fastchar.Embedding(7, E, scale_grad_by_freq=True)
    for count, call in enumerate(
        (lambda: table(more), lambda: low(few), lambda: by_frequency(few), lambda: table(many)), 1
    ):
        call()
        assert len(called) == count
    with pytest.raises(IndexError, match=r"expected ids in 0\.\.6, got 7"):
        table(torch.tensor([7]))
