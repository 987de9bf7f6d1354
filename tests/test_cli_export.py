"""`fastchar export`: what onnxruntime makes of the graphs is what the model says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import ok, refused, run
from test_examples import load

from fastchar import CharLM, Seq2Seq, Vocabulary
from fastchar.export import write
from fastchar.export.check import DifferenceError, _difference
from fastchar.training.folder import load_model

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CHARS = Vocabulary.build(["abcdefgé"], normalize="NFC", lowercase=True)
PHONES = Vocabulary.build(["A B CH D"], mode="separated")
BYTES = Vocabulary(mode="bytes")
SIZES = {"embedding_dim": 6, "hidden_size": 10}
MODELS = {
    "general": lambda: Seq2Seq(CHARS, PHONES, **SIZES, dropout=0.1),
    "dot": lambda: Seq2Seq(PHONES, CHARS, **SIZES, attention="dot", encoder_layers=2),
    "additive": lambda: Seq2Seq(BYTES, BYTES, **SIZES, attention="additive", decoder_layers=2),
    "fed": lambda: Seq2Seq(
        CHARS, PHONES, **SIZES, input_feeding=True, encoder_layers=2, decoder_layers=2
    ),
    "lm": lambda: CharLM(CHARS, **SIZES, num_layers=2, dropout=0.1),
    "tied": lambda: CharLM(CHARS, **SIZES, tie_embeddings=True),
}
# With upper case, a combining accent, unknown symbols, several separators, nothing at all.
WORDS = ["abcdefg", "", "A B  CH", "e\u0301x", "d"]


@pytest.fixture
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Seq2Seq | CharLM, Path]:
    """A model, and the folder of its graphs."""
    model = MODELS[request.param]().eval()
    model.save_pretrained(tmp_path / "model")
    shown = ok("export", tmp_path / "model", tmp_path / "onnx")
    (difference,) = re.findall(r"^largest difference.*: (\S+)$", shown, re.MULTILINE)
    assert 0 < float(difference) < 5e-6
    return model, tmp_path / "onnx"


@pytest.mark.parametrize("exported", ["general", "dot", "additive", "fed"], indirect=True)
def test_greedy_search_outside(exported: tuple[Seq2Seq, Path]) -> None:
    """examples/onnx_g2p.py predicts what the model does, each word alone and all in a batch."""
    model, folder = exported
    assert {p.name for p in folder.iterdir()} == {"encoder.onnx", "decoder.onnx", "config.json"}
    expected = [best.text for (best,) in model.predict(WORDS)]
    predict = load("onnx_g2p").predict
    assert predict(str(folder), WORDS) == expected
    assert [predict(str(folder), [word])[0] for word in WORDS] == expected


@pytest.mark.parametrize("exported", ["lm", "tied"], indirect=True)
def test_a_text_goes_on_outside(exported: tuple[CharLM, Path]) -> None:
    """A prompt of several steps, then step by step, with the likeliest symbol each time."""
    model, folder = exported
    session = onnxruntime.InferenceSession(folder / "step.onnx")
    state = np.zeros((model.config["num_layers"], 1, model.config["hidden_size"]), np.float32)
    h = c = state
    ids, text = model.vocabulary.encode("bad", bos=True), []
    for _ in range(30):
        feed = {"ids": np.array(ids)[:, None], "h": h, "c": c}
        logits, h, c = session.run(["logits", "next_h", "next_c"], feed)
        logits[-1, 0, [0, 1, 3]] = -np.inf
        ids = [int(logits[-1, 0].argmax())]
        text += ids
    assert model.vocabulary.decode(text) == model.generate("bad", length=30, top_k=1)


@pytest.mark.parametrize("exported", ["general"], indirect=True)
def test_sizes_and_names_are_in_the_graphs(exported: tuple[Seq2Seq, Path]) -> None:
    """What may be of any size is a name there; vocabularies and sizes are in config.json."""
    _, folder = exported
    for file, inputs, outputs in (
        (
            "encoder.onnx",
            {"ids": ["S", "B"], "lengths": ["B"]},
            {"keys": ["S", "B", 10], "values": ["S", "B", 10], "mask": ["B", 1, "S"]}
            | {"h": [1, "B", 10], "c": [1, "B", 10]},
        ),
        (
            "decoder.onnx",
            {"last": ["N"], "keys": ["S", "B", 10], "values": ["S", "B", 10], "mask": ["B", 1, "S"]}
            | {"h": [1, "N", 10], "c": [1, "N", 10]},
            {"log_probs": ["N", 8], "next_h": [1, "N", 10], "next_c": [1, "N", 10]},
        ),
    ):
        session = onnxruntime.InferenceSession(folder / file)
        assert {i.name: i.shape for i in session.get_inputs()} == inputs
        assert list(outputs) == [o.name for o in session.get_outputs()]
        # What the graph computes of a size, the exporter gives a name of its own.
        for o in session.get_outputs():
            named = zip(o.shape, outputs[o.name], strict=True)
            assert all(got == want or isinstance(got, str) for got, want in named)
    model = json.loads((folder.parent / "model" / "config.json").read_text("utf-8"))
    del model["weights"]
    assert json.loads((folder / "config.json").read_text("ascii")) == model


def test_example_needs_neither_torch_nor_fastchar(home: Path, tmp_path: Path) -> None:
    """Of a trained run, by the programs themselves, with nothing on standard error."""

    def program(*arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore::UserWarning:fastchar.backend", *map(str, arguments)],
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert done.stderr == ""
        return done.stdout

    folder = tmp_path / "onnx"
    program("-m", "fastchar", "export", home / "g2p", folder)
    example = Path(__file__).parents[1] / "examples" / "onnx_g2p.py"
    words = ["cat", "zebra", "internationalization"]
    code = (
        "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "assert not {'torch', 'fastchar', 'onnx'} & set(sys.modules)"
    )
    shown = program("-c", code, example, folder, *words)
    expected = [best.text for (best,) in load_model(home / "g2p").predict(words)]
    assert shown.splitlines() == [f"{w}\t{t}" for w, t in zip(words, expected, strict=True)]


def test_what_counts_as_the_same() -> None:
    """Rounding does; another digit, another shape and what is no number do not."""
    expected = np.array([[1.0, 20.0]], np.float32)
    assert 0 < _difference("x", expected, expected * np.float32(1 + 1e-6)) < 1e-4
    for got in (expected * np.float32(1.001), expected[0], expected * np.float32("nan")):
        with pytest.raises(DifferenceError, match=r"^x: expected "):
            _difference("x", expected, got)


def test_a_graph_that_is_not_the_model_is_not_kept(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of one line, and nothing on the disk."""

    def changed(model: Seq2Seq, folder: Path) -> list[str]:
        names = written(model, folder)
        with torch.no_grad():
            model.decoder.attention.query.weight[0] += 0.1
        return names

    written = write.write
    monkeypatch.setattr(write, "write", changed)
    result = run("export", home / "g2p", tmp_path / "onnx")
    assert result.exit_code == 1
    assert re.fullmatch(
        r"fastchar: onnxruntime does not compute what the model does: log_probs at 7 steps and "
        r"batch 4: expected the model's within \S+, got \S+\n",
        result.stderr,
    )
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_and_what_a_killed_run_left(home: Path, tmp_path: Path) -> None:
    """The first is used, the second replaced."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / ".onnx.partial").mkdir()
    (tmp_path / ".onnx.partial" / "encoder.onnx").touch()
    ok("export", home / "lm", tmp_path / "onnx")
    assert {p.name for p in tmp_path.rglob("*")} == {"onnx", "step.onnx", "config.json"}


def test_without_its_packages(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter's is needed; without onnxruntime nothing is compared, and that is said."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("export", home / "lm", tmp_path / "onnx")
    assert result.exit_code == 0
    assert result.stderr == (
        "fastchar: not compared with the model, for want of onnxruntime: "
        "pip install 'fastchar[export]'\n"
    )
    assert (tmp_path / "onnx" / "step.onnx").is_file()
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert refused("export", home / "lm", tmp_path / "more") == (
        "fastchar: export: expected the package onnx, got none: pip install 'fastchar[export]'"
    )
    assert not (tmp_path / "more").exists()
