"""`torch.jit.script` of models that hold our modules: it compiles torch's own in their place."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def torchs_twin(module: nn.Module, ours: type, torchs: type[M]) -> M | nn.Module:
    """A `torchs` with `module`'s state, shared, for torch.jit.script, which can't compile ours.

    torch.jit.script asks each module for it (`__prepare_scriptable__`) and leaves it in the model.
    A subclass, whose code is its own, stays as it is.
    """
    if type(module) is not ours:
        return module
    twin = torchs.__new__(torchs)
    vars(twin).update(vars(module))
    return twin
