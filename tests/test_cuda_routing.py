"""What runs for CUDA tensors and in which dtype, asked of fake ones: no GPU needed."""

import contextlib
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastchar import backend, functional, streams

pytestmark = pytest.mark.native
LOW = [torch.bfloat16, torch.float16]
T, B, E, H, V = 5, 3, 4, 6, 7


class Ops(TorchDispatchMode):
    """The native ops that ran, each with the dtype of its first argument."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fastchar":
            self.ran.append((func._opname, args[0].dtype))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors made here may be on "cuda", and the CUDA kernels seem to be loaded."""
    monkeypatch.setattr(backend, "cuda", lambda device: True)
    with FakeTensorMode():
        yield


@contextlib.contextmanager
def autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """torch.autocast("cuda"), which a torch without CUDA would switch off."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", dtype is not None)
    torch.set_autocast_dtype("cuda", dtype or before[1])
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


@contextlib.contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def results(ran: Any) -> set[torch.dtype]:
    return {t.dtype for t in torch.utils._pytree.tree_leaves(ran)}


def fake(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="cuda", dtype=dtype)


def layer(features: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """w_ih, w_hh and the biases."""
    shapes = ((4 * H, features), (4 * H, H), (4 * H,), (4 * H,))
    return [fake(*shape, dtype=dtype) for shape in shapes]


ONE_LAYER = (True, 1, 0.0, False, False, False)


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("state", [False, True])
def test_autocast(fake_cuda: None, low: torch.dtype, given: torch.dtype, state: bool) -> None:
    """As torch casts `_cudnn_rnn` and `lstm_cell`: everything in autocast's dtype, results too. It
    leaves embeddings alone, and the loss is float32. (The gradients: test_cuda_parity.py.)"""
    both = [*layer(E), *layer(E), *layer(2 * H), *layer(2 * H)]
    one, table, ids = layer(E), fake(V, E), fake(T, B).long()
    x, hx, lengths = fake(T, B, E, dtype=given), fake(4, B, H), fake(B).long()
    with autocast(low):
        with Ops() as ops:
            stack = (True, 2, 0.0, False, True, False)
            y = functional.lstm(x, (hx, hx) if state else None, both, *stack, lengths=lengths)
        assert ops.ran == [("lstm_sequence", low)] * 4
        with Ops() as ops:
            step = functional.lstm_cell(fake(B, E, dtype=given), (fake(B, H),) * 2, *one)
        assert ops.ran == [("lstm_cell", low)]
        with Ops() as ops:
            first = (fake(1, B, H),) * 2 if state else None
            z = functional.embedding_lstm(ids, table, first, one, *ONE_LAYER, lengths=lengths)
        assert ops.ran == [("lstm_sequence", low)]
        with Ops() as ops:
            rows = functional.embedding(ids, table)
        assert ops.ran == [("embedding", torch.float32)]
        with Ops() as ops:
            loss = functional.linear_cross_entropy(y[0], fake(V, 2 * H), ids)
        assert ops.ran == []
    assert results((y, step, z)) == {low}
    assert results((rows, loss)) == {torch.float32}


def test_autocast_leaves_float64_alone(fake_cuda: None) -> None:
    with autocast(torch.bfloat16), Ops() as ops:
        x = fake(T, B, E, dtype=torch.float64)
        y = functional.lstm(x, None, layer(E, torch.float64), *ONE_LAYER)
    assert ops.ran == [("lstm_sequence", torch.float64)]
    assert results(y) == {torch.float64}


def test_without_autocast_every_type_has_its_kernel(fake_cuda: None) -> None:
    for dtype in (torch.float32, torch.float64, *LOW):
        with Ops() as ops:
            y = functional.lstm(fake(T, B, E, dtype=dtype), None, layer(E, dtype), *ONE_LAYER)
        assert ops.ran == [("lstm_sequence", dtype)]
        assert results(y) == {dtype}


def test_which_directions_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but two cooperative grids, by the rule of csrc/cuda/ways.h."""
    monkeypatch.delenv("FASTCHAR_CUDA_LSTM", raising=False)
    x = torch.empty(1)
    assert not streams.may_overlap(x, torch.bfloat16, 64)  # on the CPU
    monkeypatch.setattr(streams, "Tensor", SimpleNamespace)
    x = SimpleNamespace(is_cuda=True, device=0, shape=(7, 32))
    found: dict[tuple[object, ...], list[bool]] = {}
    h100 = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: h100)
    monkeypatch.setattr(backend, "tf32_lstm", lambda: True)
    monkeypatch.setattr(backend, "_cuda_architectures", ["8.0", "9.0+PTX"])
    for capability in ((8, 0), (9, 0)):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda _, capability=capability: capability
        )
        sizes = (128, 129, 512, 513, 1024, 1025)
        found[capability] = [streams.may_overlap(x, torch.float16, H) for H in sizes]
        assert all(streams.may_overlap(x, torch.float64, H) for H in sizes)
        found[(*capability, "tf32")] = [
            streams.may_overlap(x, torch.float32, H) for H in (64, 65, 256, 257, 512, 513)
        ]
        monkeypatch.setattr(backend, "tf32_lstm", lambda: False)
        assert all(streams.may_overlap(x, torch.float32, H) for H in sizes)
        monkeypatch.setattr(backend, "tf32_lstm", lambda: True)
    for older in (["8.0+PTX"], ["8.0+PTX", "10.0"]):  # whose code has no clusters
        monkeypatch.setattr(backend, "_cuda_architectures", older)
        assert not streams.may_overlap(x, torch.float16, 256)
    # What runs on sm_100 of these is sm_80's PTX.
    monkeypatch.setattr(backend, "_cuda_architectures", ["8.0+PTX", "9.0"])
    assert not backend.cuda_clusters((10, 0))
    assert backend.cuda_clusters((9, 0))
    monkeypatch.setattr(backend, "_cuda_architectures", ["9.0+PTX"])
    # On which GPU up to which batch each direction is of clusters, never of grids: ways.cpp.
    for capability, count, H, most in (
        *(((9, 0), 132, 256, 128), ((9, 0), 132, 512, 32)),
        *(((9, 0), 60, 256, 56), ((9, 0), 60, 512, 0)),  # a slice of one
        *(((12, 0), 188, 256, 184), ((12, 0), 188, 512, 0)),
    ):
        gpu = SimpleNamespace(multi_processor_count=count)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, gpu=gpu: gpu)
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda _, capability=capability: capability
        )
        for dtype, hidden in ((torch.float16, H), (torch.float32, H // 2)):
            for batch in range(1, 300):
                x.shape = (7, batch)
                expected = batch <= most
                assert streams.may_overlap(x, dtype, hidden) is expected, (capability, batch)
    assert found[8, 0] == [True, False, False, False, False, True]
    assert found[9, 0] == [True, True, True, False, False, True]
    assert found[8, 0, "tf32"] == found[8, 0]
    assert found[9, 0, "tf32"] == found[9, 0]
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", "grid")
    assert not streams.may_overlap(x, torch.float16, 64)
    monkeypatch.setenv("FASTCHAR_CUDA_LSTM", "steps")
    assert streams.may_overlap(x, torch.float16, 300)


class Recorded:
    """A tensor or stream that writes down what is done with it."""

    def __init__(self, name: str, log: list[tuple[str, ...]]) -> None:
        self.name, self.log = name, log
        self.device_index, self.cuda_stream = 0, 7

    def __repr__(self) -> str:
        return self.name

    def view_as(self, other: Tensor) -> "Recorded":
        return Recorded(f"view of {other}", self.log)

    def __getattr__(self, method: str) -> Any:
        return lambda *args: self.log.append((method, self.name, *map(str, args)))


def test_the_reverse_direction_is_forked_and_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for what was enqueued before the forward one, what follows waits for it, and no
    memory that crosses between the streams is used again before both are done."""
    log: list[tuple[str, ...]] = []

    def recorded(*names: str) -> list[Any]:
        return [Recorded(name, log) for name in names]

    main, side, event, x, h0, c0, table, w_ih, w_hh = recorded(
        *("main", "side", "event", "x", "h0", "c0", "table", "w_ih", "w_hh")
    )
    here = ["main"]

    @contextlib.contextmanager
    def on(stream: Recorded) -> Iterator[None]:
        here.append(stream.name)
        yield
        here.pop()

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(streams, "_side", {})

    def direction(x: Any, weights: Any, h0: Any, c0: Any, reverse: bool) -> Any:
        log.append(("run", here[-1], str(weights[0]), str(reverse)))
        return recorded("y", "h", "c")

    run = streams.side_by_side(direction, torch.device("cuda"), (table, None))
    weights = (w_ih, w_hh, None, None, None)
    for reverse in (False, True):
        run(x, weights, h0, c0, reverse)
    assert log[:4] == [
        ("record", "event", "main"),
        ("run", "main", "w_ih", "False"),
        ("wait_event", "side", "event"),
        ("run", "side", "view of w_ih", "True"),
    ]
    kept = {entry[1:] for entry in log[4:-1] if entry[0] == "record_stream"}
    used = {"view of x", "view of w_ih", "view of w_hh", "h0", "c0", "table"}
    assert kept == {(name, "side") for name in used} | {(name, "main") for name in "yhc"}
    assert log[-1] == ("wait_stream", "main", "side")


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_directions_share_no_leaf(padding_idx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's gradients, one from each stream, come together in a view of it on the main one:
    torch warns of a leaf with gradients from a stream that isn't its own."""
    found = []

    def side_by_side(direction: Any, device: Any, shared: Any) -> Any:
        found.extend(t for t in shared if t is not None and t.requires_grad)
        return direction

    monkeypatch.setattr(functional, "_whole_layers", lambda x: False)
    monkeypatch.setattr(streams, "may_overlap", lambda *_: True)
    monkeypatch.setattr(streams, "side_by_side", side_by_side)
    table = torch.randn(V, E, requires_grad=True)
    shapes = ((4 * H, E), (4 * H, H), (4 * H,), (4 * H,)) * 2
    weights = [torch.randn(shape, requires_grad=True) for shape in shapes]
    ids, stack = torch.randint(V, (T, B)), (True, 1, 0.0, True, True, False)
    y = functional.embedding_lstm(ids, table, None, weights, *stack, padding_idx=padding_idx)[0]
    assert [t.is_leaf for t in found] == [False]
    y.sum().backward()
    assert table.grad is not None


def test_the_side_stream_is_not_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch hands out the same 32 again and again; on one stream nothing would overlap."""
    main, same, side = (Recorded(name, []) for name in ("main", "same", "side"))
    side.cuda_stream = 8
    handed_out = iter([same, side])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: next(handed_out))
    monkeypatch.setattr(torch.cuda, "Event", lambda: None)
    monkeypatch.setattr(streams, "_side", {})
    streams.side_by_side(lambda *_: ..., torch.device("cuda"), ())
    assert list(streams._side.values()) == [side]


def test_a_driver_too_old_for_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime linked into the library may be of a newer CUDA than torch's and the driver: then
    torch's operations run, and the warning says what to build with."""
    lacks = 13000
    library = SimpleNamespace(
        fastchar_cuda_driver_lacks=lambda: lacks,
        fastchar_cuda_architectures=lambda: b"8.0;9.0+PTX",
    )
    monkeypatch.setattr(library.fastchar_cuda_architectures, "restype", None, raising=False)
    # Looking for a GPU starts nothing: after that a forked process could not use one.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("starts CUDA"))
    monkeypatch.setattr(backend.Path, "exists", lambda self: True)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(backend.ctypes, "CDLL", lambda path: library)
    with pytest.warns(UserWarning, match=r"built with CUDA 13\.0.*driver is too old"):
        assert backend._load_cuda() == (None, [])
    lacks = 0
    assert backend._load_cuda() == (library, ["8.0", "9.0+PTX"])

    def fails(path: str) -> None:
        raise OSError("undefined symbol")

    monkeypatch.setattr(torch.ops, "load_library", fails)
    with pytest.warns(UserWarning, match="undefined symbol"):
        assert backend._load_cuda() == (None, [])


def test_a_gpu_that_the_kernels_have_no_code_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it was built where there was none: then torch's operations run there."""
    device = torch.device("cuda", 0)
    expected = {
        "8.0;9.0+PTX": [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)],
        "8.6;9.0": [(8, 6), (8, 9), (9, 0)],
        "9.0a+PTX": [(9, 0)],
        "": [],
    }
    for compiled, served in expected.items():
        monkeypatch.setattr(backend, "_cuda_architectures", compiled.split(";") if compiled else [])
        for capability in ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)):
            monkeypatch.setattr(backend, "_served", {})
            monkeypatch.setattr(
                torch.cuda, "get_device_capability", lambda _, capability=capability: capability
            )
            refused = compiled and capability not in served
            with pytest.warns(UserWarning, match="no code for") if refused else no_warning():
                assert backend.cuda(device) is (capability in served), (compiled, capability)
            assert backend.cuda(device) is (capability in served)  # and warns once


def test_tf32_is_torch_s_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one for cuDNN's RNNs, under its old and its new names; told for the time of a call."""
    # Torch's own test helpers, which other tests import, forbid setting these for good.
    flags = torch.backends.flags_frozen.__globals__
    monkeypatch.setitem(flags, "__allow_nonbracketed_mutation_flag", True)
    cudnn = torch.backends.cudnn
    for name, value in (("allow_tf32", True), ("enabled", True)):
        monkeypatch.setattr(cudnn, name, value)
    assert backend.tf32_lstm()
    with monkeypatch.context() as patch:
        patch.setattr(cudnn, "enabled", False)
        assert not backend.tf32_lstm()
    told: list[int] = []
    library = SimpleNamespace(fastchar_cuda_allow_tf32=told.append)
    monkeypatch.setattr(backend, "_cuda_library", library)
    call = backend.as_switched(lambda *args: told.append(7) or args)
    assert call(1, 2) == (1, 2)
    assert told == [1, 7, 0]
    monkeypatch.setattr(cudnn, "allow_tf32", False)
    assert not backend.tf32_lstm()
    call()
    assert told == [1, 7, 0, 7]
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    with pytest.raises(ZeroDivisionError):
        backend.as_switched(lambda: 1 // 0)()
    assert told[-1] == 0
