"""The groups of the benchmark: each is one operation, its contestants and its headline phase."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from ..covering import Point
from ..interleave import Case
from ..roofline import Work

OURS = "fastchar"


@dataclass(frozen=True)
class Group:
    """One table of the report.

    `phase` is the phase whose ratio is the headline, against the fastest of `baselines` at each
    point. `contestants` names all that `build` brings; `work` counts the least flops and bytes of
    the headline phase. `floors` are contestants that do less than the job: what cannot be beaten.
    """

    name: str
    title: str
    phase: str
    baselines: tuple[str, ...]
    contestants: tuple[str, ...]
    build: Callable[[Point], Case]
    work: Callable[[Point], Work]
    floors: tuple[str, ...] = ()


def compiled(function: Callable[..., Any], fullgraph: bool = False) -> Callable[..., Any]:
    """`function` through torch.compile for one set of shapes; the work is done at its first call.

    Input buffers have to be arguments: a Python number that picks one would be compiled in.
    """
    torch._dynamo.reset()  # or points before this one count as recompilations
    return torch.compile(function, dynamic=False, fullgraph=fullgraph)


def all_groups() -> dict[str, Group]:
    """Groups by name, in the order of the report."""
    modules = (
        *("embedding", "lstm_uniform", "lstm_dense", "lstm_ragged"),
        *("cell_loop", "generation", "linear", "loss", "seq2seq"),
    )
    found = [group for name in modules for group in import_module(f".{name}", __name__).GROUPS]
    return {group.name: group for group in found}
