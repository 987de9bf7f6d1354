"""Training: data files, batches, the loop, error rates, the run folder.

``train(Config(...))`` runs and ``resume(folder)`` goes on; ``sweep`` and ``resume_sweep`` do the
same for several sizes of embeddings. All are loaded on first use, so that the command line can ask
for :class:`Config` without waiting for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastchar.files import InputError
from fastchar.training.config import Config

if TYPE_CHECKING:
    from fastchar.training.run import resume, train
    from fastchar.training.sweeping import resume_sweep, sweep

__all__ = ["Config", "InputError", "resume", "resume_sweep", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name in ("resume", "train"):
        from fastchar.training import run

        return getattr(run, name)
    if name in ("resume_sweep", "sweep"):
        from fastchar.training import sweeping

        return getattr(sweeping, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
