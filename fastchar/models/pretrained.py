"""One folder holds everything of a model: config.json and model-<hash>.safetensors.

config.json has the format's number, the model's name, its config, its vocabularies, and the name
of the weights file that belongs to them. Writing it is the one step that makes a save valid: the
weights are written first, under a name made of their contents, and each file beside its place and
then renamed. Whatever stops a save, the folder holds the model before it or the one after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from fastchar.text import Vocabulary
from fastchar.version import __version__

FORMAT = 1
CONFIG = "config.json"

# What a save names weights; other libraries have model-00001-of-00002.safetensors and the like.
_WEIGHTS = re.compile(r"model-[0-9a-f]{16}\.safetensors")

M = TypeVar("M", bound="Pretrained")


class Pretrained(nn.Module):
    """A model that saves itself to a folder and comes back from it.

    A subclass names itself and its vocabularies, which are attributes and the first arguments of
    its constructor; `config` holds the rest of the constructor's arguments.
    """

    model_name: ClassVar[str]
    vocabulary_names: ClassVar[tuple[str, ...]]
    config: dict[str, Any]

    def description(self) -> dict[str, Any]:
        """What config.json has, but for the name of the weights: all of a model but its numbers."""
        return {
            "format": FORMAT,
            "fastchar": __version__,
            "model": self.model_name,
            "config": self.config,
            "vocabularies": {v: getattr(self, v).to_dict() for v in self.vocabulary_names},
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to `folder`, made if it is missing; a model that is there is replaced.

        Other files in the folder stay as they are.
        """
        folder = Path(folder)
        tensors = {k: v.detach().cpu().contiguous() for k, v in _tensors(self).items()}
        weights = _safetensors().save(tensors)
        name = f"model-{_digest(weights)}.safetensors"
        config = {**self.description(), "weights": name}
        text = json.dumps(config, ensure_ascii=False, indent=1)
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / name, weights)
        _replace(folder / CONFIG, text.encode("utf-8", "surrogatepass"))
        for old in folder.iterdir():
            if _WEIGHTS.fullmatch(old.name) and old.name != name:
                old.unlink()

    @classmethod
    def from_pretrained(cls: type[M], folder: str | Path) -> M:
        """The model in `folder`, in the dtypes that it was saved in, on the CPU wherever that was,
        in evaluation mode.

        Raises `FileNotFoundError` for a missing folder or file and `ValueError` for one that does
        not fit: not a model's, of another model or of a newer format, damaged.
        """
        folder = Path(folder)
        config = read_config(folder)
        if config["model"] != cls.model_name:
            raise ValueError(
                f"{folder / CONFIG}: expected model {cls.model_name!r}, got {config['model']!r}"
            )
        try:
            vocabularies = [
                Vocabulary.from_dict(config["vocabularies"][v]) for v in cls.vocabulary_names
            ]
            model = cls(*vocabularies, **config["config"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / CONFIG}: expected what a {cls.model_name} model of fastchar "
                f"{__version__} is made of, got (written by {config['fastchar']}): {error}"
            ) from error
        saved, own = _read_weights(folder / config["weights"]), _tensors(model)
        for key in sorted(saved.keys() | own.keys()):
            expected, got = (tuple(d[key].shape) if key in d else "none" for d in (own, saved))
            if expected != got:
                raise ValueError(
                    f"{folder / config['weights']}: {key}: expected {expected}, got {got}"
                )
            own[key].data = saved[key].clone()  # a tensor of its own, and not a part of the file
        return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, checked for format and completeness."""
    path = folder / CONFIG
    if not path.is_file():
        what = "no such folder" if not folder.is_dir() else f"no {CONFIG} in it"
        if (folder / "model" / CONFIG).is_file():  # as in the folder of a training run
            what += f"; {folder / 'model'} has one"
        raise FileNotFoundError(f"{folder}: expected a saved model, got {what}")
    try:
        config = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    kinds = {"model": str, "weights": str, "config": dict, "vocabularies": dict}
    expected = {"format", "fastchar", *kinds}
    if not isinstance(config, dict) or not expected <= set(config):
        raise ValueError(f"{path}: expected the entries {sorted(expected)} of a saved model")
    if config["format"] != FORMAT:
        raise ValueError(
            f"{path}: expected format {FORMAT}, got {config['format']}, "
            f"written by fastchar {config['fastchar']} (this is {__version__})"
        )
    for name, kind in kinds.items():
        if not isinstance(config[name], kind):
            got = type(config[name]).__name__
            raise ValueError(f"{path}: {name}: expected a {kind.__name__}, got a {got}")
    return config


def check_vocabulary(name: str, given: object) -> None:
    """Raises `TypeError` for an argument `name` that is no `Vocabulary`."""
    if not isinstance(given, Vocabulary):
        raise TypeError(f"{name}: expected a Vocabulary, got {type(given).__name__}")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; a parameter that has two names under its first."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the weights that {CONFIG} names, got no file")
    data = path.read_bytes()
    if path.name != f"model-{_digest(data)}.safetensors":
        raise ValueError(f"{path}: damaged, its contents are not those that were saved")
    return _safetensors().load(data)


def _replace(path: Path, data: bytes) -> None:
    """Write a file beside its place, then rename it: it is the old one or the new one, whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _safetensors() -> Any:
    """safetensors.torch, which only saving and loading need."""
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError(
            "saving and loading models needs safetensors: pip install 'fastchar[train]'"
        ) from None
    return safetensors.torch
