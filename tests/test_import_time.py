"""`import fastchar` costs no more than what it needs, and gives out what it names."""

import os
import subprocess
import sys

import pytest

import fastchar


def seconds(code: str) -> float:
    """What the process used, not what it waited for others on a busy machine."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def test_import_is_at_most_1_3_times_torchs() -> None:
    """The least of interleaved runs, which others' use of caches and cores disturbs least, of three
    or, if they were disturbed, more; with the kernels loaded too."""
    torch_only, ours = [], []
    while len(ours) < 3 or (len(ours) < 5 and min(ours) >= 1.3 * min(torch_only)):
        torch_only.append(seconds("import torch"))
        ours.append(seconds("import fastchar; fastchar.LSTM, fastchar.functional"))
    assert min(ours) < 1.3 * min(torch_only)


def test_import_needs_torch_alone() -> None:
    """None of the training extras is imported with the modules, nor the compiler of torch."""
    code = (
        "import sys, fastchar; fastchar.LSTM, fastchar.functional\n"
        "heavy = {'lightning', 'torchmetrics', 'matplotlib', 'typer', 'rapidfuzz', 'safetensors'}\n"
        "heavy |= {'torch._dynamo', 'torch._inductor'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_packages_are_there_whatever_was_loaded_before() -> None:
    """`import fastchar` is enough for each, in a process of its own."""
    code = (
        "import fastchar\n"
        "fastchar.training.Config, fastchar.text.pad, fastchar.nn.LSTM, fastchar.models.load"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_when_asked_for() -> None:
    """Those that are loaded on first use are the ones that `dir` and `import *` name."""
    assert {*fastchar._HOME, "__version__"} == {*fastchar.__all__} == {*dir(fastchar)}
    for name in fastchar.__all__:
        assert getattr(fastchar, name) is not None
    with pytest.raises(AttributeError, match="module 'fastchar' has no attribute 'GRU'"):
        fastchar.GRU  # noqa: B018
