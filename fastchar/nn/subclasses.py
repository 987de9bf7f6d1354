"""Users' subclasses of torch's modules: ours between the subclass and torch's class.

Such a class often only wraps torch's forward, to pack or to scale: `super().forward(...)`. The
class made here has the MRO user's, ours, torch's, so that this `super()` finds our code, while
`isinstance`, attributes and methods of the user's stay as they are.
"""

import functools
import types
from typing import Any

from torch import nn

from fastchar.nn.embedding import Embedding
from fastchar.nn.lstm import LSTM
from fastchar.nn.lstm_cell import LSTMCell
from fastchar.nn.scripting import torchs_twin


def _names(cls: type) -> set[str]:
    """What the body of `cls` defines, Python's own names left out."""
    return {name for name in vars(cls) if not name.startswith("__")}


# fastchar.LSTM is no nn.LSTM; behind a subclass of nn.LSTM its methods have to be one's.
_LSTM = type("LSTM", (nn.LSTM,), {name: vars(LSTM)[name] for name in _names(LSTM)})
_BEHIND: dict[type, type] = {nn.Embedding: Embedding, nn.LSTM: _LSTM, nn.LSTMCell: LSTMCell}
# A subclass may have its own of these: neither torch's forward nor ours uses them.
_FREE = {"forward", "extra_repr", "reset_parameters"}
# A class made from one with these would run them, or pickle differently.
_UNSAFE = {"__init_subclass__", "__reduce__", "__reduce_ex__"}


def accelerated(module: nn.Module) -> type | None:
    """The class that gives `module`, of a user's subclass, our code; None where it may not have it.

    That is where the subclass, or the object, has something of its own under a name that torch's
    class or ours uses.
    """
    cls: type = type(module)
    made = _made(cls)
    if made is None:
        return None
    ours = next(base for base in made.__mro__ if base in _BEHIND.values())
    own = {*vars(module), *module._parameters, *module._buffers, *module._modules}
    return made if own.isdisjoint(_names(ours) - _FREE) else None


@functools.cache
def _made(cls: type[Any]) -> type | None:
    """`cls` with ours behind it, one class for all its objects."""
    theirs = next((base for base in cls.__mro__ if base in _BEHIND), None)
    if theirs is None or cls is theirs or issubclass(cls, _BEHIND[theirs]):
        return None
    between = cls.__mro__[: cls.__mro__.index(theirs)]
    torchs = theirs.__mro__[: theirs.__mro__.index(nn.Module)]
    used = set().union(*map(_names, (_BEHIND[theirs], *torchs))) - _FREE | _UNSAFE
    if not used.isdisjoint(name for base in between for name in vars(base)):
        return None
    body = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": lambda self, protocol: (_bare, (cls,), self.__getstate__()),
    }
    made: type[Any] = types.new_class(
        cls.__name__, (cls, _BEHIND[theirs]), exec_body=lambda namespace: namespace.update(body)
    )
    if not any("__prepare_scriptable__" in vars(base) for base in between):
        made.__prepare_scriptable__ = lambda self: torchs_twin(self, made, cls)
    return made


def _bare(cls: type) -> Any:
    """An object as pickle wants it, without state, of the class made from `cls`."""
    made: Any = _made(cls)
    return made.__new__(made)
