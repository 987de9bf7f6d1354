"""The ops on a GPU against torch's own in the same dtype, by the error rule."""

import pytest
import torch
from cuda_cases import DEVICE, RAGGED, needs_gpu, unread_past_the_ends
from error_rule import Sample, assert_exact_enough
from tf32_switches import tf32
from torch import Tensor

import fastchar
from fastchar import functional, reference

pytestmark = [needs_gpu, pytest.mark.usefixtures("full_precision")]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALF = DTYPES[1:]
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
# Of many steps, at some of which a block that doesn't wait as it should gets ahead of another.
LONG = [("block", 128), ("cluster", 200), ("cluster", 512), ("grid", 512), ("grid", 1000)]


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


@pytest.mark.parametrize(("way", "H"), LONG)
def test_long_sequences_by_every_way(way, H, monkeypatch):
    if way == "cluster" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters are sm_90's")
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", way)
    T, B = 200, 19
    inputs = [torch.randn(T, B, 4 * H), torch.randn(4 * H, H) / H**0.5]
    inputs += [torch.randn(B, H) / 2 for _ in range(2)]
    compare(
        lambda *tensors: functional.ops.lstm_sequence(tensors[0], None, *tensors[1:], None, False),
        lambda *tensors: reference.lstm_sequence(tensors[0], None, *tensors[1:], None, False)[:3],
        inputs,
        torch.bfloat16,
    ).check()


@pytest.mark.parametrize("H", [24, 200])
def test_lstm_in_float32(H):
    """A product per step, in full precision while torch's switches for TF32 are off."""
    lstm_case(torch.float32, H, ragged=True, folded=True).check()


@pytest.mark.parametrize("low", HALF, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_autocast_lstm(low, layers):
    """Against torch's LSTM of what is cast by hand, since under autocast its cuDNN path has float16
    whatever autocast says: the low dtype, and float32 gradients of parameters."""
    T, B, E, H = 9, 4, 16, 64
    shapes = [(T, B, E), (2 * layers, B, H), (2 * layers, B, H)]
    for layer in range(layers):
        shapes += [(4 * H, 2 * H if layer else E), (4 * H, H), (4 * H,), (4 * H,)] * 2

    def call(lstm, x, h, c, *params):  # training: cuDNN has no gradients otherwise
        return lstm(x, (h, c), params, True, layers, 0.0, True, True, False)

    def ours(*tensors):
        with torch.autocast("cuda", low):
            return call(functional.lstm, *tensors)

    def theirs(*tensors):
        if tensors[0].dtype == torch.float32:
            tensors = tuple(t.to(low) for t in tensors)
        return call(torch.lstm, *tensors)

    inputs = [torch.randn(shape) / 8 for shape in shapes]
    compare(ours, theirs, inputs, torch.float32).check()


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
