"""Every setting of a training run, once: the command line, YAML files and Python share them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastchar.files import InputError, read_text, write_beside

ModelKind = Literal["seq2seq", "char_lm"]

LARGEST = 2**31 - 1  # of whole numbers without a limit of their own: products of two stay exact

# What a sweep tries unless told otherwise: sizes of embeddings around train's own, and the
# fewest seeds with which a standard error is more than a guess.
SIZES = (16, 32, 64, 128, 256)
SEEDS = 3

# Defaults that depend on the model; the fields are None until `Config` fills them in.
DEFAULTS: dict[ModelKind, dict[str, Any]] = {
    "seq2seq": {
        "hidden_size": 256,
        "dropout": 0.2,
        "label_smoothing": 0.1,
        "epochs": 12,
        "batch_size": 64,
        "learning_rate": 2e-3,
    },
    "char_lm": {
        "hidden_size": 512,
        "dropout": 0.2,
        "epochs": 10,
        "batch_size": 50,
        "learning_rate": 2e-3,
    },
}


def _option(
    default: Any,
    help: str,
    panel: str,
    *,
    only: ModelKind | None = None,
    min: float | None = None,
    max: float | None = None,
) -> Any:
    """A field with what the command line wants to know; ``only``: the model that it is for."""
    metadata = {"help": help, "panel": panel, "only": only, "min": min, "max": max}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """What to train on what, and how.

    A default of None is filled in from the model's own, and from the name of the data for ``out``;
    ``dev`` and ``normalize`` may stay None.

    Raises :class:`InputError` for a value that a setting cannot have, and for a setting that the
    chosen model has no use for.
    """

    data: str
    dev: str | None = _option(
        None,
        "Held-out file like DATA. Without it: 5 % of the sources, chosen by a hash, or the last "
        "tenth of a text.",
        "Data",
    )
    out: str = _option(None, "Run folder, by default runs/NAME-OF-DATA.", "Data")
    source_mode: Literal["chars", "bytes", "separated"] = _option(
        "chars",
        "What a symbol is, in sources and in plain text; separated: what stands between spaces.",
        "Data",
    )
    target_mode: Literal["auto", "chars", "bytes", "separated"] = _option(
        "auto",
        "What a symbol is in targets; auto: separated by spaces if that makes few symbols.",
        "Data",
        only="seq2seq",
    )
    normalize: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = _option(
        None, "Unicode normal form to bring all text to.", "Data"
    )
    model: Literal["seq2seq", "char_lm"] = _option(
        "seq2seq", "seq2seq for pairs, char_lm for plain text.", "Model"
    )
    init_from: str | None = _option(
        None,
        "Begin from the model in this folder, a run or a model, with its symbols and its sizes.",
        "Model",
    )
    embedding_dim: int = _option(128, "Size of the character embeddings.", "Model", min=1)
    hidden_size: int = _option(
        None, "Units of an LSTM layer (of each direction in the encoder).", "Model", min=1
    )
    encoder_layers: int = _option(1, "Layers of the encoder.", "Model", only="seq2seq", min=1)
    decoder_layers: int = _option(1, "Layers of the decoder.", "Model", only="seq2seq", min=1)
    num_layers: int = _option(1, "LSTM layers.", "Model", only="char_lm", min=1)
    attention: Literal["general", "dot", "additive"] = _option(
        "general", "Attention score.", "Model", only="seq2seq"
    )
    input_feeding: bool = _option(
        False, "Feed the attention's result to the next step (slower).", "Model", only="seq2seq"
    )
    tie_embeddings: bool = _option(
        False, "Output weights are the embedding.", "Model", only="char_lm"
    )
    dropout: float = _option(None, "Dropout probability.", "Model", min=0, max=0.99)
    label_smoothing: float = _option(
        None, "Share of the target spread evenly.", "Model", only="seq2seq", min=0, max=0.99
    )
    epochs: int = _option(None, "Passes over the data, at most.", "Training", min=1)
    batch_size: int = _option(None, "Pairs or streams of text a step.", "Training", min=1)
    chunk: int = _option(
        128, "Characters that gradients flow back through.", "Training", only="char_lm", min=1
    )
    learning_rate: float = _option(None, "The highest (Adam).", "Training", min=0)
    schedule: Literal["cosine", "linear", "constant", "plateau"] = _option(
        "cosine",
        "After the warm-up: fall to 0 (cosine, linear), stay, or halve on a plateau.",
        "Training",
    )
    warmup: int = _option(
        200, "Steps of linear warm-up, a tenth of all steps at most.", "Training", min=0
    )
    clip: float = _option(1.0, "Largest norm of a gradient; 0: any.", "Training", min=0)
    patience: int = _option(
        0, "Stop after so many epochs without a better one; 0: never.", "Training", min=0
    )
    dev_words: int = _option(
        2000,
        "Held-out words read after each epoch; 0: all. The end reads all.",
        "Training",
        only="seq2seq",
        min=0,
    )
    seed: int = _option(1, "Decides everything that is random.", "Training", min=0, max=2**32 - 1)
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "Where to train.", "Training")
    tensorboard: bool = _option(False, "Write TensorBoard logs too.", "Training")

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(Config)
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if value is not f.default or f.default is dataclasses.MISSING:
                object.__setattr__(self, f.name, _checked(f, hints[f.name], value))
        self._take_over_from_the_initial_model()
        for name, value in DEFAULTS[self.model].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.dev == "-":
            raise InputError("dev: expected a file, got standard input")
        if self.out is None:
            name = "stdin" if self.data == "-" else Path(self.data).name
            stem = name.lstrip(".").split(".")[0]
            object.__setattr__(self, "out", str(Path("runs") / stem))
        for f in dataclasses.fields(self):
            only = f.metadata.get("only")
            if only not in (None, self.model) and getattr(self, f.name) != f.default:
                raise InputError(f"{f.name}: expected with model {only}, got model {self.model}")

    def _take_over_from_the_initial_model(self) -> None:
        """Its kind, symbols and sizes, which may not be set to others."""
        if self.init_from is None:
            return
        from fastchar.training.initial import settings_of_model

        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for name, value in settings_of_model(self.init_from).items():
            if name not in defaults:
                raise InputError(
                    f"{self.init_from}: expected a model that train can make, got one with {name}"
                )
            if (got := getattr(self, name)) not in (defaults[name], value):
                raise InputError(
                    f"{name}: expected {value}, which the model in {self.init_from} has, got {got}"
                )
            object.__setattr__(self, name, value)

    def model_options(self) -> dict[str, Any]:
        """The keyword arguments of the model's constructor."""
        names = ["embedding_dim", "hidden_size", "dropout"]
        if self.model == "seq2seq":
            names += ["encoder_layers", "decoder_layers", "attention", "input_feeding"]
            names += ["label_smoothing"]
        else:
            names += ["num_layers", "tie_embeddings"]
        return {name: getattr(self, name) for name in names}

    def used(self) -> dict[str, Any]:
        """The settings that count for this model, as :func:`save_config` writes them."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.metadata.get("only") in (None, self.model)
        }


def without_none(hint: Any) -> Any:
    """The type X of ``X | None``; any other as it is."""
    kinds = [k for k in typing.get_args(hint) if k is not types.NoneType]
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return kinds[0] if is_union else hint


def _checked(field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    """``value`` as one of the type ``hint``, within its limits. Raises :class:`InputError`."""
    metadata = field.metadata
    low, high = metadata.get("min"), metadata.get("max")
    kind = without_none(hint)
    if kind is int and type(value) is int and value > LARGEST and high is None:
        high = LARGEST
    limits = "" if low is None else f" from {low}" + ("" if high is None else f" to {high}")
    if value is None and kind is not hint:
        return None
    if kind is float and type(value) in (int, str):  # not true, which is an int in Python
        # YAML takes 1e-3 for text, and 1 for a whole number.
        with contextlib.suppress(ValueError):
            value = float(value)
    choices = typing.get_args(kind)
    if choices:
        good, expected = value in choices, f"one of {', '.join(choices)}"
    else:
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        good, expected = type(value) is kind and value != "", names[kind] + limits
    if good and low is not None:
        largest = LARGEST if kind is int else sys.float_info.max
        good = low <= value <= (largest if high is None else high)
    if not good:
        raise InputError(f"{field.name}: expected {expected}, got {value!r}")
    return value


def read_yaml(path: str) -> dict[str, Any]:
    """The settings in a YAML file, names with ``-`` or ``_``. Raises :class:`InputError`."""
    import yaml

    text = read_text(path)
    try:
        values = yaml.safe_load(text)
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "something else"
        raise InputError(f"{path}{line}: expected YAML, got: {problem}") from None
    except (ValueError, RecursionError) as error:  # of a date such as 2024-99-99, of [[[[...
        raise InputError(f"{path}: expected YAML, got: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected 'name: value' lines, got {type(values).__name__}")
    assert isinstance(root, yaml.MappingNode)
    known = {f.name: f for f in dataclasses.fields(Config)}
    hints = typing.get_type_hints(Config)
    # Each line by itself: of a name that stands twice, a dict has only one.
    lines: dict[str, int] = {}
    for key, _ in root.value:
        name, line = str(key.value).replace("-", "_"), key.start_mark.line + 1
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(
                f"{path}, line {line}: expected a setting of train, got {name!r}{hint}"
            )
        if name in lines:
            raise InputError(
                f"{path}, line {line}: expected each setting once, got {name} again, after line "
                f"{lines[name]}"
            )
        lines[name] = line
    settings: dict[str, Any] = {}
    for given, value in values.items():
        name = str(given).replace("-", "_")
        try:
            settings[name] = _checked(known[name], hints[name], value)
        except InputError as error:
            raise InputError(f"{path}, line {lines[name]}: {error}") from None
    return settings


def save_config(config: Config, path: Path, **more: Any) -> None:
    """Write the settings that count, and ``more``, as YAML that :func:`read_yaml` understands."""
    import yaml

    with write_beside(path) as stream:
        for name, value in more.items():
            stream.write(f"# {name}: {value}\n")
        yaml.safe_dump(config.used(), stream, sort_keys=False)
