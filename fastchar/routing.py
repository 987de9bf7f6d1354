"""Who computes what: which tensors the native kernels serve, and in which dtype; autocast's rules.

A kernel serves dense CPU tensors of one dtype: float32 and float64 as they are, bfloat16 and
float16 computed in float32 throughout, cell state included, and rounded once at the end. Anything
else (functorch transforms, forward-mode AD, tensor subclasses, other devices, mixed dtypes, the
native library absent) runs on torch operations, and torch's own errors come from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastchar import backend
from fastchar.reference.cell import State

# What a CPU kernel computes in, by the dtype of its arguments. CUDA kernels take these types as
# they are, with sums and the cell's state in float32.
_COMPUTE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
Result = tuple[Tensor, Tensor, Tensor]


def transforming() -> bool:
    """Whether a functorch transform or forward-mode AD is on, which only torch's ops respect.

    The ops' own derivatives would give silent zeros under either.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def refuse_transforms(op: str) -> None:
    """For the ops that exported programs call, where nothing has asked `transforming` before."""
    if transforming():
        raise NotImplementedError(
            f"fastchar::{op} has no derivative under torch.func's transforms and forward-mode AD: "
            "apply these to the module itself, not to a program exported from it"
        )


def traced() -> bool:
    """Whether torch.jit traces, or an ONNX exporter: they know torch's own operations only."""
    return torch.jit.is_tracing() or (
        torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
    )


def transformed(tensors: Sequence[Tensor]) -> bool:
    """Whether something stands before the kernels that only torch's ops respect."""
    return transforming() or not all(_plain(type(tensor)) for tensor in tensors)


def _plain(cls: type) -> bool:
    """Whether tensors of `cls` are for any op what a Tensor is: no functions or dispatch added.

    Compilers' tensors have a dispatch that knows every op; those of others, such as DTensor, know
    torch's.
    """
    if cls is Tensor or cls is torch.nn.Parameter:
        return True
    if getattr(cls, "__torch_function__", None) is not torch._C._disabled_torch_function_impl:
        return False
    dispatch = getattr(cls, "__torch_dispatch__", None)
    own = dispatch is not torch._C._disabled_torch_dispatch_impl
    return not own or cls.__module__.startswith("torch._subclasses.")


def kernel_dtype(tensors: Sequence[Tensor]) -> torch.dtype | None:
    """The dtype in which a kernel serves these floating point tensors; None where none does."""
    if not backend.native() or traced() or transforming():
        return None
    # One plain loop: a small step would spend as much here as in its kernel.
    dtype, on_cpu = tensors[0].dtype, True
    if tensors[0].layout is not torch.strided:  # the input, which torch's cell takes sparse
        return None
    for tensor in tensors:
        if not _plain(type(tensor)) or tensor.dtype is not dtype:
            return None
        on_cpu = on_cpu and tensor.is_cpu
    if not on_cpu:
        device = tensors[0].device
        if not _device_served(device) or any(tensor.device != device for tensor in tensors):
            return None
        if device.type == "cuda":
            return dtype if dtype in _COMPUTE else None
    return _COMPUTE.get(dtype)


def _device_served(device: torch.device) -> bool:
    """Whether kernels are there for tensors on `device`."""
    if device.type == "cuda":
        return backend.cuda(device)
    return device.type in ("cpu", "meta")


def ids_served(ids: Tensor) -> bool:
    if not isinstance(ids, Tensor) or (type(ids) is not Tensor and transformed((ids,))):
        return False
    if ids.is_nested or (ids.dtype is not torch.int64 and ids.dtype is not torch.int32):
        return False
    return ids.is_cpu or _device_served(ids.device)


def index_error(call: Callable[..., Any], *args: Any) -> Any:
    """call(*args), with an id or target out of range as the IndexError that torch raises.

    The stable ABI has one exception type, so the native ops can only say it in their message.
    """
    if torch.compiler.is_compiling():
        return call(*args)
    try:
        return call(*args)
    except RuntimeError as error:
        message = str(error)
        if "expected ids in" in message or "expected targets in" in message:
            raise IndexError(message.partition("\n")[0]) from None
        raise


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's dtype on the CPU where it is on and applies to x, else None."""
    if not torch.is_autocast_enabled("cpu") or x.device.type != "cpu" or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype("cpu")


def cuda_autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's dtype on CUDA where it is on and applies to x, else None.

    There torch casts an LSTM's input, state and weights to it (for cuDNN to float16, whatever it
    is), and leaves the results in it; the kernels have the cell's state in float32 from step to
    step all the same.
    """
    if not x.is_cuda or not torch.is_autocast_enabled("cuda") or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype("cuda")


def lowered(tensors: Sequence[Tensor], low: torch.dtype) -> list[Tensor]:
    """As CUDA's autocast does it: all but float64."""
    return [t if t.dtype == torch.float64 else t.to(low) for t in tensors]


def floats(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors]


def float_state(hx: State | None) -> State | None:
    if hx is None:
        return None
    h, c = floats(hx)
    return h, c


def cast_results(results: Result, dtype: torch.dtype) -> Result:
    y, h, c = results
    return results if y.dtype is dtype else (y.to(dtype), h.to(dtype), c.to(dtype))
