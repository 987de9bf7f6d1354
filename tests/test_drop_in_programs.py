"""What programs do with results, gradients and subclasses, asked of ours beside torch's.

As in `test_drop_in_semantics.py`: a case must end the same with our classes as with torch's.
"""

import weakref
from typing import Any

import pytest
import torch
from drop_in import IDS, PACKED, Case, H, X, ends_the_same, fails_the_same, made, trained
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

import fastchar


def clipped(make: Any) -> Case:
    """Gradients in a tuple, each scaled in place: as clipping without an optimizer is written."""

    def case(m: Any) -> Any:
        module, call = make(m)
        y = call(module)
        grads = torch.autograd.grad(sum(t.sum() for t in y), list(module.parameters()))
        for grad in grads:
            grad.mul_(0.5)
        return grads

    return case


def twice(cell: Any) -> Any:
    return cell(X[1], cell(X[0]))


def written(call: Any) -> Case:
    """A learned start is written into states that a first part without gradients left."""

    def case(m: Any) -> Any:
        learned = torch.ones(6, requires_grad=True)
        with torch.no_grad():
            states = call(m)
        for state in states:
            state[..., 0, :] = learned
        sum(s.square().sum() for s in states).backward()
        return [*states, learned.grad]

    return case


def detached(make: Any, record: bool = True) -> Case:
    """Truncated backpropagation through time: states detached in place between two parts."""

    def case(m: Any) -> Any:
        module, first, second = make(m)
        with torch.set_grad_enabled(record):
            states = module(first)[1]
        for state in states:
            state.detach_()
        y, _ = module(second, states)
        y.square().sum().backward()
        return [y, *states, *(p.grad for p in module.parameters())]

    return case


def gradients_within_inference(m: Any) -> Any:
    """enable_grad inside inference_mode, as of a decorated method: nothing is recorded."""
    lstm, cell, embedding = m.LSTM(4, 6), m.LSTMCell(4, 6), m.Embedding(4, 3)
    with torch.inference_mode(), torch.enable_grad():
        x = X * 1
        found = [lstm(x), lstm(x, (H * 1, H * 1)), lstm(PACKED)[1], cell(x[0]), embedding(IDS)]
    return found, [t.is_inference() for t in torch.utils._pytree.tree_leaves(found)]


def own_names(m: Any) -> Any:
    """Subclasses give their attributes names of their own choice."""

    class Attending(m.LSTM):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(4, 6)
            self.weights = nn.Linear(6, 1)
            self.options, self.run, self.state = 3, True, None

        def forward(self, x: Tensor) -> Tensor:
            y, _ = super().forward(x)
            return y * self.weights(y).softmax(0)

    return trained(Attending(), X)


def own_check(name: str, value: Any) -> Case:
    """A subclass's own check of a state, or idea of its size, is what counts."""

    def case(m: Any) -> Any:
        cls = type("Own", (m.LSTM,), {name: value})
        return cls(4, 6)(X, (H, H))

    return case


def refuse(*_: Any) -> None:
    raise KeyError("mine")


def frozen_and_changed(asking: str) -> Case:
    """Inputs and states of a cell are changed after it where no weight's gradient reads them."""

    def case(m: Any) -> Any:
        cell = m.LSTMCell(4, 6)
        for name, p in cell.named_parameters():
            p.requires_grad_(name == asking)
        x, h, c = (t.clone().requires_grad_() for t in (X[0], H[0], H[0]))
        given, state = x * 1, (h * 1, c * 1)
        y, _ = cell(given, state)
        with torch.no_grad():
            if asking != "weight_ih":
                given.zero_()
            if asking != "weight_hh":
                state[0].zero_()
        y.square().sum().backward()
        return [t.grad for t in (x, h, c, *cell.parameters()) if t.requires_grad]

    return case


class Blocked(torch.autograd.Function):
    """Lets values through, but no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:  # type: ignore[override]
        return None


def no_gradient_comes(m: Any) -> Any:
    """Then there is none for the weights, rather than zeros with which an optimizer would step."""
    found = []
    for module, call in made(m):
        Blocked.apply(call()).sum().backward()
        found.append([p.grad is None for p in module.parameters()])
    return found


def failed_backward(m: Any) -> Any:
    """Of a loop whose backward ended in an error in the middle nothing stays."""
    cell = m.LSTMCell(4, 6)
    given = [x.clone() for x in X]
    kept = [weakref.ref(x) for x in given]
    states = [cell(given[0])]
    for x in given[1:]:
        states.append(cell(x, states[-1]))
    states[2][0].register_hook(refuse)
    with pytest.raises(KeyError):
        states[-1][0].sum().backward()
    del given, states, x
    return [ref() is None for ref in kept]


def of_lstm(*args: Any, **kwargs: Any) -> Any:
    return lambda m: (m.LSTM(*args, **kwargs), lambda lstm: [lstm(X)[0]])


CASES: dict[str, Case] = {
    "clipped": clipped(of_lstm(4, 6)),
    "clipped, two layers": clipped(of_lstm(4, 6, 2, bidirectional=True)),
    "clipped, projected": clipped(of_lstm(4, 6, proj_size=2)),
    "clipped, packed": clipped(
        lambda m: (m.LSTM(4, 6, 2), lambda lstm: [lstm(PACKED)[0].data]),
    ),
    "clipped, one step": clipped(lambda m: (m.LSTMCell(4, 6), lambda cell: cell(X[0]))),
    "clipped, two steps": clipped(lambda m: (m.LSTMCell(4, 6), twice)),
    "states written": written(lambda m: m.LSTM(4, 6)(X)[1]),
    "states of two layers written": written(lambda m: m.LSTM(4, 6, 2)(X)[1]),
    "an output written": written(lambda m: [m.LSTM(4, 6)(X)[0]]),
    "a cell's states written": written(lambda m: m.LSTMCell(4, 6)(X[0])),
    "an embedding written": written(lambda m: [m.Embedding(4, 6)(IDS)]),
    "states detached": detached(lambda m: (m.LSTM(4, 6), X, 2 * X)),
    "states made under no_grad detached": detached(lambda m: (m.LSTM(4, 6), X, 2 * X), False),
    "states of two layers detached": detached(
        lambda m: (m.LSTM(4, 6, 2, bidirectional=True), X, 2 * X)
    ),
    "states of a packed batch detached": detached(
        lambda m: (m.LSTM(4, 6), pack_padded_sequence(X, [5, 3, 2]), X)
    ),
    "a frozen cell's arguments changed": frozen_and_changed(""),
    **{
        f"arguments changed, gradients of {name} alone": frozen_and_changed(name)
        for name in ("weight_ih", "weight_hh", "bias_hh")
    },
    "a backward that fails": failed_backward,
    "no gradient comes": no_gradient_comes,
    "gradients within inference": gradients_within_inference,
    "own names": own_names,
    "own size": own_check("get_expected_hidden_size", lambda *_: (1, 3, 6)),
}

ERRORS: dict[str, Case] = {
    "own check of a state": own_check("check_hidden_size", refuse),
    "own check of all": own_check("check_forward_args", refuse),
    "another size": own_check("get_expected_hidden_size", lambda *_: (9, 9, 9)),
    "another size of c": own_check("get_expected_cell_size", lambda *_: (9, 9, 9)),
}


@pytest.mark.parametrize("name", CASES)
def test_same_results(name: str) -> None:
    """Values, gradients, dtypes, layouts and what was seen on the way are torch's."""
    ends_the_same(CASES[name])


@pytest.mark.parametrize("name", ERRORS)
def test_same_errors(name: str) -> None:
    """The error's type is torch's, and its message where torch has one of its own for the case."""
    fails_the_same(ERRORS[name])


@pytest.mark.parametrize(
    ("make", "call"),
    [
        (lambda: fastchar.LSTM(4, 6), lambda m: m(X)[0]),
        (lambda: fastchar.LSTM(4, 6), lambda m: m(X, lengths=torch.tensor([5, 0, 2]))[0]),
        (lambda: fastchar.LSTMCell(4, 6), lambda m: m(X[0])[0]),
        (lambda: fastchar.EmbeddingLSTM(4, 4, 6), lambda m: m(IDS)[0]),
    ],
)
@pytest.mark.parametrize("how", ["eager", "compiled", "differentiable"])
def test_no_two_gradients_share_memory(make: Any, call: Any, how: str) -> None:
    """Of the two biases the values are equal; the tensors are two all the same."""
    module = make()
    run = torch.compile(call, backend="aot_eager") if how == "compiled" else call
    total, twice = run(module).sum(), how == "differentiable"
    grads = torch.autograd.grad(total, list(module.parameters()), create_graph=twice)
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) == len(grads)


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("make", "given"),
    [
        (lambda: fastchar.LSTMCell(4, 6), X[0]),
        (lambda: fastchar.Embedding(4, 3, padding_idx=0), IDS),
    ],
)
def test_a_trace_warns_of_nothing(make: Any, given: Tensor) -> None:
    """As torch's two: nothing in it depends on the sizes of the example. (nn.LSTM's does warn.)"""
    torch.jit.trace(make(), given)


class Largest(TorchDispatchMode):
    """The most elements that a tensor made meanwhile has."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.size = max(self.size, *(t.numel() for t in torch.utils._pytree.tree_leaves(out)))
        return out


@pytest.mark.native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_lookup_makes_no_other_table(dtype: torch.dtype) -> None:
    """Rows are copied as they are, in half precision too, for an LSTM behind them as well; of the
    gradient the sums are float32's, rounded once."""
    embedding, pair = fastchar.Embedding(999, 5, 0), fastchar.EmbeddingLSTM(999, 5, 6)
    ids = torch.randint(9, (40, 3))
    for module in (embedding, pair):
        module.to(dtype)
        with torch.no_grad(), Largest() as largest:
            module(ids)
        assert 0 < largest.size < 999 * 5
    rows = embedding(ids)
    assert torch.equal(rows, embedding.weight[ids])
    wide = fastchar.Embedding(999, 5, 0)
    grad = torch.randn(rows.shape).to(dtype)
    rows.backward(grad)
    wide(ids).backward(grad.float())
    assert wide.weight.grad is not None
    assert torch.equal(embedding.weight.grad, wide.weight.grad.to(dtype))
