"""The CUDA ops' launchers without a GPU: what they allocate, ask of torch, and launch with which
sizes. On CPU tensors, their kernels on the emulator, in a process of its own."""

import functools
import os
import sys

import beside as processes
import pytest
from test_cuda_emulator import ABLE, BUILD, GXX, ROOT, pytestmark

import fastchar

pytestmark = [pytestmark, pytest.mark.native]
PROGRAM = [sys.executable, str(ROOT / "tests" / "emu" / "launchers.py"), str(BUILD), str(GXX)]
PATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
BESIDE = {
    "launchers": functools.partial(
        processes.run, PROGRAM, {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}, 1200
    )
}
if not ABLE or fastchar.backends()["backend"] != "native":
    BESIDE.clear()


def test_every_op_agrees_with_the_reference(beside):
    """By the error rule, as on a GPU; several chunks of tokens, tables too large for the counting
    sort, more teams than there is room for."""
    result = beside["launchers"].result()
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
