"""fastchar.LSTM in place of nn.LSTM: every option, every form of input, the same errors."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastchar

D = torch.float64


def pair(*args: Any, **kwargs: Any) -> tuple[fastchar.LSTM, nn.LSTM]:
    ours, theirs = fastchar.LSTM(*args, **kwargs), nn.LSTM(*args, **kwargs)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def results(module: nn.Module, x: Any, hx: Any, **kwargs: Any) -> list[Tensor]:
    """Output, states, and the gradients of a fixed function of them, to x, hx and weights."""
    x = x.detach().requires_grad_() if isinstance(x, Tensor) else x
    hx = None if hx is None else tuple(h.detach().requires_grad_() for h in hx)
    torch.manual_seed(3)  # dropout draws the same
    y, (h, c) = module(x, hx, **kwargs)
    values = [y.data if isinstance(y, PackedSequence) else y, h, c]
    loss = sum((v * torch.linspace(-1, 1, v.numel()).to(v).view(v.shape)).sum() for v in values)
    inputs = [*module.parameters(), *(hx or ()), *([x] if isinstance(x, Tensor) else [])]
    return [*values, *torch.autograd.grad(loss, inputs)]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


options = st.fixed_dictionaries(
    {
        "num_layers": st.sampled_from((1, 2, 3)),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
        "proj_size": st.sampled_from((0, 0, 2)),
    }
)


def states(o: dict[str, Any], B: int | None, H: int) -> tuple[Tensor, Tensor]:
    count = o["num_layers"] * (1 + o["bidirectional"])
    batch = () if B is None else (B,)
    return (
        torch.randn(count, *batch, o["proj_size"] or H, dtype=D),
        torch.randn(count, *batch, H, dtype=D),
    )


@settings(max_examples=40)
@given(
    o=options, T=st.integers(1, 6), B=st.sampled_from((None, 1, 4)), E=st.integers(1, 5),
    H=st.integers(3, 7), hx=st.booleans(), dropout=st.sampled_from((0.0, 0.5)),
    training=st.booleans(),
)  # fmt: skip
def test_every_option(o, T, B, E, H, hx, dropout, training) -> None:  # type: ignore
    """Batched and not, any state, dropout with the same seed: values and gradients are torch's."""
    dropout = dropout if o["num_layers"] > 1 else 0.0
    ours, theirs = (m.train(training) for m in pair(E, H, dtype=D, dropout=dropout, **o))
    shape = (T, E) if B is None else (B, T, E) if o["batch_first"] else (T, B, E)
    x = torch.randn(shape, dtype=D)
    state = states(o, B, H) if hx else None
    assert_same(results(ours, x, state), results(theirs, x, state))


@settings(max_examples=25)
@given(o=options, data=st.data(), enforce_sorted=st.booleans(), hx=st.booleans())
def test_packed_sequences(o, data, enforce_sorted, hx) -> None:  # type: ignore
    """A PackedSequence in, the same PackedSequence out; order and states are the caller's."""
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    lengths = sorted(lengths, reverse=True) if enforce_sorted else lengths
    ours, theirs = pair(3, 5, dtype=D, **o)
    x = torch.randn(max(lengths), len(lengths), 3, dtype=D)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    state = states(o, len(lengths), 5) if hx else None
    assert_same(results(ours, packed, state), results(theirs, packed, state))
    y, z = ours(packed)[0], theirs(packed)[0]
    assert type(y) is PackedSequence
    for a, b in zip(y[1:], z[1:], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@settings(max_examples=25)
@given(o=options, data=st.data(), int32=st.booleans(), hx=st.booleans())
def test_lengths_are_packing(o, data, int32, hx) -> None:  # type: ignore
    """lengths= gives what packing and padding back gives, and zero gradients in the padding."""
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    ours, theirs = pair(3, 5, dtype=D, **o)
    T, B, batch_first = max(lengths) + 2, len(lengths), o["batch_first"]
    x = torch.randn(*((B, T) if batch_first else (T, B)), 3, dtype=D)
    n = torch.tensor(lengths, dtype=torch.int32 if int32 else torch.int64)

    class Packing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = theirs

        def forward(self, x: Tensor, hx: Any) -> Any:
            packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
            y, hx = self.lstm(packed, hx)
            return pad_packed_sequence(y, batch_first, total_length=T)[0], hx

    state = states(o, B, 5) if hx else None
    got = results(ours, x, state, lengths=n)
    assert_same(got, results(Packing(), x, state))
    grad_x = got[-1] if batch_first else got[-1].transpose(0, 1)
    for b, length in enumerate(lengths):
        assert not grad_x[b, length:].any()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 0, 2]])
def test_strides_are_torchs(batch_first: bool, lengths: list[int] | None) -> None:
    """The output has nn.LSTM's memory layout, so that .view works where it did."""
    ours, theirs = pair(2, 3, batch_first=batch_first)
    x = torch.randn(3, 4, 2) if batch_first else torch.randn(4, 3, 2)
    y, (h, c) = ours(x, lengths=None if lengths is None else torch.tensor(lengths))
    z, (k, d) = theirs(x)
    assert [t.stride() for t in (y, h, c)] == [t.stride() for t in (z, k, d)]


def test_empty_batch_and_empty_sequence_are_torchs() -> None:
    ours, theirs = pair(2, 3, bidirectional=True)
    x = torch.randn(4, 0, 2)
    for a, b in zip(ours(x)[1], theirs(x)[1], strict=True):
        assert a.shape == b.shape
    assert ours(x)[0].shape == theirs(x)[0].shape
    for module in (ours, theirs):
        with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0"):
            module(torch.randn(0, 2, 2))


@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("lengths", [[3, 0, 2, 0], [0, 0, 0, 0]])
def test_sequences_without_steps(proj_size: int, lengths: list[int]) -> None:
    """Zeros out, the state as it came, and what stands in their padding, NaN too, counts for
    nothing, gradients included."""
    module = fastchar.LSTM(2, 3, 2, bidirectional=True, proj_size=proj_size, dtype=D)
    n = torch.tensor(lengths)
    x = torch.randn(3, 4, 2, dtype=D)
    x[torch.arange(3).unsqueeze(1) >= n] = float("nan")
    x.requires_grad_()
    h0 = torch.randn(4, 4, proj_size or 3, dtype=D, requires_grad=True)
    c0 = torch.randn(4, 4, 3, dtype=D, requires_grad=True)
    y, (h, c) = module(x, (h0, c0), lengths=n)
    empty = n == 0
    assert not y[:, empty].any()
    assert torch.equal(h[:, empty], h0[:, empty])
    assert torch.equal(c[:, empty], c0[:, empty])
    grads = torch.autograd.grad(
        y.sum() + h.sum() + c.sum(), [x, h0, c0, *module.parameters()], allow_unused=True
    )
    assert all(g is None or g.isfinite().all() for g in grads)
    assert (grads[1][:, empty] == 1).all()


H0 = torch.zeros(1, 3, 4)


@pytest.mark.parametrize(
    ("args", "hx"),
    [
        ((torch.randn(5),), None),
        ((torch.randn(1, 2, 3, 4),), None),
        ((torch.randn(5, 3, 7),), None),
        ((torch.randn(5, 3, 2, dtype=D),), None),
        ((torch.randint(5, (5, 3, 2)),), None),
        ((torch.randn(5, 3, 2),), (H0[0], H0[0])),
        ((torch.randn(5, 2),), (H0, H0)),
        ((torch.randn(5, 3, 2),), (H0, torch.zeros(1, 3, 5))),
        ((torch.randn(5, 3, 2),), (torch.zeros(1, 2, 4), H0)),
        ((torch.randn(5, 3, 2),), (torch.zeros(2, 3, 4), H0)),
    ],
)
def test_wrong_input_raises_as_torch(args: tuple[Tensor, ...], hx: Any) -> None:
    """Same exception type, same message."""
    ours, theirs = pair(2, 4)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(*args, hx)
    with pytest.raises(expected.type) as got:
        ours(*args, hx)
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"dropout": 2}, ValueError),
        ({"num_layers": 0}, ValueError),
        ({"hidden_size": 0}, ValueError),
        ({"proj_size": 4}, ValueError),
        ({"bias": 1}, TypeError),
        ({"batch_first": 1}, TypeError),
    ],
)
def test_wrong_options_raise_as_torch(kwargs: dict[str, Any], error: type) -> None:
    for cls in (fastchar.LSTM, nn.LSTM):
        with pytest.raises(error):
            cls(**{"input_size": 2, "hidden_size": 4, **kwargs})


def test_lengths_errors_and_devices() -> None:
    """ValueError names what was expected and what came; a packed input has its own lengths."""
    module = fastchar.LSTM(2, 4)
    x = torch.randn(5, 3, 2)
    with pytest.raises(ValueError, match=r"0\.\.T = 5, got values in 1\.\.6"):
        module(x, lengths=torch.tensor([1, 6, 2]))
    with pytest.raises(ValueError, match=r"expected shape \[3\], got \[2\]"):
        module(x, lengths=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"must be int32 or int64, got torch\.int16"):
        module(x, lengths=torch.tensor([1, 2, 3], dtype=torch.int16))
    with pytest.raises(TypeError, match="must be a Tensor, got list"):
        module(x, lengths=[5, 3, 2])
    with pytest.raises(ValueError, match="PackedSequence"):
        module(pack_padded_sequence(x, [5, 5, 5]), lengths=torch.tensor([5, 5, 5]))
    packed = pack_padded_sequence(torch.zeros(5, 3, dtype=torch.int64), [5, 5, 5])
    with pytest.raises(TypeError, match="ids: expected a padded Tensor and lengths="):
        fastchar.EmbeddingLSTM(9, 2, 4)(packed)
