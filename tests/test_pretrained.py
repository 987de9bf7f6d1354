"""A saved model comes back as it was, or says clearly why it cannot; a save never half happens."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from fastchar.models import CharLM, Seq2Seq, load, pretrained
from fastchar.text import Vocabulary
from fastchar.training.folder import load_model

SOURCE = Vocabulary.build(["aé😀"], normalize="NFC")
TARGET = Vocabulary.build(["AH B"], mode="separated")


def seq2seq(seed: int = 0, **options) -> Seq2Seq:
    torch.manual_seed(seed)
    return Seq2Seq(SOURCE, TARGET, **{"embedding_dim": 4, "hidden_size": 4, **options})


def char_lm(seed: int = 0, **options) -> CharLM:
    torch.manual_seed(seed)
    return CharLM(SOURCE, **{"embedding_dim": 4, "hidden_size": 6, **options})


MODELS = {
    "seq2seq": lambda: seq2seq(encoder_layers=2, attention="additive", label_smoothing=0.1),
    "input-feeding": lambda: seq2seq(input_feeding=True, decoder_layers=2, dropout=0.1),
    "char_lm": lambda: char_lm(num_layers=2, dropout=0.2),
    "tied": lambda: char_lm(tie_embeddings=True),
    "bytes": lambda: CharLM(Vocabulary(mode="bytes"), embedding_dim=2, hidden_size=2),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_round_trip(make, tmp_path: Path) -> None:
    """Config, vocabularies and every bit of every parameter come back, ready to predict."""
    model = make()
    model.save_pretrained(tmp_path / "deep" / "model")
    for copy in (
        load(tmp_path / "deep" / "model"),
        type(model).from_pretrained(tmp_path / "deep/model"),
    ):
        assert type(copy) is type(model)
        assert copy.config == model.config
        for name in model.vocabulary_names:
            assert getattr(copy, name) == getattr(model, name)
        assert not copy.training
        expected, got = model.state_dict(), copy.state_dict()
        assert list(got) == list(expected)
        assert all(torch.equal(got[k], expected[k]) for k in expected)
        assert all(p.requires_grad for p in copy.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["input-feeding", "tied"])
def test_dtypes_come_back(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """A model in another precision comes back in it, no bit lost; a part of it in its own."""
    model = MODELS[name]().to(dtype)
    model.output.bias.data = model.output.bias.data.float()
    model.save_pretrained(tmp_path)
    copy = load(tmp_path)
    expected, got = model.state_dict(), copy.state_dict()
    assert all(got[k].dtype is expected[k].dtype for k in expected)
    assert all(torch.equal(got[k], expected[k]) for k in expected)
    assert load_model(tmp_path).output.weight.dtype is torch.float32  # for the command line


def test_predictions_come_back(tmp_path: Path) -> None:
    """A loaded model says exactly what the saved one said."""
    model, lm = seq2seq(), char_lm(tie_embeddings=True)
    model.save_pretrained(tmp_path / "s")
    lm.save_pretrained(tmp_path / "l")
    before, after = model.predict(["aé"], beam=3), load(tmp_path / "s").predict(["aé"], beam=3)
    assert before[0][0].log_prob == after[0][0].log_prob
    assert lm.generate(seed=1) == load(tmp_path / "l").generate(seed=1)


def test_any_symbols_and_weights_come_back(tmp_path: Path) -> None:
    """A lone surrogate, which UTF-8 has no place for, and a weight that lies transposed."""
    model = CharLM(Vocabulary("a\ud800"), embedding_dim=4, hidden_size=6)
    model.output.weight.data = model.output.weight.data.t().contiguous().t()
    model.save_pretrained(tmp_path)
    copy = load(tmp_path)
    assert copy.vocabulary == model.vocabulary
    assert torch.equal(copy.output.weight, model.output.weight)


def test_config_is_readable(tmp_path: Path) -> None:
    """config.json shows symbols as they are, and which version wrote it."""
    seq2seq().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text("utf-8")
    assert "😀" in text
    config = json.loads(text)
    assert config["format"] == 1
    assert config["model"] == "seq2seq"
    assert (tmp_path / config["weights"]).is_file()


def test_a_model_is_replaced(tmp_path: Path) -> None:
    """Saving again replaces the model, leaves nothing of the old one and other files alone."""
    (tmp_path / "notes.txt").write_text("mine")
    seq2seq(0).save_pretrained(tmp_path)
    char_lm(1).save_pretrained(tmp_path)
    assert isinstance(load(tmp_path), CharLM)
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"
    char_lm(1).save_pretrained(tmp_path)  # the same again
    assert len(list(tmp_path.iterdir())) == 3


def test_weights_of_others_stay(tmp_path: Path) -> None:
    """A save deletes what an earlier save wrote, and no weights that are called much the same."""
    names = ("model-00001-of-00002.safetensors", "model-best.safetensors")
    for name in names:
        (tmp_path / name).write_text("mine")
    seq2seq(0).save_pretrained(tmp_path)
    seq2seq(1).save_pretrained(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert all((tmp_path / name).read_text() == "mine" for name in names)


@pytest.mark.parametrize("stop_at", [0, 1])
def test_an_interrupted_save_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Stopped before the weights or before the config, the folder still holds the old model."""
    old = seq2seq(0)
    old.save_pretrained(tmp_path)
    calls, rename = iter(range(9)), Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        seq2seq(1).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert torch.equal(load(tmp_path).output.weight, old.output.weight)
    assert not list(tmp_path.glob(".*"))
    seq2seq(2).save_pretrained(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_missing_files(tmp_path: Path) -> None:
    """A missing folder, config or weights file is named; of a run's folder, where its model is."""
    with pytest.raises(FileNotFoundError, match="expected a saved model, got no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"expected a saved model, got no config\.json"):
        load(tmp_path)
    run = tmp_path / "run"
    seq2seq().save_pretrained(run / "model")
    with pytest.raises(FileNotFoundError, match=re.escape(f"; {run / 'model'} has one")):
        load(run)
    seq2seq().save_pretrained(tmp_path)
    next(tmp_path.glob("model-*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"expected the weights that config\.json names"):
        load(tmp_path)


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_mismatched_files(tmp_path: Path) -> None:
    """Another model, another format, other sizes, damage: each is told apart."""
    seq2seq().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected model 'char_lm', got 'seq2seq'"):
        CharLM.from_pretrained(tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())
    edit(tmp_path, format=99, fastchar="9.0")
    with pytest.raises(ValueError, match=r"expected format 1, got 99, written by fastchar 9\.0"):
        load(tmp_path)
    edit(tmp_path, **{**good, "config": {**good["config"], "hidden_size": 5}})
    with pytest.raises(ValueError, match=r"query\.bias: expected \(5,\), got \(4,\)"):
        load(tmp_path)
    edit(tmp_path, **{**good, "config": {**good["config"], "attention": "additive"}})
    with pytest.raises(ValueError, match=r"energy\.weight: expected \(1, 4\), got none"):
        load(tmp_path)
    edit(tmp_path, **{**good, "model": "transformer"})
    with pytest.raises(ValueError, match="got 'transformer'"):
        load(tmp_path)
    edit(tmp_path, **{**good, "config": {**good["config"], "layer_norm": True}})
    with pytest.raises(ValueError, match=r"config\.json: expected what a seq2seq .*'layer_norm'"):
        load(tmp_path)  # of a newer version
    edit(tmp_path, **{**good, "vocabularies": {}})
    with pytest.raises(ValueError, match=r"config\.json: expected what a seq2seq .*'source'"):
        load(tmp_path)
    for size in (-1, 2**28):
        edit(tmp_path, **{**good, "config": {**good["config"], "decoder_layers": size}})
        with pytest.raises(ValueError, match=r"config\.json: expected what a seq2seq "):
            load(tmp_path)
    for name in ("model", "weights", "config", "vocabularies"):
        edit(tmp_path, **{**good, name: 5})
        with pytest.raises(ValueError, match=rf"{name}: expected a (str|dict), got a int"):
            load(tmp_path)
    edit(tmp_path, **good)
    weights = tmp_path / good["weights"]
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="expected JSON"):
            load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="expected the entries"):
        load(tmp_path)


def test_folder_can_move(tmp_path: Path) -> None:
    """One folder holds everything: it can be copied anywhere."""
    model = char_lm()
    model.save_pretrained(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert torch.equal(load(tmp_path / "b").output.weight, model.output.weight)


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without safetensors, saving says how to get it, and writes nothing."""
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install 'fastchar\[train\]'"):
        seq2seq().save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert pretrained.FORMAT == 1
