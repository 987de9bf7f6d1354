"""The timed points of `benchmarks.gpu.check`, in a process of their own: a kernel that fails takes
its whole process along, one that hangs has to be killed with it.

    python -m benchmarks.gpu.points FILE SECONDS

Appends one line of JSON to FILE before each point and one after it, and leaves out the points that
FILE has already: started again after a failure, it goes on with the next one.
"""

import contextlib
import functools
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.race import Entry, Point, Spoilt, buffers, race
from benchmarks.gpu.ways import way_points


def embedding_points() -> Iterator[Point]:
    """The scatter-add against torch's, and the bytes of the gradient over the copy's bandwidth."""
    for V, N, D in itertools.product((64, 512), (10_000, 100_000, 1_000_000), (64, 512, 2048)):
        for dtype in (torch.float32, torch.bfloat16):
            size = N * D * dtype.itemsize
            if size > 5e9:
                continue
            for skewed in (False, True):
                point = {"V": V, "N": N, "D": D, "dtype": str(dtype)[6:], "skewed": skewed}
                measure = functools.partial(embedding_race, V, N, D, dtype, skewed)
                yield "embedding_backward", point, measure


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
    # A copy reads and writes what the gradient only reads.
    seconds = result["graph_seconds"]
    if {"copy", "fastchar"} <= seconds.keys():
        result["bandwidth"] = seconds["copy"] / 2 / seconds["fastchar"]
    return result


# Layers, both ways, ragged; beside the plain (1, False, False).
KINDS = [(2, False, False), (1, True, False), (1, False, True)]
PRECISIONS = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "tf32": torch.float32,
    "fp32": torch.float32,
}


def lstm_points() -> Iterator[Point]:
    """Embedding and LSTM, forward and forward with backward, against nn.Embedding and nn.LSTM."""
    plain = (1, False, False)
    shapes = [(H, B, 128, *plain) for H in (128, 256, 512, 1024) for B in (1, 32, 128, 512)]
    shapes += [(H, 32, T, *plain) for H in (256, 512) for T in (64, 1024)]
    shapes += [(H, 64, 128, *kind) for H in (256, 512) for kind in KINDS]
    for name in PRECISIONS:
        for H, B, T, layers, both, ragged in shapes:
            if name == "fp32" and (B != 32 or T != 128):
                continue
            point: Entry = {"H": H, "B": B, "T": T, "layers": layers, "bidirectional": both}
            point |= {"ragged": ragged, "dtype": name}
            yield "lstm", point, functools.partial(lstm_race, H, B, T, layers, both, ragged, name)


def lstm_race(
    H: int, B: int, T: int, layers: int, both: bool, ragged: bool, precision: str
) -> Entry:
    import fastchar

    V, E, dtype = 96, 128, PRECISIONS[precision]
    fast = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
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

    # torch packs by lengths on the CPU, and copies what it sorts them to to the GPU.
    eager = {"torch": "packing copies from the CPU"} if ragged else {}
    return {
        "forward": race(
            {"fastchar": each(forward, ours_forward), "torch": each(forward, their_forward)},
            eager=eager,
            both=True,
        ),
        "training": race(
            {
                "fastchar": each(train, ours_forward, ours),
                "torch": each(train, their_forward, theirs),
            },
            eager=eager,
            both=True,
        ),
    }


def points() -> list[Point]:
    """All of them in a fixed order: what the goals name first, then each way's steps, then at
    random, so that a short run has something of everything."""

    def named(group: str, point: Entry) -> bool:
        goal: Entry = {"N": 1_000_000, "D": 512}
        if group == "lstm":
            goal = {"H": 512, "T": 128, "dtype": "bf16", "layers": 1}
            goal |= {"bidirectional": False, "ragged": False}
        return all(point[key] == value for key, value in goal.items())

    every = [*embedding_points(), *lstm_points()]
    random.Random(0).shuffle(every)
    every.sort(key=lambda point: not named(*point[:2]))
    first = sum(named(*point[:2]) for point in every)
    return [*every[:first], *way_points(), *every[first:]]


def done(file: Path) -> dict[int, Entry]:
    """By number, what FILE has of each point: its result, or only that it was started."""
    entries = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):  # cut off when the process was killed
            entry = json.loads(line)
            entries[entry["number"]] = entry
    return entries


def main(file: Path, seconds: float) -> int:
    import fastchar  # with its ops

    assert fastchar.backends().get("cuda"), fastchar.backends()
    end = time.monotonic() + seconds
    already = done(file)
    with file.open("a") as out:

        def write(entry: Entry) -> None:
            out.write(json.dumps(entry) + "\n")
            out.flush()

        for number, (group, point, measure) in enumerate(points()):
            if number in already:
                continue
            if time.monotonic() > end:
                return 0
            write({"number": number, "group": group, "point": point})
            spoilt = False
            try:
                result = measure()
            except Exception as error:
                spoilt = isinstance(error, Spoilt)
                result = {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}
            write({"number": number, "group": group, "point": point, **result})
            try:
                if spoilt:
                    raise RuntimeError(result["error"])
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                torch.rand(1, device="cuda")
            except RuntimeError as error:  # nothing more can be had from this process
                print(error, file=sys.stderr)
                return 3
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), float(sys.argv[2])))
