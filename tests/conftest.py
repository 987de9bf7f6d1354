"""What every test shares: which backend runs, the instruction sets, NaN-poisoned allocations."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import beside as processes
import pytest
import torch
from hypothesis import HealthCheck, settings
from isas import BACKENDS, ISAS, NATIVE, running
from tf32_switches import tf32

# What rich and typer take for a terminal, or for a dumb one, whatever they write to: CI systems set
# some, and the tests of the command line say what goes to a file and what to a terminal. Before
# anything imports those two, and for subprocesses too.
for name in (
    *("TERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"),
    *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "TERMINAL_WIDTH"),
):
    os.environ.pop(name, None)

settings.register_profile(
    "fastchar",
    deadline=None,
    derandomize=True,  # the same sample every run: a red test stays red
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=20,
)
settings.load_profile("fastchar")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "native: needs the native library")


def _waits(item: pytest.Item) -> bool:
    """Whether the test is one of those that wait for other processes (beside.py)."""
    return "beside" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_waits)
    if NATIVE:
        return
    skip = pytest.mark.skip(reason=f"native library: {BACKENDS['reason']}")
    for item in items:
        if item.get_closest_marker("native"):
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"fastchar ran on: {BACKENDS}")


@pytest.fixture(autouse=True, scope="session")
def _no_old_compilations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Inductor's cache on disk doesn't notice that an op has got another schema."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _begun(request: pytest.FixtureRequest) -> Iterator[dict[Any, "Future[Any]"]]:
    """Starts what the modules of the tests that wait name in BESIDE."""
    work: dict[Any, Any] = {}
    for item in filter(_waits, request.session.items):
        work |= item.module.BESIDE
    pool = processes.pool()
    yield {key: pool.submit(function) for key, function in work.items()}
    pool.shutdown(cancel_futures=True)  # after Ctrl-C the rest need not begin


@pytest.fixture
def beside(_begun: dict[Any, "Future[Any]"]) -> dict[Any, "Future[Any]"]:
    """The results of the work of other processes that the test's module names (beside.py)."""
    return _begun


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each instruction set that this machine has."""
    with running(request.param):
        yield request.param


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fresh tensors hold NaN until they are written, so that reading one of them shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups run on the kernel however small they are."""
    from fastchar import functional

    monkeypatch.setattr(functional, "_LITTLE", -1)
    monkeypatch.setattr(functional, "_LITTLE_TRAINED", -1)


@pytest.fixture
def full_precision() -> Iterator[None]:
    """On CUDA, fp32 is fp32 but where a test says otherwise."""
    with tf32(False):
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `cli_runs.make_home` makes, for tests of the command line; one thread in all of them."""
    from cli_runs import make_home
    from training_data import one_thread

    with one_thread():
        yield make_home(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def fast_runs() -> Iterator[None]:
    """Training without pictures, which take longer than a small run, and on one thread."""
    from training_data import one_thread

    from fastchar.training import run

    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(run, "write_report", lambda *args: None)
        yield


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as at a terminal, here and in what is started: in a script's background commands it is
    ignored, and stays so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
