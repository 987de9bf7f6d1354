"""The CUDA launchers without a GPU: compiled by g++ against the emulator, for tensors of the CPU.

    python tests/emu/launchers.py FOLDER COMPILER

A library, made in FOLDER unless it is there already, takes the place of the CPU's kernels in this
process; then every op is compared with the reference by the error rule, in small cases of each way.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parent.parent.parent
LAUNCH = re.compile(r"(\w+(?:<[\w\s,:]*>)?)\s*<<<(.*?)>>>\s*\(", re.DOTALL)
# Where a tensor is; what stands in for a device; names that are macros in the emulator.
REPLACED = {
    "launch.h": [
        (": index_(static_cast<int32_t>(t.get_device_index())), guard_(index_)", ": index_(0)"),
        ("  torch::stable::accelerator::DeviceGuard guard_;\n", ""),
        ("TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));", ""),
        ("is_cuda()", "is_cpu()"),
    ],
    "resident_launch.h": [
        ("config_.gridDim", "config_.grid"),
        ("config_.blockDim", "config_.block"),
    ],
    "loss.cu": [("kChunkLogits = 1 << 23", "kChunkLogits = 1 << 13")],  # several chunks
}


def as_cpp(source: Path) -> str:
    text = source.read_text()
    for old, new in REPLACED.get(source.name, []):
        assert old in text, f"{source.name} has no longer: {old}"
        text = text.replace(old, new)
    if source.suffix != ".cuh":
        text = LAUNCH.sub(r"emu::start(\1, \2)(", text)
        assert "<<<" not in text, f"{source.name}: a launch is written in another way"
    return text.replace("IMPL(fastchar, CUDA, m)", "IMPL(fastchar, CPU, m)")


def build(folder: Path, compiler: str) -> Path:
    """The library, made in `folder` unless it is there already."""
    csrc = ROOT / "csrc"
    files = {f"cuda/{f.name}": as_cpp(f) for f in sorted((csrc / "cuda").glob("*.*[hu]"))}
    files |= {f.name: f.read_text() for f in sorted(csrc.glob("*.h"))}
    own = {f.name: f.read_text() for f in sorted((ROOT / "tests" / "emu").glob("*.h"))}
    flags = ["-std=c++17", "-O1", "-g1", "-w", "-fPIC", "-fvisibility=hidden"]
    flags += ["-DFASTCHAR_EMULATOR", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    flags += ['-DFASTCHAR_CUDA_ARCHITECTURES="9.0"', f"-I{ROOT / 'tests' / 'emu'}"]
    flags += [f"-I{path}" for path in cpp_extension.include_paths()]
    digest = hashlib.sha256(repr((files, own, flags, torch.__version__)).encode()).hexdigest()
    library = folder / f"{digest[:20]}.launchers.so"
    if library.exists():
        return library
    work = library.with_suffix(f".{os.getpid()}")
    for name, text in files.items():
        file = work / name.replace(".cu", ".cpp") if name.endswith(".cu") else work / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def compile_one(source: Path) -> str:
        made = source.with_suffix(".o")
        subprocess.run([compiler, *flags, "-c", str(source), "-o", str(made)], check=True)
        return str(made)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(pool.map(compile_one, (work / "cuda").glob("*.cpp")))
    folders = [f"-L{path}" for path in cpp_extension.library_paths()]
    made = work / "library.so"
    link = [compiler, "-shared", "-o", str(made), *objects, *folders, "-ltorch_cpu"]
    subprocess.run(link, check=True)
    made.replace(library)
    shutil.rmtree(work)
    return library


def main(library: str) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    import test_cuda_parity as parity
    from cuda_cases import RAGGED, unread_past_the_ends

    from fastchar import functional, reference

    torch.ops.load_library(library)
    parity.DEVICE = "cpu"
    ops, half, full = functional.ops, torch.bfloat16, torch.float32

    def compare(what: str, ours: Any, theirs: Any, shapes: Any, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        print(what, dtype, flush=True)
        inputs = [torch.randn(shape) / shape[-1] ** 0.5 for shape in shapes]
        parity.compare(ours, theirs, inputs, dtype).check()

    ids = torch.randint(64, (40, 30))
    for dtype in (full, half):
        for columns in (12, 67):
            compare(
                f"embedding {columns}",
                lambda w: (ops.embedding(w, ids, 3),),
                lambda w: (reference.embedding(ids, w, 3),),
                [(64, columns)],
                dtype,
            )
        compare(
            "cell",
            lambda *tensors: ops.lstm_cell(*tensors),
            lambda *tensors: reference.cell.cell_step(*tensors)[:2],
            [(5, 132), (5, 33)],
            dtype,
        )
    target = torch.randint(67, (200,))
    target[::5] = -100
    for reduction in ("none", "sum", "mean"):
        compare(
            f"loss, {reduction}",
            lambda x, w, b, how=reduction: (loss(ops, x, w, b, target, how),),
            lambda x, w, b, how=reduction: (
                reference.linear_cross_entropy(x, w, target, linear_bias=b, reduction=how),
            ),
            [(200, 40), (67, 40), (67,)],
            half if reduction == "sum" else full,
        )

    def sequence(what: str, dtype: torch.dtype, H: int, T: int, B: int, V: int = 0) -> None:
        """From gates, or of ragged sequences in reverse from a table of V rows."""
        lengths = torch.tensor(RAGGED) if V else None
        ids = torch.randint(min(V, 99), (T, B)) if V else None
        unread = unread_past_the_ends(ids) if V else None
        gates = (V, 4 * H) if V else (T, B, 4 * H)
        compare(
            f"{what}, H = {H}, B = {B}, V = {V}",
            lambda g, *others: ops.lstm_sequence(g, unread, *others, lengths, bool(V)),
            lambda g, *others: reference.lstm_sequence(g, ids, *others, lengths, bool(V))[:3],
            [gates, (4 * H, H), (B, H), (B, H)],
            dtype,
        )

    allow_tf32 = ctypes.CDLL(library).fastchar_cuda_allow_tf32
    B, T = len(RAGGED), max(RAGGED)
    for way, H in (("block", 40), ("cluster", 72), ("grid", 130), ("steps", 48)):
        os.environ["FASTCHAR_CUDA_LSTM"] = way
        sequence(way, half, H, T, B, V=13)
        sequence(way, torch.float16, H, 2, 3)
        if way == "steps":
            sequence(way, full, 21, T, B, V=9000)  # a table too large for the counting sort
    # More teams than there is room for: grids in several launches. (The room for a size of team is
    # asked for once, so these are other sizes.)
    for way, H, B in (("cluster", 150, 40), ("grid", 200, 20)):
        os.environ |= {"FASTCHAR_CUDA_LSTM": way, "EMU_SMS": "4"}
        sequence(f"{way} beyond the room", half, H, 2, B)
    # A launch that the device refuses, having less room than it said: the op that comes next has
    # nothing to do with it.
    os.environ |= {"FASTCHAR_CUDA_LSTM": "grid", "EMU_SMS": "1"}
    refused = ""
    try:
        sequence("grid that is refused", half, 130, 2, 3)
    except RuntimeError as error:
        refused = str(error)
    assert "grid too large" in refused, refused
    ops.embedding(torch.randn(3, 4), torch.tensor([2]))
    os.environ["EMU_SMS"] = "132"
    allow_tf32(1)
    for way, H in (("block", 40), ("cluster", 72), ("grid", 130)):
        os.environ["FASTCHAR_CUDA_LSTM"] = way
        print(way, "as TF32", flush=True)
        gates, w_hh = torch.randn(2, 3, 4 * H), torch.randn(4 * H, H) / H**0.5
        state = torch.randn(3, H)
        y = ops.lstm_sequence(gates, None, w_hh, state, state, None, False)[0]
        exact = reference.lstm_sequence(
            *(gates.double(), None, w_hh.double(), state.double(), state.double())
        )[0]
        error = float((y - exact).abs().max())
        assert 2**-24 < error < 2**-9, f"error {error}: not TF32's"


def loss(ops: Any, x: Any, weight: Any, bias: Any, target: Any, reduction: str) -> Any:
    arguments = (x, weight, bias, target, None, -100, 0.0)
    if reduction == "none":
        return ops.linear_cross_entropy(*arguments)
    return ops.linear_cross_entropy_reduced(*arguments, reduction == "mean")


if __name__ == "__main__":
    main(str(build(Path(sys.argv[1]), sys.argv[2])))
