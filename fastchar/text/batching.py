"""Ragged lists of ids to the padded, time-major tensors that the models read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastchar.text.vocabulary import Vocabulary


def pad(
    sequences: Sequence[Sequence[int]], *, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Lay B id sequences side by side, <pad> after each end.

    Returns `ids` int64 `[T, B]` on `device`, T the longest length, and `lengths` int64
    `[B]`, which stay on the CPU, where the kernels read them.
    """
    lengths = torch.tensor([len(s) for s in sequences], dtype=torch.int64, device="cpu")
    longest = max((len(s) for s in sequences), default=0)
    rows = [[*s, *[Vocabulary.pad_id] * (longest - len(s))] for s in sequences]
    ids = torch.tensor(rows, dtype=torch.int64, device=device)
    return ids.view(len(rows), longest).t().contiguous(), lengths


def batches_by_length(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Indices of `lengths` in batches of up to `most` that are of one length, near enough.

    All of a batch is padded to its longest, so that one huge text goes alone.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == most or lengths[i] > 2 * lengths[batch[0]] + 32):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
