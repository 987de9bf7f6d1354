"""Which code runs: the native library where it is built, the reference everywhere else."""

import ctypes
import importlib
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

CHOICES = ("", "native", "reference")


def _load() -> tuple[ModuleType | None, str]:
    """The native library, or None and the reason why the reference runs."""
    choice = os.environ.get("FASTCHAR_BACKEND", "")
    if choice not in CHOICES:
        raise ValueError(f"FASTCHAR_BACKEND: expected native or reference, got {choice!r}")
    if choice == "reference":
        return None, "FASTCHAR_BACKEND=reference"
    try:
        library = importlib.import_module("fastchar._C")
    except ImportError as error:
        if choice == "native":
            raise
        warnings.warn(
            f"fastchar runs on its plain torch reference, which is right but slow: {error}. "
            f"To build the kernels: {build_command()}",
            stacklevel=2,
        )
        return None, str(error)
    return library, ""


def build_command() -> str:
    """The one command that builds the native library for this installation."""
    root = Path(__file__).parent.parent
    if (root / "setup.py").exists():
        return f"cd {root} && python setup.py build_ext --inplace"
    return "pip install --force-reinstall --no-deps .  (in fastchar's source folder)"


def _load_cuda() -> list[str]:
    """Loads the CUDA kernels where torch has a GPU; what they were compiled for, or nothing."""
    path = Path(__file__).parent / "_C_cuda.so"
    if not torch.cuda.is_available() or not path.exists():
        return []
    torch.ops.load_library(path)
    name = ctypes.CDLL(str(path)).fastchar_cuda_architectures
    name.restype = ctypes.c_char_p
    return name().decode().split(";")


_library, _reason = _load()
_cuda_architectures = _load_cuda() if _library is not None else []


def native() -> bool:
    """Whether the native library is loaded and allowed to run."""
    return _library is not None


def cuda() -> bool:
    """Whether the CUDA kernels are loaded and allowed to run."""
    return bool(_cuda_architectures)


def backends() -> dict[str, Any]:
    """What is there: backend (and why, if it is the reference), CPU instruction sets, CUDA, torch.

    Keys: `backend` ("native" or "reference"), `reason`, `torch`, and with the native library
    `cpu` (isa in use, those available here, those compiled), `cuda` (architectures compiled for,
    empty without a GPU or a build for it), `torch_target` (oldest torch that the library loads
    on) and `compiler`.
    """
    if _library is None:
        return {"backend": "reference", "reason": _reason, "torch": torch.__version__}
    target = _library.torch_target_version
    return {
        "backend": "native",
        "reason": _reason,
        "torch": torch.__version__,
        "cpu": {
            "isa": _library.isa(),
            "available": _library.available_isas(),
            "compiled": _library.compiled_isas(),
        },
        "cuda": _cuda_architectures,
        "torch_target": f"{target >> 56}.{target >> 48 & 0xFF}",
        "compiler": _library.compiler,
    }
