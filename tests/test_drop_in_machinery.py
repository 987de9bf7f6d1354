"""What torch wraps around modules works around ours: every module, each compared with itself."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, skip_init
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastchar

IDS = torch.randint(7, (5, 3), generator=torch.Generator().manual_seed(0))
X = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([5, 0, 2])
Make = Callable[[], nn.Module]
# A constructor and the arguments of a call.
MODULES: dict[str, tuple[Make, tuple[Any, ...], dict[str, Any]]] = {
    "LSTM": (lambda: fastchar.LSTM(4, 6, 2, bidirectional=True), (X,), {}),
    "LSTM ragged": (lambda: fastchar.LSTM(4, 6), (X,), {"lengths": LENGTHS}),
    "LSTM projected": (lambda: fastchar.LSTM(4, 6, proj_size=3), (X,), {}),
    "LSTMCell": (lambda: fastchar.LSTMCell(4, 6), (X[0],), {}),
    "Embedding": (lambda: fastchar.Embedding(7, 4, padding_idx=0), (IDS,), {}),
    "EmbeddingLSTM": (lambda: fastchar.EmbeddingLSTM(7, 4, 6), (IDS,), {"lengths": LENGTHS}),
}
modules = pytest.mark.parametrize("name", MODULES)


def total(out: Any) -> Tensor:
    return sum(t.square().sum() for t in torch.utils._pytree.tree_leaves(out))


def gradients(module: nn.Module, out: Any) -> list[Tensor]:
    return list(torch.autograd.grad(total(out), list(module.parameters())))


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@modules
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(name: str, reentrant: bool) -> None:
    """The forward runs again in the backward, and the gradients are the same."""
    make, args, kwargs = MODULES[name]
    module = make()
    plain = gradients(module, module(*args, **kwargs))
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    handle = torch.ones((), requires_grad=True)  # the reentrant kind asks for one such input

    def run(handle: Tensor) -> Any:
        out = module(*args, **kwargs)
        return tuple(t * handle for t in torch.utils._pytree.tree_leaves(out))

    total(checkpoint(run, handle, use_reentrant=reentrant)).backward()
    assert len(calls) == 2
    assert_same([p.grad for p in module.parameters()], plain)


def test_checkpointed_stack_of_layers() -> None:
    """checkpoint_sequential over LSTMs, whose results are tuples."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = fastchar.LSTM(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]

    stack = nn.Sequential(*(Layer() for _ in range(4)))
    plain = gradients(stack, stack(X))
    assert_same(gradients(stack, checkpoint_sequential(stack, 2, X, use_reentrant=False)), plain)


@modules
def test_saved_tensor_hooks(name: str) -> None:
    """All that a backward needs goes through the hooks; offloaded and back, it is the same."""
    make, args, kwargs = MODULES[name]
    module = make()
    plain = gradients(module, module(*args, **kwargs))
    packed: list[Tensor] = []

    def pack(t: Tensor) -> int:
        packed.append(t.detach().clone())
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, packed.__getitem__):
        out = module(*args, **kwargs)
    assert packed
    assert_same(gradients(module, out), plain)
    with torch.autograd.graph.save_on_cpu():
        out = module(*args, **kwargs)
    assert_same(gradients(module, out), plain)


@modules
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_grad_modes(name: str) -> None:
    """inference_mode and no_grad give plain tensors of the same values; anomaly mode is silent."""
    make, args, kwargs = MODULES[name]
    module = make()
    leaves = torch.utils._pytree.tree_leaves
    out = leaves(module(*args, **kwargs))
    with torch.inference_mode():
        inferred = leaves(module(*args, **kwargs))
        assert all(t.is_inference() for t in inferred)
    with torch.no_grad():
        plain = leaves(module(*args, **kwargs))
    assert not any(t.requires_grad for t in [*inferred, *plain])
    assert_same(inferred, [t.detach() for t in out])
    assert_same(plain, [t.detach() for t in out])
    with torch.autograd.detect_anomaly():
        assert_same(
            gradients(module, module(*args, **kwargs)), gradients(module, module(*args, **kwargs))
        )


@modules
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_hooks_see_and_change_what_passes(name: str) -> None:
    """Forward hooks may replace results, tensor hooks gradients; backward pre-hooks run."""
    make, args, kwargs = MODULES[name]
    module = make()
    tree_map = torch.utils._pytree.tree_map
    plain = gradients(module, module(*args, **kwargs))
    seen: list[str] = []
    module.register_full_backward_pre_hook(lambda *_: seen.append("pre"))
    forward = module.register_forward_hook(lambda m, a, out: tree_map(lambda t: t * 2, out))
    assert_same(gradients(module, module(*args, **kwargs)), [4 * g for g in plain])
    forward.remove()
    assert seen == ["pre"]
    first = next(module.parameters())
    first.register_hook(lambda g: g * 3)
    first.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
    total(module(*args, **kwargs)).backward()
    torch.testing.assert_close(first.grad, 3 * plain[0])
    assert seen[-1] == "accumulated"


@modules
def test_lazy_construction(name: str) -> None:
    """skip_init, the meta device with to_empty or assign=True, and initialisation afterwards."""
    make, args, kwargs = MODULES[name]
    module = make()
    expected = torch.utils._pytree.tree_leaves(module(*args, **kwargs))
    state = module.state_dict()
    with torch.device("meta"):
        assigned, filled = make(), make()
    assert all(p.is_meta for p in assigned.parameters())
    assigned.load_state_dict(state, assign=True)
    filled.to_empty(device="cpu").load_state_dict(state)
    for twin in (assigned, filled):
        assert_same(torch.utils._pytree.tree_leaves(twin(*args, **kwargs)), expected)
    for part in filled.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert all(p.isfinite().all() for p in filled.parameters())


def test_skip_init() -> None:
    """torch.nn.utils.skip_init makes ours where it makes torch's; not nn.LSTM, by its signature."""
    for cls, args in (
        (fastchar.LSTMCell, (4, 6)),
        (fastchar.Embedding, (7, 4)),
        (fastchar.EmbeddingLSTM, (7, 4, 6)),
    ):
        twin, plain = skip_init(cls, *args), cls(*args)
        twin.load_state_dict(plain.state_dict())
        given = IDS if "Embedding" in cls.__name__ else X[0]
        leaves = torch.utils._pytree.tree_leaves
        assert_same(leaves(twin(given)), leaves(plain(given)))


@modules
def test_ensembles_by_vmap(name: str) -> None:
    """stack_module_state and vmap over functional_call: each member as if called alone."""
    make, args, kwargs = MODULES[name]
    members = [make() for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")

    def call(parameters: Any, buffers: Any) -> Any:
        return functional_call(base, (parameters, buffers), args, kwargs)

    together = torch.utils._pytree.tree_leaves(vmap(call)(parameters, buffers))
    for k, member in enumerate(members):
        alone = torch.utils._pytree.tree_leaves(member(*args, **kwargs))
        assert_same([t[k] for t in together], alone)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: parametrizations.spectral_norm(m, "weight_hh_l0", n_power_iterations=60),
        lambda m: parametrizations.orthogonal(m, "weight_ih_l0"),
        pytest.param(
            lambda m: nn.utils.weight_norm(m, "weight_hh_l0"),
            marks=pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
        ),
        lambda m: nn.utils.spectral_norm(m, "weight_hh_l0", n_power_iterations=60),
    ],
    ids=["spectral_norm", "orthogonal", "old weight_norm", "old spectral_norm"],
)
def test_reparametrized_weights(change: Callable[[nn.Module], Any]) -> None:
    """Computed weights train as on nn.LSTM: the same results, names and gradients.

    nn.LSTM computes a parametrization twice a call, hence iterations enough to converge.
    """
    ours, theirs = fastchar.LSTM(4, 6), nn.LSTM(4, 6)
    theirs.load_state_dict(ours.state_dict())
    outs = []
    for module in (ours, theirs):
        torch.manual_seed(0)
        change(module)
        outs.append(module(X)[0])
        outs[-1].square().sum().backward()
    torch.testing.assert_close(outs[0], outs[1])
    theirs_grads = {n: p.grad for n, p in theirs.named_parameters()}
    for n, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, theirs_grads.pop(n))
    assert not theirs_grads
