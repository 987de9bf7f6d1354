"""Where a process is one of many, in a DataLoader's worker or as a rank, our ops start no thread.

What counts is the threads that the process has: an op that spun up a pool of its own, or ignored
torch's count, would leave more of them than there were.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastchar
from fastchar import functional

TASKS = Path("/proc/self/task")
pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not TASKS.exists(), reason="threads are counted in /proc"),
]


def training_step() -> None:
    """Every kind of kernel, at sizes for which a team would form if it may."""
    model = fastchar.EmbeddingLSTM(40, 32, 128, 2, bidirectional=True)
    cell, table = fastchar.LSTMCell(128, 128), fastchar.Embedding(40, 64)
    ids = torch.randint(40, (16, 32))
    y, (h, c) = model(ids, lengths=torch.randint(1, 17, (32,)))
    h, c = cell(h[0], (h[0], c[0]))
    loss = functional.linear_cross_entropy(y, torch.randn(40, 256), ids)
    (loss + h.sum() + c.sum() + table(ids).sum()).backward()


def threads_started() -> int:
    """Threads that a step adds to those of the process, torch's own product done before."""
    torch.mm(torch.randn(256, 256, requires_grad=True), torch.randn(256, 256)).sum().backward()
    before = len(list(TASKS.iterdir()))
    training_step()
    return len(list(TASKS.iterdir())) - before


class Counting(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, _: int) -> int:
        return threads_started()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_none_in_a_data_loaders_workers(method: str) -> None:
    """torch gives a worker one thread, and our ops keep to it."""
    loader = torch.utils.data.DataLoader(
        Counting(), batch_size=None, num_workers=1, multiprocessing_context=method
    )
    assert list(loader) == [0, 0]


@pytest.mark.parametrize(("count", "started"), [("1", 0), ("2", 1)])
def test_a_rank_keeps_to_its_threads(count: str, started: int) -> None:
    """As torchrun starts a rank, with OMP_NUM_THREADS: one thread stays one, and two are two and
    not as many as the machine has cores."""
    code = (
        "import torch, test_oversubscription as t; base = len(list(t.TASKS.iterdir())); "
        "t.training_step(); first = len(list(t.TASKS.iterdir())); t.training_step(); "
        "print(first - base, len(list(t.TASKS.iterdir())) - first)"
    )
    paths = [str(Path(__file__).parent), str(Path(fastchar.__file__).parent.parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": count, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(started), "0"]
