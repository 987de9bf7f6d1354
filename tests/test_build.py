"""The built library: what it links to, and what each instruction set's object may contain."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch

import fastchar

ROOT = Path(__file__).parent.parent
NM = shutil.which("nm")
GXX = shutil.which("g++")


def native_library() -> Path:
    torch.tensor(0)  # torch is loaded before the library that links to it
    module = pytest.importorskip("fastchar._C", reason="extension not built")
    return Path(module.__file__)


def symbols(*args: str) -> list[str]:
    assert NM is not None
    result = subprocess.run([NM, *args], check=True, capture_output=True, text=True)
    return result.stdout.splitlines()


@pytest.mark.skipif(NM is None, reason="needs nm from binutils")
def test_only_stable_torch_symbols_are_used():
    """One binary serves every torch >= 2.11: no C++ symbol of torch, only its C shim."""
    undefined = symbols("-DC", "--undefined-only", str(native_library()))
    names = [line.split(maxsplit=1)[1] for line in undefined if " U " in line]
    unstable = [n for n in names if any(ns in n for ns in ("at::", "c10::", "torch::", "caffe2::"))]
    assert unstable == []
    assert any("aoti_torch_" in n for n in names), "the audit looked at the wrong library"


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf from binutils")
def test_no_second_openmp():
    """A second OpenMP runtime in the process would halve the speed."""
    dynamic = subprocess.run(
        ["readelf", "-d", str(native_library())], check=True, capture_output=True, text=True
    ).stdout
    needed = [line for line in dynamic.splitlines() if "NEEDED" in line]
    assert any("libtorch_cpu" in line for line in needed)
    assert not any("gomp" in line or "omp5" in line for line in needed)


@pytest.mark.skipif(NM is None, reason="needs nm from binutils")
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_isa_objects_share_no_code(isa):
    """A weak (shared inline) function in these objects would bring their instructions to others."""
    objects = sorted(ROOT.glob(f"build/temp*/csrc/cpu/isa_{isa}.o"))
    if not objects:
        pytest.skip("no build folder here: the library was installed, not built in place")
    newest = max(objects, key=lambda path: path.stat().st_mtime)
    shared = [line for line in symbols("-C", str(newest)) if line[17:18] in ("W", "V", "u")]
    # A pointer to the C++ runtime's exception handler: data, no instructions.
    assert [line for line in shared if "DW.ref." not in line] == []


@pytest.mark.skipif(GXX is None, reason="needs g++")
def test_portable_kernels_need_no_machine_of_their_own(tmp_path):
    """They compile where neither x86-64's nor aarch64's registers are."""
    source = tmp_path / "portable.cpp"
    source.write_text("""
#include <cstring>
#include "cpu/kernels.h"  // and the system's headers, as long as they know the machine
#undef __x86_64__
#undef __aarch64__
#define FASTCHAR_ISA portable
#include "cpu/isa_body.h"
const auto floats = fastchar::cpu::portable::make_table<float>();
const auto doubles = fastchar::cpu::portable::make_table<double>();
""")
    command = [GXX, "-std=c++17", "-fsyntax-only", f"-I{ROOT / 'csrc'}", str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_version_is_stated_once():
    """The package and its metadata say the same version."""
    from importlib.metadata import version

    assert fastchar.__version__ == version("fastchar")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git which files there are")
def test_a_source_distribution_is_complete(tmp_path):
    """It has every file of the repository but dotfiles, so that what README.md says to type works
    in one, and nothing besides."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    packed = (tmp_path / "fastchar.egg-info" / "SOURCES.txt").read_text().splitlines()
    own = {name for name in known.splitlines() if name[0] != "." and (ROOT / name).is_file()}
    assert {name for name in packed if "egg-info/" not in name} == own


def test_an_old_setuptools_builds_in_place():
    """One that can't read pyproject.toml's license field, as torch's package index has, where
    nothing newer can be downloaded; what needs the metadata still asks for them."""
    code = """
import runpy, sys
import setuptools
setuptools.__version__ = "70.2.0"
class Old(setuptools.Distribution):
    def parse_config_files(self, *args, **kwargs):
        raise SystemExit("invalid pyproject.toml config: project.license")
setuptools.Distribution = Old
sys.argv = ["setup.py", sys.argv[1], "--help"]
runpy.run_path("setup.py", run_name="__main__")
"""
    for command, returned in (("build_ext", 0), ("sdist", 1)):
        done = subprocess.run(
            [sys.executable, "-c", code, command], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == returned, done.stderr


def test_an_editable_install_compiles_where_the_build_does(monkeypatch):
    """Not in setuptools' temporary folder: `make build` installs, then builds in place, and has
    nothing left to compile."""
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda distclass, **given: arguments.update(given))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    folders = []
    for editable in (False, True):
        distribution = setuptools.Distribution(arguments)
        command = distribution.get_command_obj("build_ext")
        if editable:  # what setuptools' editable_wheel sets
            distribution.get_command_obj("build").build_temp = "temporary"
            command.editable_mode = True
        command.ensure_finalized()
        folders.append(command.build_temp)
    assert folders[1] == folders[0]
