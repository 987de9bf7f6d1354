"""Which code runs: the native library where it is built, the reference everywhere else."""

import ctypes
import importlib
import os
import re
import warnings
from collections.abc import Callable
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


def _load_cuda() -> tuple[ctypes.CDLL | None, list[str]]:
    """The CUDA kernels where torch has a GPU, and what they were compiled for; or nothing.

    Without starting CUDA, as torch.cuda.is_available() would: after it no forked process can use a
    GPU, and CUDA_VISIBLE_DEVICES is read no more. An import must not decide that.
    """
    path = Path(__file__).parent / "_C_cuda.so"
    if not torch.cuda.device_count() or not path.exists():
        return None, []
    try:
        torch.ops.load_library(path)
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return _without_cuda(str(error))
    lacks = library.fastchar_cuda_driver_lacks()
    if lacks:
        return _without_cuda(
            f"built with CUDA {lacks // 1000}.{lacks % 1000 // 10}, for which this machine's "
            f"driver is too old; an nvcc of torch's CUDA, {torch.version.cuda}, will do"
        )
    library.fastchar_cuda_architectures.restype = ctypes.c_char_p
    return library, library.fastchar_cuda_architectures().decode().split(";")


def _without_cuda(why: str) -> tuple[None, list[str]]:
    warnings.warn(
        f"fastchar runs on torch's operations on the GPU: {why}. To build the kernels: "
        f"{build_command()}",
        stacklevel=2,
    )
    return None, []


_library, _reason = _load()
_cuda_library, _cuda_architectures = _load_cuda() if _library is not None else (None, [])


def native() -> bool:
    """Whether the native library is loaded and allowed to run."""
    return _library is not None


def cuda(device: torch.device) -> bool:
    """Whether the CUDA kernels are loaded and allowed to run, and have code for this GPU."""
    if device not in _served:
        _served[device] = bool(_cuda_architectures) and _has_code_for(device)
    return _served[device]


_served: dict[torch.device, bool] = {}
# As in linear.py: Dynamo takes the answer for a constant.
cuda._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _has_code_for(device: torch.device) -> bool:
    """A build on a machine without a GPU is for the default ones, which may be none of this one's:
    then it says so."""
    capability = torch.cuda.get_device_capability(device)
    if _code_for(capability) is not None:
        return True
    _without_cuda(
        f"built for {', '.join(_cuda_architectures)}, there is no code for its capability, "
        "{}.{}".format(*capability)
    )
    return False


def _code_for(capability: tuple[int, int]) -> tuple[int, int] | None:
    """What the code that a GPU of this capability runs was compiled for; None if there is none.

    Machine code is for its own major version, from its minor one on; without it, the newest PTX.
    """
    machine, ptx = [], []
    for name in _cuda_architectures:
        major, minor = map(int, re.findall(r"\d+", name))
        code = (major, minor)
        if code == capability or (code < capability and "a" not in name):
            machine += [code] if major == capability[0] else []
            ptx += [code] if name.endswith("+PTX") else []
    return max(machine or ptx, default=None)


def cuda_clusters(capability: tuple[int, int]) -> bool:
    """Whether the code that a GPU of this capability runs has sm_90's clusters of blocks: PTX of an
    older architecture has not."""
    code = _code_for(capability)
    return code is not None and code >= (9, 0)


def tf32_lstm() -> bool:
    """Whether torch's switch for cuDNN's RNNs lets float32 LSTMs on CUDA compute in TF32.

    That is `torch.backends.cudnn.rnn.fp32_precision`, of which `cudnn.allow_tf32` is the old name.
    """
    cudnn: Any = torch.backends.cudnn
    return bool(cudnn.enabled and cudnn.rnn.fp32_precision == "tf32")


def as_switched(call: Callable[..., Any]) -> Callable[..., Any]:
    """An op of a float32 LSTM, told of that switch: a library for the stable ABI can't ask."""
    if _cuda_library is None:
        return call
    allow = _cuda_library.fastchar_cuda_allow_tf32

    def told(*args: Any) -> Any:
        if torch.compiler.is_compiling() or not tf32_lstm():
            return call(*args)
        allow(1)
        try:
            return call(*args)
        finally:
            allow(0)

    return told


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
