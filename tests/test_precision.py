"""Half precision and autocast: torch's dtypes, float32 arithmetic and cell state inside."""

import pytest
import torch
from error_rule import Sample
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastchar
from fastchar import functional, reference

HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_modules_keep_the_rule(dtype: torch.dtype) -> None:
    """bf16 and fp16 LSTMs: results and gradients within the rule against torch's own."""
    sample = Sample()
    stack = (True, 1, 0.0, True, False, False)
    for k in range(6):
        torch.manual_seed(k)
        E, H = 16 + k, 20 + 3 * k
        shapes = [(20, 5, E), (1, 5, H), (1, 5, H), (4 * H, E), (4 * H, H), (4 * H,), (4 * H,)]
        tensors = [(torch.randn(s) * 0.3).to(dtype) for s in shapes]

        def results(call: object, kind: torch.dtype) -> list[Tensor]:
            x, h, c, *params = leaves = [t.to(kind).requires_grad_() for t in tensors]  # noqa: B023
            out = call(x, (h, c), params, *stack)  # type: ignore[operator]
            return [*out, *torch.autograd.grad(sum(o.float().sum() for o in out), leaves)]

        exact = results(reference.lstm, torch.float64)
        ours, theirs = results(functional.lstm, dtype), results(torch.lstm, dtype)
        assert {t.dtype for t in ours} == {dtype}
        for name, a, b, c in zip("yhcxHCiwbB", ours, theirs, exact, strict=True):
            sample.add(name, a, b, c)
    sample.check()


@pytest.mark.native
@pytest.mark.parametrize("rows", [1, 4, 7, 31])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_step_is_float32s_rounded_once(dtype: torch.dtype, rows: int, isa: str) -> None:
    """Without gradients a step of few rows reads bfloat16 weights as they are: to the bit what
    float32 makes of the same numbers, with gradients too, in cells and in modules of one step."""
    lstm = fastchar.LSTM(9, 17, 2, bidirectional=True)
    calls = [
        (fastchar.LSTMCell(9, 17), torch.randn(rows, 9)),
        (fastchar.LSTMCell(9, 17, bias=False), torch.randn(rows, 9)),
        (lstm, torch.randn(1, rows, 9)),
        (fastchar.EmbeddingLSTM(7, 9, 17), torch.randint(7, (1, rows))),
    ]
    for module, x in calls:
        module.to(dtype)
        x = x.to(dtype) if x.is_floating_point() else x
        recorded = [t.detach() for t in tensors_of(module(x))]
        with torch.no_grad():
            found = tensors_of(module(x))
        module.float()
        with torch.no_grad():
            wide = tensors_of(module(x.float() if x.is_floating_point() else x))
        for a, b, c in zip(found, recorded, wide, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, c.to(dtype))


def tensors_of(result: object) -> list[Tensor]:
    """All of a nested result."""
    return [result] if isinstance(result, Tensor) else [t for r in result for t in tensors_of(r)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("low", HALVES)
def test_autocast_dtypes_are_torchs(low: torch.dtype) -> None:
    """Output dtypes under autocast; gradients come back in the parameters' own dtype."""
    x, ids, target = torch.randn(5, 3, 4), torch.randint(7, (5, 3)), torch.randint(6, (15,))
    ours = [fastchar.LSTM(4, 6), fastchar.LSTMCell(4, 6), fastchar.Embedding(7, 4)]
    theirs = [nn.LSTM(4, 6), nn.LSTMCell(4, 6), nn.Embedding(7, 4)]
    folded = fastchar.EmbeddingLSTM(7, 4, 6)
    with torch.autocast("cpu", low):
        y, (h, c) = ours[0](x)
        assert {y.dtype, h.dtype, c.dtype} == {low}
        for module, twin, given in zip(ours[1:], theirs[1:], (x[0], ids), strict=True):
            mine, its = (torch.utils._pytree.tree_leaves(m(given)) for m in (module, twin))
            assert [t.dtype for t in mine] == [t.dtype for t in its]
        z, _ = folded(ids)
        assert z.dtype == low
        loss = functional.linear_cross_entropy(y.flatten(0, 1), torch.randn(6, 6), target)
        assert loss.dtype == torch.float32
    (y.float().sum() + z.float().sum()).backward()
    assert ours[0].weight_hh_l0.grad is not None
    assert ours[0].weight_hh_l0.grad.dtype == torch.float32


def test_autocast_bf16_is_close_to_torchs() -> None:
    """At least as close to float32 as nn.LSTM under the same autocast."""
    ours, theirs = fastchar.LSTM(32, 48), nn.LSTM(32, 48)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(20, 8, 32)
    exact = theirs(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mine, its = (float((m(x)[0] - exact).abs().max()) for m in (ours, theirs))
    assert mine <= 2 * its


def test_gradient_scaler_trains() -> None:
    """torch.amp.GradScaler on the CPU: unscaled gradients are those without it."""
    module = fastchar.LSTM(4, 6)
    x = torch.randn(5, 3, 4)
    plain = torch.autograd.grad(module(x)[0].sum(), list(module.parameters()))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(module(x)[0].sum()).backward()
    scaler.unscale_(optimizer)
    for p, g in zip(module.parameters(), plain, strict=True):
        torch.testing.assert_close(p.grad, g)
    scaler.step(optimizer)


def test_gradient_scaler_within_float16() -> None:
    """Scaled losses of float16 results: a step's gradients are those without it, and one that
    overflows float16 on its way back is left out, with half the scale from then on."""
    module = fastchar.EmbeddingLSTM(7, 4, 6, 2)
    ids = torch.randint(7, (5, 3))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return module(ids)[0].float().square().sum()

    plain = torch.autograd.grad(loss(), list(module.parameters()))
    for scale in (2.0**8, 2.0**40):
        optimizer.zero_grad()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        before = [p.clone() for p in module.parameters()]
        scaler.scale(loss()).backward()
        if scale < 2.0**9:
            scaler.unscale_(optimizer)
            for p, g in zip(module.parameters(), plain, strict=True):
                torch.testing.assert_close(p.grad, g, rtol=2e-3, atol=2e-4)
            continue
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale / 2
        assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


# Torch's padded path has no float16 everywhere.
@pytest.mark.parametrize(
    ("low", "lengths"),
    [(torch.bfloat16, (5, 3, 2)), (torch.float16, (5, 3, 2)), (torch.bfloat16, (5, 5, 5))],
)
@pytest.mark.parametrize("state", [None, torch.float32, torch.bfloat16])
def test_autocast_dtypes_of_a_packed_batch(
    low: torch.dtype, lengths: tuple[int, ...], state: torch.dtype | None
) -> None:
    """Torch's packed path keeps the wider of autocast's dtype and the state's; to sequences of one
    length torch applies its padded path."""
    found = []
    for cls in (nn.LSTM, fastchar.LSTM):
        lstm = cls(4, 6)
        packed = pack_padded_sequence(torch.randn(5, 3, 4), torch.tensor(lengths))
        hx = None if state is None else (torch.zeros(1, 3, 6, dtype=state),) * 2
        with torch.autocast("cpu", low):
            y, (h, c) = lstm(packed, hx)
        found.append((y.data.dtype, h.dtype, c.dtype))
    assert found[0] == found[1]


@pytest.mark.parametrize("low", HALVES)
@pytest.mark.parametrize("state", [None, torch.float32, torch.bfloat16])
def test_autocast_dtypes_of_a_folded_projection(
    low: torch.dtype, state: torch.dtype | None
) -> None:
    """EmbeddingLSTM's are those of the two modules: a projected cell state keeps its own dtype."""
    embedding, lstm = nn.Embedding(7, 4), nn.LSTM(4, 6, proj_size=3)
    ids = torch.randint(7, (5, 3))
    hx = None
    if state is not None:
        hx = torch.zeros(1, 3, 3, dtype=state), torch.zeros(1, 3, 6, dtype=state)
    leaves = torch.utils._pytree.tree_leaves
    with torch.autocast("cpu", low):
        theirs = leaves(lstm(embedding(ids), hx))
        ours = leaves(fastchar.EmbeddingLSTM.from_modules(embedding, lstm)(ids, hx))
    assert [t.dtype for t in ours] == [t.dtype for t in theirs]


@pytest.mark.native
@pytest.mark.parametrize("low", HALVES)
def test_autocast_rounds_once(low: torch.dtype) -> None:
    """All is float32 inside, the cell's state from step to step too: the results under autocast are
    float32's, rounded at the end."""
    x, ids = torch.randn(40, 5, 8), torch.randint(9, (40, 5))
    for module, given in (
        (fastchar.LSTM(8, 12, 2, bidirectional=True), x),
        (fastchar.EmbeddingLSTM(9, 8, 12), ids),
    ):
        leaves = torch.utils._pytree.tree_leaves
        with torch.no_grad():
            exact = leaves(module(given))
            with torch.autocast("cpu", low):
                found = leaves(module(given))
        for a, b in zip(found, exact, strict=True):
            assert torch.equal(a, b.to(low))


@pytest.mark.parametrize("low", HALVES)
def test_autocast_leaves_doubles_alone(low: torch.dtype) -> None:
    """As torch's does: results and gradients of float64 modules are those without it."""
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    lengths = torch.tensor([5, 0, 2])
    for ours, theirs, given in (
        (fastchar.LSTM, nn.LSTM, x),
        (fastchar.LSTMCell, nn.LSTMCell, x[0]),
    ):
        mine, its = ours(4, 6, dtype=x.dtype), theirs(4, 6, dtype=x.dtype)
        mine.load_state_dict(its.state_dict())
        leaves = torch.utils._pytree.tree_leaves
        with torch.autocast("cpu", low):
            a, b = leaves(mine(given)), leaves(its(given))
            if ours is fastchar.LSTM:
                ragged = leaves(mine(given, lengths=lengths))
                assert {t.dtype for t in ragged} == {x.dtype}
        torch.testing.assert_close(a, b)
        grads = [
            torch.autograd.grad(r[0].sum(), list(m.parameters())) for r, m in ((a, mine), (b, its))
        ]
        torch.testing.assert_close(*grads)
