"""The mode in which models predict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; each module's training mode is as before after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        # Not `model.train`: a part that is frozen in evaluation mode stays so.
        for module, training in modes:
            module.training = training
