"""What the launchers promise on a GPU: the same bits again, on any stream and device and in CUDA
graphs, both directions at once, and an error where a forced kernel can't serve."""

import pytest
import torch
from cuda_cases import DEVICE, RAGGED, needs_gpu, unread_past_the_ends
from torch import Tensor

import fastchar
from fastchar import streams

pytestmark = [needs_gpu, pytest.mark.usefixtures("full_precision")]


def step_arguments() -> tuple[Tensor, ...]:
    """A folded table, W_hh, a zero state, ids and lengths, in bf16."""
    H, T, B, V = 200, max(RAGGED), len(RAGGED), 20
    table = torch.randn(V, 4 * H, device=DEVICE, dtype=torch.bfloat16)
    w_hh = torch.randn(4 * H, H, device=DEVICE, dtype=torch.bfloat16) / H**0.5
    state = torch.zeros(B, H, device=DEVICE, dtype=torch.bfloat16)
    ids = unread_past_the_ends(torch.randint(V, (T, B), device=DEVICE))
    return table, w_hh, state, ids, torch.tensor(RAGGED, device=DEVICE)


def run_step(table, w_hh, state, ids, lengths, need_h0=True) -> list[Tensor]:
    ops = torch.ops.fastchar
    inputs = (ids, w_hh, state, state, lengths, False)
    y, h_n, c_n, act, cell = ops.lstm_sequence(table, *inputs, True)
    grads = ops.lstm_sequence_backward(*(y, h_n, c_n, act, cell, y), *inputs, len(table), need_h0)
    return [y, h_n, c_n, *grads]


def test_a_forced_way_that_cannot_serve_is_refused(monkeypatch):
    table, w_hh, state, ids, lengths = step_arguments()
    for way, kind in (("block", torch.bfloat16), ("cluster", torch.float64), ("fast", None)):
        monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
        tensors = [t.to(kind or t.dtype) for t in (table, w_hh, state)]
        with pytest.raises(RuntimeError, match="FASTCHAR_CUDA_LSTM"):
            run_step(*tensors, ids, lengths)


@pytest.mark.parametrize("way", ["", "grid", "steps"])
def test_without_the_gradient_of_h0(way, monkeypatch):
    """It has no elements where it is not needed; everything else has the same bits."""
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
    arguments = step_arguments()
    *others, grad_h0, grad_c0 = run_step(*arguments)
    *same, none, same_c0 = run_step(*arguments, need_h0=False)
    assert grad_h0.shape == grad_c0.shape
    assert none.shape == (0,)
    for one, other in zip((*others, grad_c0), (*same, same_c0), strict=True):
        assert torch.equal(one, other)


def test_same_bits_again_and_on_a_side_stream():
    arguments = step_arguments()
    first = run_step(*arguments)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        second = run_step(*arguments)
    torch.cuda.synchronize()
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("way", "H"), [("block", 128), ("cluster", 512), ("grid", 1000)])
def test_same_bits_beside_other_work(way, H, monkeypatch):
    """Over many steps, while another stream's kernels come and go on the same multiprocessors, so
    that the blocks of a team neither start nor step at the same time."""
    if way == "cluster" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters are sm_90's")
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
    ops, T, B = torch.ops.fastchar, 300, 40
    gates, w_hh, state, other = (
        torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)
        for shape in ((T, B, 4 * H), (4 * H, H), (B, H), (2048, 2048))
    )
    inputs = (None, w_hh / H**0.5, state, state, None, False)

    def run() -> list[Tensor]:
        results = ops.lstm_sequence(gates, *inputs, True)
        y, h_n, c_n, act, cell = results
        return [*results, *ops.lstm_sequence_backward(y, h_n, c_n, act, cell, y, *inputs, 0, True)]

    first = run()
    assert all(result.isfinite().all() for result in first)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for _ in range(5):
        with torch.cuda.stream(stream):
            for _ in range(30):
                other @ other
        for one, same in zip(first, run(), strict=True):
            assert torch.equal(one, same)


@pytest.mark.parametrize("way", ["", "grid", "steps"])
def test_cuda_graph(way, monkeypatch):
    """A captured step gives the eager step's bits at every replay: flags are reset in the graph."""
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
    arguments = step_arguments()
    eager = run_step(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run_step(*arguments)
    for _ in range(3):
        graph.replay()
        torch.cuda.synchronize()
        for one, other in zip(eager, captured, strict=True):
            assert torch.equal(one, other)


def both_directions(dtype: torch.dtype, H: int):
    """A call that gives a bidirectional model's results and its parameters' gradients."""
    T, B, V = max(RAGGED), len(RAGGED), 11
    model = fastchar.EmbeddingLSTM(V, 16, H, 2, bidirectional=True).to(DEVICE, dtype)
    ids = unread_past_the_ends(torch.randint(V, (T, B), device=DEVICE))
    lengths = torch.tensor(RAGGED, device=DEVICE)

    def call() -> list[Tensor]:
        y, (h, c) = model(ids, lengths=lengths)
        loss = y.float().square().sum() + h.float().sum() + c.float().sum()
        return [y, h, c, *torch.autograd.grad(loss, list(model.parameters()))]

    return call


BOTH = [(torch.bfloat16, 100), (torch.float16, 300), (torch.float16, 600), (torch.float32, 40)]


@pytest.mark.parametrize(("dtype", "H"), BOTH, ids=str)
def test_both_directions_at_once(dtype, H, monkeypatch):
    """The bits of one direction after the other, also while memory is freed and used again."""
    call = both_directions(dtype, H)
    with monkeypatch.context() as patch:
        patch.setattr(streams, "may_overlap", lambda *_: False)
        expected = call()
    for size in (1, 10, 100, 1000, 10000) * 4:
        found = call()
        torch.full((size * 50,), float("nan"), device=DEVICE)  # takes what was freed, and fills it
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("dtype", "H"), BOTH, ids=str)
def test_cuda_graph_of_both_directions(dtype, H):
    """The fork and the join are captured, those of the backward too."""
    call = both_directions(dtype, H)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        eager = [call() for _ in range(3)][-1]
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for _ in range(3):
        graph.replay()
        torch.cuda.synchronize()
        for one, other in zip(eager, captured, strict=True):
            assert torch.equal(one, other)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("way", ["", "grid", "steps"])
def test_another_device_than_the_current_one(way, monkeypatch):
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
    arguments = step_arguments()
    there = run_step(*(t.to("cuda:1") for t in arguments))
    assert torch.cuda.current_device() == 0
    for one, other in zip(run_step(*arguments), there, strict=True):
        assert other.device.index == 1
        torch.testing.assert_close(one, other.to(DEVICE))
