"""`torch.jit.script` of models that hold our modules: it compiles torch's own in their place."""

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

M = TypeVar("M", bound=nn.Module)


def torchs_twin(module: nn.Module, ours: type[nn.Module], torchs: type[M]) -> M | nn.Module:
    """A `torchs` with `module`'s state, shared, for torch.jit.script, which can't compile ours.

    torch.jit.script asks each module for it (`__prepare_scriptable__`) and leaves it in the model.
    A subclass with a `forward` of its own, which is code to compile, stays as it is.
    """
    if type(module).forward is not ours.forward or parametrize.is_parametrized(module):
        return module
    twin = torchs.__new__(torchs)
    vars(twin).update(vars(module))
    return twin
