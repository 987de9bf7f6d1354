"""The whole layer as one op: the same as its parts, whichever rows it projects."""

import pytest
import torch
from torch import Tensor

from fastchar import reference

pytestmark = pytest.mark.native

T, B, E, H = 7, 5, 6, 9
# So wide that five rows a step aren't worth reading w_ih for: 5 MiB of it.
WIDE = 5 * 2**20 // (4 * H * 4) + 1
LENGTHS = {
    "uniform": None,
    "few are real": torch.tensor([7, 1, 0, 2, 3]),
    "most are real": torch.tensor([7, 7, 7, 6, 6]),
    "none is real": torch.zeros(B, dtype=torch.int64),
}
# What a layer projects: symbols of the table, if any, and the width of its rows.
ROWS = {
    "numbers in each step": (0, E),
    "numbers before": (0, WIDE),
    "folded": (T * B, E),
    "looked up": (T * B + 1, E),
}


def inputs(
    V: int, E: int, lengths: Tensor | None, int32: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """x of the op with what must not count in its padding, the table, and x's rows [T,B,E]."""
    table = torch.randn(V, E) if V else None
    x = torch.randn(T, B, E) if table is None else torch.randint(V, (T, B))
    rows = x if table is None else table[x]
    if lengths is not None:
        padding = torch.arange(T).unsqueeze(1) >= lengths
        rows = torch.where(padding.unsqueeze(2), 0, rows)
        x[padding] = float("nan") if table is None else -5
    return x.int() if int32 and table is not None else x, table, rows


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_layer_is_its_parts(reverse: bool, rows: str, lengths: str, isa: str) -> None:
    """What `lstm_sequence` makes of `linear`'s rows, bit for bit where it is made of them;
    gradients as autograd's of it."""
    from fastchar import ops  # registers the ops

    native, n = torch.ops.fastchar, LENGTHS[lengths]
    V, E = ROWS[rows]
    x, table, dense = inputs(V, E, n, reverse)
    w_ih = torch.randn(4 * H, E) / E**0.5
    w_hh, b_ih, b_hh = (torch.randn(4 * H, *k) / 4 for k in ((H,), (), ()))
    state = (torch.randn(B, H), torch.randn(B, H))
    row = 3 if table is not None else -1
    ours = native.lstm_layer(x, table, w_ih, b_ih, b_hh, w_hh, *state, n, row, reverse, True)
    gates = native.linear(dense.reshape(-1, E), w_ih, b_ih + b_hh).view(T, B, 4 * H)
    parts = native.lstm_sequence(gates, None, w_hh, *state, n, reverse, True)
    bits = {} if rows == "numbers in each step" else {"rtol": 0, "atol": 0}
    for a, b in zip(ours[:3], parts[:3], strict=True):
        torch.testing.assert_close(a, b, **bits)

    source = dense if table is None else table
    leaves = [t.requires_grad_() for t in (source, w_ih, b_ih, b_hh, w_hh, *state)]

    def gradients(results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y, h, c = results
        grads: tuple[Tensor, ...] = torch.autograd.grad(
            (y.cos() * 2).sum() + h.sum() + c.square().sum(), leaves
        )
        return grads

    given = (x, source) if table is not None else (dense, None)
    layer = gradients(ops.lstm_layer(*given, *leaves[1:4], w_hh, *state, n, row, reverse))
    if table is not None:
        ids = x.long() if n is None else x.long().masked_fill(x < 0, 0)
        projected = reference.embedding(ids, table, padding_idx=row)
    else:
        projected = dense
    gates = projected @ w_ih.t() + b_ih + b_hh
    exact = gradients(reference.lstm_sequence(gates, None, w_hh, *state, n, reverse)[:3])
    for a, b in zip(layer, exact, strict=True):
        torch.testing.assert_close(a, b)


def test_padding_alone(isa: str) -> None:
    """No row to project, in a batch whose padding is larger than what a backward keeps of it."""
    from fastchar import ops  # noqa: F401  registers the ops

    T, native = 20000, torch.ops.fastchar
    given = (torch.full((T, B), -5), torch.randn(T * B + 1, E))
    w_ih, w_hh = torch.randn(4 * H, E), torch.randn(4 * H, H)
    state, n = (torch.randn(B, H), torch.randn(B, H)), torch.zeros(B, dtype=torch.int64)
    y, h, c, *saved = native.lstm_layer(*given, w_ih, None, None, w_hh, *state, n, -1, False, True)
    assert not y.any()
    *grads, grad_h0, grad_c0 = native.lstm_layer_backward(
        y, h, c, *saved, y, *given, w_ih, w_hh, *state, n, -1, False, True, True, True, True
    )
    assert not any(grad.any() for grad in grads)
    assert torch.equal(grad_h0, h)
    assert torch.equal(grad_c0, c)


@pytest.mark.parametrize("shape", [(), (4 * H,), (4 * H, H, 1)])
def test_shape_of_w_hh(shape: tuple[int, ...]) -> None:
    """Said of w_hh, forward and backward, before anything is asked of it."""
    from fastchar import ops  # noqa: F401  registers the ops

    T, B = 2, 3  # so few that it depends on w_hh how they are done
    native, x, w_ih = torch.ops.fastchar, torch.randn(T, B, E), torch.randn(4 * H, E)
    state, w_hh = (torch.zeros(B, H), torch.zeros(B, H)), torch.randn(4 * H, H)
    y, _, _, *saved = native.lstm_layer(
        x, None, w_ih, None, None, w_hh, *state, None, -1, False, True
    )
    wrong = torch.randn(shape)
    with pytest.raises(RuntimeError, match="'w_hh': expected shape"):
        native.lstm_layer(x, None, w_ih, None, None, wrong, *state, None, -1, False, True)
    rest = (None, -1, False, True, True, True, True)
    with pytest.raises(RuntimeError, match="'w_hh': expected shape"):
        native.lstm_layer_backward(y, None, None, *saved, y, x, None, w_ih, wrong, *state, *rest)


def test_errors_name_what_the_caller_gave() -> None:
    """An argument of the layer, not one of the launchers inside it, nor torch's failed call."""
    from fastchar import ops  # noqa: F401  registers the ops

    native, state = torch.ops.fastchar, (torch.zeros(B, H), torch.zeros(B, H))
    w_ih, w_hh, rest = torch.randn(4 * H, E), torch.randn(4 * H, H), (*state, None, -1, False)
    for V in (T, T * B + 1):  # folded, looked up
        ids, table = torch.zeros(T, B, dtype=torch.int64), torch.randn(V, E)

        def forward(ids, w_ih, table=table):
            return native.lstm_layer(ids, table, w_ih, None, None, w_hh, *rest, True)

        y, _, _, *saved = forward(ids, w_ih)

        def backward(ids, w_ih, table=table, y=y, saved=saved):
            every = (True, True, True, True)
            args = (y, None, None, *saved, y, ids, table, w_ih, w_hh, *rest, *every)
            return native.lstm_layer_backward(*args)

        for call, op in ((forward, "lstm_layer"), (backward, "lstm_layer_backward")):
            with pytest.raises(RuntimeError, match=f"{op}: argument 'w_ih': expected shape"):
                call(ids, w_ih[1:].clone())
            with pytest.raises(RuntimeError, match=f"{op}: argument 'x': expected Long or Int"):
                call(ids.float(), w_ih)
        with pytest.raises(RuntimeError, match="lstm_layer_backward: argument 'cell': expected"):
            backward(torch.cat([ids, ids]), w_ih)


def test_ids_outside_the_table(isa: str) -> None:
    """Said of ids, folded or looked up (older torch: by a RuntimeError); not in the padding."""
    from fastchar import ops  # noqa: F401  registers the ops

    weights = (torch.randn(4 * H, E), None, None, torch.randn(4 * H, H))
    state = (torch.zeros(B, H), torch.zeros(B, H))
    for V in (T, T * B + 1):
        ids = torch.full((T, B), V)
        ids[0] = 0
        once = torch.ones(B, dtype=torch.int64)
        call = torch.ops.fastchar.lstm_layer
        call(ids, torch.randn(V, E), *weights, *state, once, -1, False, False)
        message = f"expected ids in 0..{V - 1}, got {V}"
        with pytest.raises((IndexError, RuntimeError), match=message):
            call(ids, torch.randn(V, E), *weights, *state, None, -1, False, False)
