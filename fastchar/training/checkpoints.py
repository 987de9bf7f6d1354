"""Checkpoints as files: written where they belong, and read whole or not at all."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from fastchar.files import InputError


class LocalFiles(TorchCheckpointIO):
    """Reads and writes checkpoints in place.

    Lightning's own writes them in the system's folder for temporary files first, which may be full
    and keeps them after a kill, and takes a path with ``::`` in it for a chain of addresses.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        # Not by torch into the file: a full disk would be a RuntimeError then.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).write_bytes(content.getbuffer())

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = lambda storage, place: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=weights_only)


def read_checkpoint(path: Path, *entries: str) -> dict[str, Any]:
    """What is in ``path``, on the CPU. Raises :class:`InputError` for a damaged file, and for one
    that lacks any of ``entries``."""
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip() is not None  # torch.load checks no sums
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the unpickler comes to in bytes that mean nothing
        damaged = True
    if damaged:
        raise InputError(f"{path}: expected a checkpoint, got a damaged file")
    if not isinstance(state, dict) or not set(entries) <= set(state):
        raise InputError(f"{path}: expected a checkpoint of such a run, got something else")
    return state
