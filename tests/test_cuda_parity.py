"""The ops on a GPU against torch's own in the same dtype, by the error rule; and what a launcher
promises: the same bits again, any stream, CUDA graphs. Small, for compute-sanitizer runs them too.
"""

import pytest
import torch
from error_rule import Sample, assert_exact_enough
from tf32_switches import tf32
from torch import Tensor

import fastchar
from fastchar import functional, reference, streams

pytestmark = pytest.mark.skipif(
    not fastchar.backends().get("cuda"), reason="needs a GPU and the CUDA library"
)
DEVICE = "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALF = DTYPES[1:]
RAGGED = [5, 0, 3, 7, 1, 7, 2, 4, 6]
# What may serve: (way, H). The first that a device lacks is skipped.
WAYS = [
    ("block", 40),
    ("block", 128),
    ("cluster", 72),
    ("cluster", 256),
    ("cluster", 500),
    ("grid", 130),
    ("grid", 512),
    ("grid", 1000),
    ("steps", 48),
]
TF32_WAYS = [
    ("block", 40),
    ("block", 64),
    ("cluster", 72),
    ("cluster", 256),
    ("grid", 130),
    ("grid", 500),
]


@pytest.fixture(autouse=True)
def _full_precision():
    """fp32 is fp32 but where a test says otherwise."""
    with tf32(False):
        yield


def leaves(tensors: list[Tensor], dtype: torch.dtype, device: str) -> list[Tensor]:
    return [t.detach().to(device, dtype, copy=True).requires_grad_() for t in tensors]


def gradients(outputs: tuple[Tensor, ...], inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, then the inputs' gradients for a fixed pseudo-random loss, all on the CPU."""
    loss = torch.zeros((), dtype=torch.float64, device=outputs[0].device)
    for output in outputs:
        weight = torch.cos(torch.arange(output.numel(), dtype=torch.float64) * 0.7)
        loss = loss + (output.double() * weight.to(output.device).view(output.shape)).sum()
    return [t.cpu() for t in (*outputs, *torch.autograd.grad(loss, inputs))]


def compare(ours, theirs, inputs: list[Tensor], dtype: torch.dtype) -> Sample:
    """Both functions of leaf tensors in dtype on the GPU, against theirs in float64 on the CPU."""
    rounded = [t.to(dtype) for t in inputs]
    results = []
    for function, kind, device in (
        (ours, dtype, DEVICE),
        (theirs, dtype, DEVICE),
        (theirs, torch.float64, "cpu"),
    ):
        own = leaves(rounded, kind, device)
        results.append(gradients(function(*own), own))
    sample = Sample()
    for index, (mine, his, exact) in enumerate(zip(*results, strict=True)):
        sample.add(f"result {index}", mine, his, exact)
    return sample


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("V", "E"), [(7, 12), (64, 67), (500, 128)])
def test_embedding(dtype, V, E):
    """Gather and scatter-add, of skewed ids, with a padding row or scaled by frequency."""
    ids = torch.randint(V, (40, 30))
    ids[torch.rand(40, 30) < 0.4] = V // 2
    for options in ({"padding_idx": V // 2}, {"scale_grad_by_freq": True}, {}):

        def call(function, weight, options=options):
            return (function(ids.to(weight.device), weight, **options),)

        compare(
            lambda w: call(functional.embedding, w),
            lambda w: call(reference.embedding, w),
            [torch.randn(V, E)],
            dtype,
        ).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cell(dtype):
    B, E, H = 5, 11, 33
    shapes = [(B, E), (B, H), (B, H), (4 * H, E), (4 * H, H), (4 * H,), (4 * H,)]
    compare(
        lambda x, h, c, *weights: functional.lstm_cell(x, (h, c), *weights),
        lambda x, h, c, *weights: reference.lstm_cell(x, (h, c), *weights),
        [torch.randn(shape) / 2 for shape in shapes],
        dtype,
    ).check()


def unread_past_the_ends(ids: Tensor) -> Tensor:
    """ids [T,B] with an id that no table has in the padding: reading it would stop the kernel."""
    steps = torch.arange(len(ids), device=ids.device).unsqueeze(1)
    return torch.where(steps < torch.tensor(RAGGED, device=ids.device), ids, 1 << 40)


def lstm_case(dtype: torch.dtype, H: int, ragged: bool, folded: bool) -> Sample:
    T, B, V, E = 7, len(RAGGED), 13, 16
    shapes = [(V, E), (2, B, H), (2, B, H), *[(4 * H, E), (4 * H, H), (4 * H,), (4 * H,)] * 2]
    inputs = [torch.randn(shape) / (shape[-1] ** 0.5) for shape in shapes]
    ids = torch.randint(V, (T, B))
    if ragged and folded:
        ids = unread_past_the_ends(ids)

    def call(module, table, h, c, *params):
        lengths = torch.tensor(RAGGED, device=h.device) if ragged else None
        stack = (True, 1, 0.0, False, True, False)
        own = ids.to(h.device)
        if folded:
            return module.embedding_lstm(own, table, (h, c), params, *stack, lengths=lengths)
        x = torch.nn.functional.embedding(own, table)
        return module.lstm(x, (h, c), params, *stack, lengths=lengths)

    return compare(
        lambda *tensors: call(functional, *tensors),
        lambda *tensors: call(reference, *tensors),
        inputs,
        dtype,
    )


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(("way", "H"), WAYS)
@pytest.mark.parametrize("ragged", [False, True])
def test_lstm_by_every_way(dtype, way, H, ragged, monkeypatch):
    """Both directions, forward and backward, whichever kernel is forced."""
    if way == "cluster" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters are sm_90's")
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
    lstm_case(dtype, H, ragged, folded=ragged).check()


def cut_to_tf32(x: Tensor) -> Tensor:
    """float32 as the tensor cores read it, the 13 lowest bits gone; the gradient is x's."""
    cut = (x.detach().view(torch.int32) & ~0x1FFF).view(torch.float32)
    return x + (cut - x.detach())


@pytest.mark.parametrize(("way", "H"), TF32_WAYS)
def test_tf32_by_every_way(way, H, monkeypatch):
    """Against the reference with weights and inputs cut to TF32. Not against cuDNN, whose switch
    allows TF32 and doesn't force it: for some sizes it may take float32."""
    if way == "cluster" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters are sm_90's")
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
    T, B, E = 7, 19, 24
    shapes = [(T, B, E), (2, B, H), (2, B, H), *[(4 * H, E), (4 * H, H), (4 * H,), (4 * H,)] * 2]

    def call(lstm, x, h, c, *params):
        return lstm(x, (h, c), params, True, 1, 0.0, False, True, False)

    def judge(*tensors):
        if tensors[0].dtype == torch.float32:
            tensors = tuple(map(cut_to_tf32, tensors))
        return call(reference.lstm, *tensors)

    with tf32(True):
        compare(
            lambda *tensors: call(functional.lstm, *tensors),
            judge,
            [torch.randn(shape) / shape[-1] ** 0.5 for shape in shapes],
            torch.float32,
        ).check()


@pytest.mark.parametrize("H", [24, 200])
def test_lstm_in_float32(H):
    """A product per step, in full precision while torch's switches for TF32 are off."""
    lstm_case(torch.float32, H, ragged=True, folded=True).check()


@pytest.mark.parametrize("low", HALF, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_autocast_lstm(low, layers):
    """Against cuDNN under the same autocast: its dtypes, and float32 gradients of parameters."""
    T, B, E, H = 9, 4, 16, 64
    shapes = [(T, B, E), (2 * layers, B, H), (2 * layers, B, H)]
    for layer in range(layers):
        shapes += [(4 * H, 2 * H if layer else E), (4 * H, H), (4 * H,), (4 * H,)] * 2

    def call(lstm, x, h, c, *params):
        with torch.autocast("cuda", low):
            return lstm(x, (h, c), params, True, layers, 0.0, False, True, False)

    compare(
        lambda *tensors: call(functional.lstm, *tensors),
        lambda *tensors: call(torch.lstm, *tensors),
        [torch.randn(shape) / 8 for shape in shapes],
        torch.float32,
    ).check()


@pytest.mark.parametrize("low", HALF, ids=str)
def test_autocast_cell(low):
    B, E, H = 5, 11, 33
    shapes = [(B, E), (B, H), (B, H), (4 * H, E), (4 * H, H), (4 * H,), (4 * H,)]

    def call(cell, x, h, c, *weights):
        with torch.autocast("cuda", low):
            return cell(x, (h, c), *weights)

    compare(
        lambda *tensors: call(functional.lstm_cell, *tensors),
        lambda *tensors: call(torch.lstm_cell, *tensors),
        [torch.randn(shape) / 2 for shape in shapes],
        torch.float32,
    ).check()


def test_a_forced_way_that_cannot_serve_is_refused(monkeypatch):
    table, w_hh, state, ids, lengths = step_arguments()
    for way, kind in (("block", torch.bfloat16), ("cluster", torch.float64), ("fast", None)):
        monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
        tensors = [t.to(kind or t.dtype) for t in (table, w_hh, state)]
        with pytest.raises(RuntimeError, match="FASTCHAR_CUDA_LSTM"):
            run_step(*tensors, ids, lengths)


def test_batches_beyond_one_grid(monkeypatch):
    """More tiles of 8 sequences than a grid has blocks along y, which steps would serve unasked."""
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", "block")
    T, B, H = 2, 65535 * 8 + 9, 8
    compare(
        lambda *tensors: functional.ops.lstm_sequence(tensors[0], None, *tensors[1:], None, False),
        lambda *tensors: reference.lstm_sequence(tensors[0], None, *tensors[1:], None, False)[:3],
        [torch.randn(shape) / 4 for shape in ((T, B, 4 * H), (4 * H, H), (B, H), (B, H))],
        torch.bfloat16,
    ).check()


@pytest.mark.parametrize(("way", "H", "B"), [("cluster", 512, 300), ("grid", 1000, 100)])
def test_batches_beyond_the_room(way, H, B, monkeypatch):
    """More teams than the device has room for at once: clusters that wait for their turn, grids in
    several launches. Larger than the rule would let them."""
    if way == "cluster" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters are sm_90's")
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
    T, V = 3, 40
    ids = torch.randint(V, (T, B))

    def call(sequence, gates, *others):
        return sequence(gates, ids.to(gates.device), *others, None, True)[:3]

    compare(
        lambda *tensors: call(functional.ops.lstm_sequence, *tensors),
        lambda *tensors: call(reference.lstm_sequence, *tensors),
        [torch.randn(shape) / H**0.5 for shape in ((V, 4 * H), (4 * H, H), (B, H), (B, H))],
        torch.bfloat16,
    ).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("V", "H"), [(0, 21), (0, 48), (13, 48), (9000, 21)])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_sequence(dtype, V, H, reverse, ragged):
    """One direction of one layer: from gates (V = 0) or a table's rows, also of one too large for
    the counting sort."""
    T, B = max(RAGGED), len(RAGGED)
    shapes = [(V, 4 * H) if V else (T, B, 4 * H), (4 * H, H), (B, H), (B, H)]
    ids = torch.randint(V, (T, B)) if V else None

    def call(sequence, unread, gates, *others):
        lengths = torch.tensor(RAGGED, device=gates.device) if ragged else None
        own = unread_past_the_ends(ids) if V and ragged and unread else ids
        own = None if own is None else own.to(gates.device)
        return sequence(gates, own, *others, lengths, reverse)[:3]

    compare(
        lambda *tensors: call(functional.ops.lstm_sequence, True, *tensors),
        lambda *tensors: call(reference.lstm_sequence, False, *tensors),
        [torch.randn(shape) / shape[-1] ** 0.5 for shape in shapes],
        dtype,
    ).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_loss(dtype, reduction):
    N, H, V = 200, 40, 67
    target = torch.randint(V, (N,))
    target[::5] = -100

    def call(module, x, weight, bias):
        result = module.linear_cross_entropy(
            x,
            weight,
            target.to(x.device),
            linear_bias=bias,
            reduction=reduction,
            label_smoothing=0.1,
        )
        return (result,)

    compare(
        lambda *tensors: call(functional, *tensors),
        lambda *tensors: call(reference, *tensors),
        [torch.randn(N, H) / 4, torch.randn(V, H) / 4, torch.randn(V)],
        dtype,
    ).check()


def test_loss_in_chunks():
    """Two chunks of tokens, and a weight gradient of more pieces than a grid has blocks along y."""
    N, H, V = 1000, 1000, 9000
    target = torch.randint(V, (N,))

    def call(module, x, weight):
        return (module.linear_cross_entropy(x, weight, target.to(x.device)),)

    compare(
        lambda *tensors: call(functional, *tensors),
        lambda *tensors: call(reference, *tensors),
        [torch.randn(N, H) / 8, torch.randn(V, H) / 8],
        torch.float32,
    ).check()


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


def test_torch_lstm_is_the_judge_too():
    """Against cuDNN, not the reference: fp16, one layer."""
    lstm = torch.nn.LSTM(32, 128).to(DEVICE, torch.float16)
    x = torch.randn(9, 4, 32, device=DEVICE, dtype=torch.float16)
    exact = torch.nn.LSTM(32, 128).double()
    exact.load_state_dict({k: v.double().cpu() for k, v in lstm.state_dict().items()})
    with torch.no_grad():
        theirs = lstm(x)[0].cpu()
        ours = fastchar.accelerate(torch.nn.Sequential(lstm))[0](x)[0].cpu()
        assert_exact_enough("y", ours, theirs, exact(x.double().cpu())[0])
