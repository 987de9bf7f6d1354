"""Random inputs and modules that hold the same numbers in float32 and in float64.

Built from the same seed, once in each `default_dtype`, a case has the same numbers twice: what the
second one computes judges the first (`benchmarks.accuracy`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def randn(*shape: int) -> Tensor:
    """Normal numbers drawn in float32, in the default dtype."""
    return torch.randn(*shape, dtype=torch.float32).to(torch.get_default_dtype())


def module(make: Callable[[], Module]) -> Module:
    """`make()` with parameters drawn in float32, in the default dtype."""
    dtype = torch.get_default_dtype()
    with default_dtype(torch.float32):
        return make().to(dtype)
