"""The versions that the metadata promise are the ones that the build and the tools check."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastchar

ROOT = Path(__file__).parent.parent
NM = shutil.which("nm")
SYMBOLS = ROOT / "tests" / "torch-2.11-symbols.txt"
HEADERS = ROOT / "tests" / "torch-2.11-headers.txt"


def setting(pattern: str, file: str = "pyproject.toml") -> str:
    found = re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert len(found) == 1, f"{pattern} in {file}: {found}"
    return found[0]


def names(file: Path) -> set[str]:
    return {line for line in file.read_text().splitlines() if not line.startswith("#")}


def test_the_oldest_python_is_the_same_everywhere() -> None:
    """requires-python, ruff's syntax target, mypy's library and the classifiers agree."""
    oldest = setting(r'^requires-python = ">=3\.(\d+)"')
    assert setting(r'^target-version = "py3(\d+)"') == oldest
    assert setting(r'^python_version = "3\.(\d+)"') == oldest
    text = (ROOT / "pyproject.toml").read_text()
    listed = [
        int(minor) for minor in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', text)
    ]
    assert listed == list(range(int(oldest), listed[-1] + 1))
    assert sys.version_info.minor in listed


def test_the_oldest_torch_is_the_same_everywhere() -> None:
    """What pip is told, what the C++ is compiled for, and what the symbols were taken from."""
    build, install = re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    major, minor = build.split(".")
    assert install == build
    target = setting(r'\("TORCH_TARGET_VERSION", "0x(\w+)"\)', "setup.py")
    assert target == f"{int(major):02x}{int(minor):02x}" + 12 * "0"
    assert SYMBOLS.name == f"torch-{build}-symbols.txt"
    assert HEADERS.name == f"torch-{build}-headers.txt"
    assert tuple(map(int, torch.__version__.split(".")[:2])) >= (int(major), int(minor))


@pytest.mark.skipif(NM is None, reason="needs nm from binutils")
@pytest.mark.parametrize("name", ["_C", "_C_cuda"])
def test_the_library_loads_on_the_oldest_torch(name: str) -> None:
    """Every torch symbol that the built library needs is one that torch 2.11 exports."""
    libraries = [*Path(fastchar.__file__).parent.glob(f"{name}.*so")]
    if not libraries:
        pytest.skip(f"{name} is not built")
    exported = names(SYMBOLS)
    for library in libraries:
        done = subprocess.run(
            [NM, "-D", "--undefined-only", str(library)], check=True, capture_output=True, text=True
        )
        needed = set(re.findall(r" U ((?:aoti_)?torch_\w+)", done.stdout))
        assert len(needed) > 20, "the audit looked at the wrong library"
        assert needed <= exported


def test_the_sources_compile_on_the_oldest_torch() -> None:
    """Every macro and function that they take from torch's stable headers is in those of 2.11."""
    files = [f for f in (ROOT / "csrc").rglob("*.*") if f.suffix in (".h", ".cpp", ".cu", ".cuh")]
    text = "\n".join(file.read_text() for file in files)
    macros = set(re.findall(r"\b[A-Z_]*TORCH_[A-Z_]+\b", text)) - {"TORCH_TARGET_VERSION"}
    needed = macros | set(re.findall(r"\btorch::stable::\w+(?=\()", text))
    assert len(needed) > 12, "the audit looked at the wrong files"
    assert needed <= names(HEADERS)
