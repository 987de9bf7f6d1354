"""Builds `fastchar._C`, the CPU kernels, against LibTorch's stable ABI (torch >= 2.11).

Where nvcc is, also the CUDA library (csrc/cuda/build.py): beside a CPU-only torch too, so that
every machine that builds checks every kernel. FASTCHAR_CUDA=0 leaves it out;
with FASTCHAR_CUDA=1 a failure to build it is an error, not a warning.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pybind11
import setuptools
from setuptools import Extension, setup
from torch.utils import cpp_extension

ROOT = Path(__file__).parent
SOURCES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").glob("**/*.cpp"))
HEADERS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").glob("**/*.h"))

# pybind11 before torch: torch 2.11 bundles a copy that refuses TORCH_TARGET_VERSION.
# Instruction sets are chosen per function inside csrc/cpu/isa_*.cpp, so no -march here, and no
# -fopenmp: torch brings its OpenMP, and a second runtime in the process halves the speed.
cpu = Extension(
    "fastchar._C",
    sources=SOURCES,
    depends=HEADERS,
    include_dirs=[pybind11.get_include(), *cpp_extension.include_paths()],
    library_dirs=cpp_extension.library_paths(),
    libraries=["torch_cpu"],
    define_macros=[("TORCH_TARGET_VERSION", "0x020b000000000000")],
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-g0",
        "-fvisibility=hidden",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",  # torch's own headers
    ],
    language="c++",
)

spec = importlib.util.spec_from_file_location("cuda_build", ROOT / "csrc" / "cuda" / "build.py")
cuda = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cuda)


class BuildNative(cpp_extension.BuildExtension):
    """The CPU extension, and the CUDA library beside it."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.editable_mode:
            # Else it compiles in a folder that is thrown away, and `make build` twice.
            usual = self.distribution.get_command_class("build")(self.distribution)
            usual.ensure_finalized()
            self.build_temp = usual.build_temp

    def run(self) -> None:
        super().run()
        if not cuda.wanted():
            return
        library = Path(self.get_ext_fullpath("fastchar._C")).with_name("_C_cuda.so")
        try:
            cuda.build(library, ROOT / "build" / "cuda")
        except SystemExit as error:
            # An old nvcc must not keep anybody from the CPU kernels.
            if os.environ.get("FASTCHAR_CUDA") == "1":
                raise
            print(f"warning: going on without the CUDA library: {error}", file=sys.stderr)


class Distribution(setuptools.Distribution):
    """Reads pyproject.toml, but not to build in place with a setuptools too old for its license
    field, as torch's own package index has: that needs no metadata."""

    def parse_config_files(self, *args, **kwargs) -> None:
        old = int(setuptools.__version__.partition(".")[0]) < 77
        if not (old and "build_ext" in sys.argv):
            super().parse_config_files(*args, **kwargs)


setup(
    distclass=Distribution,
    ext_modules=[cpu],
    cmdclass={"build_ext": BuildNative},
)
