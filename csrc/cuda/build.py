"""Builds the CUDA library, `fastchar/_C_cuda.so`, with plain nvcc: also beside a CPU-only torch.

torch's own CUDAExtension refuses a torch without CUDA; against the stable ABI nothing but the
headers is needed. Used by setup.py and by tests/test_cuda_build.py. Environment: FASTCHAR_CUDA=0
leaves the library out, CUDA_HOME says where nvcc is, TORCH_CUDA_ARCH_LIST what to compile for.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils import cpp_extension

SOURCE = Path(__file__).resolve().parent
# Ampere's and Hopper's machine code serve 8.x and 9.0; newer GPUs compile the PTX on loading.
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"


def find_nvcc() -> str | None:
    """nvcc of $CUDA_HOME, of the PATH, or of the usual place."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and (Path(home) / "bin" / "nvcc").exists():
            return str(Path(home) / "bin" / "nvcc")
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def wanted() -> bool:
    """Whether a build includes the CUDA library."""
    return os.environ.get("FASTCHAR_CUDA", "1") != "0" and find_nvcc() is not None


def architectures() -> str:
    """TORCH_CUDA_ARCH_LIST, else what the GPUs here are, else the default."""
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if chosen:
        return re.sub(r"[\s,;]+", ";", chosen.strip())
    if torch.cuda.is_available():
        here = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        return ";".join(f"{major}.{minor}" for major, minor in sorted(here))
    return DEFAULT_ARCHITECTURES


def _code_flags(names: str) -> list[str]:
    flags = []
    for name in names.split(";"):
        match = re.fullmatch(r"(\d+)\.(\d)(a?)(\+PTX)?", name)
        if not match:
            raise SystemExit(
                f"TORCH_CUDA_ARCH_LIST: expected entries like 9.0 or 9.0+PTX, got {name!r}"
            )
        number = match[1] + match[2] + match[3]
        codes = [f"sm_{number}"] + ([f"compute_{number}"] if match[4] else [])
        flags.append(f"-gencode=arch=compute_{number},code=[{','.join(codes)}]")
    return flags


def _ninja_file(target: Path, nvcc: str, names: str) -> str:
    """One object per .cu, ptxas's report beside it in OBJECT.log, and the library."""
    includes = [f"-I{path}" for path in cpp_extension.include_paths()]
    compile_flags = [
        "-std=c++17",
        "-O3",
        "-lineinfo",  # for compute-sanitizer and profilers
        "--expt-relaxed-constexpr",
        "-Xcompiler=-fPIC,-fvisibility=hidden",
        "-Xptxas=-v",
        "-DUSE_CUDA",
        "-DTORCH_TARGET_VERSION=0x020b000000000000",
        f"'-DFASTCHAR_CUDA_ARCHITECTURES=\"{names}\"'",
        *_code_flags(names),
        *includes,
    ]
    # nvcc links its own CUDA runtime in: the library needs nothing but torch, whichever that has.
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch_cpu"]
    if torch.version.cuda:
        libraries += ["-ltorch_cuda"]
    sources = sorted(SOURCE.glob("*.cu"))
    objects = " ".join(f"{source.stem}.o" for source in sources)
    lines = [
        f"nvcc = {nvcc}",
        f"flags = {' '.join(compile_flags)}",
        "rule compile",
        "  command = $nvcc $flags -MD -MF $out.d -c $in -o $out > $out.log 2>&1 "
        "|| (cat $out.log; false)",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = $nvcc -shared -o $out $in {' '.join(libraries)}",
        *(f"build {source.stem}.o: compile {source}" for source in sources),
        f"build {target}: link {objects}",
        "",
    ]
    return "\n".join(lines)


def build(target: Path, work: Path, names: str | None = None) -> None:
    """Builds or updates the library `target`, with objects and ptxas's reports in `work`."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("the CUDA library needs nvcc, which is neither in CUDA_HOME nor on PATH")
    target = target.resolve()
    work.mkdir(parents=True, exist_ok=True)
    (work / "build.ninja").write_text(_ninja_file(target, nvcc, names or architectures()))
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    module = importlib.util.find_spec("ninja") is not None  # else a system's own
    ninja = [sys.executable, "-m", "ninja"] if module else [shutil.which("ninja") or "ninja"]
    command = [*ninja, "-C", str(work), "-j", jobs]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"building {target.name} failed:\n{result.stdout}{result.stderr}")
