"""Memory that is freed and asked for again stays with the process; what too little of it raises."""

from __future__ import annotations

import ctypes
import sys

import torch

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MUCH = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Tell glibc's malloc not to hand large blocks back to the kernel.

    By default it returns every large tensor at once, and the next step pays for new pages, zeroed
    by the kernel one fault at a time. The process keeps its peak memory instead. Does nothing
    where the C library has no ``mallopt``.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, _MUCH)
        libc.mallopt(_M_MMAP_THRESHOLD, _MUCH)
        libc.mallopt(_M_TOP_PAD, _MUCH >> 4)


def is_lack_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that memory of any device was too small, or sizes too large to
    count."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(
        text in str(error) for text in ("can't allocate memory", "size calculation overflowed")
    )
