"""Odd numbers, long runs, many threads, torch's other machinery around our modules."""

import gc
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from error_rule import assert_exact_enough
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastchar
from fastchar import functional


def pair(E: int = 4, H: int = 6) -> tuple[fastchar.LSTM, nn.LSTM]:
    ours, theirs = fastchar.LSTM(E, H), nn.LSTM(E, H)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_nan_inf_and_saturation_are_torchs(value: float, isa: str) -> None:
    """A wild number in one sequence: the same NaN and Inf as torch's, other sequences untouched."""
    ours, theirs = pair()
    x = torch.randn(5, 19, 4)
    x[2, 1] = value
    a, b = ours(x)[0], theirs(x)[0]
    torch.testing.assert_close(a, b, equal_nan=True)
    assert a[:, [0, *range(2, 19)]].isfinite().all()


def test_long_sequences_do_not_drift(isa: str) -> None:
    """After 2000 steps, still within the rule."""
    ours, theirs = pair(8, 16)
    x = torch.randn(2000, 3, 8)
    exact = theirs.double()(x.double())
    theirs.float()
    names = ("y", "h", "c")
    for name, a, b, c in zip(names, *(flat(r) for r in (ours(x), theirs(x), exact)), strict=True):
        assert_exact_enough(name, a, b, c)


def flat(result: tuple[Tensor, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    return result[0], *result[1]


@pytest.mark.native
def test_no_memory_growth() -> None:
    """A thousand training steps leave the process as large as the first hundred did."""
    model = fastchar.EmbeddingLSTM(31, 16, 16)
    head = torch.randn(31, 16, requires_grad=True)
    ids = torch.randint(31, (20, 8))
    lengths = torch.randint(1, 21, (8,))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a step is slow on two where other programs want the cores

    def step() -> None:
        y, _ = model(ids, lengths=lengths)
        functional.linear_cross_entropy(y, head, ids).backward()

    sizes = []
    for count in (100, 1000):
        for _ in range(count):
            step()
        gc.collect()
        sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    torch.set_num_threads(threads)
    assert sizes[1] - sizes[0] < 8 * 1024  # KiB; one step's saved tensors are 60


def test_threads_calling_at_once() -> None:
    """Calls from several Python threads do not disturb each other."""
    model = fastchar.EmbeddingLSTM(31, 16, 32)
    inputs = [torch.randint(31, (12, 5)) for _ in range(4)]
    expected = [model(ids)[0].detach() for ids in inputs]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(30):
            y, _ = model(inputs[k])
            y.sum().backward()
            if not torch.equal(y.detach(), expected[k]):
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


MEMORY_ENDS = """
import resource, torch, fastchar
modules = torch.nn.LSTM(8, 256), fastchar.LSTM(8, 256), fastchar.Embedding(5, 256)
small, large = torch.zeros(3, 2, 8), torch.zeros(1000, 1000, 8)
inputs = small, small, torch.zeros(3, dtype=torch.int64)
too_large = large, large, torch.zeros(1000, 1000, dtype=torch.int64)
for module, x in zip(modules, inputs):
    torch.utils._pytree.tree_leaves(module(x))[0].sum().backward()
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
for module, x, y in zip(modules, inputs, too_large):
    resource.setrlimit(resource.RLIMIT_AS, (now + (256 << 20), -1))
    try:
        module(y)
    except RuntimeError as error:
        print("DefaultCPUAllocator: can't allocate memory" in str(error))
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    module(x)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is counted in /proc")
def test_the_end_of_memory_is_torchs_error() -> None:
    """Of torch's type and with the words that programs look for, and the process goes on."""
    done = subprocess.run([sys.executable, "-c", MEMORY_ENDS], capture_output=True, text=True)
    assert done.stdout.split() == ["True"] * 3, done.stderr


KEPT_MAKES_ROOM = """
import resource, torch, fastchar
module = fastchar.Embedding(5, 256)
with torch.no_grad():
    module(torch.zeros(300_000, dtype=torch.int64))  # 300 MB, kept
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (256 << 20), -1))
    module(torch.zeros(450_000, dtype=torch.int64))
"""


@pytest.mark.native
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is counted in /proc")
def test_what_is_kept_makes_room() -> None:
    """Where there is no memory left but what freed results lie in, a larger one has that."""
    done = subprocess.run([sys.executable, "-c", KEPT_MAKES_ROOM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.native
def test_large_results_memory_is_kept() -> None:
    """The next step has it without asking the system, which costs as much as the step."""
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") < 7 << 30:
        pytest.skip("of so small a memory less is kept")
    ids = torch.zeros(100_000, 4, dtype=torch.int64)
    embedding = fastchar.Embedding(5, 256).requires_grad_(False)
    embedding(ids)  # 400 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    embedding(ids)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 50  # 195 in huge pages


OF_TOKENS = """
import resource, sys, torch, fastchar
module = call = fastchar.LSTM(8, 256)
if sys.argv[1] == "compiled":
    call = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
x, ones = torch.zeros(100, 1000, 8), torch.ones(1000, dtype=torch.int64)
with torch.no_grad():
    call(x[:3, :4], lengths=ones[:4])
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (256 << 20), -1))
    call(x, lengths=ones)
"""


@pytest.mark.native
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is counted in /proc")
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_padding_is_not_projected(how: str) -> None:
    """Of a ragged batch real tokens are, in graphs too: there is memory for the output, 100 MB,
    and not for the gates of the padding, 400 MB."""
    done = subprocess.run(
        [sys.executable, "-c", OF_TOKENS, how], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    ours, _ = pair()
    x = torch.randn(5, 3, 4, requires_grad=True)
    plain = torch.autograd.grad(ours(x)[0].sum(), [x, *ours.parameters()])
    checkpoint(lambda x: ours(x)[0], x, use_reentrant=reentrant).sum().backward()
    for a, b in zip([x, *ours.parameters()], plain, strict=True):
        torch.testing.assert_close(a.grad, b)


def test_grad_modes_and_anomaly() -> None:
    """no_grad and inference_mode give plain results; anomaly mode names a NaN's origin."""
    ours, _ = pair()
    x = torch.randn(5, 3, 4)
    expected = ours(x)[0]
    assert expected.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            y = ours(x)[0]
            assert not y.requires_grad
            assert torch.equal(y, expected)
    with torch.autograd.detect_anomaly(check_nan=True):
        ours(x)[0].sum().backward()
        with pytest.raises(RuntimeError, match="nan"):
            ours(x.masked_fill(x > 0, float("nan")))[0].sum().backward()


def test_a_second_backward_needs_retain_graph() -> None:
    ours, _ = pair()
    loss = ours(torch.randn(5, 3, 4))[0].sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in ours.parameters() if p.grad is not None]
    loss.backward()
    for p, g in zip(ours.parameters(), first, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


class Ids(torch.utils.data.Dataset[Tensor]):
    def __init__(self) -> None:
        self.module = fastchar.EmbeddingLSTM(7, 3, 4)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> Tensor:
        with torch.no_grad():
            return self.module(torch.full((3, 2), k))[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(method: str) -> None:
    """Our kernels in worker processes, forked and spawned, give what they give here."""
    data = Ids()
    here: Any = torch.stack([data[k] for k in range(4)])
    loader = torch.utils.data.DataLoader(
        data, batch_size=4, num_workers=1, multiprocessing_context=method
    )
    torch.testing.assert_close(next(iter(loader)), here)
