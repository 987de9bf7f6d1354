"""Embedding and LSTM in one module, layer 0's input projection folded into the table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.rnn import PackedSequence

from fastchar import functional
from fastchar.nn.conversion import convert
from fastchar.nn.embedding import Embedding
from fastchar.nn.lstm import LSTM
from fastchar.reference.cell import State
from fastchar.reference.layers import check_lengths, mask_padding
from fastchar.routing import Result


class EmbeddingLSTM(nn.Module):
    """`LSTM(Embedding(ids))`, faster: see `functional.embedding_lstm` for how.

    forward(ids, hx=None, *, lengths=None): ids int32 or int64 [T,B], [B,T] with batch_first, or [T]
    unbatched; hx and the results (output, (h_n, c_n)) as in `LSTM`, `lengths` too, and ids in the
    padding are never looked up. IndexError for an id outside 0..V-1, TypeError for a
    PackedSequence.

    Its parameters are `embedding.weight` and `lstm.*`, so the state_dict of a model with those two
    modules loads. Where a submodule has hooks, was replaced by one with another forward or was
    given an option that the fold can't keep, the two are called one after the other instead.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        padding_idx: int | None = None,
        bidirectional: bool = False,
        dropout: float = 0.0,
        batch_first: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embedding: nn.Embedding = Embedding(
            num_embeddings, embedding_dim, padding_idx, device=device, dtype=dtype
        )
        self.lstm = LSTM(
            embedding_dim,
            hidden_size,
            num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_modules(cls, embedding: nn.Embedding, lstm: nn.Module) -> EmbeddingLSTM:
        """An `nn.Embedding` and the `nn.LSTM` that reads it, as one; both become ours, in place.

        TypeError for other modules, and for those whose forward is somebody's own, which can't be
        folded; ValueError unless the sizes fit and the embedding's options leave the fold exact.
        """
        parts = (("embedding", convert(embedding), Embedding), ("lstm", convert(lstm), LSTM))
        for name, module, ours in parts:
            expected = f"{name}: expected an nn.{ours.__name__}"
            if "forward" in vars(module):
                raise TypeError(f"{expected}, got one with another forward")
            if not isinstance(module, ours):
                raise TypeError(f"{expected}, got {type(module).__name__}")
            if type(module).forward is not ours.forward:
                raise TypeError(f"{expected}, got {type(module).__name__} with its own forward")
        assert isinstance(lstm, LSTM)
        if embedding.embedding_dim != lstm.input_size:
            raise ValueError(
                f"lstm: expected input_size {embedding.embedding_dim}, the embedding's dimension, "
                f"got {lstm.input_size}"
            )
        if not _foldable(embedding):
            raise ValueError(
                "embedding: expected none of max_norm, scale_grad_by_freq and sparse, which need "
                f"the embedded tokens; got {embedding}"
            )
        pair = cls.__new__(cls)
        nn.Module.__init__(pair)
        pair.embedding = embedding
        pair.lstm = lstm
        pair.training = lstm.training
        return pair

    def forward(
        self, ids: Tensor, hx: State | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if isinstance(ids, PackedSequence):
            raise TypeError("ids: expected a padded Tensor and lengths=, got a PackedSequence")
        if not self.folds():
            return self._one_after_the_other(ids, hx, lengths)
        embedding, lstm = self.embedding, self.lstm

        def run(ids: Tensor, hx: State | None) -> Result:
            table, weights = embedding.weight, lstm._weights()
            if table.dtype is not weights[0].dtype:
                lstm.check_input(table.unsqueeze(0), None)  # raises, unless autocast makes them one
            return functional.embedding_lstm(
                ids,
                table,
                hx,
                weights,
                *lstm._stack_options(),
                padding_idx=embedding.padding_idx,
                lengths=lengths,
            )

        return lstm._run_padded(ids, hx, 0, run)

    def folds(self) -> bool:
        """Whether a call is one of `functional.embedding_lstm` on the parameters."""
        embedding, lstm = self.embedding, self.lstm
        as_made = is_as_made(embedding, Embedding) and is_as_made(lstm, LSTM)
        return as_made and _foldable(embedding) and not _has_any_global_hook()

    def _one_after_the_other(
        self, ids: Tensor, hx: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        if lengths is None:
            return self.lstm(self.embedding(ids), hx)
        turned = self.lstm.batch_first and ids.dim() == 2
        by_step = ids.t() if turned else ids.reshape(ids.shape[0], -1)
        by_step = mask_padding(by_step, check_lengths(lengths, by_step))
        known = by_step.t() if turned else by_step.reshape(ids.shape)
        return self.lstm(self.embedding(known), hx, lengths=lengths)

    def __prepare_scriptable__(self) -> nn.Module:
        raise NotImplementedError(
            "torch.jit.script can't compile an EmbeddingLSTM; torch.jit.trace and torch.export can"
        )


def is_as_made(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a call of `module` would run the forward of `cls` and nothing besides.

    Not so with hooks (older weight norm, pruning and FSDP are made of them), and where an adapter
    or somebody's own class stands in the place.
    """
    return (
        type(module).forward is cls.forward
        and "forward" not in vars(module)
        and not module._forward_pre_hooks
        and not module._forward_hooks
        and not module._backward_pre_hooks
        and not module._backward_hooks
    )


def _foldable(embedding: nn.Embedding) -> bool:
    """Whether the embedding's options are those of a plain product."""
    return embedding.max_norm is None and not embedding.scale_grad_by_freq and not embedding.sparse
