"""The recipes in examples/ run as they stand, and learn."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from fastchar import Seq2Seq
from fastchar.files import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drop_in(capsys: pytest.CaptureFixture[str]) -> None:
    """A classifier of one's own learns more than chance within a few steps."""
    assert load("drop_in").main(steps=60) > 0.6
    assert "right on" in capsys.readouterr().out


def test_g2p(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs in a file become a saved model that spells letters out."""
    words = [a + b + c for a in "abcdef" for b in "abcdef" for c in "abcdef"]
    lines = "".join(f"{w}\t{' '.join(w.upper())}\n" for w in words)
    (tmp_path / "pairs.tsv").write_text(lines)
    error = load("g2p").main(
        str(tmp_path / "pairs.tsv"), 12, 16, str(tmp_path / "m"), embedding_dim=16, hidden_size=32
    )
    assert error < 0.5
    assert Seq2Seq.from_pretrained(tmp_path / "m").predict(["ab"])[0][0].text
    assert "log-probability" in capsys.readouterr().out


def test_char_lm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text becomes a model that is less surprised by it than a uniform one, and a sample."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 400)
    bits = load("char_lm").main(
        str(tmp_path / "text.txt"), steps=60, embedding_dim=16, hidden_size=64
    )
    assert bits < 2.5
    assert len(capsys.readouterr().out) > 20


def test_embedding_size(tmp_path: Path) -> None:
    """The page of embeddings gets a line for each size and each letter asked for, and pictures."""
    words = [a + b + c for a in "abcdef" for b in "abcdef" for c in "abcdef"]
    (tmp_path / "img").mkdir()
    page = tmp_path / "embeddings.md"
    page.write_text((EXAMPLES.parent / "docs" / "embeddings.md").read_text("utf-8"), "utf-8")
    swept = load("embedding_size").main(
        [(w, " ".join(w.upper())) for w in words], page, tmp_path / "run", "ad", (2, 4), 2,
        hidden_size=16, batch_size=32, epochs=2, target_mode="separated",
    )  # fmt: skip
    lines = page.read_text("utf-8").splitlines()
    for size in (2, 4):
        (line,) = (line for line in lines if line.startswith(f"| {size} |"))
        assert ("chosen" in line) == (size == swept.choice.size)
    assert [line[2] for line in lines if line.count("|") == 3 and "0." in line] == ["a", "d"]
    for picture in ("embedding-size.png", "embedding-map.png"):
        assert (tmp_path / "img" / picture).stat().st_size > 1000


def test_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_runs: None) -> None:
    """A recipe's figures take the place of its older ones, in a table of each data set; the page
    has what the results say."""
    published = load("published")
    if published.RESULTS.exists():
        entries = json.loads(published.RESULTS.read_text())
        (tmp_path / "same.md").write_text(published.PAGE.read_text("utf-8"), "utf-8")
        published.write_page(entries, tmp_path / "same.md")
        assert (tmp_path / "same.md").read_text("utf-8") == published.PAGE.read_text("utf-8")

    words = [a + b + c for a in "abcdef" for b in "abcdef" for c in "abcdef"]
    for name, own in (("train", words[20:]), ("dev", words[:20])):
        lines = "".join(f"{w}\t{' '.join(w.upper())}\n" for w in own)
        (tmp_path / f"{name}.tsv").write_text(lines)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 400)
    small = {"embedding_dim": 8, "hidden_size": 16, "epochs": 1}
    recipes = {"default": small, "other": {**small, "seed": 2}}
    monkeypatch.setitem(published.RECIPES, "cmudict", recipes)
    monkeypatch.setitem(published.ENSEMBLES, "cmudict", {"both": ["default", "other"]})
    monkeypatch.setitem(published.RECIPES, "text", {"default": {**small, "model": "char_lm"}})
    page, results = tmp_path / "results.md", tmp_path / "published.json"
    page.write_text(published.PAGE.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(published, "PAGE", page)
    monkeypatch.setattr(published, "RESULTS", results)
    monkeypatch.chdir(tmp_path)
    published.main("cmudict", tmp_path, ["both", "default"])
    published.main("text", tmp_path / "text.txt", ["default"])
    entries = json.loads(results.read_text())
    assert [(entry["data"], entry["recipe"]) for entry in entries] == [
        ("cmudict", "default"), ("cmudict", "both"), ("text", "default")
    ]  # fmt: skip
    alone, both, text = entries
    assert alone["rates"]["5"]["words"] == both["rates"]["5"]["words"] == 20
    assert both["parameters"] == 2 * alone["parameters"]
    shown = page.read_text("utf-8")
    assert f"{text['nats']:.3f} | {text['bits']:.3f} |" in shown
    assert "20 held-out words" in shown
    assert "| default, other together |" in shown
    assert shown.count("hidden_size 16") == 2

    # Nobody's figures stand under another recipe's name.
    monkeypatch.setitem(recipes, "default", {**small, "hidden_size": 8})
    with pytest.raises(InputError, match="cmudict-default: expected a run by this recipe"):
        published.main("cmudict", tmp_path, ["default"])
    assert json.loads(results.read_text()) == entries
