"""Fast character-level recurrent models in PyTorch.

Drop-in modules (`Embedding`, `LSTM`, `LSTMCell`, `EmbeddingLSTM`, `accelerate`), models that stand
on them (`Seq2Seq`, `CharLM`, `Vocabulary`), the functions beneath (`functional`, `reference`), and
the packages with what else there is: `models`, `nn`, `text`, `training`.

Names are loaded on first use, so that `import fastchar` and `fastchar --help` cost no more than
what they need: torch comes in with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from . import functional, models, nn, reference, text, training
    from .backend import backends
    from .models import CharLM, Seq2Seq
    from .nn import LSTM, Embedding, EmbeddingLSTM, LSTMCell, accelerate
    from .text import Vocabulary

__all__ = [
    "LSTM",
    "CharLM",
    "Embedding",
    "EmbeddingLSTM",
    "LSTMCell",
    "Seq2Seq",
    "Vocabulary",
    "__version__",
    "accelerate",
    "backends",
    "functional",
    "models",
    "nn",
    "reference",
    "text",
    "training",
]

# The module that defines each public name; a module is its own home.
_HOME = {
    "CharLM": "models",
    "Embedding": "nn",
    "EmbeddingLSTM": "nn",
    "LSTM": "nn",
    "LSTMCell": "nn",
    "Seq2Seq": "models",
    "Vocabulary": "text",
    "accelerate": "nn",
    "backends": "backend",
    "functional": "functional",
    "models": "models",
    "nn": "nn",
    "reference": "reference",
    "text": "text",
    "training": "training",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'fastchar' has no attribute {name!r}")
    module = importlib.import_module(f".{home}", __name__)
    value = module if name == home else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
