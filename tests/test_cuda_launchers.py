"""The CUDA ops' launchers without a GPU: what they allocate, ask of torch, and launch with which
sizes. On CPU tensors, their kernels on the emulator, in a process of its own."""

import os
import subprocess
import sys

import pytest
from emu import launchers
from test_cuda_emulator import BUILD, GXX, ROOT, pytestmark

pytestmark = [pytestmark, pytest.mark.native]


def test_every_op_agrees_with_the_reference():
    """By the error rule, as on a GPU; several chunks of tokens, tables too large for the counting
    sort, more teams than there is room for."""
    assert GXX is not None
    program = [sys.executable, launchers.__file__, str(launchers.build(BUILD, GXX))]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
