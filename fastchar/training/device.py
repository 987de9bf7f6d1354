"""Where a model trains or predicts."""

from __future__ import annotations

import torch

from fastchar.files import InputError


def choose_device(name: str) -> torch.device:
    """``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: cuda if there is one, else the CPU.

    Raises :class:`InputError` for any other name and for a device that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"device: expected auto, cpu or cuda, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(f"device: expected one that is there, got {name}, and torch finds {count}")
    return device
