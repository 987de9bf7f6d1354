"""Everything that a machine with an NVIDIA GPU can show, in one command and under ten minutes.

    python -m benchmarks.gpu_check        (or: make gpu-check)

Builds for this GPU, runs the CUDA tests, then compute-sanitizer on them, then times the kernels
against torch's by CUDA-graph replay. Needs torch with CUDA, nvcc, pytest and hypothesis; downloads
nothing. Writes gpu_check.json and gpu_check.md into $OUT (default benchmarks/results/gpu). Exit
code 1 if the build, a test or a sanitizer failed.
"""

import datetime
import functools
import itertools
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
SECONDS = 570  # in all; benchmark points that don't fit are counted and left out
PARITY = "tests/test_cuda_parity.py"
# Cases that the sanitizers, 10 to 100 times slower, get through.
SANITIZED = (
    "test_cell or (test_embedding and 7-12) or (test_lstm_by_every_way and False and bfloat16) "
    "or (test_sequence and 13-48 and bfloat16)"
)
# Microseconds a step below which this design cannot go on an H200 (DESIGN: bf16, B <= 128).
FLOORS = {256: 0.7, 512: 1.0, 1024: 1.6}
Entry = dict[str, Any]


def run(command: list[str], seconds: float) -> Entry:
    """One check: the command, whether it passed, how long it took, the end of its output."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=max(seconds, 1)
        )
        passed, output = done.returncode == 0, done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        passed, output = False, f"not finished after {late.timeout:.0f} s"
    summary = re.findall(r"^.*(?:passed|failed|ERROR SUMMARY|RACECHECK SUMMARY).*$", output, re.M)
    return {
        "command": " ".join(command).replace(sys.executable, "python"),
        "passed": passed,
        "seconds": round(time.monotonic() - start, 1),
        "summary": summary[-1].strip("= ") if summary else "",
        "output": "" if passed else output[-4000:],
    }


def checks(left: Callable[[], float]) -> Iterator[Entry]:
    """Build, parity tests, sanitizers."""
    python = sys.executable
    built = run([python, "setup.py", "--quiet", "build_ext", "--inplace"], 180)
    yield built
    if not built["passed"]:
        return
    yield run([python, "-m", "pytest", "-rs", PARITY, "tests/test_cuda_build.py"], 150)
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return
    for tool in ("memcheck", "racecheck", "initcheck"):
        options = ["--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
        tests = [python, "-m", "pytest", "-x", PARITY, "-k", SANITIZED]
        yield run([sanitizer, *options, *tests], min(60, left() - 200))


class Timed:
    """A contestant: its call captured as a graph once per set of buffers, or run eagerly if it
    can't be. Buffers rotate, so that nothing is found in the cache by luck."""

    def __init__(self, calls: list[Callable[[], Any]]) -> None:
        self.eager = False
        self.seconds: list[float] = []
        self.kept: list[Any] = []  # what a graph writes must stay allocated
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                calls[0]()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.calls = calls
        try:
            self.calls = [self.captured(call) for call in calls]
        except RuntimeError:
            self.eager = True
        torch.cuda.synchronize()

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.kept.append(call())
        self.kept.append(graph)
        return graph.replay

    def round(self) -> None:
        """One pass over the buffers."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in self.calls:
            call()
        end.record()
        end.synchronize()
        self.seconds.append(start.elapsed_time(end) / 1e3 / len(self.calls))

    def median(self) -> float:
        return statistics.median(self.seconds)


def race(contestants: dict[str, list[Callable[[], Any]]], seconds: float = 0.4) -> Entry:
    """Median seconds of each contestant, in turns until the time is up; "eager" lists those
    without a graph."""
    timed = {name: Timed(calls) for name, calls in contestants.items()}
    end = time.monotonic() + seconds
    rounds = 0
    while rounds < 5 or (rounds < 50 and time.monotonic() < end):
        names = list(timed)
        for name in names[rounds % len(names) :] + names[: rounds % len(names)]:
            timed[name].round()
        rounds += 1
    return {
        "seconds": {name: t.median() for name, t in timed.items()},
        "eager": [name for name, t in timed.items() if t.eager],
    }


def buffers(bytes_each: int) -> int:
    """How many sets of buffers are together larger than twice the L2 cache."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, min(16, 2 * cache // max(bytes_each, 1) + 1))


def embedding_points() -> Iterator[tuple[Entry, Callable[[], Entry]]]:
    """The scatter-add against torch's, and the bytes of the gradient over the copy's bandwidth."""
    for V, N, D in itertools.product((64, 512), (10_000, 100_000, 1_000_000), (64, 512, 2048)):
        for dtype in (torch.float32, torch.bfloat16):
            size = N * D * dtype.itemsize
            if size > 5e9:
                continue
            for skewed in (False, True):
                point = {"V": V, "N": N, "D": D, "dtype": str(dtype)[6:], "skewed": skewed}

                yield point, functools.partial(embedding_race, V, N, D, dtype, skewed)


def embedding_race(V: int, N: int, D: int, dtype: torch.dtype, skewed: bool) -> Entry:
    ids = torch.randint(V, (N,), device="cuda")
    if skewed:
        ids[torch.rand(N, device="cuda") < 0.2] = 0
    grads = [
        torch.randn(N, D, device="cuda", dtype=dtype)
        for _ in range(buffers(N * D * dtype.itemsize))
    ]
    target = torch.empty_like(grads[0])
    ours = torch.ops.fastchar.embedding_backward.default
    theirs = torch.ops.aten.embedding_dense_backward.default
    result = race(
        {
            "fastchar": [functools.partial(ours, g, ids, V, -1, False) for g in grads],
            "torch": [functools.partial(theirs, g, ids, V, -1, False) for g in grads],
            "copy": [functools.partial(target.copy_, g) for g in grads],
        },
        0.2,
    )
    seconds = result["seconds"]
    # A copy reads and writes what the gradient only reads.
    result["bandwidth"] = seconds["copy"] / 2 / seconds["fastchar"]
    return result


def lstm_points() -> Iterator[tuple[Entry, Callable[[], Entry]]]:
    """Embedding and LSTM, forward and forward with backward, against nn.Embedding and nn.LSTM."""
    shapes = [(H, B, 128) for H in (128, 256, 512, 1024) for B in (1, 32, 128, 512)]
    plain = [(H, B, T, 1, False, False) for H, B, T in shapes]
    special = [(H, 64, 128, *kind) for H in (256, 512) for kind in KINDS]
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "tf32")):
        for H, B, T, layers, both, ragged in plain + special:
            point: Entry = {"H": H, "B": B, "T": T, "layers": layers, "bidirectional": both}
            point |= {"ragged": ragged, "dtype": name}

            yield point, functools.partial(lstm_race, H, B, T, layers, both, ragged, dtype)


KINDS = [(2, False, False), (1, True, False), (1, False, True)]


def lstm_race(
    H: int, B: int, T: int, layers: int, both: bool, ragged: bool, dtype: torch.dtype
) -> Entry:
    import fastchar

    V, E = 96, 128
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    ours = fastchar.EmbeddingLSTM(V, E, H, layers, bidirectional=both).to("cuda", dtype)
    table, lstm = nn.Embedding(V, E), nn.LSTM(E, H, layers, bidirectional=both)
    theirs = nn.ModuleList([table, lstm]).to("cuda", dtype)
    lengths = torch.randint(T // 4, T + 1, (B,)) if ragged else None
    device_lengths = None if lengths is None else lengths.cuda()
    batches = [torch.randint(V, (T, B), device="cuda") for _ in range(4)]

    def ours_forward(ids: Tensor) -> Tensor:
        y: Tensor = ours(ids, lengths=device_lengths)[0]
        return y

    def their_forward(ids: Tensor) -> Tensor:
        if lengths is None:
            y: Tensor = lstm(table(ids))[0]
            return y
        packed = nn.utils.rnn.pack_padded_sequence(table(ids), lengths, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], total_length=T)[0]

    grad = torch.randn(T, B, H * (1 + both), device="cuda", dtype=dtype)

    def forward(call: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        with torch.no_grad():
            return call(ids)

    def train(call: Callable[[Tensor], Tensor], module: nn.Module, ids: Tensor) -> Any:
        return torch.autograd.grad(call(ids), list(module.parameters()), grad)

    def each(step: Callable[..., Any], *arguments: Any) -> list[Callable[[], Any]]:
        return [functools.partial(step, *arguments, ids) for ids in batches]

    return {
        "forward": race(
            {"fastchar": each(forward, ours_forward), "torch": each(forward, their_forward)}
        ),
        "training": race(
            {
                "fastchar": each(train, ours_forward, ours),
                "torch": each(train, their_forward, theirs),
            }
        ),
    }


def benchmarks(left: Callable[[], float]) -> Entry:
    """Both groups' points in a fixed random order: a short run has something of everything."""
    points = [("embedding_backward", *rest) for rest in embedding_points()]
    points += [("lstm", *rest) for rest in lstm_points()]
    random.Random(0).shuffle(points)
    groups: Entry = {"embedding_backward": [], "lstm": [], "left_out": 0}
    for name, point, measure in points:
        if left() < 15:
            groups["left_out"] += 1
            continue
        try:
            groups[name].append({"point": point, **measure()})
        except RuntimeError as error:
            groups[name].append({"point": point, "error": str(error).partition("\n")[0]})
        torch.cuda.empty_cache()
    for name in ("embedding_backward", "lstm"):
        groups[name].sort(key=lambda entry: [str(v).zfill(8) for v in entry["point"].values()])
    return groups


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(seconds: dict[str, float]) -> float:
    return seconds["torch"] / seconds["fastchar"]


def markdown(result: Entry) -> str:
    """The result as the performance page includes it."""
    parts = [
        f"## {result['gpu']}, {result['date']}",
        f"torch {result['torch']}, CUDA {result['cuda']}, driver {result['driver']}. Ratios are "
        "torch's time over fastchar's, in one run, by CUDA-graph replay (`*`: a contestant that "
        "can't be captured ran eagerly).",
        table(
            ["check", "result", "seconds", "summary"],
            [
                [f"`{c['command']}`", "passed" if c["passed"] else "FAILED", str(c["seconds"])]
                + [c["summary"]]
                for c in result["checks"]
            ],
        ),
    ]
    groups = result.get("benchmarks", {})
    rows = []
    for entry in groups.get("embedding_backward", []):
        cells = [str(v) for v in entry["point"].values()]
        if "error" in entry:
            rows.append([*cells, entry["error"], "", ""])
            continue
        ours = entry["seconds"]["fastchar"]
        rows.append([*cells, f"{ours * 1e6:.1f}", f"{ratio(entry['seconds']):.2f}"])
        rows[-1].append(f"{100 * entry['bandwidth']:.0f} %")
    if rows:
        header = ["V", "N", "D", "dtype", "skewed", "us", "ratio", "of copy bandwidth"]
        parts += ["### Embedding gradient", table(header, rows)]
    rows = []
    for entry in groups.get("lstm", []):
        cells = [str(v) for v in entry["point"].values()]
        if "error" in entry:
            rows.append([*cells, entry["error"], "", "", ""])
            continue
        T, H, B = (entry["point"][key] for key in "THB")
        forward, training = entry["forward"], entry["training"]
        step = forward["seconds"]["fastchar"] / T * 1e6
        star = "*" if forward["eager"] or training["eager"] else ""
        alone = entry["point"]["layers"] == 1 and not entry["point"]["bidirectional"]
        floor = FLOORS.get(H) if B <= 128 and alone and entry["point"]["dtype"] == "bf16" else None
        rows.append([*cells, f"{step:.2f}", f"{100 * floor / step:.0f} %" if floor else ""])
        rows[-1] += [f"{ratio(forward['seconds']):.2f}{star}"]
        rows[-1] += [f"{ratio(training['seconds']):.2f}{star}"]
    if rows:
        header = ["H", "B", "T", "layers", "both ways", "ragged", "dtype", "us a step"]
        header += ["of the floor", "ratio, forward", "ratio, training"]
        parts += ["### Embedding and LSTM", table(header, rows)]
    if groups.get("left_out"):
        parts.append(f"{groups['left_out']} points of the grid did not fit the time.")
    return "\n\n".join(parts) + "\n"


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def main() -> int:
    if not torch.cuda.is_available():
        print("gpu_check needs a GPU and a torch with CUDA", file=sys.stderr)
        return 2
    start = time.monotonic()

    def left() -> float:
        return SECONDS - (time.monotonic() - start)

    result: Entry = {
        "gpu": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": driver(),
        "checks": [],
    }
    for check in checks(left):
        print(f"{check['command']}: {'passed' if check['passed'] else 'FAILED'}", flush=True)
        result["checks"].append(check)
    if result["checks"][0]["passed"]:
        import fastchar

        if not fastchar.backends().get("cuda"):
            raise SystemExit(f"the CUDA library was not loaded: {fastchar.backends()}")
        result["benchmarks"] = benchmarks(left)
    folder = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results" / "gpu")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_check.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "gpu_check.md").write_text(markdown(result))
    print(markdown(result))
    return 0 if all(check["passed"] for check in result["checks"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
