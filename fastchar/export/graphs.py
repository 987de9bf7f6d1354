"""What is exported of each model: modules to trace, with names for all that goes in and out.

Shapes: S source steps, B sentences, N = K*B columns of a search (hypothesis k of sentence b in
column k*B + b; N = B in greedy search), T steps and B streams of a text, L layers, H hidden size,
V symbols. All numbers are float32, ids and lengths int64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastchar.models import CharLM, Seq2Seq
from fastchar.models.attention import Memory


class Graph(NamedTuple):
    """One graph: a module that takes `inputs` by position and returns a tuple of `outputs`."""

    module: nn.Module
    inputs: dict[str, Tensor]  # an example, no size of which is 1
    outputs: list[str]
    axes: dict[str, dict[int, str]]  # of inputs and outputs: the dimensions of any size


class Encoder(nn.Module):
    """ids [S,B], lengths [B] to keys, values [S,B,H], mask [B,1,S] and the decoder's first state.

    The state is h, c [L,B,H], and with input feeding fed [1,B,H].
    """

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        memory, state = self.model._encode(ids, lengths)
        return (*memory, *state)


class Decoder(nn.Module):
    """last [N], what `Encoder` gives, with states of N columns, to log_probs [N,V] and state."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, last: Tensor, keys: Tensor, values: Tensor, mask: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        log_probs, state = self.model._step(last, state, Memory(keys, values, mask))
        return (log_probs, *state)


class Step(nn.Module):
    """ids [T,B], h, c [L,B,H], zeros at a text's start, to logits [T,B,V], h and c."""

    def __init__(self, model: CharLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        logits, state = self.model.logits(ids, (h, c))
        return (logits, *state)


def graphs_of(model: Seq2Seq | CharLM) -> dict[str, Graph]:
    """The graphs of `model`, on the CPU, by the names of their files, in the order of their use.

    A state that comes out is called as the one that goes in next, with `next_` before it.
    """
    return _of_text(model) if isinstance(model, CharLM) else _of_pairs(model)


def _of_text(model: CharLM) -> dict[str, Graph]:
    ids = torch.zeros(5, 3, dtype=torch.int64)
    state = torch.zeros(model.config["num_layers"], 3, model.config["hidden_size"])
    axes = {name: {0: "T", 1: "B"} for name in ("ids", "logits")}
    axes |= {name: {1: "B"} for name in ("h", "c", "next_h", "next_c")}
    inputs = {"ids": ids, "h": state, "c": state}
    return {"step": Graph(Step(model), inputs, ["logits", "next_h", "next_c"], axes)}


def _of_pairs(model: Seq2Seq) -> dict[str, Graph]:
    state = ["h", "c", "fed"] if model.config["input_feeding"] else ["h", "c"]
    following = [f"next_{name}" for name in state]
    memory = {"keys": {0: "S", 1: "B"}, "values": {0: "S", 1: "B"}, "mask": {0: "B", 2: "S"}}

    encoder = Encoder(model)
    source = {"ids": torch.zeros(5, 3, dtype=torch.int64), "lengths": torch.tensor([5, 2, 4])}
    with torch.no_grad():
        read = dict(zip([*memory, *state], encoder(*source.values()), strict=True))
    axes = {"ids": {0: "S", 1: "B"}, "lengths": {0: "B"}, **memory}
    axes |= {name: {1: "B"} for name in state}

    last = {"last": torch.zeros(6, dtype=torch.int64)}
    repeated = {name: read[name].repeat(1, 2, 1) for name in state}
    step = last | {name: read[name] for name in memory} | repeated
    step_axes = {"last": {0: "N"}, "log_probs": {0: "N"}, **memory}
    step_axes |= {name: {1: "N"} for name in (*state, *following)}
    return {
        "encoder": Graph(encoder, source, list(read), axes),
        "decoder": Graph(Decoder(model), step, ["log_probs", *following], step_axes),
    }
