"""Batches made by a few tensor operations each: no Python loop over words or characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastchar.text import Vocabulary


class Ragged:
    """Many id sequences in one flat tensor: the i-th is ``ids[starts[i] :][: lengths[i]]``."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.lengths = torch.tensor([len(s) for s in sequences], dtype=torch.int64)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.ids = torch.tensor([i for s in sequences for i in s], dtype=torch.int64)

    def __len__(self) -> int:
        return self.lengths.numel()

    def pad(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The sequences ``index`` [B] side by side: ids [T, B], <pad> past each end, and their
        lengths [B]; T is the longest of these only."""
        lengths = self.lengths[index]
        step = torch.arange(int(lengths.max()))[:, None]  # [T, 1]
        at = (self.starts[index] + step).clamp_max_(self.ids.numel() - 1)  # [T, B]
        return self.ids[at].masked_fill_(step >= lengths, Vocabulary.pad_id), lengths


class PairBatch(NamedTuple):
    """B pairs. All tensors int64, time-major; <pad> past each sequence's own end."""

    source: Tensor  # [S, B]
    source_lengths: Tensor  # [B], on the CPU always
    target: Tensor  # [T, B], <bos> first, <eos> last
    target_lengths: Tensor  # [B], on the CPU always, <bos> and <eos> counted
    which: Tensor  # [B], which pairs of the data set these are, on the CPU always


class TextBatch(NamedTuple):
    """The next characters of B streams of text, and what follows each of them."""

    ids: Tensor  # [T, B] int64
    targets: Tensor  # [T, B] int64: ids one step later
    first: bool  # whether this is where the streams begin


class Loader:
    """Batches of one epoch after another, from any position within an epoch.

    ``epoch`` and ``position`` (batches of this epoch handed out so far) say all there is to know
    about where it stands; they move on *before* a batch is handed out, so that whoever saves them
    while working on a batch goes on with the next one.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        raise NotImplementedError

    def batches(self, epoch: int) -> Sequence[Any]:
        """What :meth:`collate` needs for each batch of ``epoch``, in order."""
        raise NotImplementedError

    def collate(self, item: Any) -> Any:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        # Lightning asks for the iterator before it restores the state, so look only when asked
        # for the first batch.
        items = self.batches(self.epoch)
        for position in range(self.position, len(items)):
            self.position = position + 1
            if self.position == len(items):
                self.epoch, self.position = self.epoch + 1, 0
            yield self.collate(items[position])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]


class PairLoader(Loader):
    """Batches of pairs of about the same source and target lengths.

    Each epoch is shuffled, cut into pools of ``pool`` batches, each pool sorted by length and cut
    into batches, and the batches shuffled again; ``seed`` and the epoch's number decide all of it.
    With ``seed=None`` there is one pool and no shuffling.
    """

    def __init__(
        self,
        source: Ragged,
        target: Ragged,
        batch_size: int,
        *,
        seed: int | None,
        pool: int = 64,
    ) -> None:
        super().__init__()
        if len(source) != len(target):
            raise ValueError(f"target: expected {len(source)} sequences, got {len(target)}")
        self.source = source
        self.target = target
        self.batch_size = batch_size
        self.seed = seed
        self.pool = pool
        # Source first, then target: the encoder runs twice as many LSTM steps as the decoder.
        self._key = source.lengths * (int(target.lengths.max()) + 1) + target.lengths

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def batches(self, epoch: int) -> Sequence[Tensor]:
        if self.seed is None:
            return torch.argsort(self._key, stable=True).split(self.batch_size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.source), generator=generator)
        pool_of = torch.arange(order.numel()) // (self.pool * self.batch_size)
        key = pool_of * (int(self._key.max()) + 1) + self._key[order]
        batches = order[torch.argsort(key, stable=True)].split(self.batch_size)
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def collate(self, item: Tensor) -> PairBatch:
        return PairBatch(*self.source.pad(item), *self.target.pad(item), item)


class TextLoader(Loader):
    """One long text as ``batch_size`` streams, read side by side ``chunk`` characters at a time.

    Streams go on from one batch to the next, so that a model may carry its state along. The
    characters that do not fill all streams evenly, fewer than ``batch_size``, are left out.
    """

    def __init__(self, ids: Tensor, batch_size: int, chunk: int) -> None:
        super().__init__()
        length = (ids.numel() - 1) // batch_size
        if length < 1:
            raise ValueError(
                f"ids: expected at least {batch_size + 1} characters, one for each of "
                f"{batch_size} streams and one more, got {ids.numel()}"
            )
        # [length, B], contiguous, so that a chunk is a contiguous [T, B] without a copy.
        used = length * batch_size
        self.ids = ids[:used].view(batch_size, length).t().contiguous()
        self.targets = ids[1 : used + 1].view(batch_size, length).t().contiguous()
        self.chunk = chunk

    def __len__(self) -> int:
        return -(-self.ids.shape[0] // self.chunk)

    def batches(self, epoch: int) -> Sequence[int]:
        return range(0, self.ids.shape[0], self.chunk)

    def collate(self, item: int) -> TextBatch:
        part = slice(item, item + self.chunk)
        return TextBatch(self.ids[part], self.targets[part], first=item == 0)
