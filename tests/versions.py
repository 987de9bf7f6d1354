"""`make test-versions`: builds and tests on several torch and Python versions.

    python tests/versions.py [--headers DIR] PYTHON...

A PYTHON with torch and the test tools beside it (a virtual environment's): the library is built
and tested there, and the libraries built on the others of the same Python version are tested there
too. A PYTHON without torch: it parses every file, and the extension is built for it against the
first PYTHON's torch and loaded. `--headers` names an unpacked torch wheel, of any platform: the
library is built against its headers, and tested on the first PYTHON.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ("accelerate", "layer", "parity_embedding", "parity_loss", "drop_in_samples", "opcheck")

DESCRIBE = """
import json, platform, sys, sysconfig
try:
    import torch
    from torch.utils import cpp_extension
    found = [torch.__version__, cpp_extension.include_paths(), cpp_extension.library_paths()[0]]
except ImportError:
    found = [None, [], None]
print(json.dumps([platform.python_version(), sys.implementation.cache_tag,
    sysconfig.get_config_var("EXT_SUFFIX"), sysconfig.get_path("include"), *found]))
"""
# setup.py, on torch headers from elsewhere.
BUILD = """
import runpy, sys
from torch.utils import cpp_extension
if sys.argv[1:]:
    include = sys.argv[1]
    paths = [include, include + "/torch/csrc/api/include"]
    cpp_extension.include_paths = lambda *args, **kwargs: paths
sys.argv = ["setup.py", "--quiet", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
"""
# Parses every file, then loads the extension after the two torch libraries that it needs.
BARE = """
import ast, ctypes, importlib.util, pathlib, sys
for path in [*pathlib.Path().glob("**/*.py")]:
    ast.parse(path.read_text(), str(path))
for name in ("libc10.so", "libtorch_cpu.so"):
    ctypes.CDLL(sys.argv[1] + "/" + name, mode=ctypes.RTLD_GLOBAL)
spec = importlib.util.spec_from_file_location("fastchar._C", sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.set_isa(module.available_isas()[-1])
"""


@dataclass
class Python:
    """An interpreter, and what it says of itself; torch is None where it has none."""

    path: str
    version: str
    tag: str
    suffix: str
    include: str
    torch: str | None
    torch_includes: list[str]
    torch_libraries: str

    @classmethod
    def of(cls, path: str) -> "Python":
        done = subprocess.run([path, "-c", DESCRIBE], check=True, capture_output=True, text=True)
        return cls(path, *json.loads(done.stdout))

    def __str__(self) -> str:
        return f"Python {self.version}, torch {self.torch}"


def checkout(folder: Path) -> Path:
    """A copy of the tracked files, as they are now, without anything built."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return folder


def run(what: str, command: list[str], tree: Path) -> bool:
    """Runs it in the tree, its output shown only if it fails."""
    print(f"{what} ...", flush=True)
    environment = {**os.environ, "FASTCHAR_CUDA": "0", "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
    print(f"{what}: {'FAILED' if done.returncode else 'passed'}", flush=True)
    return done.returncode == 0


def build(python: Python, tree: Path, include: str | None = None) -> bool:
    headers = f", headers of {include}" if include else ""
    arguments = [include] if include else []
    return run(f"build on {python}{headers}", [python.path, "-c", BUILD, *arguments], tree)


def test(python: Python, tree: Path, built: str) -> bool:
    files = [f"tests/test_{name}.py" for name in TESTS]
    return run(f"{built}: tests on {python}", [python.path, "-m", "pytest", "-x", *files], tree)


def test_bare(python: Python, host: Python, tree: Path) -> bool:
    """The extension for a Python without torch: only csrc/module.cpp knows Python's version."""
    objects = [o for o in tree.glob("build/temp*/csrc/**/*.o") if o.name != "module.o"]
    pybind11 = subprocess.run(
        [host.path, "-m", "pybind11", "--includes"], check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    library = tree / f"_C{python.suffix}"
    command = ["g++", "-shared", "-fPIC", "-std=c++17", "-fvisibility=hidden", "-O1", "-w"]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{python.include}", pybind11]
    command += [f"-I{path}" for path in host.torch_includes]
    command += ["csrc/module.cpp", *map(str, objects), f"-L{host.torch_libraries}"]
    command += ["-ltorch_cpu", "-lc10", "-o", str(library)]
    what = f"for Python {python.version}, without torch"
    return run(f"build {what}", command, tree) and run(
        f"parse and load {what}",
        [python.path, "-c", BARE, host.torch_libraries, str(library)],
        tree,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/versions.py", description=__doc__)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--headers", action="append", default=[], metavar="DIR")
    options = parser.parse_args()
    pythons = [Python.of(path) for path in options.pythons]
    hosts = [python for python in pythons if python.torch is not None]
    if not hosts or hosts[0] is not pythons[0]:
        parser.error("expected a PYTHON with torch first")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        trees = [checkout(Path(folder, f"built{k}")) for k in range(len(hosts))]
        for host, tree in zip(hosts, trees, strict=True):
            results.append(build(host, tree) and test(host, tree, "built there"))
        for host, tree in zip(hosts, trees, strict=True):
            for other in hosts:
                if other is not host and other.tag == host.tag:
                    results.append(test(other, tree, f"built on torch {host.torch}"))
        for k, headers in enumerate(options.headers):
            tree = checkout(Path(folder, f"headers{k}"))
            include = str(Path(headers, "torch", "include").resolve())
            built = build(hosts[0], tree, include)
            results.append(built and test(hosts[0], tree, f"headers of {headers}"))
        for python in pythons:
            if python.torch is None:
                results.append(test_bare(python, hosts[0], trees[0]))
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
