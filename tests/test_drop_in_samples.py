"""torch's own samples for these modules (torch.testing._internal.common_modules), with ours."""

from typing import Any

import pytest
import torch
from error_rule import Sample
from torch import Tensor, nn
from torch.testing._internal.common_modules import module_db

import fastchar

OURS = {
    nn.Embedding: fastchar.Embedding,
    nn.LSTM: fastchar.LSTM,
    nn.LSTMCell: fastchar.LSTMCell,
}
INFOS = {info.module_cls: info for info in module_db if info.module_cls in OURS}


def run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Outputs, and the gradients of their squares, in the module's dtype."""
    dtype = next(module.parameters()).dtype

    def leaf(t: Any) -> Any:
        if not isinstance(t, Tensor) or not t.is_floating_point():
            return t
        return t.detach().to(dtype, copy=True).requires_grad_()

    leaves = [leaf(t) for t in torch.utils._pytree.tree_leaves((args, kwargs))]
    _, spec = torch.utils._pytree.tree_flatten((args, kwargs))
    args, kwargs = torch.utils._pytree.tree_unflatten(leaves, spec)
    out = torch.utils._pytree.tree_leaves(module(*args, **kwargs))
    inputs = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad]
    loss = sum(t.square().sum() for t in out)
    wanted = [*module.parameters(), *inputs]
    return [*out, *torch.autograd.grad(loss, wanted, materialize_grads=True)]


def test_the_database_has_the_three_modules() -> None:
    assert set(INFOS) == set(OURS)


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [False, True])
def test_every_sample(cls: type, dtype: torch.dtype, training: bool) -> None:
    """Constructor arguments and inputs as torch tests its own; outputs and gradients agree."""
    info = INFOS[cls]
    samples = info.module_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
    )
    assert samples
    collected = Sample()
    for sample in samples:
        given, forward = sample.constructor_input, sample.forward_input
        theirs, judge = (
            cls(*given.args, **given.kwargs, dtype=kind).train(training)
            for kind in (torch.float32, torch.float64)
        )
        ours = OURS[cls](*given.args, **given.kwargs, dtype=dtype).train(training)
        for module in (ours, judge):
            module.load_state_dict(theirs.state_dict())
        results = [run(m, forward.args, forward.kwargs) for m in (ours, theirs, judge)]
        for tensors in zip(*results, strict=True):
            collected.add("outputs and gradients", *tensors)
    collected.check()
