"""`import fastchar` costs no more than what it needs."""

import statistics
import subprocess
import sys
import time


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def test_import_is_at_most_1_3_times_torchs() -> None:
    """Medians of interleaved runs; with the kernels loaded too."""
    torch_only, ours = [], []
    for _ in range(3):
        torch_only.append(seconds("import torch"))
        ours.append(seconds("import fastchar; fastchar.LSTM, fastchar.functional"))
    assert statistics.median(ours) < 1.3 * statistics.median(torch_only)


def test_import_needs_torch_alone() -> None:
    """None of the training extras is imported with the modules, nor the compiler of torch."""
    code = (
        "import sys, fastchar; fastchar.LSTM, fastchar.functional\n"
        "heavy = {'lightning', 'torchmetrics', 'matplotlib', 'typer', 'rapidfuzz', 'safetensors'}\n"
        "heavy |= {'torch._dynamo', 'torch._inductor'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
