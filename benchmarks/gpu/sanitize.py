"""Every CUDA kernel once or twice on small odd shapes, and nothing else: for compute-sanitizer.

compute-sanitizer --tool memcheck python -m benchmarks.gpu.sanitize memcheck [END]

A tool may take a thousand times a kernel's own time: no part is begun after END, in seconds since
1970, and the last line says how many of how many there were time for.

Inputs are made on the CPU: initcheck, which looks at our kernels alone, knows of what was copied,
but not of what torch's kernels wrote. What reads cuBLAS's results it is spared.
"""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

import fastchar
from fastchar import autograd

ops = torch.ops.fastchar
LENGTHS = [4, 0, 3, 5, 1, 5, 2, 4, 3, 5, 5, 4]  # steps enough that every buffer is used again
WAYS = [("block", 40), ("block", 128), ("cluster", 72), ("cluster", 300), ("grid", 130)]
WAYS += [("grid", 300), ("grid", 520), ("steps", 48)]
TF32_WAYS = [("block", 40), ("cluster", 72), ("cluster", 200), ("grid", 130), ("grid", 300)]


def embedding(dtype: torch.dtype) -> None:
    for V, E in ((7, 12), (64, 67)):
        ids = torch.randint(V, (700,)).cuda()
        rows = ops.embedding(torch.randn(V, E, dtype=dtype).cuda(), ids, -1, False)
        ops.embedding_backward(rows, ids, V, 3, True)


def loss(dtype: torch.dtype) -> None:
    x = torch.randn(33, 40, dtype=dtype).cuda()
    weight = torch.randn(67, 40, dtype=dtype).cuda()
    target = torch.randint(67, (33,)).cuda()
    ops.linear_cross_entropy_reduced(x, weight, None, target, None, 5, 0.1, True, True)


def cell(dtype: torch.dtype) -> None:
    c = torch.randn(5, 33, dtype=dtype).cuda()
    h, c_new, act = ops.lstm_cell(torch.randn(5, 132, dtype=dtype).cuda(), c)
    ops.lstm_cell_backward(h, c_new, act, c)


def sequence(dtype: torch.dtype, way: str, H: int, ragged: bool) -> None:
    """From a folded table, the padding's ids out of its range; or from gates."""
    os.environ["FASTCHAR_CUDA_LSTM"] = way
    T, B, V = max(LENGTHS), len(LENGTHS), 9
    lengths = ids = None
    gates = torch.randn(T, B, 4 * H, dtype=dtype).cuda()
    if ragged:
        ends = torch.tensor(LENGTHS)
        gates = torch.randn(V, 4 * H, dtype=dtype).cuda()
        steps = torch.arange(T).unsqueeze(1)
        ids = torch.where(steps < ends, torch.randint(V, (T, B)), -7).cuda()
        lengths = ends.cuda()
    w_hh = (torch.randn(4 * H, H, dtype=dtype) / H**0.5).cuda()
    state = torch.randn(B, H, dtype=dtype).cuda()
    inputs = (ids, w_hh, state, state, lengths, ragged)
    y, h, c, act, kept = autograd.lstm_sequence(gates, *inputs, True)
    autograd._lstm_sequence_backward(y, h, c, act, kept, y, *inputs, V, True)


def parts(tool: str) -> Iterator[tuple[Any, ...]]:
    """What is watched: a function and its arguments."""
    for dtype in (torch.float32, torch.bfloat16):
        yield embedding, dtype
        yield cell, dtype
        if tool != "initcheck":
            yield loss, dtype
    clusters = torch.cuda.get_device_capability() >= (9, 0)
    ways = [(torch.bfloat16, *way) for way in WAYS] + [(torch.float32, *way) for way in TF32_WAYS]
    for ragged in (True, False):
        for dtype, way, H in ways:
            if (way == "cluster" and not clusters) or (way == "steps" and tool == "initcheck"):
                continue
            yield sequence, dtype, way, H, ragged


def main(tool: str = "", end: str = "inf") -> int:
    """One part that fails keeps no other from being watched."""
    assert fastchar.backends().get("cuda"), fastchar.backends()
    torch.manual_seed(0)
    every, watched, failed = [*parts(tool)], 0, 0
    for part, *arguments in every:
        if time.time() > float(end):
            break
        start = time.monotonic()
        print(part.__name__, *arguments, end=": ", flush=True)  # the last one, if it hangs
        try:
            part(*arguments)
            torch.cuda.synchronize()
            print(f"{time.monotonic() - start:.1f} s", flush=True)
        except RuntimeError as error:
            print(f"failed: {error}", flush=True)
            failed += 1
        watched += 1
    print(f"{watched} of {len(every)} parts", flush=True)
    return 1 if failed or not watched else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
