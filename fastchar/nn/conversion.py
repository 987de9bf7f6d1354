"""Turning the modules of an existing model into ours."""

import logging
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

from fastchar.nn.embedding import Embedding
from fastchar.nn.lstm import LSTM
from fastchar.nn.lstm_cell import LSTMCell
from fastchar.nn.subclasses import accelerated

log = logging.getLogger("fastchar")

OURS: dict[type, type] = {nn.Embedding: Embedding, nn.LSTM: LSTM, nn.LSTMCell: LSTMCell}
M = TypeVar("M", bound=nn.Module)


def accelerate(model: M) -> M:
    """Turns every `nn.Embedding`, `nn.LSTM` and `nn.LSTMCell` in `model` into ours; returns it.

    Each module stays the same object with another class, so parameters, hooks, training mode,
    sharing and whatever else refers to it stay as they are; a model that is itself one of the
    three is turned too. Of a user's subclass the `super().forward` becomes ours, and the rest, with
    `isinstance` and pickle, stays; it is left alone where it overrides more of torch's class than
    `forward`, as is a module whose `forward` was replaced. A second call changes nothing. The
    changes are logged, one line each, to the logger "fastchar" at level INFO.
    """
    for name, module in model.named_modules():
        before = type(module)
        if type(convert(module)) is not before:
            log.info("accelerate: %s: %s is now fastchar's", name or "model", before.__name__)
    return model


def convert(module: M) -> M:
    """`module` itself, of our class where there is one for its own."""
    cls = type(module)
    if "forward" in vars(module):
        return module
    if cls in OURS:
        module.__class__ = OURS[cls]
    elif parametrize.is_parametrized(module) and cls.__base__ in OURS:
        # torch gave the module a class of its own, which holds the parametrized properties.
        body = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(cls.__name__, (OURS[cls.__base__],), body)
    elif not parametrize.is_parametrized(module):
        made = accelerated(module)
        if made is not None:  # a traced module doesn't survive an assignment, even of its own class
            module.__class__ = made
    return module
