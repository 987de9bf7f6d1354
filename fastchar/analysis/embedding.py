"""What an embedding holds: who is near whom, and a map of it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastchar.analysis.style import BLUE, GREY, RED, label, new_figure, save, styled, text_width
from fastchar.files import InputError
from fastchar.models import CharLM, Seq2Seq
from fastchar.text import Vocabulary
from fastchar.text.vocabulary import BYTE_SYMBOLS

VOWELS = set("aeiouyæøœəɐɑɒɔɘɚɛɜɝɞɤɪɨɯɵɶʉʊʌʏıаеёиоуыэюяієαεηιουω")

BYTES = {symbol for symbol in BYTE_SYMBOLS if len(symbol) > 1}  # those without a letter

MOST = 500  # symbols of a map: thousands could not be told apart, and take minutes and gigabytes


def embeddings(model: Seq2Seq | CharLM) -> dict[str, tuple[Vocabulary, Tensor]]:
    """The vocabularies of a model by name, each with its embedding [V, E]."""
    if isinstance(model, CharLM):
        return {"text": (model.vocabulary, _weight(model))}
    return {
        "source": (model.source, _weight(model.encoder)),
        "target": (model.target, _weight(model.decoder)),
    }


def _weight(module: nn.Module) -> Tensor:
    """The weight of the one embedding in ``module``, wherever it is kept."""
    (found,) = (m for m in module.modules() if isinstance(m, nn.Embedding))
    return found.weight.detach().cpu().float()


def nearest(weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each row's ``k`` nearest other rows by cosine, nearest first: indices and cosines [V, k], of
    all V - 1 other rows if these are fewer."""
    directions = F.normalize(weight, dim=1)
    cosines = (directions @ directions.t()).fill_diagonal_(-2.0)
    values, index = cosines.topk(max(min(k, weight.shape[0] - 1), 0))
    return index, values


def project(weight: Tensor) -> tuple[Tensor, float]:
    """The first two principal components of the rows' directions: [V, 2], and the share of the
    variance that they have."""
    directions = F.normalize(weight, dim=1)
    centred = directions - directions.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    share = float(s[:2].square().sum() / s.square().sum().clamp_min(1e-30))
    places = u[:, :2] * s[:2]
    return F.pad(places, (0, 2 - places.shape[1])), share  # one row or column has fewer than two


@styled
def plot_embedding(maps: dict[str, tuple[Vocabulary, Tensor]], path: str | Path) -> None:
    """A map of each embedding, of :data:`MOST` symbols at most: those seen most often. A symbol's
    size tells how often that was.

    Raises :class:`InputError` for an embedding of which there is nothing to show.
    """
    shown = {name: _most_seen(vocabulary) for name, (vocabulary, _) in maps.items()}
    for name, (_, weight) in maps.items():
        if not shown[name]:
            raise InputError(f"{name} embedding: expected symbols that were seen, got none")
        if not weight[shown[name]].isfinite().all():
            raise InputError(f"{name} embedding: expected finite numbers, got others")
    texts = {name: _texts(maps[name][0], ids) for name, ids in shown.items()}
    boxes = {name: np.array([t.box for t in texts[name]]) for name in maps}
    # As large as lets labels cover a quarter of the map.
    side = max(5.0, *(float(np.sqrt(4 * box.prod(1).sum())) for box in boxes.values()))
    figure, axes = new_figure((side + 0.4) * len(maps), side + 0.9, 1, len(maps))
    for axis, (name, (vocabulary, weight)) in zip(axes, maps.items(), strict=True):
        places, share = project(weight[shown[name]])
        spots = _apart(_scaled(places.numpy(), side), boxes[name], side)
        for text, (x, y) in zip(texts[name], spots, strict=True):
            written = axis.text(x, y, text.label, ha="center", va="center", size=text.size)
            written.set(color=text.color, weight=text.weight)
        axis.set_xlim(0, side)
        axis.set_ylim(0, side)
        axis.set_xticks([])
        axis.set_yticks([])
        seen, drawn = len(seen_symbols(vocabulary)), len(shown[name])
        of = f", {drawn:,} of {seen:,}" if drawn < seen else ""
        axis.set_title(f"{name} symbols{of}")
        axis.set_xlabel(
            f"two principal components, {share:.0%} of the variance\n"
            "vowels red, other letters blue; larger: seen more often",
            color=GREY,
        )
    save(figure, path)


@dataclass(frozen=True)
class _Text:
    """How a symbol is written on the map; ``box`` is its width and height in inches."""

    label: str
    color: str
    size: float
    weight: str
    box: tuple[float, float]


def _texts(vocabulary: Vocabulary, ids: Sequence[int]) -> list[_Text]:
    texts = []
    for i, size in zip(ids, _sizes(vocabulary, ids), strict=True):
        symbol = vocabulary.symbols[i]
        text, color, weight = label(symbol), _color(symbol), "normal"
        if color == GREY and len(symbol) == len(text) == 1:
            size, weight = 17, "bold"  # points and dashes are too slight to be small
        elif len(text) > 3:
            size = 8  # the number of a byte or of a code point
        box = (text_width(text, size) + 0.03, size / 72 + 0.03)
        texts.append(_Text(text, color, size, weight, box))
    return texts


def seen_symbols(vocabulary: Vocabulary) -> list[int]:
    """The ids worth showing: not the special ones, and if counts are known, only seen ones."""
    ids = range(len(Vocabulary.SPECIAL), len(vocabulary))
    counts = vocabulary.counts
    return [i for i in ids if counts is None or counts[i] > 0]


def _most_seen(vocabulary: Vocabulary) -> list[int]:
    """Those of :func:`seen_symbols` that a map shows, in their order."""
    ids, counts = seen_symbols(vocabulary), vocabulary.counts
    if counts is not None:
        ids.sort(key=lambda i: -counts[i])
    return sorted(ids[:MOST])


def _sizes(vocabulary: Vocabulary, shown: Sequence[int]) -> list[float]:
    """Points between 8 and 17, by the logarithm of the count."""
    if vocabulary.counts is None:
        return [12.0] * len(shown)
    logs = np.log([vocabulary.counts[i] for i in shown])
    spread = max(float(np.ptp(logs)), 1e-9)
    return [8 + 9 * float(v - logs.min()) / spread for v in logs]


def _color(symbol: str) -> str:
    """Of vowels, of other letters, and of the rest; phones go by their first letter."""
    # Marks before it, such as that of stress, say nothing.
    letters = [c for c in symbol if unicodedata.category(c) in ("Lu", "Ll", "Lo", "Lt")]
    if not letters or symbol in BYTES:
        return GREY
    base = unicodedata.normalize("NFD", letters[0])[0].lower()
    # The phone Y of English "yes" and Cyrillic short i are no vowels, the letter y and IPA's y are.
    return RED if base in VOWELS and symbol not in ("Y", "й", "Й") else BLUE


def _scaled(places: np.ndarray, side: float) -> np.ndarray:
    """``places`` [n, 2] onto a square of ``side``, each direction to its full extent."""
    low, extent = places.min(0), np.ptp(places, axis=0)
    return np.where(extent > 1e-9, (places - low) / np.maximum(extent, 1e-9), 0.5) * side


def _apart(places: np.ndarray, boxes: np.ndarray, side: float, rounds: int = 300) -> np.ndarray:
    """``places`` [n, 2], moved until no two labels of sizes ``boxes`` [n, 2] overlap, or for
    ``rounds`` rounds; none reaches beyond the square of ``side`` that it lies in."""
    spots = np.clip(places, boxes / 2, side - boxes / 2)
    need = (boxes[:, None] + boxes[None]) / 2  # [n, n, 2], between two centres
    # Symbols in the very same place go apart by their order.
    order = np.sign(np.subtract.outer(*[np.arange(len(spots))] * 2))
    for _ in range(rounds):
        gap = spots[:, None] - spots[None]
        overlap = (need - np.abs(gap)).clip(0)
        # Two labels overlap if they do in both directions; the shorter way apart is taken.
        overlap *= overlap.min(2, keepdims=True) > 1e-6
        np.einsum("iid->id", overlap)[:] = 0
        if not overlap.any():
            break
        down = overlap[..., 1] <= overlap[..., 0]
        overlap[..., 0][down] = 0
        overlap[..., 1][~down] = 0
        way = np.where(gap != 0, np.sign(gap), order[..., None])
        spots = np.clip(spots + 0.5 * (overlap * way).sum(1), boxes / 2, side - boxes / 2)
    return spots
