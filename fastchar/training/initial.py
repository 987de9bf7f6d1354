"""The model that a run begins from, where it does not begin from random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastchar.files import InputError
from fastchar.training.folder import load_model, model_folder

if TYPE_CHECKING:
    from fastchar.models import CharLM, Seq2Seq

# What a model saves of its constructor's arguments, and a run decides anew.
OF_THE_RUN = ("dropout", "label_smoothing")


def settings_of_model(path: str) -> dict[str, Any]:
    """The settings of training that make the model in ``path`` what it is: its kind, its sizes, and
    what a symbol is. Raises :class:`InputError`."""
    from fastchar.models.pretrained import read_config

    try:
        found = read_config(model_folder(path))
        read = found["vocabularies"]
        if found["model"] == "seq2seq":
            source, symbols = read["source"], {"target_mode": read["target"]["mode"]}
        else:
            source, symbols = read["vocabulary"], {}
        symbols |= {"source_mode": source["mode"], "normalize": source["normalize"]}
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"init_from: expected a model, got: {error}") from None
    sizes = {k: v for k, v in found["config"].items() if k not in OF_THE_RUN}
    return {"model": found["model"], **symbols, **sizes}


def initial_model(path: str | None) -> Seq2Seq | CharLM | None:
    """The model in ``path``, if there is one. Raises :class:`InputError`."""
    return None if path is None else load_model(path)
