"""What benchmarks/gpu_check.py can promise without a GPU: a report, and a clear refusal."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tf32_switches import tf32
from torch.overrides import TorchFunctionMode

from benchmarks import gpu_check, gpu_points

MADE_UP = {  # no measurement: numbers that are easy to follow
    "gpu": "No GPU",
    "date": "2000-01-01",
    "torch": "0",
    "cuda": "0",
    "driver": "0",
    "nvcc": "0",
    "checks": [
        {
            **{"what": "A", "command": "a", "passed": True, "seconds": 1.0},
            **{"summary": "3 passed", "output": ""},
        },
        {
            **{"what": "B", "command": "b", "passed": False, "seconds": 2.0},
            **{"summary": "", "output": "why"},
        },
    ],
    "benchmarks": {
        "embedding_backward": [
            {
                "point": {"V": 64, "N": 10, "D": 8, "dtype": "float32", "skewed": False},
                "seconds": {"fastchar": 2e-6, "torch": 8e-6, "copy": 2e-6},
                "eager": {},
                "bandwidth": 0.5,
            },
            {"point": {"V": 64, "N": 10, "D": 9}, "error": "out of memory"},
        ],
        "lstm": [
            {
                "point": {
                    **{"H": 512, "B": 32, "T": 100, "layers": 1, "bidirectional": False},
                    **{"ragged": False, "dtype": "bf16"},
                },
                "forward": {"seconds": {"fastchar": 2e-4, "torch": 3e-4}, "eager": {}},
                "training": {
                    "seconds": {"fastchar": 4e-4, "torch": 4e-4},
                    "graph_seconds": {"fastchar": 3e-4},
                    "eager_seconds": {"fastchar": 4e-4, "torch": 4e-4},
                    "eager": {"torch": "why"},
                },
            }
        ],
        "left_out": 7,
        "problems": ["hung for 40 s: "],
    },
}


def test_report():
    """Ratios, microseconds a step, the share of the floor and of the bandwidth, and failures."""
    text = gpu_check.markdown(MADE_UP)
    assert "| B | FAILED | 2.0 |" in text
    assert "B FAILED: `b`\n\n```\nwhy\n```" in text
    assert "started again: hung" in text
    assert "| 64 | 10 | 8 | float32 | False | 2.0 | 4.00 | 50 % |" in text
    assert "out of memory" in text
    assert "| 2.00 | 50 % | 1.50* | 1.00* |  | 1.00 |" in text
    assert gpu_check.by_graph(MADE_UP["benchmarks"]["lstm"][0]["training"]) == {"fastchar": 3e-4}
    assert "7 points" in text


def test_checks_report_failures():
    """A command that fails is a failed check with its output; without time it is not run."""
    command = [sys.executable, "-c", "print('1 failed'); raise SystemExit(3)"]
    failed = gpu_check.run("it", command, 60)
    assert not failed["passed"]
    assert failed["summary"] == "1 failed"
    assert failed["output"] == "1 failed\n"
    late = gpu_check.run("it", command, 4)
    assert (late["passed"], late["seconds"]) == (False, 0)
    assert "no time left" in late["summary"]


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for a process in /proc")
def test_a_check_that_hangs_is_killed_with_its_children(tmp_path, monkeypatch):
    """And what it printed is kept: the test that hangs is the last one that pytest -vv names."""
    pid = tmp_path / "child"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); "
    parent = "import subprocess, sys; print('started'); subprocess.run([sys.executable, '-c', "
    command = [sys.executable, "-c", f"{parent}{child + 'time.sleep(3600)'!r}])"]
    wait_or_kill = gpu_check.wait_or_kill

    def late(process, _):
        """Its time is up as soon as the child runs, however long the machine takes to start it."""
        while not (pid.exists() and pid.read_text()):
            assert process.poll() is None
            time.sleep(0.01)
        return wait_or_kill(process, 0.1)

    monkeypatch.setattr(gpu_check, "wait_or_kill", late)
    start = time.monotonic()
    hung = gpu_check.run("it", command, 8)
    assert time.monotonic() - start < 3600
    assert not hung["passed"]
    assert hung["summary"] == "not finished after 8 s"
    assert hung["output"] == "started\n"
    status = Path("/proc", pid.read_text(), "stat")
    for _ in range(600):  # dead, and perhaps not buried
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:  # buried
            return
        time.sleep(0.1)
    pytest.fail("the child goes on")


# Fails at its first point, hangs at its second when started again, measures a third; then its time
# is up. Each number is a point of the grid.
WORKER = """
import json, sys, time
file = open(sys.argv[1], "a+")
file.seek(0)
number = len({json.loads(line)["number"] for line in file})
def write(**more):
    entry = {"number": number, "group": "embedding_backward", "point": {"V": number}, **more}
    print(json.dumps(entry), file=file, flush=True)
write()
if number == 0:
    raise SystemExit("out of luck")
if number == 1:
    open(sys.argv[1] + ".hangs", "w").close()
    time.sleep(3600)
write(seconds={"fastchar": 1})
"""


def test_benchmarks_go_on_after_a_failure(tmp_path, monkeypatch):
    """A point whose process fails or hangs has no result; the others have theirs."""
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(gpu_check, "POINTS", [sys.executable, str(tmp_path / "worker.py")])
    watched, started, passed = gpu_check.watched, [], [0.0]

    def counted(child, *rest):
        started.append(child)
        return watched(child, *rest)

    def sleep(_):
        """Time passes while the second process hangs, not while one starts, which may be slow."""
        time.sleep(0.02)
        passed[0] += 5.0 * (len(started) == 2 and (tmp_path / "points.hangs").exists())

    monkeypatch.setattr(gpu_check, "watched", counted)
    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: passed[0])
    monkeypatch.setattr(gpu_check, "time", clock)
    groups = gpu_check.benchmarks(lambda: 100.0, tmp_path / "points")
    failed, hung, measured = groups["embedding_backward"]
    assert "no result" in failed["error"]
    assert "no result" in hung["error"]
    assert measured == {"point": {"V": 2}, "seconds": {"fastchar": 1}}
    assert groups["left_out"] == len(gpu_points.points()) - 3
    assert ["exit code 1" in groups["problems"][0], "hung" in groups["problems"][1]] == [True] * 2
    assert "out of luck" in groups["problems"][0]


def test_a_killed_worker_s_last_line_is_no_result(tmp_path):
    file = tmp_path / "points"
    file.write_text('{"number": 4, "point": 1}\n{"number": 5, "poi')
    assert list(gpu_points.done(file)) == [4]


def test_the_report_is_written_after_every_part(tmp_path, monkeypatch):
    """An end in the middle leaves what was found before; a library that doesn't load is the end."""
    checks = MADE_UP["checks"]

    def run(_):
        for check in checks:
            yield check
            assert (tmp_path / "gpu_check.md").exists()
            found = json.loads((tmp_path / "gpu_check.json").read_text())
            assert found["checks"][-1] == check

    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(gpu_check, "checks", run)
    monkeypatch.setattr(gpu_check, "benchmarks", lambda *_: pytest.fail("nothing to measure"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "No GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    # As containers have it: for every GPU, which takes longer to compile than there is time.
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 8.6 9.0 10.0 12.0+PTX")
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", "steps")
    assert gpu_check.main() == 1
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert "FASTCHAR_CUDA_LSTM" not in os.environ


class FakeGPU:
    """As much of torch.cuda as a race needs. A call that copies fails a capture, and after that
    every random number is an error until a capture succeeds, as torch has it up to 2.11."""

    def __init__(self, recovers: bool = True) -> None:
        self.recovers = recovers
        self.capturing = self.believes = False
        self.captures = 0

    def random(self, *_, **__) -> None:
        if self.believes and not self.capturing:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    def copying(self) -> None:
        if self.capturing:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    @contextlib.contextmanager
    def graph(self, graph):
        self.captures += 1
        self.capturing = self.believes = True
        try:
            yield
            self.believes = not self.recovers
        finally:
            self.capturing = False

    def stream(self, *_):
        return SimpleNamespace(wait_stream=lambda other: None)

    def event(self, **_):
        return SimpleNamespace(
            record=lambda: None, synchronize=lambda: None, elapsed_time=lambda end: 3.0
        )

    def install(self, monkeypatch):
        cuda = torch.cuda
        for name in ("Stream", "current_stream"):
            monkeypatch.setattr(cuda, name, self.stream)
        monkeypatch.setattr(cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(cuda, "synchronize", lambda: None)
        monkeypatch.setattr(cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        monkeypatch.setattr(cuda, "graph", self.graph)
        monkeypatch.setattr(cuda, "Event", self.event)
        monkeypatch.setattr(torch, "rand", self.random)
        monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
        return self


def test_a_contestant_without_a_graph_makes_the_race_eager(monkeypatch):
    """Like against like: both called from Python then, and the process fit for the next point."""
    gpu = FakeGPU().install(monkeypatch)
    result = gpu_points.race({"fastchar": [gpu.random] * 3, "torch": [gpu.copying] * 3}, 0.01)
    assert result["eager"] == {"torch": "operation not permitted when stream is capturing"}
    assert result["seconds"] == result["eager_seconds"]
    assert result["seconds"].keys() == {"fastchar", "torch"}
    assert result["graph_seconds"].keys() == {"fastchar"}
    gpu.random()
    # What is known not to be captured isn't tried.
    before = gpu.captures
    result = gpu_points.race(
        {"fastchar": [gpu.random], "torch": [gpu.copying]}, 0.01, eager={"torch": "it copies"}
    )
    assert gpu.captures == before + 1
    assert result["eager"] == {"torch": "it copies"}
    result = gpu_points.race({"fastchar": [gpu.random] * 2, "torch": [gpu.random] * 2}, 0.01)
    assert result["seconds"] == result["graph_seconds"] == {"fastchar": 0.0015, "torch": 0.0015}
    assert "eager_seconds" not in result


class OnTheCPU(TorchFunctionMode):
    """ "cuda" is the CPU here, so that what measures and what the sanitizers watch runs."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def moved(value):
            return torch.device("cpu") if str(value) == "cuda" else value

        if func is torch.Tensor.cuda:
            return args[0]
        args = [moved(a) if isinstance(a, (str, torch.device)) else a for a in args]
        return func(*args, **{key: moved(value) for key, value in (kwargs or {}).items()})


@pytest.mark.native
def test_the_points_can_be_measured(monkeypatch):
    """Each kind of point once, small, on the CPU: the code around the clock, which no GPU ran."""
    rand, zeros = torch.rand, torch.zeros
    FakeGPU().install(monkeypatch)
    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(torch, "zeros", zeros)
    cache = SimpleNamespace(L2_cache_size=1 << 10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: cache)
    with OnTheCPU(), tf32(False):
        for skewed in (False, True):
            result = gpu_points.embedding_race(7, 100, 8, torch.float32, skewed)
            assert result["graph_seconds"].keys() == {"fastchar", "torch", "copy"}
            assert "bandwidth" in result
        for layers, both, ragged in [(1, False, False), *gpu_points.KINDS]:
            result = gpu_points.lstm_race(8, 4, 5, layers, both, ragged, "fp32")
            for part in (result["forward"], result["training"]):
                assert part["seconds"].keys() == {"fastchar", "torch"}
                assert part["eager_seconds"].keys() == {"fastchar", "torch"}
                assert list(part["eager"]) == (["torch"] if ragged else [])


@pytest.mark.native
@pytest.mark.parametrize("tool", ["memcheck", "initcheck"])
def test_what_the_sanitizers_watch_runs(tool, monkeypatch):
    """On the CPU, and in float32, since its kernels know no other of the types."""
    from benchmarks import gpu_sanitize

    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", "")
    monkeypatch.setattr("fastchar.backends", lambda: {"cuda": ["9.0"]})
    monkeypatch.setattr(torch, "bfloat16", torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with OnTheCPU():
        gpu_sanitize.main(tool)


def test_a_process_spoilt_by_a_capture_is_given_up(monkeypatch, tmp_path):
    """Instead of an error for every point that it would still measure."""
    gpu = FakeGPU(recovers=False).install(monkeypatch)
    measure = lambda: gpu_points.race({"fastchar": [gpu.copying]}, 0.01)  # noqa: E731
    points = [("lstm", {"H": 1}, measure), ("lstm", {"H": 2}, measure)]
    monkeypatch.setattr(gpu_points, "points", lambda: points)
    monkeypatch.setattr("fastchar.backends", lambda: {"cuda": ["9.0"]})
    file = tmp_path / "points"
    assert gpu_points.main(file, 60) == 3
    assert "Spoilt" in gpu_points.done(file)[0]["error"]
    assert list(gpu_points.done(file)) == [0]


def test_tools_are_found_beside_nvcc(monkeypatch, tmp_path):
    """compute-sanitizer in CUDA_HOME's bin, its own folder, or nowhere: then it says so."""
    for place in ("bin", "compute-sanitizer"):
        home = tmp_path / place / "cuda"
        nvcc, tool = home / "bin" / "nvcc", home / place / "compute-sanitizer"
        for file in (nvcc, tool):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o755)
        monkeypatch.setenv("CUDA_HOME", str(home))
        monkeypatch.setenv("PATH", "/nowhere")
        assert gpu_check.beside_nvcc("compute-sanitizer") == str(tool)
    monkeypatch.setattr(gpu_check, "beside_nvcc", lambda tool: None)
    passed = {"passed": True, "summary": "", "output": "", "seconds": 1.0, "command": ""}
    monkeypatch.setattr(gpu_check, "run", lambda what, *_, **__: {"what": what, **passed})
    found = {check["what"]: check for check in gpu_check.checks(lambda: 100.0)}
    assert found["racecheck"]["passed"] is None
    assert "no compute-sanitizer" in found["racecheck"]["summary"]
    monkeypatch.setattr(gpu_check.toolkit, "find_nvcc", lambda: None)
    (only,) = gpu_check.checks(lambda: 100.0)
    assert only["passed"] is False
    assert "no nvcc" in only["summary"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_takes_the_python_that_sees_a_gpu(tmp_path):
    """Not a virtual environment that was left without torch, nor the first python3."""
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    stubs = {venv / "python": "exit 1", tmp_path / "python3": "exit 1"}
    stubs[tmp_path / "python"] = 'test "$1" = -c || echo "ran $*"'
    for file, line in stubs.items():
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["make", "gpu-check", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=gpu_check.ROOT, env=environment
    )
    assert "ran -m benchmarks.gpu_check" in done.stdout
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=gpu_check.ROOT, env=environment
    )
    assert done.returncode == 2
    assert "no torch that sees a GPU" in done.stderr


def test_the_goals_are_measured_first():
    first = [point for _, point, _ in gpu_points.points()[:12]]
    assert sum(p.get("N") == 1_000_000 and p["D"] == 512 for p in first) == 8
    assert {p["B"] for p in first if "H" in p} == {1, 32, 128, 512}


def test_every_parity_test_is_in_one_group():
    """gpu_check runs them in groups, by what their names contain."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", gpu_check.PARITY]
    options = ["-p", "no:cacheprovider", "-o", "addopts="]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=gpu_check.ROOT)
    names = [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    assert len(names) > 100

    def selects(expression: str, name: str) -> bool:
        words = re.sub(r"(?!(?:and|or|not)\b)\b\w+", lambda m: str(m[0] in name), expression)
        return bool(eval(words))

    for name in names:
        groups = [what for what, (_, e) in gpu_check.GROUPS.items() if selects(e, name)]
        assert len(groups) == 1, (name, groups)


@pytest.mark.native
def test_it_needs_only_torch_and_the_test_tools():
    """What it imports, the tests that it runs included, is there on the GPU machine of record."""
    absent = "lightning matplotlib numpy optuna pandas rapidfuzz rich safetensors scipy stanza"
    absent += " tensorboard torchmetrics typer yaml expecttest"
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent.split()!r}))  # None: an import of it fails
sys.path.insert(0, "tests")
import benchmarks.gpu_check, benchmarks.gpu_sanitize
import conftest, test_cuda_parity, test_cuda_build
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=gpu_check.ROOT)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "needs a GPU" in done.stderr
