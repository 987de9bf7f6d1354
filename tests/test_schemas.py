"""Every launcher's C++ signature against its op's schema, from the sources: the boxed call trusts
it, and without a GPU nothing else would notice that a CUDA launcher has another."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
# What runs on a GPU instead of an op that has no CUDA launcher.
CPU_ONLY = {
    "lstm_step": "functional.lstm_cell: cuBLAS's products and lstm_cell",
    "lstm_step_backward": "autograd of those products and lstm_cell_backward",
    "lstm_step_weight_grad": "autograd of those",
    "lstm_generate": "models.CharLM: its modules, a symbol a call",
    "lstm_layer": "functional._run: cuBLAS's projection and lstm_sequence",
    "lstm_layer_backward": "autograd of those",
    "linear": "cuBLAS",
    "linear_input_grad": "cuBLAS",
    "linear_weight_grad": "cuBLAS",
}
CPP_TYPES = {
    "Tensor": "const Tensor&",
    "Tensor?": "const std::optional<Tensor>&",
    "Tensor[]": "const std::vector<Tensor>&",
    "int": "int64_t",
    "bool": "bool",
    "float": "double",
}


class Signature(NamedTuple):
    arguments: tuple[tuple[str, str], ...]  # (C++ type, name), in order
    returned: int  # tensors


def in_schema(text: str) -> tuple[str, Signature]:
    """The op's name, and the signature that "name(Tensor a, ...) -> ..." asks of its launchers."""
    match = re.fullmatch(r"(\w+)\((.*)\) -> (Tensor|\((.*)\))", text)
    assert match is not None, text
    pairs = [argument.split(" ") for argument in match[2].split(", ")]
    arguments = tuple((CPP_TYPES[kind], name) for kind, name in pairs)
    results = ["Tensor"] if match[4] is None else [r.split(" ")[0] for r in match[4].split(", ")]
    assert set(results) == {"Tensor"}, text
    return match[1], Signature(arguments, len(results))


def schemas() -> dict[str, Signature]:
    """By op, from ops.cpp."""
    source = re.sub(r"//.*", "", (CSRC / "ops.cpp").read_text())
    calls = re.findall(r'define\(\s*m,((?:\s*"[^"]*")+)\);', source)
    assert len(calls) == source.count("define(")
    found = dict(in_schema("".join(re.findall(r'"([^"]*)"', call))) for call in calls)
    assert len(found) == len(calls)
    return found


def in_definition(source: str, function: str) -> Signature:
    """The signature of the function that `source` defines under that name."""
    found = re.findall(
        rf"^(Tensor|std::tuple<([^>]*)>)\s+{function}\(([^)]*)\)\s*\{{", source, re.MULTILINE
    )
    assert len(found) == 1, f"{function}: {len(found)} definitions"
    result, results, arguments = found[0]
    if results:
        kinds = [" ".join(kind.split()) for kind in results.split(",")]
        assert set(kinds) == {"Tensor"}, f"{function}: returns {result}"
    # A name that the launcher doesn't use is commented out.
    plain = " ".join(re.sub(r"/\*(\w+)\*/", r"\1", arguments).split())
    pairs = tuple(argument.rsplit(" ", 1) for argument in plain.split(", "))
    return Signature(
        tuple((kind, name.removesuffix("_arg")) for kind, name in pairs),
        results.count(",") + 1,
    )


def launchers(device: str) -> dict[str, Signature]:
    """By op, what the sources register for the device: "CPU" or "CUDA"."""
    found: dict[str, Signature] = {}
    pattern = "cpu/*.cpp" if device == "CPU" else "cuda/*.cu"
    for path in sorted(CSRC.glob(pattern)):
        source = re.sub(r"//.*", "", path.read_text())
        registered = re.findall(r"FASTCHAR_IMPL\(m, (\w+)\);", source)
        assert len(registered) == source.count("FASTCHAR_IMPL("), path
        assert "m.impl(" not in source, path
        if registered:
            assert f"STABLE_TORCH_LIBRARY_IMPL(fastchar, {device}, m)" in source, path
        for op in registered:
            assert op not in found, f"{op} is registered twice"
            found[op] = in_definition(source, op)
    return found


@pytest.mark.parametrize("device", ["CPU", "CUDA"])
def test_launchers_follow_the_schemas(device):
    """Same arguments in the same order, of the type that unboxes them, and as many results."""
    defined = schemas()
    for op, signature in launchers(device).items():
        assert signature == defined[op], f"{device} {op}"


def test_every_op_has_its_launchers():
    """All on the CPU; on CUDA all but those that something else does there."""
    assert launchers("CPU").keys() == schemas().keys()
    assert launchers("CUDA").keys() == schemas().keys() - CPU_ONLY.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        "Tensor f(const Tensor& a, bool b) {",
        "Tensor f(const Tensor& a, int64_t n, bool b) {",
        "Tensor f(const std::optional<Tensor>& a, bool b, int64_t n) {",
        "std::tuple<Tensor, Tensor> f(const Tensor& a, bool b, int64_t n) {",
    ],
)
def test_differences_are_seen(wrong):
    """An argument missing, out of order or of another type, and another number of results."""
    name, schema = in_schema("f(Tensor a, bool b, int n) -> Tensor")
    right = "Tensor f(const Tensor& a_arg, bool b,\n         int64_t /*n*/) {"
    assert in_definition(right, name) == schema
    assert in_definition(wrong, name) != schema
