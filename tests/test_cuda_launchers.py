"""The CUDA ops' launchers without a GPU: what they allocate, ask of torch, and launch with which
sizes. On CPU tensors, their kernels on the emulator, in a process of its own."""

import os
import subprocess
import sys

import pytest
from test_cuda_emulator import BUILD, GXX, ROOT, pytestmark

pytestmark = [pytestmark, pytest.mark.native]
PROGRAM = [sys.executable, str(ROOT / "tests" / "emu" / "launchers.py"), str(BUILD), str(GXX)]
PATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}


def test_every_op_agrees_with_the_reference():
    """By the error rule, as on a GPU; several chunks of tokens, tables too large for the counting
    sort, more teams than there is room for."""
    result = subprocess.run(PROGRAM, env=ENVIRONMENT, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
