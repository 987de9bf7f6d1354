"""What every test shares: which backend runs, the instruction sets, NaN-poisoned allocations, and
the processes that the whole suite is run by."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

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

PROCESSES = min(os.cpu_count() or 1, 4)  # of a large machine not all: each imports torch
# Files that are begun first, because they take the longest: what the processes end with are short
# ones, and none goes on for long after the others.
LONG = (
    *("test_cuda_launchers", "test_compile", "test_fallbacks", "test_cuda_emulator"),
    *("test_export", "test_readme", "test_cli_surroundings", "test_training_resume"),
    *("test_sweep", "test_opcheck", "test_robustness", "test_import_time", "test_distributed"),
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "native: needs the native library")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite, which `pytest` alone runs, is shared out by pytest-xdist, file by file, to a
    process for each core; files that are named run in this process, and so does all of it on one
    core, without pytest-xdist, with -n0 and with --pdb."""
    option = config.option
    # One of those processes, which asks this too and must not start more, or what its tests start.
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if config.args_source is not config.ArgsSource.TESTPATHS or PROCESSES == 1:
        return
    if getattr(option, "numprocesses", 0) is None and not (option.usepdb or option.collectonly):
        option.numprocesses, option.dist, option.loadscopereorder = PROCESSES, "loadfile", False
        # As many threads as ever, but none that spins for what a core could do for another process.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))
    if NATIVE:
        return
    skip = pytest.mark.skip(reason=f"native library: {BACKENDS['reason']}")
    for item in items:
        if item.get_closest_marker("native"):
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"fastchar ran on: {BACKENDS}")


@pytest.fixture(autouse=True, scope="session")
def _no_old_compilations(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Inductor's cache on disk doesn't notice that an op has got another schema. The processes of
    one run share it: what it finds out about the compiler takes seconds."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if hasattr(request.config, "workerinput") else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
        yield


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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For a training whose steps are so small that threads would only wait for each other."""
    from training_data import one_thread

    with one_thread():
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
