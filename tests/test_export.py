"""torch.export, AOTInductor and the ONNX exporter: the program, here and in another process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_compile import CXX, Encoder, Tagger, batch
from torch import nn
from torch.autograd import forward_ad

import fastchar


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    T, B = torch.export.Dim("T", min=3, max=500), torch.export.Dim("B", min=4, max=500)
    sizes = {"ids": {0: T, 1: B}, "lengths": {0: B}}
    return torch.export.export(model, batch(7, 5), dynamic_shapes=sizes)


def elsewhere(load: str, model: nn.Module, folder: Path) -> None:
    """A process without the model's code calls `load`, Python for a program in a file, and gets
    the model's results."""
    inputs = batch(9, 6)
    torch.save((inputs, [t.detach() for t in model(*inputs)]), folder / "expected.pt")
    code = f"""
import torch, fastchar.ops
inputs, expected = torch.load("expected.pt")
for a, b in zip({load}(*inputs), expected, strict=True):
    torch.testing.assert_close(a, b)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastchar.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)


@pytest.mark.native
@pytest.mark.parametrize("recorded", [True, False])
def test_export_round_trip(recorded: bool, tmp_path: Path) -> None:
    """An exported program, saved and loaded, runs at other T and B, with gradients on and off.

    Exported with gradients recorded it trains too; without, a backward says why it can't.
    """
    model = Encoder()
    with torch.set_grad_enabled(recorded):
        torch.export.save(exported(model), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for T, B in ((13, 4), (7, 5), (40, 9)):
        inputs = batch(T, B)
        for a, b in zip(program(*inputs), model(*inputs), strict=True):
            torch.testing.assert_close(a, b)
    elsewhere("torch.export.load('model.pt2').module()", model, tmp_path)
    if not recorded:
        with pytest.raises(ValueError, match="gradients need save=True"):
            program(*inputs)[0].sum().backward()
        return
    program(*inputs)[0].sum().backward()
    model(*inputs)[0].sum().backward()
    grads = dict(program.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(grads[name].grad, p.grad)


@pytest.mark.native
def test_transforms_of_a_program_never_give_zeros() -> None:
    """The module takes them; a program, which holds our ops, refuses all but vmap."""
    x = torch.randn(5, 3, 6)
    for module, given in ((fastchar.LSTM(6, 8), x), (fastchar.LSTMCell(6, 8), x[0])):
        module.requires_grad_(False)
        program = torch.export.export(module, (given,)).module()

        def call(given: torch.Tensor, program: nn.Module = program) -> torch.Tensor:
            return program(given)[0]

        ones = torch.ones_like(given)
        with pytest.raises(NotImplementedError, match="apply these to the module itself"):
            torch.func.jvp(call, (given,), (ones,))
        with pytest.raises(NotImplementedError, match="apply these to the module itself"):
            torch.func.grad(lambda given: call(given).sum())(given)
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode AD"):
            call(forward_ad.make_dual(given, ones))
        many = torch.stack((given, 2 * given))
        torch.testing.assert_close(torch.vmap(call)(many), torch.stack([*map(call, many)]))


def test_an_onnx_exporter_finds_torchs_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.onnx.export(dynamo=True), torch's default, exports first, and knows no op of ours."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    model = nn.Sequential(fastchar.Embedding(11, 6), fastchar.LSTM(6, 8))
    cell, tagger = fastchar.LSTMCell(6, 8), Tagger()
    ids, lengths = batch(7, 5)
    ops = ""
    for module, inputs in ((model, (ids,)), (cell, (torch.randn(5, 6),)), (tagger, (ids, lengths))):
        program = torch.export.export(module, inputs)
        ops += " ".join(str(node.target) for node in program.graph.nodes)
    assert "fastchar" not in ops
    assert "aten.lstm.input" in ops


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_computes_the_same(dynamo: bool, tmp_path: Path) -> None:
    """Of what either exporter of torch's makes of a ragged batch: at any T by the tracing one."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript" if dynamo else "onnx")
    model, path = Tagger().eval(), tmp_path / "tagger.onnx"
    names: dict[str, Any] = {"input_names": ["ids", "lengths"], "output_names": ["loss"]}
    if dynamo:
        B = torch.export.Dim("B", min=2, max=500)
        names["dynamic_shapes"] = {"ids": {1: B}, "lengths": {0: B}}
    else:
        names["dynamic_axes"] = {"ids": {0: "T", 1: "B"}, "lengths": {0: "B"}}
    T = 2 if dynamo else 3  # which the newer one writes out step by step
    torch.onnx.export(model, batch(T, 5), path, dynamo=dynamo, verbose=False, **names)
    session = onnxruntime.InferenceSession(path)
    for T, B in ((2, 5), (2, 4)) if dynamo else ((3, 5), (12, 1), (1, 3)):
        ids, lengths = batch(T, B)
        (got,) = session.run(None, {"ids": ids.numpy(), "lengths": lengths.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), model(ids, lengths))


@pytest.mark.native
@pytest.mark.skipif(not CXX, reason="no C++ compiler")
def test_ahead_of_time_compilation_round_trip(tmp_path: Path) -> None:
    """AOTInductor's package, loaded, gives the same at other T and B."""
    model = Encoder()
    with torch.no_grad():
        program = exported(model)
    package = torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(tmp_path / "model.pt2"),
        inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
    )
    loaded = torch._inductor.aoti_load_package(package)
    for T, B in ((13, 4), (7, 5), (40, 9)):
        inputs = batch(T, B)
        for a, b in zip(loaded(*inputs), model(*inputs), strict=True):
            torch.testing.assert_close(a, b)
    elsewhere("torch._inductor.aoti_load_package('model.pt2')", model, tmp_path)
