"""LSTMCell in somebody's loop: the weights' gradients, made once a loop, are those of autograd."""

from collections.abc import Callable
from threading import Thread

import pytest
import torch
from error_rule import Sample
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastchar

T, B, E, H = 6, 5, 7, 20
pytestmark = pytest.mark.native
Grads = dict[str, Tensor]


def cells(seed: int = 0) -> tuple[nn.LSTMCell, nn.LSTMCell]:
    """torch's cell in float64 and ours in float32, with the same weights."""
    torch.manual_seed(seed)
    exact = nn.LSTMCell(E, H, dtype=torch.float64)
    ours = fastchar.LSTMCell(E, H)
    ours.load_state_dict(exact.state_dict())
    exact.load_state_dict(ours.state_dict())
    return exact, ours


def inputs(like: nn.LSTMCell) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    x, h, c = torch.randn(T, B, E), torch.randn(B, H), torch.randn(B, H)
    dtype = like.weight_ih.dtype
    return x.to(dtype).requires_grad_(), (h.to(dtype), c.to(dtype))


def looped(cell: nn.LSTMCell, x: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
    total = x.new_zeros(())
    for step in x:
        state = cell(step, state)
        total = total + state[0].square().sum()
    return total + state[1].sin().sum()


def same(ours: Tensor | None, exact: Tensor | None) -> None:
    assert ours is not None
    assert exact is not None
    torch.testing.assert_close(ours.double(), exact, rtol=2e-5, atol=2e-5)


def compare(run: Callable[[nn.LSTMCell], None]) -> None:
    """run leaves gradients in a cell's parameters: ours and torch's have to be the same."""
    exact, ours = cells()
    run(exact)
    run(ours)
    for (name, a), b in zip(ours.named_parameters(), exact.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            same(a.grad, b.grad)


def waiting(tensor: Tensor) -> dict[int, object]:
    """What waits at the node of the loop that made a tensor."""
    return tensor.grad_fn.loop.node.waiting  # type: ignore[union-attr]


class Ops(TorchDispatchMode):
    """The names of fastchar's ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.namespace == "fastchar":
            self.names.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def test_one_product_a_loop() -> None:
    """All steps of a loop share one node, which one backward visits once."""
    _, cell = cells()
    x, state = inputs(cell)
    states = []
    for step in x:
        state = cell(step, state)
        states.append(state)
    loops = {id(c.grad_fn.loop) for _, c in states}  # type: ignore[union-attr]
    assert len(loops) == 1
    with Ops() as ran:
        torch.stack([h for h, _ in states]).sum().backward()
    assert ran.names.count("lstm_step_backward") == T
    assert ran.names.count("lstm_step_weight_grad") == 2
    assert not waiting(state[1])


def test_loops() -> None:
    """Error rule over loops of many sizes, for every gradient, the inputs' included."""
    sample = Sample()
    for seed in range(40):
        torch.manual_seed(seed)
        b, e, h, t = (int(n) for n in torch.randint(1, 40, (4,)))
        weights = nn.LSTMCell(e, h).state_dict()
        x, h0, c0 = torch.randn(t % 7 + 1, b, e), torch.randn(b, h), torch.randn(b, h)
        found = []
        for cls, dtype in (
            (fastchar.LSTMCell, torch.float32),
            (nn.LSTMCell, torch.float32),
            (nn.LSTMCell, torch.float64),
        ):
            cell = cls(e, h, dtype=dtype)
            cell.load_state_dict(weights)
            given = [a.detach().to(dtype, copy=True).requires_grad_() for a in (x, h0, c0)]
            looped(cell, given[0], (given[1], given[2])).backward()
            found.append([a.grad for a in (*cell.parameters(), *given)])
        for name, *grads in zip(("wi", "wh", "bi", "bh", "x", "h", "c"), *found, strict=True):
            sample.add(name, *grads)
    sample.check()


def test_accumulates_over_loops_and_passes() -> None:
    """Two loops over one cell, one of them twice through a kept graph, add up."""

    def run(cell: nn.LSTMCell) -> None:
        x, state = inputs(cell)
        first = looped(cell, x, state)
        first.backward(retain_graph=True)
        (looped(cell, 2 * x, state) + first).backward()

    compare(run)


def test_batch_that_shrinks() -> None:
    """Sequences leave a packed batch as they end: the steps of one loop have ever fewer rows."""

    def run(cell: nn.LSTMCell) -> None:
        x, state = inputs(cell)
        total = x.new_zeros(())
        for t, step in enumerate(x):
            left = B - t // 2
            state = cell(step[:left], (state[0][:left], state[1][:left]))
            total = total + state[0].square().sum()
        if isinstance(cell, fastchar.LSTMCell):
            with Ops() as ran:
                total.backward()
            assert ran.names.count("lstm_step_weight_grad") == 2
        else:
            total.backward()

    compare(run)


def test_batch_of_gradients() -> None:
    """A batch of gradients through a whole loop in a single call."""
    found = []
    for cell in cells():
        x, state = inputs(cell)
        y = looped(cell, x, state) * x.new_ones(3)
        v = torch.eye(3, dtype=x.dtype)
        found.append(torch.autograd.grad(y, list(cell.parameters()), v, is_grads_batched=True))
    for exact, ours in zip(*found, strict=True):
        same(ours, exact)


def test_interleaved_loops() -> None:
    """Two loops over the same weights whose steps alternate, and a state that branches."""

    def run(cell: nn.LSTMCell) -> None:
        x, state = inputs(cell)
        a, b = state, (state[1], state[0])
        for step in x:
            a, b = cell(step, a), cell(-step, b)
        branch = cell(x[0], a)
        (a[0] * b[1] + branch[0] + cell(x[1], a)[1]).sum().backward()

    compare(run)


@pytest.mark.parametrize("frozen", ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight bias"])
def test_frozen_parameters(frozen: str) -> None:
    """Gradients for those parameters alone that ask for them."""

    def run(cell: nn.LSTMCell) -> None:
        for name, parameter in cell.named_parameters():
            parameter.requires_grad_(not any(part in name for part in frozen.split()))
        x, state = inputs(cell)
        looped(cell, x, state).backward()

    compare(run)


@pytest.mark.parametrize("late", [False, True])
def test_parameters_frozen_within_a_loop(late: bool) -> None:
    """Weights that ask for gradients from the third step on, or only until then."""

    def run(cell: nn.LSTMCell) -> None:
        x, state = inputs(cell)
        for t, step in enumerate(x):
            cell.weight_hh.requires_grad_((t >= 2) == late)
            state = cell(step, state)
        cell.weight_hh.requires_grad_()
        (state[0] + state[1]).sum().backward()

    compare(run)


def test_gradients_of_inputs_only() -> None:
    """torch.autograd.grad of x: right, and nothing is left waiting at the weights."""
    exact, ours = cells()
    grads = []
    for cell in (ours, exact):
        x, state = inputs(cell)
        for step in x:
            state = cell(step, state)
        grads.append(torch.autograd.grad(state[0].sum(), x, retain_graph=True)[0])
        if cell is ours:
            assert not waiting(state[1])
            weights = torch.autograd.grad(state[0].sum(), [cell.weight_hh])[0]
            assert weights.abs().sum() > 0
            assert cell.weight_hh.grad is None
    same(*grads)


def test_second_derivative() -> None:
    """A penalty on the gradient of x, as in Wasserstein critics, reaches the weights."""

    def run(cell: nn.LSTMCell) -> None:
        x, state = inputs(cell)
        (grad,) = torch.autograd.grad(looped(cell, x, state), x, create_graph=True)
        grad.square().sum().backward()

    compare(run)


def test_second_derivative_of_weights() -> None:
    """Through the weights' own gradient: a meta-learner's inner step."""

    def run(cell: nn.LSTMCell) -> None:
        x, state = inputs(cell)
        inner = torch.autograd.grad(
            looped(cell, x, state), list(cell.parameters()), create_graph=True
        )
        sum(grad.square().sum() for grad in inner).backward()

    compare(run)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed(reentrant: bool) -> None:
    """Activation checkpointing, a step at a time."""

    def run(cell: nn.LSTMCell) -> None:
        x, state = inputs(cell)
        for step in x:
            state = checkpoint(cell, step, state, use_reentrant=reentrant)
        (state[0] + state[1]).sum().backward()

    compare(run)


def test_states_changed_in_place() -> None:
    """h' and c' may be changed in place between two steps: no backward reads them as they were."""

    def run(cell: nn.LSTMCell) -> None:
        x, state = inputs(cell)
        total = x.new_zeros(())
        for step in x:
            h, c = cell(step, state)
            state = (h.mul_(0.5), c.mul_(2).add_(0.1))
            total = total + state[0].sum()
        (total + state[1].square().sum()).backward()

    compare(run)


def test_weight_changed_in_place() -> None:
    """A weight changed between forward and backward is torch's own error, not a wrong gradient."""
    _, cell = cells()
    x, state = inputs(cell)
    loss = looped(cell, x, state)
    with torch.no_grad():
        cell.weight_hh.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_weights_recomputed_every_step() -> None:
    """Weight norm makes new tensors for every step."""

    def run(cell: nn.LSTMCell) -> None:
        nn.utils.parametrizations.weight_norm(cell, "weight_hh")
        x, state = inputs(cell)
        looped(cell, x, state).backward()

    compare(run)


def test_backward_in_threads() -> None:
    """Backward passes that overlap in threads do not mix their rows."""
    exact, ours = cells()
    x, state = inputs(ours)
    losses = [looped(ours, x, state) * k for k in (1.0, 2.0, 3.0)]
    threads = [Thread(target=loss.backward) for loss in losses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    x, state = inputs(exact)
    (looped(exact, x, state) * 6).backward()
    for a, b in zip(ours.parameters(), exact.parameters(), strict=True):
        same(a.grad, b.grad)


def test_no_graph_of_old_steps_is_kept() -> None:
    """A detached state starts a new loop: a long stream does not hold its past alive."""
    _, cell = cells()
    x, state = inputs(cell)
    state = cell(x[0], state)
    before = state[1].grad_fn.loop  # type: ignore[union-attr]
    state = cell(x[1], (state[0].detach(), state[1].detach()))
    assert state[1].grad_fn.loop is not before  # type: ignore[union-attr]
