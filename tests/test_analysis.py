"""Pictures that are pictures, and the numbers behind them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import matplotlib.image
import matplotlib.style
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from fastchar import CharLM, Seq2Seq, Vocabulary
from fastchar.analysis.attention import Look, plot_attention
from fastchar.analysis.choice import choose
from fastchar.analysis.curve import plot_curve
from fastchar.analysis.embedding import (
    _apart,
    embeddings,
    nearest,
    plot_embedding,
    project,
    seen_symbols,
)
from fastchar.analysis.sizes import plot_sizes
from fastchar.analysis.style import label
from fastchar.analysis.symbols import flush_left, flush_right, visible
from fastchar.files import InputError
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


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 4), (5, 1)])
def test_embeddings_of_a_row_or_a_column(shape: tuple[int, int], tmp_path: Path) -> None:
    """Have neighbours, if there are others, and a place on the map, in two dimensions."""
    weight = torch.randn(shape)
    index, cosine = nearest(weight, 3)
    assert index.shape == cosine.shape == (shape[0], max(min(shape[0] - 1, 3), 0))
    places, _ = project(weight)
    assert places.shape == (shape[0], 2)
    if shape[1] == 1:
        assert not places[:, 1].any()
    if shape[0]:
        vocabulary = Vocabulary("abcde"[: shape[0]])
        rows = torch.cat([torch.zeros(4, shape[1]), weight])
        plot_embedding({"text": (vocabulary, rows)}, tmp_path / "map.png")
        _assert_picture(tmp_path / "map.png")


def test_embeddings_that_no_map_shows(tmp_path: Path) -> None:
    """Numbers that are none, and no symbols at all: refused by name, not by a traceback."""
    for vocabulary, weight in (
        (Vocabulary("ab"), torch.full((6, 3), torch.nan)),
        (Vocabulary.build([], mode="bytes"), torch.randn(260, 3)),
    ):
        with pytest.raises(InputError, match="text embedding: expected"):
            plot_embedding({"text": (vocabulary, weight)}, tmp_path / "map.png")
    assert not list(tmp_path.iterdir())


def test_a_map_of_thousands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Chinese, say: those seen most often, not a picture of minutes and gigabytes."""
    monkeypatch.setattr("fastchar.analysis.embedding.MOST", 50)
    symbols = [chr(0x4E00 + i) for i in range(300)]
    counts = [0, 0, 0, 0, *(1 + i % 6 for i in range(300))]
    maps = {"text": (Vocabulary(symbols, counts=counts), torch.randn(304, 8))}
    figure = _drawn(monkeypatch, lambda: plot_embedding(maps, tmp_path / "map.png"))
    (axis,) = figure.axes
    assert axis._left_title.get_text() == "text symbols, 50 of 300"
    assert {text.get_text() for text in axis.texts} == {label(s) for s in symbols[5::6]}


def test_labels_do_not_cover_each_other() -> None:
    """Symbols in one place come apart, far ones stay, and none hangs over the edge."""
    places = np.array([[0, 0], [0, 0], [0.01, 0], [2.5, 2.5], [5, 5], [2.6, 2.5]], dtype=float)
    boxes = np.array([[0.6, 0.2], [0.2, 0.2], [0.1, 0.2], [0.4, 0.2], [1, 0.2], [0.2, 0.3]])
    spots = _apart(places, boxes, 5.0)
    assert np.array_equal(spots[4], [4.5, 4.9])
    assert (spots >= boxes / 2).all()
    assert (spots <= 5.0 - boxes / 2).all()
    for a, b in itertools.combinations(range(len(spots)), 2):
        gap = np.abs(spots[a] - spots[b])
        assert (gap >= (boxes[a] + boxes[b]) / 2 - 1e-5).any(), (a, b)


def _drawn(monkeypatch: pytest.MonkeyPatch, plot: Callable[[], None]) -> Figure:
    """The figure that `plot` saves, laid out."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    plot()
    (figure,) = figures
    FigureCanvasAgg(figure).draw()
    return figure


def _assert_apart(texts: Sequence[Text]) -> None:
    boxes = [t.get_window_extent() for t in texts if t.get_text()]
    for a, b in itertools.combinations(boxes, 2):
        overlap = Bbox.intersection(a, b)
        assert overlap is None or min(overlap.width, overlap.height) < 1, (a, b)


def _assert_inside(figure: Figure, texts: Sequence[Text]) -> None:
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text


def test_map_of_any_script_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code points and byte numbers, which are wide, cover nothing and stay in their own map."""
    texts = ["한국어日本語हिन्दीไทยעבריתالعربية abc.,;:!?0123456789ABCDEFGHIJ"]
    model = Seq2Seq(Vocabulary.build(texts), Vocabulary.build(texts, mode="bytes"), hidden_size=4)
    figure = _drawn(monkeypatch, lambda: plot_embedding(embeddings(model), tmp_path / "map.png"))
    for axis in figure.axes:
        _assert_apart(axis.texts)
        _assert_inside(figure, axis.texts)


def test_attention_labels_are_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long symbols and titles run into nothing, formulas are none, rows begin at one height."""
    looks = [
        Look(
            "$a$日本語 " * 5, ["<0xC3>", "<0xA9>", "日", "a"], ["a", "phone", "b"], torch.ones(3, 4)
        ),
        Look("b", list("abcdefgh"), list("ab"), torch.ones(2, 8)),
        Look("c", ["c"], ["t͡ʃ"] * 9, torch.ones(9, 1)),
        Look("d", ["d"], ["d"], torch.ones(1, 1)),
    ]
    figure = _drawn(monkeypatch, lambda: plot_attention(looks, tmp_path / "attention.png"))
    *maps, bar = figure.axes
    texts = [text for axis in maps for text in (axis.get_xticklabels() + axis.get_yticklabels())]
    # Titles at the left have no public name.
    texts += [axis._left_title for axis in maps] + bar.get_yticklabels() + [bar.yaxis.label]
    _assert_apart(texts)
    _assert_inside(figure, texts)
    tops = [axis.get_position().y1 for axis in maps[:3]]
    cells = [axis.bbox.width / len(axis.get_xticks()) for axis in maps]
    assert tops == pytest.approx([tops[0]] * 3)
    assert cells == pytest.approx([cells[0]] * 4)


def test_a_huge_attention_map_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sentences, not a picture of ten thousand pixels a side."""
    look = Look("a", ["a"] * 300, ["b"] * 400, torch.ones(400, 300))
    figure = _drawn(monkeypatch, lambda: plot_attention([look] * 3, tmp_path / "attention.png"))
    assert max(figure.get_size_inches()) < 40


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
    unknown = "\U000f0000"  # of no font
    assert label(unknown) == "F0000"


def test_a_long_symbol_is_shortened() -> None:
    """One web address among the phones is no reason for a map of 100 metres."""
    assert label("AH0") == "AH0"
    assert label("https://example.org/" * 150) == "https://example…"
    assert label("$" * 30) == r"\$" * 15 + "…"
    assert label("\U0010fffd" * 30) == "10FFFD 10FFFD 1…"


def test_symbols_in_a_terminal() -> None:
    """Which has the fonts: only what cannot be seen gets a name, and wide ones line up."""
    assert [visible(s) for s in ("a", "語", "🎉", "$", " ", "\n", "\u00a0", "\u0301", "ि")] == [
        *("a", "語", "🎉", "$", "␣", "000A", "00A0", "◌\u0301", "◌ि")
    ]
    assert [flush_right(s, 4) for s in ("a", "語", "abcde")] == ["   a", "  語", "abcde"]
    assert flush_left("語", 4) == "語  "


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


def test_curve_of_a_good_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates near each other are not written on top of each other; epochs are whole numbers."""
    names = ("train_loss", "dev_loss", "dev_wer", "dev_per")
    for rows in (
        [{"epoch": n, **dict.fromkeys(names, 1 / n), "dev_per": 0.3 / n} for n in range(1, 61)],
        [{"epoch": 1, **dict.fromkeys(names, 0.5)}],
        [{"epoch": n, **dict.fromkeys(names, 0.0)} for n in range(1, 4)],
        [{"epoch": n, **dict.fromkeys(names, 0.004 / n)} for n in range(1, 4)],
    ):
        with monkeypatch.context() as patch:
            figure = _drawn(patch, lambda rows=rows: plot_curve(rows, tmp_path / "curve.png"))
        for axis in figure.axes:
            _assert_apart(axis.texts)
            assert all(float(tick).is_integer() for tick in axis.get_xticks())
            assert axis.get_ylim()[1] > axis.dataLim.y1
            ticks = [tick.get_text() for tick in axis.get_yticklabels()]
            assert len(set(ticks)) == len(ticks)


@pytest.mark.parametrize("sizes", [(16, 32, 64, 128, 256), range(100, 125), range(1, 65), (8,)])
def test_sizes_are_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int]
) -> None:
    """Numbers run into none beside them; the chosen one has its own and, with room, all have."""
    errors = {size: [0.1 + abs(size - 57) / 100] * 2 for size in sizes}
    choice = choose(errors)
    figure = _drawn(
        monkeypatch, lambda: plot_sizes(errors, choice, "WER", tmp_path / "s.png", percent=True)
    )
    (axis,) = figure.axes
    _assert_apart(axis.get_xticklabels())
    shown = {text.get_text() for text in axis.get_xticklabels()}
    assert str(choice.size) in shown
    assert len(sizes) > 5 or shown == {str(size) for size in sizes}


def test_the_callers_matplotlib_stays_as_it_is(tmp_path: Path) -> None:
    """A notebook's dark background, grid and TeX have no part in the pictures, which have one look;
    its backend, by which it shows its own, is still there after the import."""
    rows = [{"epoch": n, "train_loss": 1, "dev_loss": 1, "dev_bits": 1} for n in (1, 2)]
    look = Look("abc", list("abc"), list("ab"), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))

    def draw() -> list[np.ndarray]:
        plot_curve(rows, tmp_path / "curve.png")
        plot_attention([look], tmp_path / "attention.png")
        return [matplotlib.image.imread(path) for path in sorted(tmp_path.iterdir())]

    own = {"axes.grid": True, "image.origin": "lower", "text.usetex": True}
    plain = draw()
    with matplotlib.style.context(["dark_background", own]):
        before = dict(matplotlib.rcParams)
        drawn = draw()
        assert dict(matplotlib.rcParams) == before
    assert all(np.array_equal(a, b) for a, b in zip(plain, drawn, strict=True))
    code = (
        "import matplotlib\nmatplotlib.use('svg')\nimport fastchar.training.report\n"
        "assert matplotlib.get_backend() == 'svg'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
