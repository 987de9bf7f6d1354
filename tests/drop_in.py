"""Our modules beside torch's: what the `test_drop_in_*.py` are made of.

A case is a function of the three classes. Run with torch's and with ours from the same seed, it
must end the same: with equal results, or with the same error.
"""

import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import fastchar

TORCHS = SimpleNamespace(LSTM=nn.LSTM, LSTMCell=nn.LSTMCell, Embedding=nn.Embedding)
OURS = SimpleNamespace(LSTM=fastchar.LSTM, LSTMCell=fastchar.LSTMCell, Embedding=fastchar.Embedding)
G = torch.Generator().manual_seed(0)
X = torch.randn(5, 3, 4, generator=G)
H = torch.randn(1, 3, 6, generator=G)
IDS = torch.tensor([[0, 2], [3, 3]])
PACKED = pack_sequence([torch.randn(n, 4, generator=G) for n in (2, 5, 3)], enforce_sorted=False)
Case = Callable[[Any], Any]


def outcome(case: Case, classes: SimpleNamespace) -> tuple[Any, list[str]]:
    """What the case returns or raises, and what it warns of."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = case(classes)
        except Exception as error:
            result = error
    return result, [str(w.message) for w in caught]


def same(ours: Any, theirs: Any) -> None:
    """Equal values; tensors also of the same dtype, layout and requires_grad."""
    if isinstance(theirs, Tensor):
        assert ours.requires_grad == theirs.requires_grad
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    elif isinstance(theirs, tuple | list):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    else:
        assert ours == theirs


def trained(module: nn.Module, *args: Any) -> list[Any]:
    """Results, and every gradient of the sum of their squares."""
    out = module(*args)
    leaves = [t for t in torch.utils._pytree.tree_leaves(out) if t is not None]
    total = sum(t.square().sum() for t in leaves if t.is_floating_point() and t.requires_grad)
    total.backward()  # type: ignore[union-attr]
    return [*leaves, *(p.grad for p in module.parameters())]


def changed(module: nn.Module, name: str, value: Any) -> nn.Module:
    setattr(module, name, value)
    return module


def looped(cell: nn.LSTMCell, x: Tensor) -> Any:
    state = None
    for step in x:
        state = cell(step, state)
    return state


def made(m: SimpleNamespace) -> list[tuple[nn.Module, Any]]:
    """One of each and what to call for its output."""
    lstm, cell, embedding = m.LSTM(4, 6, 2, bidirectional=True), m.LSTMCell(4, 6), m.Embedding(4, 3)
    return [
        (lstm, lambda: lstm(X)[0]),
        (cell, lambda: looped(cell, X)[0]),
        (embedding, lambda: embedding(IDS)),
    ]


def ends_the_same(case: Case, warns: bool = False) -> None:
    """Results: values, dtypes, layouts; on demand warnings, of which torch gives some only once a
    process, or of kernels that are not ours."""
    (theirs, warned), (ours, also) = outcome(case, TORCHS), outcome(case, OURS)
    assert not isinstance(theirs, Exception), theirs
    assert not isinstance(ours, Exception), ours
    same(ours, theirs)
    if warns:
        assert also == warned


def fails_the_same(case: Case, words: bool = True) -> None:
    """The error's type and, where torch has words of its own for the case, these."""

    def said(error: Exception) -> str:
        return re.sub(r"^\w+\.__init__", "__init__", str(error))

    (theirs, _), (ours, _) = outcome(case, TORCHS), outcome(case, OURS)
    assert isinstance(theirs, Exception)
    assert type(ours) is type(theirs), f"{ours!r}, torch's is {theirs!r}"
    assert str(ours)
    if words:
        assert said(ours) == said(theirs)
