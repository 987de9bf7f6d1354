"""Which code runs, said and chosen: the extension absent, the backend forced, the set forced."""

import os
import subprocess
import sys
from pathlib import Path

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


SUITES = {
    "reference": {"FASTCHAR_BACKEND": "reference"},
    "absent": {"FASTCHAR_BACKEND": "", **ABSENT},
}
FILES = ("test_drop_in_state.py", "test_accelerate.py", "test_parity_embedding.py")
# Of every file, for the one suite; the other imports no more than it runs.
ARGUMENTS = {"reference": [str(TESTS), "-k", " or ".join(FILES)]}


@pytest.mark.parametrize("name", SUITES)
def test_the_suite_passes_without_the_kernels(name: str) -> None:
    """A part of it here, `make test-fallbacks` runs all; it says which backend ran, and why. Every
    file is collected: no test module needs the native library to be imported, which would end the
    run."""
    arguments = ARGUMENTS.get(name, [str(TESTS / file) for file in FILES])
    done = python("-m", "pytest", "-rs", *arguments, **SUITES[name])
    assert done.returncode == 0, done.stdout
    assert "'backend': 'reference', 'reason': '" in done.stdout
    assert (SUITES[name]["FASTCHAR_BACKEND"] or "import of fastchar._C halted") in done.stdout
    assert " passed" in done.stdout
    assert (" deselected" in done.stdout) == (name == "reference")


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
