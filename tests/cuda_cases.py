"""What the tests that need a GPU share."""

import pytest
import torch
from torch import Tensor

import fastchar

DEVICE = "cuda"
RAGGED = [5, 0, 3, 7, 1, 7, 2, 4, 6]  # lengths of a batch's sequences
needs_gpu = pytest.mark.skipif(
    not fastchar.backends().get("cuda"), reason="needs a GPU and the CUDA library"
)


def unread_past_the_ends(ids: Tensor) -> Tensor:
    """ids [T,B] with an id that no table has in the padding: reading it would stop the kernel."""
    steps = torch.arange(len(ids), device=ids.device).unsqueeze(1)
    return torch.where(steps < torch.tensor(RAGGED, device=ids.device), ids, 1 << 40)
