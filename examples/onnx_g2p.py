"""What `fastchar export` wrote of a seq2seq model, with onnxruntime and numpy alone.

    fastchar export runs/g2p g2p-onnx
    python examples/onnx_g2p.py g2p-onnx hello world

The targets are those of `Seq2Seq.predict`: greedy search, a batch of words at a time.
"""

import argparse
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

PAD, BOS, EOS, UNK = range(4)  # ids of every vocabulary; the symbols follow


def encode(text: str, vocabulary: dict[str, Any]) -> list[int]:
    """Ids of the symbols of `text`, then <eos>."""
    text = text.lower() if vocabulary["lowercase"] else text
    if vocabulary["normalize"]:
        text = unicodedata.normalize(vocabulary["normalize"], text)
    if vocabulary["mode"] == "bytes":
        return [UNK + 1 + byte for byte in text.encode()] + [EOS]
    symbols = text.split(vocabulary["separator"]) if vocabulary["mode"] == "separated" else text
    ids = {symbol: i for i, symbol in enumerate(vocabulary["symbols"], UNK + 1)}
    return [ids.get(symbol, UNK) for symbol in symbols if symbol] + [EOS]


def decode(ids: list[int], vocabulary: dict[str, Any]) -> str:
    """The text of ids that are none of the four special ones."""
    if vocabulary["mode"] == "bytes":
        return bytes(i - UNK - 1 for i in ids).decode(errors="replace")
    between = vocabulary["separator"] if vocabulary["mode"] == "separated" else ""
    return between.join(vocabulary["symbols"][i - UNK - 1] for i in ids)


def predict(folder: str, words: list[str]) -> list[str]:
    """The most probable symbol at every step, for each word."""
    config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    vocabularies = config["vocabularies"]
    encoder = onnxruntime.InferenceSession(Path(folder) / "encoder.onnx")
    decoder = onnxruntime.InferenceSession(Path(folder) / "decoder.onnx")

    sources = [encode(word, vocabularies["source"]) for word in words]
    lengths = np.array([len(source) for source in sources])
    ids = np.full((lengths.max(), len(words)), PAD)  # [S, B]
    for b, source in enumerate(sources):
        ids[: len(source), b] = source
    # By name: what the decoder reads of the source, and its state, which has a batch of columns.
    names = [output.name for output in encoder.get_outputs()]
    inputs = dict(zip(names, encoder.run(names, {"ids": ids, "lengths": lengths}), strict=True))
    state = [name for name in names if f"next_{name}" in {o.name for o in decoder.get_outputs()}]

    limits = 3 * lengths + 10  # symbols at most, as in `Seq2Seq.predict`
    last = np.full(len(words), BOS)
    targets: list[list[int]] = [[] for _ in words]
    for t in range(limits.max() + 1):
        wanted = ["log_probs", *(f"next_{name}" for name in state)]
        log_probs, *following = decoder.run(wanted, {"last": last, **inputs})  # [B, V], ...
        inputs.update(zip(state, following, strict=True))
        log_probs[:, [PAD, BOS, UNK]] = -np.inf
        # A word that has ended stays so, and one that has reached its limit ends.
        last = np.where((last == EOS) | (t >= limits), EOS, log_probs.argmax(1))
        if (last == EOS).all():
            break
        for target, symbol in zip(targets, last.tolist(), strict=True):
            if symbol != EOS:
                target.append(symbol)
    return [decode(target, vocabularies["target"]) for target in targets]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("words", nargs="+")
    options = parser.parse_args()
    for word, target in zip(options.words, predict(options.folder, options.words), strict=True):
        print(f"{word}\t{target}")
