"""Embedding and LSTM in one module, layer 0's input projection folded into the table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastchar import functional
from fastchar.nn.conversion import convert
from fastchar.nn.embedding import Embedding
from fastchar.nn.lstm import LSTM, State


class EmbeddingLSTM(nn.Module):
    """`LSTM(Embedding(ids))`, faster: see `functional.embedding_lstm` for how.

    forward(ids, hx=None, *, lengths=None): ids int32 or int64 [T,B], [B,T] with batch_first, or [T]
    unbatched; hx and the results (output, (h_n, c_n)) as in `LSTM`, `lengths` too, and ids in the
    padding are never looked up. IndexError for an id outside 0..V-1.

    Its parameters are `embedding.weight` and `lstm.*`, so the state_dict of a model with those two
    modules loads. Forward hooks of the two submodules do not run: there is no embedded input.
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

        TypeError for other modules, and for those whose forward is somebody's own, which would not
        run; ValueError unless the sizes fit and the embedding's options leave the fold exact.
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
        if embedding.max_norm is not None or embedding.scale_grad_by_freq or embedding.sparse:
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
        embedding, lstm = self.embedding, self.lstm

        def run(ids: Tensor, hx: State | None) -> tuple[Tensor, Tensor, Tensor]:
            return functional.embedding_lstm(
                ids,
                embedding.weight,
                hx,
                lstm._weights(),
                *lstm._stack_options(),
                padding_idx=embedding.padding_idx,
                lengths=lengths,
            )

        return lstm._run_padded(ids, hx, 0, run)

    def __prepare_scriptable__(self) -> nn.Module:
        raise NotImplementedError(
            "torch.jit.script can't compile an EmbeddingLSTM; torch.jit.trace and torch.export can"
        )
