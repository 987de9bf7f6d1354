"""The folder that an export is: a file for each graph, and config.json."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch

from fastchar.decoding import inference
from fastchar.export.graphs import Graph, graphs_of
from fastchar.models import CONFIG, CharLM, Seq2Seq


def write(model: Seq2Seq | CharLM, folder: Path) -> list[str]:
    """Write the graphs of `model`, on the CPU, into `folder`; returns the names of the files.

    config.json is that of a model folder without its weights.
    """
    names = []
    with inference(model):
        for name, graph in graphs_of(model).items():
            _write_graph(graph, folder / f"{name}.onnx")
            names.append(f"{name}.onnx")
    # ASCII, since what readers do with a lone surrogate in UTF-8, which a symbol may be, differs.
    (folder / CONFIG).write_text(json.dumps(model.description(), indent=1), encoding="ascii")
    return [*names, CONFIG]


def _write_graph(graph: Graph, path: Path) -> None:
    """By the exporter that traces: it makes ONNX's LSTM, which takes lengths, of a packed batch.

    torch's other one, dynamo=True, would unroll that for one number of steps.
    """
    with warnings.catch_warnings():
        # That the exporter is the older one, and that checks of sizes, which `axes` leave open, are
        # not in the graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            path,
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_axes=graph.axes,
            dynamo=False,
        )
