"""The two models, `Seq2Seq` for pairs of texts and `CharLM` for text itself, and an ensemble."""

from __future__ import annotations

from pathlib import Path

from fastchar.models.char_lm import CharLM
from fastchar.models.ensemble import Ensemble
from fastchar.models.predictor import Hypothesis, Predictor
from fastchar.models.pretrained import CONFIG, read_config
from fastchar.models.seq2seq import Seq2Seq

__all__ = ["CharLM", "Ensemble", "Hypothesis", "Predictor", "Seq2Seq", "load"]

_MODELS: dict[str, type[Seq2Seq] | type[CharLM]] = {
    model.model_name: model for model in (Seq2Seq, CharLM)
}


def load(folder: str | Path) -> Seq2Seq | CharLM:
    """Whichever model `save_pretrained` put into `folder`; see `from_pretrained`."""
    folder = Path(folder)
    name = read_config(folder)["model"]
    if name not in _MODELS:
        raise ValueError(f"{folder / CONFIG}: expected model {sorted(_MODELS)}, got {name!r}")
    return _MODELS[name].from_pretrained(folder)
