"""What an embedding holds: who is near whom, and a map of it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastchar.analysis.style import BLUE, GREY, RED, label, new_figure, save, styled
from fastchar.models import CharLM, Seq2Seq
from fastchar.text import Vocabulary

VOWELS = set("aeiouyæøœəɐɑɒɔɘɛɜɞɤɪɯɵɶʉʊʌаеёиоуыэюяαεηιουω")


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
    """Each row's ``k`` nearest other rows by cosine, nearest first: indices and cosines [V, k]."""
    directions = F.normalize(weight, dim=1)
    cosines = (directions @ directions.t()).fill_diagonal_(-2.0)
    values, index = cosines.topk(min(k, weight.shape[0] - 1))
    return index, values


def project(weight: Tensor) -> tuple[Tensor, float]:
    """The first two principal components of the rows' directions: [V, 2], and the share of the
    variance that they have."""
    directions = F.normalize(weight, dim=1)
    centred = directions - directions.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    share = float(s[:2].square().sum() / s.square().sum().clamp_min(1e-30))
    return u[:, :2] * s[:2], share


@styled
def plot_embedding(maps: dict[str, tuple[Vocabulary, Tensor]], path: str | Path) -> None:
    """A map of each embedding; a symbol's size tells how often it was seen."""
    figure, axes = new_figure(5.6 * len(maps), 5.4, 1, len(maps))
    for axis, (name, (vocabulary, weight)) in zip(axes, maps.items(), strict=True):
        shown = seen_symbols(vocabulary)
        places, share = project(weight[shown])
        spots = _apart(places.numpy())
        sizes = _sizes(vocabulary, shown)
        for i, (x, y), size in zip(shown, spots, sizes, strict=True):
            symbol = vocabulary.symbols[i]
            color = _color(symbol)
            # Points and dashes are too slight to be small.
            bold = {"size": 17, "weight": "bold"} if color == GREY else {"size": size}
            axis.text(x, y, label(symbol), color=color, ha="center", va="center", **bold)
        low, high = spots.min(0), spots.max(0)
        margin = 0.06 * (high - low) + 1e-9
        axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"{name} symbols")
        axis.set_xlabel(
            f"two principal components, {share:.0%} of the variance\n"
            "vowels red, other letters blue; larger: seen more often",
            color=GREY,
        )
    save(figure, path)


def seen_symbols(vocabulary: Vocabulary) -> list[int]:
    """The ids worth showing: not the special ones, and if counts are known, only seen ones."""
    ids = range(len(Vocabulary.SPECIAL), len(vocabulary))
    counts = vocabulary.counts
    return [i for i in ids if counts is None or counts[i] > 0]


def _sizes(vocabulary: Vocabulary, shown: Sequence[int]) -> list[float]:
    """Points between 8 and 17, by the logarithm of the count."""
    if vocabulary.counts is None:
        return [12.0] * len(shown)
    logs = np.log([vocabulary.counts[i] for i in shown])
    spread = max(float(np.ptp(logs)), 1e-9)
    return [8 + 9 * float(v - logs.min()) / spread for v in logs]


def _color(symbol: str) -> str:
    """Of vowels, of other letters, and of the rest; phones go by their first letter."""
    base = unicodedata.normalize("NFD", symbol)[0].lower()
    if not base.isalpha():
        return GREY
    # The phone Y of English "yes" is no vowel, the letter y and IPA's y are.
    return RED if base in VOWELS and symbol != "Y" else BLUE


def _apart(places: np.ndarray, rounds: int = 300) -> np.ndarray:
    """``places`` [n, 2], pushed apart until no label of common size covers another."""
    # What such a label needs, as a share of the map: it is wider than high.
    size = np.maximum(np.ptp(places, axis=0), 1e-9) * (0.055, 0.04)
    spots = places / size
    for _ in range(rounds):
        gap = spots[:, None] - spots[None]  # [n, n, 2]
        distance = np.hypot(gap[..., 0], gap[..., 1]) + np.eye(len(spots))
        push = np.clip(1 - distance, 0, None) / 2
        if not push.any():
            break
        # Symbols in the very same place go apart along the diagonal, by their order.
        order = np.sign(np.subtract.outer(*[np.arange(len(spots))] * 2))[..., None] * 0.7
        unit = gap / np.maximum(distance, 1e-9)[..., None]
        way = np.where(distance[..., None] > 1e-9, unit, order)
        spots = spots + (push[..., None] * way).sum(1)
    return spots * size
