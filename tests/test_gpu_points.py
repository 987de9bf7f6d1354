"""The points of benchmarks/gpu/check.py, and what the sanitizers watch, without a GPU."""

import contextlib
import os
from types import SimpleNamespace

import pytest
import torch
from tf32_switches import tf32
from torch.overrides import TorchFunctionMode

from benchmarks.gpu import points as gpu_points
from benchmarks.gpu import race as gpu_race
from benchmarks.gpu import ways as gpu_ways


def test_a_killed_worker_s_last_line_is_no_result(tmp_path):
    file = tmp_path / "points"
    file.write_text('{"number": 4, "point": 1}\n{"number": 5, "poi')
    assert list(gpu_points.done(file)) == [4]


def test_the_goals_are_measured_first():
    """Then what the launcher's choice among the ways is to be set by."""
    points = gpu_points.points()
    first = [point for _, point, _ in points[:12]]
    assert sum(p.get("N") == 1_000_000 and p["D"] == 512 for p in first) == 8
    assert {p["B"] for p in first if "H" in p} == {1, 32, 128, 512}
    ways = len(list(gpu_ways.way_points()))
    assert {group for group, *_ in points[12 : 12 + ways]} == {"ways"}
    assert {group for group, *_ in points[12 + ways :]} == {"embedding_backward", "lstm"}


class FakeGPU:
    """As much of torch.cuda as a race needs. A call that copies fails a capture; its end, which
    fails too, leaves the capture's stream, and after that every random number is an error until a
    capture succeeds: as torch has it up to 2.11."""

    def __init__(self, recovers: bool = True) -> None:
        self.recovers = recovers
        self.capturing = self.believes = False
        self.captures = 0
        self.here = "main"

    def random(self, *_, **__) -> None:
        if self.believes and not self.capturing:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    def copying(self) -> None:
        if self.capturing:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    @contextlib.contextmanager
    def graph(self, graph):
        self.captures += 1
        before, self.here = self.here, "the capture's"
        self.capturing = self.believes = True
        try:
            yield
            self.believes = not self.recovers
        except RuntimeError as error:
            raise RuntimeError("failed due to a previous error during capture") from error
        finally:
            self.capturing = False
        self.here = before

    def stream(self, *_):
        return SimpleNamespace(wait_stream=lambda other: None, name=self.here)

    def set_stream(self, stream):
        self.here = stream.name

    def event(self, **_):
        return SimpleNamespace(
            record=lambda: None, synchronize=lambda: None, elapsed_time=lambda end: 3.0
        )

    def install(self, monkeypatch, draws: bool = True):
        """`draws`: torch's random numbers too, which are no numbers then."""
        cuda = torch.cuda
        for name in ("Stream", "current_stream"):
            monkeypatch.setattr(cuda, name, self.stream)
        monkeypatch.setattr(cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(cuda, "synchronize", lambda: None)
        monkeypatch.setattr(cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        monkeypatch.setattr(cuda, "graph", self.graph)
        monkeypatch.setattr(cuda, "set_stream", self.set_stream)
        monkeypatch.setattr(cuda, "Event", self.event)
        if draws:
            monkeypatch.setattr(torch, "rand", self.random)
            monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
        return self


def test_a_contestant_without_a_graph_makes_the_race_eager(monkeypatch):
    """Like against like: both called from Python then, and the process fit for the next point."""
    gpu = FakeGPU().install(monkeypatch)
    result = gpu_race.race({"fastchar": [gpu.random] * 3, "torch": [gpu.copying] * 3}, 0.01)
    assert result["eager"] == {"torch": "operation not permitted when stream is capturing"}
    assert result["seconds"] == result["eager_seconds"]
    assert result["seconds"].keys() == {"fastchar", "torch"}
    assert result["graph_seconds"].keys() == {"fastchar"}
    assert gpu.here == "main"
    assert gpu_race.FAILED_GRAPHS  # which the allocator goes on asking
    gpu.random()
    # What is known not to be captured isn't tried.
    before = gpu.captures
    result = gpu_race.race(
        {"fastchar": [gpu.random], "torch": [gpu.copying]}, 0.01, eager={"torch": "it copies"}
    )
    assert gpu.captures == before + 1
    assert result["eager"] == {"torch": "it copies"}
    result = gpu_race.race({"fastchar": [gpu.random] * 2, "torch": [gpu.random] * 2}, 0.01)
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
    FakeGPU().install(monkeypatch, draws=False)
    cache = SimpleNamespace(L2_cache_size=1)  # two sets of buffers
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
def test_a_step_of_each_way_can_be_measured(monkeypatch):
    """On the CPU, which knows no ways: that of the environment comes back, also after an error."""
    FakeGPU().install(monkeypatch, draws=False)
    chosen = []
    race = gpu_ways.race

    def noted(*arguments):
        chosen.append(os.environ[gpu_ways.CHOICE])
        return race(*arguments)

    monkeypatch.setattr(gpu_ways, "race", noted)
    with OnTheCPU(), tf32(False):
        found = gpu_ways.step_times(8, 4, torch.float32, "grid")
    assert chosen == ["grid", "grid"]
    assert gpu_ways.CHOICE not in os.environ
    # Two batches take the fake clock's 3 ms: this much of it is a step's.
    expected = {"seconds": {"fastchar": 0.0015 / gpu_ways.STEPS}}
    assert found == {"forward": expected, "backward": expected}
    monkeypatch.setenv(gpu_ways.CHOICE, "steps")
    with pytest.raises(ZeroDivisionError), gpu_ways.forced("grid"):
        assert 1 / 0
    assert os.environ[gpu_ways.CHOICE] == "steps"


@pytest.mark.native
def test_what_is_profiled_runs(monkeypatch):
    """Every kernel that a goal names, on the CPU and smaller."""
    from benchmarks.gpu import profile as gpu_profile

    monkeypatch.setattr("fastchar.backends", lambda: {"cuda": ["9.0"]})
    monkeypatch.setattr(torch, "bfloat16", torch.float32)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gpu_ways, "STEPS", 2)
    monkeypatch.setattr(gpu_profile, "IDS", 100)
    with OnTheCPU():
        gpu_profile.main()


@pytest.mark.native
@pytest.mark.parametrize("tool", ["memcheck", "initcheck"])
def test_what_the_sanitizers_watch_runs(tool, monkeypatch):
    """On the CPU, and in float32, since its kernels know no other of the types."""
    from benchmarks.gpu import sanitize as gpu_sanitize

    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", "")
    monkeypatch.setattr("fastchar.backends", lambda: {"cuda": ["9.0"]})
    monkeypatch.setattr(torch, "bfloat16", torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with OnTheCPU():
        assert gpu_sanitize.main(tool) == 0


@pytest.mark.native
def test_what_the_sanitizers_watch_goes_on_after_a_failure(monkeypatch, capsys):
    """A kernel that is refused, or fails, is one of many."""
    from benchmarks.gpu import sanitize as gpu_sanitize

    def fails(*_):
        raise RuntimeError("too many resources")

    monkeypatch.setattr("fastchar.backends", lambda: {"cuda": ["9.0"]})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for name in ("embedding", "cell", "loss", "sequence"):
        monkeypatch.setattr(gpu_sanitize, name, fails)
    assert gpu_sanitize.main("memcheck") == 1
    ways = [way for way in gpu_sanitize.WAYS + gpu_sanitize.TF32_WAYS if way[0] != "cluster"]
    count = 6 + 2 * len(ways)
    output = capsys.readouterr().out
    assert output.count("failed: too many resources") == count
    assert output.endswith(f"\n{count} of {count} parts\n")
    # Its time is up: nothing was watched, which is no success.
    assert gpu_sanitize.main("memcheck", "1e9") == 1
    assert capsys.readouterr().out == f"0 of {count} parts\n"


def test_a_process_spoilt_by_a_capture_is_given_up(monkeypatch, tmp_path):
    """Instead of an error for every point that it would still measure."""
    gpu = FakeGPU(recovers=False).install(monkeypatch)
    measure = lambda: gpu_race.race({"fastchar": [gpu.copying]}, 0.01)  # noqa: E731
    points = [("lstm", {"H": 1}, measure), ("lstm", {"H": 2}, measure)]
    monkeypatch.setattr(gpu_points, "points", lambda: points)
    monkeypatch.setattr("fastchar.backends", lambda: {"cuda": ["9.0"]})
    file = tmp_path / "points"
    assert gpu_points.main(file, 60) == 3
    assert "Spoilt" in gpu_points.done(file)[0]["error"]
    assert list(gpu_points.done(file)) == [0]
