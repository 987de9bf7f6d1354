"""Whether onnxruntime computes what the model does: both take the same walks, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastchar.decoding import inference
from fastchar.export.graphs import graphs_of
from fastchar.models import CharLM, Seq2Seq

Arrays = dict[str, "np.ndarray[Any, Any]"]
Call = Callable[[str, Arrays], Arrays]  # (name of a graph, its inputs) -> its outputs

# Steps and batch sizes: ragged, one sequence, one step, and sizes beyond the exporter's example.
SIZES = [(7, 4), (9, 1), (1, 3), (40, 2)]
STEPS, BEAM = 5, 2  # of the decoder

# Of the largest number of an output, or of 1. Rounding was at most 8e-7 there, of trained models;
# weights rounded to half precision are off by 2e-4, lengths that are not heeded by 0.2.
TOLERANCE = 1e-4


class DifferenceError(Exception):
    """A graph that is not the model."""


def check(model: Seq2Seq | CharLM, folder: Path) -> float:
    """The largest difference of any number between the graphs in `folder` and `model`, on the CPU.

    Raises `DifferenceError` for one that is not rounding, and `ImportError` without onnxruntime.
    """
    import onnxruntime

    graphs = graphs_of(model)
    sessions = {
        # Its contents, since a path need not be UTF-8.
        name: onnxruntime.InferenceSession(
            (folder / f"{name}.onnx").read_bytes(), providers=["CPUExecutionProvider"]
        )
        for name in graphs
    }

    def by_model(name: str, inputs: Arrays) -> Arrays:
        graph = graphs[name]
        given = [torch.from_numpy(inputs[i]) for i in graph.inputs]
        with inference(model):
            results = graph.module(*given)
        return {o: r.numpy() for o, r in zip(graph.outputs, results, strict=True)}

    def by_graph(name: str, inputs: Arrays) -> Arrays:
        outputs = graphs[name].outputs
        return dict(zip(outputs, sessions[name].run(outputs, inputs), strict=True))

    largest = 0.0
    for steps, batch in SIZES:
        walks = (_walk(model, call, steps, batch) for call in (by_model, by_graph))
        for expected, got in zip(*walks, strict=True):
            for name in expected:
                where = f"{name} at {steps} steps and batch {batch}"
                largest = max(largest, _difference(where, expected[name], got[name]))
    return largest


def _difference(where: str, expected: Any, got: Any) -> float:
    if got.shape != expected.shape:
        raise DifferenceError(f"{where}: expected shape {expected.shape}, got {got.shape}")
    difference = float(np.abs(got - expected).max())
    most = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= most:  # NaN neither
        raise DifferenceError(
            f"{where}: expected the model's within {most:.1g}, got {difference:.1g}"
        )
    return difference


def _walk(model: Seq2Seq | CharLM, call: Call, steps: int, batch: int) -> Iterator[Arrays]:
    """What comes out, call by call."""
    if isinstance(model, CharLM):
        return _text(model, call, steps, batch)
    return _search(model, call, steps, batch)


def _search(model: Seq2Seq, call: Call, S: int, B: int) -> Iterator[Arrays]:
    """A batch of random sources, and steps of a beam that hears random symbols."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, S, B, endpoint=True)
    lengths[0] = S
    read = call(
        "encoder", {"ids": random.integers(0, len(model.source), (S, B)), "lengths": lengths}
    )
    yield read
    feed = {n: x if n in ("keys", "values", "mask") else _repeated(x) for n, x in read.items()}
    for _ in range(STEPS):
        feed["last"] = random.integers(0, len(model.target), BEAM * B)
        found = call("decoder", feed)
        yield found
        feed |= _following(found)


def _text(model: CharLM, call: Call, T: int, B: int) -> Iterator[Arrays]:
    """Two chunks of random texts, the second of one step."""
    random = np.random.default_rng(0)
    layers, H = model.config["num_layers"], model.config["hidden_size"]
    feed = {name: np.zeros((layers, B, H), np.float32) for name in ("h", "c")}
    for steps in (T, 1):
        feed["ids"] = random.integers(0, len(model.vocabulary), (steps, B))
        found = call("step", feed)
        yield found
        feed |= _following(found)


def _repeated(state: Any) -> Any:
    return np.tile(state, (1, BEAM, 1))


def _following(found: Arrays) -> Arrays:
    """The state of the next step."""
    return {n.removeprefix("next_"): x for n, x in found.items() if n.startswith("next_")}
