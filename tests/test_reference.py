"""The reference is the specification: it equals torch, and its hand-derived backwards autograd."""

import pytest
import torch
import torch.nn.functional as F
from strategies import ragged
from torch import Tensor

from fastchar import reference

D = torch.float64


def close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def poison(x: Tensor, lengths: Tensor | None) -> Tensor:
    """NaN in the steps past each end of x [T,B,*]."""
    if lengths is None:
        return x
    return x.masked_fill((torch.arange(len(x))[:, None] >= lengths)[..., None], float("nan"))


def random_params(E: int, H: int, L: int, D_: int, bias: bool, P: int) -> list[Tensor]:
    out = P or H
    params = []
    for layer in range(L):
        for _ in range(D_):
            shapes = [(4 * H, E if layer == 0 else out * D_), (4 * H, out)]
            shapes += [(4 * H,), (4 * H,)] if bias else []
            shapes += [(P, H)] if P else []
            params += [torch.randn(s, dtype=D) / 3 for s in shapes]
    return params


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("P", [0, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lstm_is_torchs(bias: bool, P: int, bidirectional: bool, batch_first: bool) -> None:
    """reference.lstm computes what torch.lstm does, for every option that changes the numbers."""
    T, B, E, H, L, ways = 5, 3, 4, 6, 2, 1 + bidirectional
    params = random_params(E, H, L, ways, bias, P)
    x = torch.randn(B, T, E, dtype=D) if batch_first else torch.randn(T, B, E, dtype=D)
    hx = (torch.randn(L * ways, B, P or H, dtype=D), torch.randn(L * ways, B, H, dtype=D))
    stack = (bias, L, 0.0, True, bidirectional, batch_first)
    close(reference.lstm(x, hx, params, *stack), torch.lstm(x, hx, params, *stack))


@pytest.mark.parametrize("P", [0, 2])
def test_lengths_are_packing(P: int) -> None:
    """With lengths, the reference equals torch on the packed batch, padded back with zeros."""
    T, E, H, L = 6, 3, 4, 2
    lengths = torch.tensor([2, 6, 1, 4])
    B = len(lengths)
    params = random_params(E, H, L, 2, True, P)
    x = torch.randn(T, B, E, dtype=D)
    hx = (torch.randn(L * 2, B, P or H, dtype=D), torch.randn(L * 2, B, H, dtype=D))
    ours = reference.lstm(
        poison(x, lengths), hx, params, True, L, 0.0, True, True, False, lengths=lengths
    )
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    order = packed.sorted_indices
    y, h, c = torch.lstm(
        packed.data, packed.batch_sizes, (hx[0][:, order], hx[1][:, order]), params,
        True, L, 0.0, True, True,
    )  # fmt: skip
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed._replace(data=y), total_length=T)
    back = packed.unsorted_indices
    close(ours, (y, h[:, back], c[:, back]))


def test_cell_is_torchs() -> None:
    x, h, c = (torch.randn(3, n, dtype=D) for n in (4, 5, 5))
    weights = [torch.randn(s, dtype=D) for s in ((20, 4), (20, 5), (20,), (20,))]
    close(reference.lstm_cell(x, (h, c), *weights), torch.lstm_cell(x, (h, c), *weights))


def test_cell_backward_is_autograds() -> None:
    """(C4) to (C6), the saved activations' own gradient included."""
    gates, c = (torch.randn(3, n, dtype=D, requires_grad=True) for n in (20, 5))
    _, _, act = out = reference.cell_step(gates, c)
    grads = [torch.randn_like(t) for t in out]
    theirs = torch.autograd.grad(out, (gates, c), grads)
    close(reference.cell_step_backward(*grads[:2], act, c, grads[2]), theirs)
    only_h = torch.autograd.grad(reference.cell_step(gates, c)[0], (gates, c), grads[0])
    close(reference.cell_step_backward(grads[0], None, act, c), only_h)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 0, 5, 1]])
@pytest.mark.parametrize("folded", [False, True])
def test_sequence_backward_is_autograds(
    reverse: bool, lengths: list[int] | None, folded: bool
) -> None:
    """(S3) and (S4); what the padding of the gradients and saved tensors holds is not read."""
    T, B, H, V = 5, 4, 3, 7
    n = None if lengths is None else torch.tensor(lengths)
    ids = torch.randint(V, (T, B)) if folded else None
    source = torch.randn(*((V,) if folded else (T, B)), 4 * H, dtype=D)
    gates = (source[ids] if folded else source).requires_grad_()
    w_hh = torch.randn(4 * H, H, dtype=D)
    h0, c0 = (torch.randn(B, H, dtype=D, requires_grad=True) for _ in range(2))
    out = reference.lstm_sequence(gates, None, w_hh, h0, c0, n, reverse)
    if folded:
        spoilt = ids if n is None else ids.masked_fill(torch.arange(T)[:, None] >= n, -9)
        close(reference.lstm_sequence(source, spoilt, w_hh, h0, c0, n, reverse), out)
    grads = [torch.randn_like(t) for t in out]
    theirs = torch.autograd.grad(out, (gates, h0, c0), grads)
    act, cell, grad_act, grad_cell = (poison(t, n) for t in (*out[3:], *grads[3:]))
    ours = reference.lstm_sequence_backward(
        poison(grads[0], n), *grads[1:3], act, cell, w_hh, c0, n, reverse, grad_act, grad_cell
    )
    close(ours, theirs)


@pytest.mark.parametrize("by_freq", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_embedding_backward_is_autograds(by_freq: bool, padding_idx: int | None) -> None:
    weight = torch.randn(5, 3, dtype=D, requires_grad=True)
    ids = torch.tensor([[2, 0, 2], [4, 0, 0]])
    out = reference.embedding(ids, weight, padding_idx, scale_grad_by_freq=by_freq)
    grad = torch.randn_like(out)
    theirs = torch.autograd.grad(out, weight, grad)
    padding = -1 if padding_idx is None else padding_idx
    close((reference.embedding_backward(grad, ids, 5, padding, by_freq),), theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_backward_is_autograds(smoothing: float, weighted: bool) -> None:
    N, H, V = 6, 3, 5
    x, W = (torch.randn(n, H, dtype=D, requires_grad=True) for n in (N, V))
    b = torch.randn(V, dtype=D, requires_grad=True)
    w = torch.rand(V, dtype=D) if weighted else None
    target = torch.tensor([0, 4, -100, 2, 2, -100])
    loss = reference.linear_cross_entropy(
        x, W, target, linear_bias=b, weight=w, reduction="none", label_smoothing=smoothing
    )
    close(
        (loss,),
        (F.cross_entropy(x @ W.t() + b, target, w, reduction="none", label_smoothing=smoothing),),
    )
    grad = torch.randn(N, dtype=D)
    close(
        reference.linear_cross_entropy_backward(grad, x, W, b, target, w, -100, smoothing),
        torch.autograd.grad(loss, (x, W, b), grad),
    )


def test_lengths_are_checked() -> None:
    """Wrong lengths say what was expected and what came."""
    x = torch.randn(4, 2, 3)
    for lengths, message in (
        (torch.tensor([1.0, 2.0]), "int32 or int64, got torch.float32"),
        (torch.tensor([1, 2, 3]), r"expected shape \[2\], got \[3\]"),
        (torch.tensor([1, 5]), "0..T = 4, got values in 1..5"),
        (torch.tensor([-1, 2]), "got values in -1..2"),
    ):
        with pytest.raises(ValueError, match=message):
            reference.lstm(
                x, None, random_params(3, 2, 1, 1, True, 0), True, 1, 0.0, False, False, False,
                lengths=lengths,
            )  # fmt: skip


def test_ragged_helper_reaches_both_bounds() -> None:
    """The strategy that other tests draw lengths from does draw 0 and T."""
    lengths = ragged(3, 400, torch.Generator().manual_seed(0))
    assert set(lengths.tolist()) == {0, 1, 2, 3}
