"""nvcc compiles every CUDA file, GPU or not, and ptxas's report keeps within its ceilings."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from test_cuda_emulator import kernel_names

ROOT = Path(__file__).parent.parent
CUDA = ROOT / "csrc" / "cuda"
EVERY_ARCHITECTURE = "7.5;8.0;8.6;8.9;9.0;10.0+PTX"


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_build", CUDA / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()
pytestmark = pytest.mark.skipif(
    not build.wanted(), reason="no nvcc here, or FASTCHAR_CUDA=0: the CUDA library is not built"
)


class Kernel(NamedTuple):
    """What ptxas says of one kernel on one architecture."""

    name: str
    architecture: str
    spilled: int  # bytes
    registers: int  # per thread


def report(folder: Path) -> list[Kernel]:
    pattern = re.compile(
        r"Compiling entry function '(\w+)' for '(\w+)'.*?"
        r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        re.DOTALL,
    )
    text = "".join(log.read_text() for log in sorted(folder.glob("*.o.log")))
    return [Kernel(m[1], m[2], int(m[3]) + int(m[4]), int(m[5])) for m in pattern.finditer(text)]


def check(kernels: list[Kernel], architectures: set[str]) -> None:
    assert {k.architecture for k in kernels} == architectures
    assert [k for k in kernels if k.spilled] == []
    # A block's threads times its registers fit the 64 K of a multiprocessor: 512 threads where W_hh
    # is resident; elsewhere 256, and at least two blocks.
    assert max(k.registers for k in kernels) <= 128
    # Sums of rows wait for memory: three blocks of 256 threads, each with eight rows on their way.
    assert max(k.registers for k in kernels if re.search("sum_(rows|pieces|ids)", k.name)) <= 80
    missing = [name for name in kernel_names() if not any(name in k.name for k in kernels)]
    assert missing == [], "kernels that no launcher uses"


def test_the_library_builds_without_spills():
    """For the default architectures (or TORCH_CUDA_ARCH_LIST's), no kernel spills a register and
    none has more of them than its blocks can have."""
    folder = ROOT / "build" / "cuda"
    build.build(ROOT / "fastchar" / "_C_cuda.so", folder)  # nothing to do after `make build`
    names = {
        f"sm_{name.split('+')[0].replace('.', '')}" for name in build.architectures().split(";")
    }
    check(report(folder), names)


@pytest.mark.skipif(not os.environ.get("FASTCHAR_SLOW_TESTS"), reason="minutes of nvcc")
def test_every_architecture():
    """The same for every architecture from sm_75 to sm_100."""
    folder = ROOT / "build" / "cuda-all"
    build.build(folder / "_C_cuda.so", folder, EVERY_ARCHITECTURE)
    check(report(folder), {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100"})


@pytest.mark.skipif(not os.environ.get("FASTCHAR_SLOW_TESTS"), reason="minutes of nvcc")
def test_turing_alone(monkeypatch):
    """What TORCH_CUDA_ARCH_LIST asks for, without the architectures whose kernels are resident:
    the launchers take another way there (tests/emu/ways.cpp)."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    folder = ROOT / "build" / "cuda-turing"
    build.build(folder / "_C_cuda.so", folder)
    check(report(folder), {"sm_75"})


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm from binutils")
def test_only_stable_torch_symbols_are_used():
    """One binary serves every torch >= 2.11: no C++ symbol of torch, only its C shim."""
    library = ROOT / "fastchar" / "_C_cuda.so"
    build.build(library, ROOT / "build" / "cuda")
    command = ["nm", "-DC", "--undefined-only", str(library)]
    undefined = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.findall(r".*\b(?:at|c10|torch|caffe2)::.*", undefined) == []
    assert "aoti_torch_get_current_cuda_stream" in undefined


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm from binutils")
def test_what_python_calls_is_there():
    """backend.py finds the library's functions by name, where there is a GPU."""
    library = ROOT / "fastchar" / "_C_cuda.so"
    build.build(library, ROOT / "build" / "cuda")
    command = ["nm", "-D", "--defined-only", str(library)]
    defined = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    called = re.findall(r"\bfastchar_cuda_\w+", (ROOT / "fastchar" / "backend.py").read_text())
    assert len(set(called)) == 3
    assert [name for name in called if name not in defined.split()] == []


# A driver that says on stderr what is asked of it, of the version in the environment.
DRIVER = """
#include <cstdio>
#include <cstdlib>
extern "C" int cuDriverGetVersion(int* version) {
  *version = std::atoi(std::getenv("VERSION"));
  return !std::fprintf(stderr, "version ");
}
extern "C" int cuInit(unsigned) { return !std::fprintf(stderr, "start "); }
"""


def test_the_driver_is_asked_and_not_started(tmp_path):
    """Importing fastchar asks for its version. Were it started, forked processes could not use a
    GPU, and CUDA_VISIBLE_DEVICES would come too late."""
    build.build(ROOT / "fastchar" / "_C_cuda.so", ROOT / "build" / "cuda")
    (tmp_path / "driver.cpp").write_text(DRIVER)
    part, driver = tmp_path / "part.so", tmp_path / "libcuda.so.1"
    shared = [build.find_nvcc(), "-shared", "-Xcompiler=-fPIC", "-o"]
    subprocess.run([*shared, str(driver), "-cudart=none", str(tmp_path / "driver.cpp")], check=True)
    needs_no_torch = str(ROOT / "build" / "cuda" / "library.o")
    subprocess.run([*shared, str(part), needs_no_torch], check=True)
    ask = f"import ctypes; print(ctypes.CDLL({str(part)!r}).fastchar_cuda_driver_lacks() // 1000)"
    path = os.pathsep.join([str(tmp_path), os.environ.get("LD_LIBRARY_PATH", "")])
    for version in (1000, 99000):
        environment = {**os.environ, "LD_LIBRARY_PATH": path, "VERSION": str(version)}
        command = [sys.executable, "-c", ask]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == "version "
        assert (int(done.stdout) > 0) == (version == 1000)


def test_architecture_lists(monkeypatch):
    """TORCH_CUDA_ARCH_LIST is obeyed in all its spellings, and a wrong one is refused by name."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0, 9.0a 10.0+PTX")
    assert build.architectures() == "8.0;9.0a;10.0+PTX"
    assert build._code_flags(build.architectures()) == [
        "-gencode=arch=compute_80,code=[sm_80]",
        "-gencode=arch=compute_90a,code=[sm_90a]",
        "-gencode=arch=compute_100,code=[sm_100,compute_100]",
    ]
    with pytest.raises(SystemExit, match="expected entries like"):
        build._code_flags("Hopper")


@pytest.mark.parametrize("module", [True, False])
def test_ninja_of_python_or_of_the_system(module, monkeypatch, tmp_path):
    """The package beside this Python, or without it the one on the PATH."""
    ran = []

    def run(command, **_):
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: module or None)
    monkeypatch.setattr(build.shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    monkeypatch.setattr(build.subprocess, "run", run)
    build.build(tmp_path / "library.so", tmp_path / "work", "9.0")
    assert ran[0][: 3 if module else 1] == (
        [sys.executable, "-m", "ninja"] if module else ["/usr/bin/ninja"]
    )
