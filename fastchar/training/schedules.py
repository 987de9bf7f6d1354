"""The learning rate of every step: linear warm-up, then one of four ways on."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

Kind = Literal["cosine", "linear", "constant", "plateau"]


class Schedule:
    """The learning rate as a function of the step, and of the held-out loss for ``"plateau"``.

    Args:
        kind: after the warm-up, ``"cosine"`` and ``"linear"`` fall to 0 at step ``total``,
            ``"constant"`` stays, ``"plateau"`` is halved when the loss has not improved on its
            best for more than ``patience`` epochs in a row.
        peak: the highest learning rate, reached after ``warmup`` steps.
        total: all steps of the training.

    Source: cosine, Loshchilov and Hutter 2017 (without restarts).
    """

    def __init__(
        self, kind: Kind, *, peak: float, warmup: int, total: int, patience: int = 1
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind: expected one of {get_args(Kind)}, got {kind!r}")
        self.kind = kind
        self.peak = peak
        self.warmup = warmup
        self.total = total
        self.patience = patience
        self._scale = 1.0
        self._best = math.inf
        self._bad_epochs = 0

    def rate(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0."""
        if step < self.warmup:
            return self._scale * self.peak * (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        if self.kind == "cosine":
            return self.peak * 0.5 * (1.0 + math.cos(math.pi * done))
        if self.kind == "linear":
            return self.peak * (1.0 - done)
        return self._scale * self.peak

    def epoch_ended(self, loss: float) -> None:
        """Take the epoch's held-out loss into account; only ``"plateau"`` does."""
        if loss < self._best:
            self._best, self._bad_epochs = loss, 0
            return
        self._bad_epochs += 1
        if self.kind == "plateau" and self._bad_epochs > self.patience:
            self._scale, self._bad_epochs = 0.5 * self._scale, 0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self._scale, "best": self._best, "bad_epochs": self._bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scale = state["scale"]
        self._best = state["best"]
        self._bad_epochs = state["bad_epochs"]
