"""What is done to a module's weights and with its state, by ours as by torch's.

Weights changed, shared, computed, moved and dropped; state_dicts, their hooks, and pickles.
"""

import io
from typing import Any

import pytest
import torch
from drop_in import IDS, TORCHS, Case, H, X, changed, ends_the_same, fails_the_same, made, trained
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from fastchar import functional


def descend(p: Tensor) -> None:
    with torch.no_grad():
        p.sub_(p.grad, alpha=0.1)
    p.grad = None


def optimizer_in_the_backward(m: Any) -> Any:
    """Weights that change as soon as their gradient is there: no later step of it reads them."""
    found = []
    for module, call in made(m):
        for p in module.parameters():
            p.register_post_accumulate_grad_hook(descend)
        for _ in range(3):
            call().square().sum().backward()
        found.append(list(module.parameters()))
    return found


def a_bias_changed_between_steps(m: Any) -> Any:
    """In place and under autograd: each step's gradient goes through what the bias was then."""
    step = torch.lstm_cell if m is TORCHS else functional.lstm_cell
    weights = list(m.LSTMCell(4, 6).parameters())
    w_ih, w_hh, b_ih, b_hh = weights
    b = b_ih * 1
    state = step(X[0], (H[0], H[0]), w_ih, w_hh, b, b_hh)
    b.mul_(3)
    state = step(X[1], state, w_ih, w_hh, b, b_hh)
    return torch.autograd.grad(sum(s.sum() for s in state), weights)


def a_weight_detached_between_steps(name: str) -> Case:
    """In place, and asking for a gradient of its own from then on: the graph before it gets none
    of the later steps', as where a meta-learner's weights are cut off in the middle of a loop."""

    def case(m: Any) -> Any:
        step = torch.lstm_cell if m is TORCHS else functional.lstm_cell
        made = {key: p * 1 for key, p in m.LSTMCell(4, 6).named_parameters()}
        leaf = made[name].detach().requires_grad_()
        made[name] = w = leaf * 1
        state = step(X[0], (H[0], H[0]), *made.values())
        w.detach_().requires_grad_()
        h, c = step(X[1], state, *made.values())
        return torch.autograd.grad(h.sum() + c.sum(), [leaf, w])

    return case


def old_pickle(m: Any) -> Any:
    """The state of a module from before proj_size and the weights' names were attributes."""
    module = m.LSTM(4, 6, 2, bidirectional=True)
    new = ("proj_size", "_flat_weights", "_flat_weights_names", "_flat_weight_refs")
    state = {k: v for k, v in vars(module).items() if k not in new}
    state["_all_weights"] = module.all_weights
    other = m.LSTM.__new__(m.LSTM)
    other.__setstate__(state)
    return other(X), other._flat_weights_names, other.proj_size


def flat_weights(m: Any) -> Any:
    module = m.LSTM(4, 6, 2, bidirectional=True, proj_size=3)
    module.weight_hh_l0 = nn.Parameter(torch.ones(24, 3))
    named = [getattr(module, name) for name in module._flat_weights_names]
    return [a is b for a, b in zip(module._flat_weights, named, strict=True)], named, module.mode


def dropped_weight(m: Any) -> Any:
    """Weight drop as packages write it: the parameter moved, a computed tensor in its place."""
    module = m.LSTM(4, 6)
    raw = nn.Parameter(module.weight_hh_l0.data)
    del module._parameters["weight_hh_l0"]
    module.weight_hh_l0 = nn.functional.dropout(raw, 0.5)
    y = module(X)[0]
    y.square().sum().backward()
    return y, raw.grad


def shared_between_layers(m: Any) -> Any:
    module = m.LSTM(4, 4, 2)
    module.weight_hh_l1, module.weight_ih_l1 = module.weight_hh_l0, module.weight_ih_l0
    module.bias_hh_l0 = module.bias_ih_l0
    return trained(module, X)


def parametrized(change: Any) -> Case:
    def case(m: Any) -> Any:
        modules = (m.Embedding(4, 6), "weight", IDS), (m.LSTMCell(4, 6), "weight_hh", X[0])
        return [trained(change(module, name), given) for module, name, given in modules]

    return case


def cached(m: Any) -> Any:
    module = m.LSTM(4, 6)
    parametrizations.weight_norm(module, "weight_hh_l0")
    with parametrize.cached():
        y = module(X)[0] + module(2 * X)[0]
    y.square().sum().backward()
    return [p.grad for p in module.parameters()]


def state_dict_hooks(m: Any) -> Any:
    log: list[str] = []
    module = m.LSTM(4, 6)
    module.register_state_dict_pre_hook(lambda *_: log.append("before saving"))
    module.register_state_dict_post_hook(lambda *_: log.append("after saving"))
    module.register_load_state_dict_pre_hook(lambda *_: log.append("before loading"))
    module.register_load_state_dict_post_hook(lambda *_: log.append("after loading"))
    module.load_state_dict(module.state_dict())
    return log


def weights_only(m: Any) -> Any:
    """A state_dict is safe to load; a module where its class is declared so."""
    found = []
    for module, call in made(m):
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        module.load_state_dict(torch.load(file, weights_only=True))
        found.append(call())
    file = io.BytesIO()
    torch.save(m.Embedding(4, 3), file)
    file.seek(0)
    with torch.serialization.safe_globals([m.Embedding]):
        return found, torch.load(file, weights_only=True)(IDS)


def weights_changed(m: Any) -> Any:
    """Before the backward, which needs no weight of a step whose input and state need nothing."""
    module = m.LSTMCell(4, 6)
    h, c = module(X[0])
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(2)
    (h.square().sum() + c.sum()).backward()
    return h, c, [p.grad for p in module.parameters()]


def unsafe(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


CASES: dict[str, Case] = {
    "optimizer in the backward": optimizer_in_the_backward,
    "a bias changed between steps": a_bias_changed_between_steps,
    **{
        f"{name} detached between steps": a_weight_detached_between_steps(name)
        for name in ("weight_ih", "bias_hh")
    },
    "old pickle": old_pickle,
    "flat weights": flat_weights,
    "dropped weight": dropped_weight,
    "shared between layers": shared_between_layers,
    "weight norm": parametrized(lambda m, n: parametrizations.weight_norm(m, n)),
    "spectral norm": parametrized(lambda m, n: parametrizations.spectral_norm(m, n)),
    "cached parametrization": cached,
    "state_dict hooks": state_dict_hooks,
    "weights_only": weights_only,
    "a cell's weights changed": weights_changed,
    "weights as one vector": lambda m: [
        nn.utils.vector_to_parameters(
            2 * nn.utils.parameters_to_vector(module.parameters()), module.parameters()
        )
        or call()
        for module, call in made(m)
    ],
}

ERRORS: dict[str, Case] = {
    "state_dict of another size": lambda m: m.LSTM(4, 6).load_state_dict(
        nn.LSTM(5, 6).state_dict()
    ),
    "state_dict of more layers": lambda m: m.LSTM(4, 6).load_state_dict(
        nn.LSTM(4, 6, 2).state_dict()
    ),
}

# Same type, other words: torch's name its own nodes.
SAME_TYPE: dict[str, Case] = {
    "a weight gone": lambda m: changed(m.LSTM(4, 6), "weight_hh_l0", None)(X),
    "an unsafe pickle": lambda m: unsafe(m.LSTM(4, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_same_results(name: str) -> None:
    """Values, gradients, dtypes, layouts and what was seen on the way are torch's."""
    ends_the_same(CASES[name])


@pytest.mark.parametrize("name", [*ERRORS, *SAME_TYPE])
def test_same_errors(name: str) -> None:
    """The error's type is torch's, and its message where torch has one of its own for the case."""
    fails_the_same(ERRORS.get(name) or SAME_TYPE[name], words=name in ERRORS)
