"""How the native ops (torch.ops.fastchar.*) are called, and how they get a derivative.

Import only with the native library loaded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.library import Library, register_autograd

from fastchar import backend, fakes  # noqa: F401  (registers the fakes)
from fastchar.routing import refuse_transforms

_ops = torch.ops.fastchar
_library = Library("fastchar", "IMPL")  # whoever drops it drops the derivatives
Grads = tuple[Tensor | None, ...]
Call = Callable[..., Any]


def recorded(*args: Any) -> bool:
    """Whether autograd will ask for a backward of a call with these arguments."""
    if torch.is_grad_enabled():
        for arg in args:
            if isinstance(arg, Tensor) and arg.requires_grad:
                return torch.compiler.is_compiling() or not torch.is_inference_mode_enabled()
    return False


def differentiated() -> bool:
    """Whether somebody differentiates the backward that runs: with create_graph, or forward mode.

    Then it has to be made of torch's operations.
    """
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


def bare_apply(node: type[Function]) -> Call:
    """node.apply without the care for functorch, which `functional` keeps away from here."""
    call: Call = torch._C._FunctionBase.__dict__["apply"].__get__(None, node)
    return call


def direct(name: str) -> Call:
    """The op without a derivative, its overload `plain`: past autograd, and in compiled graphs.

    The dispatcher would call the other's derivative, in Python, even where nothing requires grad,
    which costs more than a small lookup itself.
    """
    call: Call = getattr(_ops, name).plain
    return backend.as_switched(call) if name.startswith("lstm_sequence") else call


def differentiable(name: str, setup: Call, backward: Call) -> Call:
    """Registers an op's derivative and returns what calls the op.

    Gradients of outputs that nobody used come to `backward` as None, but not all at once.

    The registered one is for compilers. Either is a Function, which costs less than what
    torch.library makes of a formula, and whose forward is the plain op: that is what stays of the
    op in a graph from which autograd has been taken out.
    """
    op, plain = getattr(_ops, name).default, direct(name)

    def forward(ctx: Any, *args: Any) -> Any:
        output = plain(*args)
        ctx.set_materialize_grads(False)
        setup(ctx, args, output)
        return output

    def backward_of_some(ctx: Any, *grads: Tensor | None) -> Grads:
        if all(grad is None for grad in grads):  # then the arguments get none either, as in torch
            return (None,) * len(ctx.needs_input_grad)
        gradients: Grads = backward(ctx, *grads)
        return gradients

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward_of_some)}
    apply = bare_apply(type(name, (Function,), methods))

    def recording(*args: Any) -> Any:
        return apply(*args) if recorded(*args) else plain(*args)

    def dispatched(*args: Any) -> Any:
        refuse_transforms(name)
        return recording(*args)

    _library.impl(name, dispatched, "Autograd")

    def call(*args: Any) -> Any:
        return op(*args) if torch.compiler.is_compiling() else recording(*args)

    return call


def contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def last(
    name: str,
    why: str = "Second derivatives come from differentiating the forward op with "
    "create_graph=True, which does not run this one.",
) -> Call:
    """An op without a derivative, a backward most of all: it says so instead of giving zeros."""

    def backward(ctx: Any, *grads: Tensor) -> Grads:
        raise NotImplementedError(f"fastchar::{name} has no derivative. {why}")

    register_autograd(f"fastchar::{name}", backward)
    return direct(name)
