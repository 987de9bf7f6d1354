"""The CUDA kernels without a GPU: compiled by g++ against the emulator in tests/emu, under
AddressSanitizer and (a few) ThreadSanitizer, each over several seeds of its random schedule."""

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "emu"
GXX = shutil.which("g++")
# FASTCHAR_SLOW_TESTS=1 runs every kernel under both sanitizers and more schedules.
SLOW = bool(os.environ.get("FASTCHAR_SLOW_TESTS"))
ADDRESS = "address,alignment"

ABLE = GXX is not None and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(not ABLE, reason="the emulator needs g++ on x86-64")


class Program(NamedTuple):
    source: str
    sanitizer: str = ADDRESS
    plant: str = ""

    def seeds(self) -> list[str]:
        if self.sanitizer == "thread" or (self.source == "sequence" and not SLOW):
            return ["1"]
        if self.plant == "exit":  # not under every schedule does the block end soon enough
            return [str(seed) for seed in range(1, 13)]
        return ["1", "2", "3"]


KERNELS = [
    Program("selftest"),
    Program("embedding"),
    Program("pointwise"),
    Program("sequence"),
    Program("ways"),
    Program("selftest", "thread"),
    Program("embedding", "thread"),
    *([Program("sequence", "thread")] if SLOW else []),
]
# A planted bug of selftest.cpp, and what the emulator says of it.
PLANTS = {
    "barrier": "wrong: block_sum",
    "index": "heap-buffer-overflow",
    "flag": "wrong: grid_steps",
    "exit": "that block of the cluster has ended",
    "lane": "meet in different operations",
    "half": "ends between cluster_arrive and cluster_wait",
}
PLANTED = [Program("selftest", plant=plant) for plant in PLANTS]
PLANTED_RACE = Program("selftest", "thread", "barrier")


def kernel_names() -> set[str]:
    """Every __global__ function of csrc/cuda."""
    text = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").glob("*.cuh"))
    found = re.findall(r"__global__ void\s+__launch_bounds__\([^)]*\)\s+(\w+)\(", text)
    assert len(found) == text.count("__global__"), "a kernel is written in another way"
    return set(found)


def compiled(program: Program) -> Path:
    """The program's binary, named by everything that it is made of."""
    assert GXX is not None
    sources = [*(ROOT / "tests" / "emu").glob("*.[ch]*"), *(ROOT / "csrc" / "cuda").glob("*.cuh")]
    sources += [ROOT / "csrc" / "cell_math.h", ROOT / "csrc" / "cuda" / "ways.h"]
    flags = [
        "-std=c++17",
        "-O1",
        "-g1",
        "-w",
        f"-fsanitize={program.sanitizer}",
        "-fno-sanitize-recover=all",
        "-DFASTCHAR_EMULATOR",
    ]
    digest = hashlib.sha256(repr((program.source, flags)).encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    binary = BUILD / digest.hexdigest()[:20]
    if not binary.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        made = binary.with_suffix(f".{os.getpid()}")
        source = ROOT / "tests" / "emu" / f"{program.source}.cpp"
        folders = [f"-I{ROOT / 'tests' / 'emu'}", f"-I{ROOT / 'csrc' / 'cuda'}"]
        subprocess.run([GXX, *flags, *folders, str(source), "-o", str(made)], check=True)
        made.replace(binary)
    return binary


@functools.cache
def fixed_layout() -> list[str]:
    """What runs a program without address space randomisation, which can confuse ThreadSanitizer;
    nothing where that isn't allowed."""
    command = ["setarch", "-R"]
    allowed = shutil.which("setarch") and subprocess.run([*command, "true"]).returncode == 0
    return command if allowed else []


def run(program: Program) -> subprocess.CompletedProcess[str]:
    command = [str(compiled(program)), *program.seeds()]
    if program.sanitizer == "thread":
        command = [*fixed_layout(), *command]
    environment = {**os.environ, "PLANT": program.plant}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_every_kernel_is_run():
    """No kernel exists that the programs below don't launch."""
    programs = "".join(path.read_text() for path in (ROOT / "tests" / "emu").glob("*.cpp"))
    assert [name for name in kernel_names() if not re.search(rf"\b{name}\b", programs)] == []


@pytest.mark.parametrize("program", KERNELS, ids=lambda p: f"{p.source}-{p.sanitizer}")
def test_kernels_agree_with_plain_loops(program):
    """Every kernel gives the reference's numbers under every schedule, no sanitizer objecting."""
    result = run(program)
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.parametrize("program", PLANTED, ids=lambda p: p.plant)
def test_planted_bugs_are_caught(program):
    """The emulator can fail: a bug of each kind that it is for makes the program fail."""
    result = run(program)
    assert result.returncode != 0
    assert PLANTS[program.plant] in result.stderr


def test_planted_race_is_caught():
    """A removed barrier is a data race to ThreadSanitizer, whatever the numbers say."""
    result = run(PLANTED_RACE)
    assert result.returncode != 0
    assert "data race" in result.stderr
