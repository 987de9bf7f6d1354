"""Fast character-level recurrent models in PyTorch.

Drop-in modules (`Embedding`, `LSTM`, `LSTMCell`, `EmbeddingLSTM`, `accelerate`), models that stand
on them (`Seq2Seq`, `CharLM`, `Vocabulary`) and the functions beneath (`functional`, `reference`).

Names are loaded on first use, so that `import fastchar` and `fastchar --help` cost no more than
what they need: torch comes in with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from . import functional, reference
    from .accelerate import accelerate
    from .backend import backends
    from .models import CharLM, Seq2Seq
    from .nn import LSTM, Embedding, EmbeddingLSTM, LSTMCell
    from .text import Vocabulary

# Where each public name lives; a module that maps to itself is the name.
_HOME = {
    "functional": ".functional",
    "reference": ".reference",
    "Embedding": ".nn",
    "EmbeddingLSTM": ".nn",
    "LSTM": ".nn",
    "LSTMCell": ".nn",
    "accelerate": ".accelerate",
    "backends": ".backend",
    "CharLM": ".models",
    "Seq2Seq": ".models",
    "Vocabulary": ".text",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'fastchar' has no attribute {name!r}")
    module = importlib.import_module(home, __name__)
    value = module if name in ("functional", "reference") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
