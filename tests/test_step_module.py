"""nn.LSTM that gets one step a call, in somebody's loop: it runs as the step does.

`fastchar.LSTM` and `EmbeddingLSTM` then take the op of `LSTMCell`, which packs no weights and
leaves their gradients to the end of the loop.
"""

from collections.abc import Callable

import pytest
import torch
from error_rule import Sample
from test_step_loop import Ops
from torch import Tensor, nn

import fastchar

pytestmark = pytest.mark.native
V, E, H, B, T = 11, 7, 20, 5, 6
State = tuple[Tensor, Tensor]
Between = Callable[[int, State, State], State]


def keep(t: int, new: State, old: State) -> State:
    return new


def ended(t: int, new: State, old: State) -> State:
    """A sequence that has ended keeps its state, as decoders do it."""
    alive = (t < torch.arange(B) + 1).unsqueeze(1)
    return torch.where(alive, new[0], old[0]), torch.where(alive, new[1], old[1])


def looped(lstm: nn.Module, xs: Tensor, state: State, between: Between = keep) -> Tensor:
    total = state[0].new_zeros(())
    for t, x in enumerate(xs.split(1)):
        output, new = lstm(x, state)
        state = between(t, new, state)
        total = total + output.square().sum()
    return total + state[0].cos().sum() + state[1].sin().sum()


def zeros(lstm: nn.LSTM) -> State:
    shape = (lstm.num_layers * (2 if lstm.bidirectional else 1), B, H)
    return torch.zeros(shape), torch.zeros(shape)


@pytest.mark.parametrize("between", [keep, ended])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_loops(options: dict[str, int | bool], between: Between) -> None:
    """Outputs, states and every gradient are within the error rule."""
    sample = Sample()
    for seed in range(10):
        torch.manual_seed(seed)
        weights = nn.LSTM(E, H, **options).state_dict()  # type: ignore[arg-type]
        D, L = (2 if options.get("bidirectional") else 1), options.get("num_layers", 1)
        given = [torch.randn(T, B, E), torch.randn(D * L, B, H), torch.randn(D * L, B, H)]
        found = []
        for cls, dtype in (
            (fastchar.LSTM, torch.float32),
            (nn.LSTM, torch.float32),
            (nn.LSTM, torch.float64),
        ):
            lstm = cls(E, H, dtype=dtype, **options)  # type: ignore[arg-type]
            lstm.load_state_dict(weights)
            x, h, c = (a.to(dtype, copy=True).requires_grad_() for a in given)
            total = looped(lstm, x, (h, c), between)
            total.backward()
            names = [name for name, _ in lstm.named_parameters()]
            found.append([total, *(a.grad for a in (*lstm.parameters(), x, h, c))])
        for name, *grads in zip(("total", *names, "x", "h", "c"), *found, strict=True):
            sample.add(name, *grads)
    sample.check()


@pytest.mark.parametrize("between", [keep, ended])
@pytest.mark.parametrize("layers", [1, 2])
def test_one_product_a_loop(layers: int, between: Between) -> None:
    """A product a weight for the whole loop, whatever stands between c_n and the next c."""
    lstm = fastchar.LSTM(E, H, layers)
    total = looped(lstm, torch.randn(T, B, E), zeros(lstm), between)
    with Ops() as ran:
        total.backward()
    assert ran.names.count("lstm_step_backward") == T * layers
    assert ran.names.count("lstm_step_weight_grad") == 2 * layers


def test_ids() -> None:
    """EmbeddingLSTM on one step of ids, from a table with padding_idx: that of its modules."""
    torch.manual_seed(0)
    embedding, lstm = fastchar.Embedding(V, E, padding_idx=2), fastchar.LSTM(E, H)
    both = fastchar.EmbeddingLSTM.from_modules(embedding, lstm)
    ids = torch.randint(V, (T, B))
    ids[0] = 2
    for p in (embedding.weight, *lstm.parameters()):
        p.grad = None
    total = looped(both, ids, zeros(lstm))
    total.backward()
    grads = [p.grad for p in (embedding.weight, *lstm.parameters())]
    for p in (embedding.weight, *lstm.parameters()):
        p.grad = None
    expected = looped(lstm, embedding(ids), zeros(lstm))
    expected.backward()
    torch.testing.assert_close(total, expected)
    for grad, p in zip(grads, (embedding.weight, *lstm.parameters()), strict=True):
        torch.testing.assert_close(grad, p.grad)
    assert grads[0] is not None
    assert not grads[0][2].any()


@pytest.mark.parametrize("grad", [True, False])
def test_runs_as_a_step(grad: bool) -> None:
    """One step takes the step's op; two steps, or lengths, the layer's."""
    lstm = fastchar.LSTM(E, H)
    for steps, lengths, op in (
        (1, None, "lstm_step"),
        (2, None, "lstm_layer"),
        (1, torch.ones(B, dtype=torch.int64), "lstm_layer"),
    ):
        with Ops() as ran, torch.set_grad_enabled(grad):
            lstm(torch.randn(steps, B, E), lengths=lengths)
        assert ran.names == [op]


def test_results_are_memory_of_their_own() -> None:
    """Writing into the output changes no state, and the other way round."""
    lstm = fastchar.LSTM(E, H)
    with torch.no_grad():
        output, (h, c) = lstm(torch.randn(1, B, E))
        before = h.clone()
        output.zero_()
        assert torch.equal(h, before)
        c.zero_()
        assert torch.equal(h, before)
