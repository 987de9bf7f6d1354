"""What the pictures say is what the numbers are: places, colours, sizes, curves, marks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fastchar import Vocabulary
from fastchar.analysis.attention import Look, plot_attention
from fastchar.analysis.choice import choose, standard_error
from fastchar.analysis.curve import plot_curve
from fastchar.analysis.embedding import plot_embedding, project
from fastchar.analysis.sizes import plot_sizes
from fastchar.analysis.style import BLUE, GREY, RED


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """A function that calls another with a path, and gives the figure that it would save there."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    def draw(plot: Callable[[Path], None]) -> Figure:
        plot(tmp_path / "picture.png")
        return figures.pop()

    return draw


def test_share_of_the_variance() -> None:
    """Of the directions around their mean, and by the two largest of its parts."""
    weight = torch.randn(40, 6) + 3
    directions = weight / weight.norm(dim=1, keepdim=True)
    variances = torch.linalg.eigvalsh(torch.cov(directions.t()))
    places, share = project(weight)
    assert share == pytest.approx(float(variances[-2:].sum() / variances.sum()), rel=1e-4)
    assert torch.cov(places.t()).diag().tolist() == pytest.approx(
        variances[-2:].flip(0).tolist(), rel=1e-4
    )


def test_colours_and_sizes_of_a_map(drawn: Callable[..., Figure]) -> None:
    """As the map's own words have it: vowels red, other letters blue; larger: seen more often."""
    symbols = ["AE1", "b", "ü", "ˈi", "Y", "7", "Й"]
    vocabulary = Vocabulary(symbols, mode="separated", counts=[0] * 4 + [1, 2, 40, 800, 9, 5, 6])
    maps = {"text": (vocabulary, torch.randn(11, 4))}
    (axis,) = drawn(lambda path: plot_embedding(maps, path)).axes
    texts = {text.get_text(): text for text in axis.texts}
    colours = {s: to_hex(texts[s].get_color()) for s in symbols}
    vowels, others = ("AE1", "ü", "ˈi"), ("b", "Y", "Й")
    assert colours == {**dict.fromkeys(vowels, RED), **dict.fromkeys(others, BLUE), "7": GREY}
    sizes = [texts[s].get_fontsize() for s in ("AE1", "b", "Й", "ü", "ˈi")]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1.5 * sizes[0]


def test_attention_reads_to_the_right(drawn: Callable[..., Figure]) -> None:
    """What was written stands down the side, with its row of weights beside it."""
    weights = torch.tensor([[1.0, 0, 0], [0, 0.2, 0.8]])
    look = Look("abc", list("abc"), list("XY"), weights)
    axis = drawn(lambda path: plot_attention([look], path)).axes[0]
    assert np.array_equal(axis.images[0].get_array(), weights.numpy())
    assert [text.get_text() for text in axis.get_xticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["X", "Y"]


def test_curves_have_their_names(drawn: Callable[..., Figure]) -> None:
    """Each is the column that it is called by, and the number over it is its lowest."""
    columns = {"train_loss": [3.0, 2.0, 1.0], "dev_loss": [3.5, 2.5, 2.75]}
    columns |= {"dev_wer": [0.9, 0.6, 0.7], "dev_per": [0.3, 0.2, 0.1]}
    rows = [{"epoch": n + 1, **{k: v[n] for k, v in columns.items()}} for n in range(3)]
    left, right = drawn(lambda path: plot_curve(rows, path)).axes
    curves = [
        {line.get_label(): list(line.get_ydata()) for line in axis.lines} for axis in (left, right)
    ]
    assert curves == [
        {"training": columns["train_loss"], "held out": columns["dev_loss"]},
        {"WER": columns["dev_wer"], "PER": columns["dev_per"]},
    ]
    assert [(text.get_text(), text.xy) for text in right.texts] == [
        ("60.0%", (2, 0.6)),
        ("10.0%", (3, 0.1)),
    ]


def test_sizes_show_the_choice(drawn: Callable[..., Figure]) -> None:
    """Means with their standard errors, the line that decided, a ring around what was chosen."""
    errors = {4: [0.5, 0.52], 8: [0.3, 0.32], 16: [0.26, 0.34]}
    choice = choose(errors)
    assert (choice.size, choice.best) == (8, 16)
    (axis,) = drawn(lambda path: plot_sizes(errors, choice, "WER", path, percent=True)).axes
    named = {line.get_label(): line for line in axis.lines}
    assert named["best + 1 standard error"].get_ydata()[0] == choice.limit
    assert named["chosen"].get_xydata().tolist() == [[8, pytest.approx(0.31)]]
    (bars,) = axis.containers
    spans = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
    for size, (low, high) in zip(errors, spans, strict=True):
        assert (low + high) / 2 == pytest.approx(sum(errors[size]) / 2)
        assert (high - low) / 2 == pytest.approx(standard_error(errors[size]))
