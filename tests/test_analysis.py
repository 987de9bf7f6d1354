"""Pictures that are pictures, and the numbers behind them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from fastchar import CharLM, Seq2Seq, Vocabulary
from fastchar.analysis.attention import Look, plot_attention
from fastchar.analysis.curve import plot_curve
from fastchar.analysis.embedding import (
    _apart,
    embeddings,
    nearest,
    plot_embedding,
    project,
    seen_symbols,
)
from fastchar.analysis.style import label
from fastchar.training.report import looks


def _assert_picture(path: Path) -> None:
    """A PNG of some size with something on it, and no half-written file beside it."""
    pixels = matplotlib.image.imread(path)
    assert min(pixels.shape[:2]) > 150
    assert np.ptp(pixels[..., :3]) > 0.5
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nearest_by_cosine() -> None:
    """By angle, whatever the length, and never itself."""
    weight = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, 2.0], [-1.0, 0.1]])
    index, cosine = nearest(weight, 2)
    assert index.tolist() == [[1, 2], [0, 2], [1, 3], [2, 1]]
    assert cosine[0, 0] == pytest.approx(10 / 101**0.5)
    assert nearest(weight, 99)[0].shape == (4, 3)


def test_project_keeps_what_two_dimensions_hold() -> None:
    """Directions that lie in a plane: all of the variance, and all distances."""
    angles = torch.linspace(0, 5, 9)
    plane = torch.linalg.qr(torch.randn(7, 2))[0]  # orthonormal columns
    directions = torch.stack([angles.cos(), angles.sin()], dim=1) @ plane.t()
    places, share = project(3 * directions)
    assert share == pytest.approx(1, abs=1e-5)
    assert torch.allclose(
        torch.cdist(places, places), torch.cdist(directions, directions), atol=1e-5
    )


def test_labels_do_not_cover_each_other() -> None:
    """Symbols in one place come apart, those far away stay."""
    places = np.array([[0.0, 0.0], [0.0, 0.0], [0.001, 0.0], [1.0, 1.0], [0.0, 1.0]])
    spots = _apart(places)
    gaps = np.linalg.norm(spots[:, None] - spots[None], axis=2) + np.eye(5)
    assert gaps.min() > 0.035
    assert np.array_equal(spots[3:], places[3:])


@pytest.mark.parametrize("mode", ["chars", "bytes"])
def test_embedding_map(tmp_path: Path, mode: str) -> None:
    """Of every kind of symbol, with what no font has, and of both models."""
    texts = ["naïve $x$ 中文 \u0301 🎉\n\t", "AH0 NG"]
    vocabulary = Vocabulary.build(texts, mode=mode)  # type: ignore[arg-type]
    target = Vocabulary.build(texts, mode="separated")
    model = Seq2Seq(vocabulary, target, embedding_dim=5, hidden_size=6)
    maps = embeddings(model)
    assert list(maps) == ["source", "target"]
    assert maps["source"][1].shape == (len(vocabulary), 5)
    assert len(seen_symbols(vocabulary)) == len({s for t in texts for s in vocabulary.split(t)})
    plot_embedding(maps, tmp_path / "both.png")
    _assert_picture(tmp_path / "both.png")
    plot_embedding(embeddings(CharLM(vocabulary, hidden_size=6)), tmp_path / "both.png")
    _assert_picture(tmp_path / "both.png")


def test_labels_can_be_seen() -> None:
    """Blanks, controls, marks and what the font lacks get a name."""
    assert [label(s) for s in ("a", "ŋ", "AH", " ", "\n", "\u0301", "$", "<0xE9>")] == [
        *("a", "ŋ", "AH", "␣", "000A", "◌\u0301", r"\$", "<0xE9>")
    ]
    assert label("\U0001f389\u4e2d") == "1F389 4E2D"


def test_attention_map(tmp_path: Path) -> None:
    """Of a model's own attention, for one word and for seven."""
    source = Vocabulary.build(["abcdefghijklmnop"])
    target = Vocabulary.build(["A B C"], mode="separated")
    model = Seq2Seq(source, target, embedding_dim=4, hidden_size=5).eval()
    words = ["abc", "abcdefghi", "bcdefghij", "p", "cdefghi", "ghijklmno", "abcdef", "bad"]
    found = looks(model, words, count=7)
    assert len({look.title for look in found}) == 7
    for look in found:
        assert look.weights.shape == (len(look.written), len(look.read))
        assert look.weights.sum(1) == pytest.approx(np.ones(len(look.written)), abs=1e-5)
    plot_attention([look for look in found if len(look.written) < 30] or found[:1], tmp_path / "a")
    _assert_picture(tmp_path / "a")
    plot_attention([Look("one", ["a"], ["A"], torch.ones(1, 1))], tmp_path / "a")
    _assert_picture(tmp_path / "a")


@pytest.mark.parametrize("epochs", [1, 30])
@pytest.mark.parametrize("metrics", [("dev_wer", "dev_per"), ("dev_bits",)])
def test_curve(tmp_path: Path, metrics: tuple[str, ...], epochs: int) -> None:
    """Of either model, from the first epoch on."""
    names = ("train_loss", "dev_loss", *metrics)
    rows = [{"epoch": n, **dict.fromkeys(names, 1 / n)} for n in range(1, epochs + 1)]
    plot_curve(rows, tmp_path / "curve.png")
    _assert_picture(tmp_path / "curve.png")
