"""The LSTM step inside somebody's own loop, where the weights' gradients wait for the loop's end.

Autograd would make a product for every weight and step and add them all up: at a small batch that
is most of the backward. Here the steps of a loop share one node of the graph, `_Weights`. A step's
backward leaves its gate gradients there, and when every step has, the node makes one product a
weight: (S5) over all the rows. Steps of a loop find each other along c: the c that a step gets
tells which step made it, through what `nn.LSTM` and a decoder's masks do to it in between.

Import only with the native library loaded.
"""

import sys
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastchar import autograd
from fastchar.autograd import step_gradients, step_weight_gradients
from fastchar.calls import Grads, bare_apply, differentiated, direct, recorded

_step = direct("lstm_step")
Output = tuple[Tensor, Tensor, Tensor]  # h', c' [B,H], act [B,4H]


class _Weights(Function):
    """w_ih [4H,E], w_hh [4H,H] and the biases [4H] or None, in front of all steps of a loop.

    The output has no elements and gets no gradient; it ties the steps to this node. `waiting` has
    gate gradients, x and h of the steps done, by backward pass: passes can overlap in threads.
    x and h are None where their weight asks for no gradient.
    """

    @staticmethod
    def forward(ctx: Any, w_ih: Tensor, *weights: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.waiting = {}
        return w_ih.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: None) -> Grads:
        rows = ctx.waiting.pop(torch._C._current_graph_task_id(), None)
        if rows is None:  # no step got a gradient
            return (None,) * 4
        gates, x, h = zip(*rows, strict=True)
        needs = ctx.needs_input_grad
        return step_weight_gradients(gates, x if needs[0] else None, h if needs[1] else None, needs)


def _asking(weights: tuple[Tensor | None, ...]) -> list[tuple[int, bool] | None]:
    """Of each weight that asks for a gradient, its version and whether it is a leaf: they may
    change between steps, and whether it asks.

    A weight changed in place under autograd has another version, and another graph behind it from
    then on; one detached in place, and asking again, has none, and its old version.
    """
    return [(w._version, w.is_leaf) if w is not None and w.requires_grad else None for w in weights]


class _Loop:
    """The weights that the steps of one loop share, and their node."""

    def __init__(self, weights: tuple[Tensor | None, ...]) -> None:
        self.weights = weights
        self.ask = _asking(weights)
        self.token = _Weights.apply(*weights)
        self.node = self.token.grad_fn  # None if no weight requires grad

    def has(self, weights: tuple[Tensor | None, ...]) -> bool:
        a, b, c, d = self.weights
        same = weights[0] is a and weights[1] is b and weights[2] is c and weights[3] is d
        return same and self.ask == _asking(weights)

    def wait(self, gates: Tensor, x: Tensor | None, h: Tensor | None) -> None:
        """A step's part in the weights' gradients, if this backward pass asks for those."""
        if self.node is not None and torch._C._will_engine_execute_node(self.node):
            passing = torch._C._current_graph_task_id()
            # h's graph leads to the node that holds it: a leak, should this pass end in an error.
            row = (gates, x, h) if differentiated() else (gates, _bare(x), _bare(h))
            self.node.waiting.setdefault(passing, []).append(row)


def _bare(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


# Nodes between a step's c' and the next one's c: where(ended, c, unbind(stack(c'))) has as many.
_HOPS = 3


def _loop_behind(node: Any, weights: tuple[Tensor | None, ...], hops: int = _HOPS) -> _Loop | None:
    """The loop with these weights that a state came from; None where there's none that near.

    Behind another loop's step, of another layer or of these weights before a change, it isn't.
    """
    loop = getattr(node, "loop", None)
    if isinstance(loop, _Loop):
        return loop if loop.has(weights) else None
    if node is not None and hops:
        for before, _ in node.next_functions:
            loop = _loop_behind(before, weights, hops - 1)
            if loop is not None:
                return loop
    return None


class _Step(Function):
    @staticmethod
    def forward(ctx: Any, loop: _Loop, token: Tensor, x: Tensor, h: Tensor, c: Tensor) -> Output:
        h_new, c_new, act = _step(x, h, c, *loop.weights)
        # As in torch, x, h or a weight may be changed if no gradient goes through it.
        w_ih, w_hh = loop.weights[:2]
        of_x, of_h = ctx.needs_input_grad[2:4]
        ctx.save_for_backward(
            x if loop.ask[0] is not None else None,
            h if loop.ask[1] is not None else None,
            c,
            w_ih if of_x else None,
            w_hh if of_h else None,
            act,
        )
        ctx.set_materialize_grads(False)
        ctx.loop = loop
        return h_new, c_new, act

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Grads:
        if all(grad is None for grad in grads):
            return (None,) * 5
        x, h, c, w_ih, w_hh, act = ctx.saved_tensors
        need_x, need_h = ctx.needs_input_grad[2:4]
        if not need_x:
            w_ih = ctx.loop.weights[0]
        if not need_h:
            w_hh = ctx.loop.weights[1]
        gates, grad_x, grad_h, grad_c = step_gradients(grads, act, c, w_ih, w_hh, need_x, need_h)
        ctx.loop.wait(gates, x, h)
        return None, None, grad_x, grad_h, grad_c


_apply = bare_apply(_Step)


def _backward_is_compiled() -> bool:
    """Whether compiled autograd is on, which traces backwards: nothing can wait in those."""
    module: Any = sys.modules.get("torch._dynamo.compiled_autograd")
    return module is not None and module.compiled_autograd_enabled


def lstm_step(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor | None) -> Output:
    """x [B,E], h and c [B,H], w_ih, w_hh and the biases, all contiguous, to (h', c', act)."""
    if not recorded(x, h, c, *weights):
        return _step(x, h, c, *weights)
    loop = _loop_behind(c.grad_fn, weights)
    if loop is None:
        if _backward_is_compiled():
            output: Output = autograd.lstm_step(x, h, c, *weights)
            return output
        loop = _Loop(weights)
    return _apply(loop, loop.token, x, h, c)
