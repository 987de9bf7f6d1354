"""Training: data files, batches, the loop, error rates, the run folder.

``train(Config(...))`` runs and ``resume(folder)`` goes on; both are loaded on first use, so that
the command line can ask for :class:`Config` without waiting for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastchar.files import InputError
from fastchar.training.config import Config

if TYPE_CHECKING:
    from fastchar.training.run import resume, train

__all__ = ["Config", "InputError", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name in ("resume", "train"):
        from fastchar.training import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
