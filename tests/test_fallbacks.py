"""Which code runs, said and chosen: the extension absent, the backend forced, the set forced."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import beside as processes
import pytest
import torch

import fastchar
from fastchar import functional, reference

SAME_AS_TORCH = """
import torch, fastchar
m, n = fastchar.LSTM(3, 4, bidirectional=True), torch.nn.LSTM(3, 4, bidirectional=True)
n.load_state_dict(m.state_dict())
x = torch.randn(5, 2, 3)
torch.testing.assert_close(m(x), n(x))
e = fastchar.EmbeddingLSTM(7, 3, 4)
ids = torch.randint(7, (5, 2))
torch.testing.assert_close(e(ids, lengths=torch.tensor([5, 2])), e.lstm(
    e.embedding(ids), lengths=torch.tensor([5, 2])))
m(x)[0].sum().backward()
print(fastchar.backends()["backend"], fastchar.backends().get("cpu", {}).get("isa"))
"""
ASK = "import fastchar; fastchar.backends()"
TESTS = Path(__file__).parent
# An import of fastchar._C fails as it does where it was not built.
ABSENT = {
    "PYTHONPATH": os.pathsep.join(
        [str(TESTS / "without_extension"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    )
}


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "FASTCHAR_BACKEND": "", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_absent_extension_warns_once_and_is_right() -> None:
    """One warning, naming the command that builds; the numbers are torch's."""
    done = python("-c", SAME_AS_TORCH, **ABSENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["reference", "None"]
    assert done.stderr.count("UserWarning") == 1
    assert "setup.py build_ext --inplace" in done.stderr or "pip install" in done.stderr


def test_forced_reference_is_silent_and_right() -> None:
    done = python("-c", SAME_AS_TORCH, FASTCHAR_BACKEND="reference")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["reference", "None"]
    assert done.stderr == ""


def test_native_asked_for_but_absent_is_an_error() -> None:
    done = python("-c", ASK, FASTCHAR_BACKEND="native", **ABSENT)
    assert done.returncode != 0
    assert "ImportError" in done.stderr or "ModuleNotFoundError" in done.stderr


def test_unknown_backend_is_an_error_that_names_the_choices() -> None:
    done = python("-c", ASK, FASTCHAR_BACKEND="cuda")
    assert "FASTCHAR_BACKEND: expected native or reference, got 'cuda'" in done.stderr


REFERENCE = {"FASTCHAR_BACKEND": "reference"}
SUITES = {"reference": REFERENCE, "absent": {"FASTCHAR_BACKEND": "", **ABSENT}}
FILES = ("test_drop_in_state.py", "test_accelerate.py", "test_parity_embedding.py")
PYTEST = [sys.executable, "-m", "pytest"]
BESIDE = {
    "collected": functools.partial(
        processes.run, [*PYTEST, "--collect-only", str(TESTS)], REFERENCE
    )
}
for name, env in SUITES.items():
    command = [*PYTEST, "-rs", *(str(TESTS / file) for file in FILES)]
    BESIDE[name] = functools.partial(processes.run, command, env)


@pytest.mark.parametrize("name", SUITES)
def test_the_suite_passes_without_the_kernels(name: str, beside: dict[Any, Any]) -> None:
    """A part of it here, `make test-fallbacks` runs all; it says which backend ran, and why."""
    done = beside[name].result()
    assert done.returncode == 0, done.stdout
    assert "'backend': 'reference', 'reason': '" in done.stdout
    assert (SUITES[name]["FASTCHAR_BACKEND"] or "import of fastchar._C halted") in done.stdout
    assert " passed" in done.stdout


def test_every_file_is_collected_without_the_kernels(beside: dict[Any, Any]) -> None:
    """No test module needs the native library to be imported: one that did would end the run."""
    done = beside["collected"].result()
    assert done.returncode == 0, done.stdout
    assert "test_opcheck.py::test_opcheck" in done.stdout


@pytest.mark.native
def test_forced_instruction_set() -> None:
    """FASTCHAR_CPU_ISA takes each set that the machine has, and names them for a wrong one."""
    available = fastchar.backends()["cpu"]["available"]
    for isa in available:
        done = python("-c", SAME_AS_TORCH, FASTCHAR_CPU_ISA=isa)
        assert done.stdout.split() == ["native", isa], done.stderr
    done = python("-c", ASK, FASTCHAR_CPU_ISA="mmx")
    assert done.returncode != 0
    assert all(isa in done.stderr for isa in [*available, "mmx"])


@pytest.mark.native
def test_native_and_reference_are_the_same_functions() -> None:
    """Both have the names and signatures that fastchar.functional lists."""
    import inspect

    for name in functional.__all__:
        ours, theirs = (
            [
                (p.name, p.kind, p.default)
                for p in inspect.signature(getattr(m, name)).parameters.values()
            ]
            for m in (functional, reference)
        )
        assert ours == theirs


@pytest.mark.native
def test_the_kernel_runs_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU call in each dtype reaches the native op, projections and functorch do not."""
    calls = []
    op = functional.ops.lstm_layer
    monkeypatch.setattr(functional.ops, "lstm_layer", lambda *a: calls.append(1) or op(*a))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        fastchar.LSTM(3, 4, dtype=dtype)(torch.randn(5, 2, 3, dtype=dtype))
    assert len(calls) == 4
    fastchar.LSTM(3, 4, proj_size=2)(torch.randn(5, 2, 3))
    m = fastchar.LSTM(3, 4)
    torch.func.vmap(lambda x: m(x)[0])(torch.randn(2, 5, 2, 3))
    assert len(calls) == 4
