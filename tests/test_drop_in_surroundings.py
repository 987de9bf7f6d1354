"""What power users put around and into these modules, asked of ours beside torch's.

Batched gradients and transforms, tensors changed in place, default dtypes and devices, subclasses
and modes, weights shared or computed, hooks, pickles of other versions: as in
`test_drop_in_semantics.py`, a case must end the same with our classes as with torch's.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from drop_in import (
    IDS,
    OURS,
    PACKED,
    TORCHS,
    Case,
    H,
    X,
    ends_the_same,
    fails_the_same,
    made,
    trained,
)
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call, jacfwd, jacrev, jvp, vmap
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
    unpack_sequence,
)
from torch.overrides import TorchFunctionMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

D = torch.float64


def all_trained(m: SimpleNamespace) -> list[Any]:
    """One of each, trained: results and gradients."""
    found = []
    for module, call in made(m):
        y = call()
        y.square().sum().backward()
        found.append([y, *(p.grad for p in module.parameters())])
    return found


def batched_gradients(m: Any) -> Any:
    """A batch of gradients goes back through one graph in a single call."""
    found = []
    for module, call in made(m):
        y = call()
        v = torch.randn(7, *y.shape, generator=torch.Generator().manual_seed(1))
        found.append(torch.autograd.grad(y, list(module.parameters()), v, is_grads_batched=True))
    return found


def batched_gradients_with_a_graph(m: Any) -> Any:
    """A batch of gradients, and the gradient of what they are."""
    found = []
    for module, call in made(m):
        weights, y = list(module.parameters()), call().square()
        v = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(1))
        grads = torch.autograd.grad(y, weights, v, is_grads_batched=True, create_graph=True)
        again = torch.autograd.grad(sum(g.square().mean() for g in grads), weights)
        found.append([*grads, *again])
    return found


def forward_over_backward(m: Any) -> Any:
    """The tangent of a gradient whose graph was made before forward mode began."""
    found = []
    for module, call in made(m)[1:]:  # torch's fused LSTM has no such derivative
        y = call()
        v, t = torch.linspace(-1, 1, 2 * y.numel()).view(2, *y.shape)
        with forward_ad.dual_level():
            grads = torch.autograd.grad(y, list(module.parameters()), forward_ad.make_dual(v, t))
            found.append([forward_ad.unpack_dual(g).tangent for g in grads])
    return found


def per_sample_gradients(m: Any) -> Any:
    module = m.LSTM(4, 6)
    weights = {k: p.detach() for k, p in module.named_parameters()}

    def loss(weights: Any, x: Tensor) -> Tensor:
        return functional_call(module, weights, (x.unsqueeze(1),))[0].square().sum()

    return list(vmap(torch.func.grad(loss), (None, 1))(weights, X).values())


def jacobians(m: Any) -> Any:
    module = m.LSTM(4, 6, dtype=D)
    x = X[:2, :1].double()

    def call(x: Tensor) -> Tensor:
        return module(x)[0]

    return [
        jacobian(call, x, vectorize=True),
        jacrev(call)(x),
        jacfwd(call)(x),
        jvp(call, (x,), (torch.ones_like(x),)),
        hessian(lambda x: call(x).square().sum(), x),
        hessian(lambda x: call(x).square().sum(), x, vectorize=True),
        torch.func.hessian(lambda x: call(x).square().sum())(x),
    ]


def with_state(change: Any) -> Case:
    """A last state is nobody's saved tensor, so it may be changed."""

    def case(m: Any) -> Any:
        module = m.LSTM(4, 6, 2, bidirectional=True)
        y, (h, c) = module(X)
        change(h, c)
        (y.sum() + h.square().sum() + c.square().sum()).backward()
        return [p.grad for p in module.parameters()]

    return case


def default_dtype(m: Any) -> Any:
    """New modules have the default dtype; old ones go on in theirs."""
    old = made(m)
    torch.set_default_dtype(D)
    try:
        new = [p.dtype for module, _ in made(m) for p in module.parameters()]
        return new, [call() for _, call in old], m.LSTM(4, 6)(X.double())
    finally:
        torch.set_default_dtype(torch.float32)


def default_device(m: Any) -> Any:
    """Modules and batches on the CPU are none of the default device's business."""
    modules, lstm = made(m), m.LSTM(4, 6)
    torch.set_default_device("meta")
    try:
        y, _ = lstm(PACKED)
        grads = torch.autograd.grad(y.data.square().sum(), list(lstm.parameters()))
        found = [[call(), *module.parameters()] for module, call in modules]
        return y.data, grads, found, m.LSTM(4, 6).weight_hh_l0.device
    finally:
        torch.set_default_device("cpu")


def graph_hooks(m: Any) -> Any:
    y, (h, _) = m.LSTM(4, 6)(X)
    y.retain_grad()
    h.retain_grad()
    seen: list[str] = []
    y.grad_fn.register_prehook(lambda *_: seen.append("before"))
    y.grad_fn.register_hook(lambda *_: seen.append("after"))
    (y.sum() + h.square().sum()).backward()
    return y.grad, h.grad, seen


def negated(m: Any) -> Any:
    """Tensors whose minus is still to be done, as imag of a conjugate gives them."""
    minus = torch._neg_view
    lstm, cell, embedding = m.LSTM(4, 6), m.LSTMCell(4, 6), m.Embedding(4, 3)
    lstm.weight_hh_l0 = nn.Parameter(minus(lstm.weight_hh_l0.data))
    found = [
        trained(lstm, minus(X), (minus(H), minus(H))),
        trained(cell, minus(X[0]), (minus(H[0]), minus(H[0]))),
    ]
    for y in (lstm(X)[0], embedding(IDS)):
        y.backward(minus(torch.ones_like(y)))
    return found, lstm.weight_hh_l0.grad, embedding.weight.grad


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Named(Tensor):
    """A user's subclass: torch's functions give it back."""


def within(mode: Any) -> Case:
    def case(m: Any) -> Any:
        with mode():
            return all_trained(m)

    return case


def subclasses(m: Any) -> Any:
    lstm, embedding = m.LSTM(4, 6), m.Embedding(4, 3)
    y, z = lstm(X.as_subclass(Named))[0], embedding(IDS.as_subclass(Named))
    lstm.weight_hh_l0 = nn.Parameter(lstm.weight_hh_l0.data.as_subclass(Named))
    w = lstm(X)[0]
    return [(type(t).__name__, t.as_subclass(Tensor)) for t in (y, z, w)]


def two_tensors(m: Any) -> Any:
    """A subclass with a dispatch of its own, as distributed and quantized tensors have."""
    lstm, embedding = m.LSTM(4, 6), m.Embedding(4, 3)
    embedding.weight = nn.Parameter(TwoTensor(embedding.weight.data, 2 * embedding.weight.data))
    y, z = lstm(TwoTensor(X.clone(), 2 * X))[0], embedding(IDS)
    z.square().sum().backward()
    grad: Any = embedding.weight.grad
    return y.a, y.b, z.a, z.b, grad.a, grad.b


def nested_ids(m: Any) -> Any:
    embedding = m.Embedding(4, 3)
    y = embedding(torch.nested.nested_tensor([IDS[0], IDS[1, :1]], layout=torch.jagged)).values()
    y.square().sum().backward()
    return y, embedding.weight.grad


def strided_nested_ids(m: Any) -> Any:
    """Of these torch has no gradient."""
    return m.Embedding(4, 3)(torch.nested.nested_tensor([IDS[0], IDS[1, :1]])).unbind()


def made_in_inference_mode(m: Any) -> Any:
    with torch.inference_mode():
        lstm, embedding = m.LSTM(4, 6), m.Embedding(4, 3)
        x = X.clone()
    with torch.no_grad():
        return lstm(X), embedding(IDS), m.LSTM(4, 6)(x)


def packed_batch_first(m: Any) -> Any:
    """Packed along the first dimension, unsorted, with a state; unpacked again."""
    module = m.LSTM(4, 6, batch_first=True)
    x = X.transpose(0, 1).contiguous().requires_grad_()
    packed = pack_padded_sequence(x, [2, 5, 3], batch_first=True, enforce_sorted=False)
    y, (h, c) = module(packed, (H, 2 * H))
    padded, lengths = pad_packed_sequence(y, batch_first=True, padding_value=9.0)
    (padded.sum() + h.sum()).backward()
    return padded, lengths, h, c, x.grad, unpack_sequence(y), [p.grad for p in module.parameters()]


def autocast_projection(m: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        out, packed = m.LSTM(4, 6, proj_size=2)(X), m.LSTM(4, 6, proj_size=2)(PACKED)
    leaves = torch.utils._pytree.tree_leaves
    return [t.dtype for t in leaves((out, packed[0].data, packed[1]))]


CASES: dict[str, Case] = {
    "batched gradients": batched_gradients,
    "batched gradients with a graph": batched_gradients_with_a_graph,
    "forward mode over a backward": forward_over_backward,
    "per-sample gradients": per_sample_gradients,
    "jacobians": jacobians,
    "states changed": with_state(lambda h, c: (h.mul_(2), c.add_(1))),
    "a layer's states changed": with_state(lambda h, c: (h[1].mul_(2), c[0].add_(1))),
    "default dtype": default_dtype,
    "default device": default_device,
    "hooks in the graph": graph_hooks,
    "negated": negated,
    "a dispatch mode": within(DispatchMode),
    "a function mode": within(FunctionMode),
    "a device context": within(lambda: torch.device("cpu")),
    "subclasses": subclasses,
    "two tensors in one": two_tensors,
    "nested ids": nested_ids,
    "nested ids, strided": strided_nested_ids,
    "made in inference mode": made_in_inference_mode,
    "packed, batch first": packed_batch_first,
    "packed by hand": lambda m: m.LSTM(4, 6)(
        PackedSequence(X.flatten(0, 1), torch.tensor([3] * 5))
    ),
    "packed, projected": lambda m: trained(
        m.LSTM(4, 6, 2, proj_size=2, bidirectional=True), PACKED
    ),
    "packed, projected, dropout": lambda m: m.LSTM(4, 6, 2, proj_size=2, dropout=0.5)(PACKED),
    "autocast of a projection": autocast_projection,
    "one state seen by all": lambda m: m.LSTM(4, 6)(X, (H[:, :1].expand(1, 3, 6),) * 2),
    "complex": lambda m: m.LSTM(4, 6, dtype=torch.complex64)(X.to(torch.complex64)),
    "sizes of one": lambda m: trained(m.LSTM(1, 1, 2, bidirectional=True), X[:1, :1, :1]),
    "a cell's sparse input": lambda m: trained(m.LSTMCell(4, 6), X[0].relu().to_sparse()),
    "named arguments": lambda m: [
        m.LSTM(4, 6)(input=X, hx=(H, H)),
        m.LSTMCell(4, 6)(input=X[0], hx=(H[0], H[0])),
        m.Embedding(4, 3)(input=IDS),
    ],
}


def changed_before_backward(what: str) -> Case:
    """Something that the backward reads is changed after the forward."""

    def case(m: Any) -> Any:
        lstm, cell, embedding = m.LSTM(4, 6), m.LSTMCell(4, 6), m.Embedding(4, 3)
        x, h, c, ids = X.clone().requires_grad_(), H.clone(), H.clone(), IDS.clone()
        given = {"x": x.detach(), "h": h, "c": c, "ids": ids}
        given.update({"w_ih": lstm.weight_ih_l0.data, "w_hh": lstm.weight_hh_l0})
        if what == "ids":
            y = embedding(ids)
        elif what == "cell's c":
            y = cell(x[0], (h[0], c[0]))[0]
        else:
            y = lstm(x, (h, c))[0]
        with torch.no_grad():
            (
                c if what == "cell's c" else lstm.weight_ih_l0 if what == "w_ih" else given[what]
            ).mul_(2)
        y.sum().backward()

    return case


ERRORS: dict[str, Case] = {
    "packed: state in two dimensions": lambda m: m.LSTM(4, 6)(
        pack_padded_sequence(X, [5, 3, 1]), (H[0], H[0])
    ),
    "packed: one state": lambda m: m.LSTM(4, 6)(pack_padded_sequence(X, [5, 3, 1]), (H,)),
    "packed: one state, unsorted": lambda m: m.LSTM(4, 6)(PACKED, (H,)),
    "packed: state in one tensor": lambda m: m.LSTM(4, 6)(pack_padded_sequence(X, [5, 3, 1]), H),
    "packed: whole numbers": lambda m: m.LSTM(4, 6)(pack_padded_sequence(X.long(), [5, 3, 1])),
    "packed: halves": lambda m: m.LSTM(4, 6)(pack_padded_sequence(X.half(), [5, 3, 1])),
    "packed: input size": lambda m: m.LSTM(3, 6)(PACKED),
    "packed: four dimensions": lambda m: m.LSTM(4, 6)(
        pack_padded_sequence(X[..., None], [5, 3, 1])
    ),
    "no states": lambda m: m.LSTM(4, 6)(X, ()),
    "states of None": lambda m: m.LSTM(4, 6)(X, (None, None)),
    "states of whole numbers": lambda m: m.LSTM(4, 6)(X, (H.long(), H.long())),
    "states without data": lambda m: m.LSTM(4, 6)(X, (H.to("meta"), H.to("meta"))),
    "an input without data": lambda m: m.LSTM(4, 6)(X.to("meta")),
    "weights without data": lambda m: m.LSTM(4, 6, device="meta")(X),
    "weights without data, projected": lambda m: m.LSTM(4, 6, proj_size=2, device="meta")(X),
    "a list": lambda m: m.LSTM(4, 6)([1, 2]),
    "an array": lambda m: m.LSTM(4, 6)(X.numpy()),
    "nothing": lambda m: m.LSTM(4, 6)(),
    "of whole numbers": lambda m: m.LSTM(4, 6, dtype=torch.int64),
    "cell: state of one dimension": lambda m: m.LSTMCell(4, 6)(X[0], (H[0, 0], H[0, 0])),
    "cell: states of None": lambda m: m.LSTMCell(4, 6)(X[0], (None, None)),
    "cell: no states": lambda m: m.LSTMCell(4, 6)(X[0], ()),
    "cell: three dimensions": lambda m: m.LSTMCell(4, 6)(X),
    "an inference tensor, trained": lambda m: trained(m.LSTMCell(4, 6), inference(X[0])),
    "inference ids, trained": lambda m: trained(m.Embedding(4, 3), inference(IDS)),
}  # fmt: skip

# Same type, other words: torch's name its own nodes and ops.
SAME_TYPE: dict[str, Case] = {
    **{
        f"{what} changed": changed_before_backward(what)
        for what in ("w_ih", "w_hh", "h", "c", "ids", "cell's c")
    },
}


def inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


@pytest.mark.parametrize("name", CASES)
def test_same_results(name: str) -> None:
    """Values, gradients, dtypes, layouts and what was seen on the way are torch's."""
    ends_the_same(CASES[name])


@pytest.mark.parametrize("name", [*ERRORS, *SAME_TYPE])
def test_same_errors(name: str) -> None:
    """The error's type is torch's, and its message where torch has one of its own for the case."""
    fails_the_same(ERRORS.get(name) or SAME_TYPE[name], words=name in ERRORS)


@pytest.mark.native
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_output_changed_in_place_is_an_error(batch_first: bool) -> None:
    """Torch's own, as of nn.LSTM's fused kernel: the backward reads the output."""
    for m in (TORCHS, OURS):
        y, _ = m.LSTM(4, 6, batch_first=batch_first)(X)
        y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
