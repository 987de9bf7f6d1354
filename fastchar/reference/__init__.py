"""The specification: every function of `fastchar.functional`, in plain torch operations.

Three uses: it is what the kernels are tested against (in float64), what runs where no kernel does,
and what a reader should read first. Each forward is differentiable by autograd; beside it stands
the backward derived by hand, which is the one the kernels implement.

Shapes: T steps, B sequences, N = T*B tokens, V symbols, E embedding, H hidden, P projected hidden
(P = H without projection). Gates are stored in torch's order i, f, g, o along a dimension of 4H.
"""

from fastchar.reference.cell import cell_step, cell_step_backward, lstm_cell
from fastchar.reference.embedding import embedding, embedding_backward
from fastchar.reference.generation import draw, lstm_generate
from fastchar.reference.layers import embedding_lstm, lstm
from fastchar.reference.linear import linear
from fastchar.reference.loss import (
    kept_weight,
    linear_cross_entropy,
    linear_cross_entropy_backward,
)
from fastchar.reference.sequence import lstm_sequence, lstm_sequence_backward

__all__ = [
    "cell_step",
    "cell_step_backward",
    "draw",
    "embedding",
    "embedding_backward",
    "embedding_lstm",
    "kept_weight",
    "linear",
    "linear_cross_entropy",
    "linear_cross_entropy_backward",
    "lstm",
    "lstm_cell",
    "lstm_generate",
    "lstm_sequence",
    "lstm_sequence_backward",
]
