"""The command line refuses bad input in one line, before it writes anything."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from cli_runs import refused
from training_data import few_pairs, write_pairs

from fastchar.training.folder import load_model

BAD = {
    "no tab": ("train bad.tsv", "bad.tsv, line 2: expected source<TAB>target, got 1 column: 'b'"),
    "no file": ("train none.tsv", "none.tsv: expected a readable file, got: No such file"),
    "no data": ("train", "DATA: expected a file (or - for standard input), got none"),
    "bad dev": ("train good.tsv --dev bad.tsv", "bad.tsv, line 2: expected source<TAB>target"),
    "few": (
        "train few.tsv",
        "few.tsv: expected two sources or more, some of them to hold out, got 1",
    ),
    "short": ("train few.tsv --model char_lm", "few.tsv: expected 100 training symbols or more"),
    "wrong model": (
        "train good.tsv --model char_lm --attention dot",
        "attention: expected with model seq2seq, got model char_lm",
    ),
    "yaml key": ("train --config key.yaml good.tsv", "got 'epoch' (did you mean epochs?)"),
    "yaml value": (
        "train --config value.yaml good.tsv",
        "value.yaml, line 1: epochs: expected a whole number from 1, got 'many'",
    ),
    "yaml": ("train --config broken.yaml good.tsv", "broken.yaml, line 2: expected YAML"),
    "no model": ("predict none", "none: expected a saved model, got no such folder"),
    "no model here": ("evaluate . good.tsv", "expected a saved model, got no config.json in it"),
    "not text": ("generate {home}/g2p", "g2p: expected a char_lm model, got a seq2seq model"),
    "not pairs": ("predict {home}/lm", "lm: expected a seq2seq model, got a char_lm model"),
    "errors of text": ("evaluate {home}/lm few.tsv --errors e", "--errors: expected a seq2seq"),
    "bad test": ("evaluate {home}/g2p bad.tsv", "bad.tsv, line 2: expected source<TAB>target"),
    "n-best": ("predict {home}/g2p --n-best 3 --beam 2", "--n-best: expected at most the beam (2)"),
    "sampling": ("generate {home}/lm --top-p 0", "top_p"),
    "symbol": ("inspect {home}/g2p -s ж", "--symbol: expected a symbol of the model, seen in"),
    "device": ("predict {home}/g2p --device abacus", "--device: expected auto, cpu or cuda"),
    "latin1": ("predict {home}/g2p latin1.txt", "latin1.txt, line 2: expected UTF-8 text"),
    "no folder": ("predict {home}/g2p ok.txt -o no/x", "no: expected a folder to write in"),
    "a folder": ("predict {home}/g2p ok.txt -o .", ".: expected a file to write, got a folder"),
    "tab": ("predict {home}/g2p few.tsv", "few.tsv, line 1: expected one source and no tab, got"),
    "nul": ("predict {home}/g2p nul.txt", "nul.txt, line 2: expected UTF-8 text, got byte 0x00"),
    "errors": ("evaluate {home}/g2p good.tsv --errors no/x", "no: expected a folder to write in"),
    "map": ("inspect {home}/g2p --map no/x.png", "no: expected a folder to write in"),
    "map folder": ("inspect {home}/g2p --map .", ".: expected a file to write, got a folder"),
    "heat": ("generate {home}/lm --temperature inf", "temperature: expected 0 or more, and finite"),
    "wild seed": (f"generate {{home}}/lm --seed {2**64}", "seed: expected a number of 64 bits"),
    "mps": ("predict {home}/g2p --device mps", "--device: expected auto, cpu or cuda, got 'mps'"),
    "dash": ("predict {home}/g2p ok.txt -o -", "-: expected the name of a file to write"),
    "no name": ("train good.tsv --out=", "out: expected text, got ''"),
    "rate": ("train good.tsv --learning-rate inf", "learning_rate: expected a number from 0, got"),
    "dev": ("train good.tsv --dev -", "dev: expected a file, got standard input"),
    "huge": (
        "train good.tsv --hidden-size 100000000",
        "model: expected one that fits the memory, got embedding_dim 128, hidden_size 100000000",
    ),
    "huger": ("train good.tsv --hidden-size 2147483647", "expected one that fits the memory"),
    "uncountable": (
        f"train good.tsv --batch-size {2**31}",
        "batch_size: expected a whole number from 1 to 2147483647, got 2147483648",
    ),
    "yaml date": ("train --config date.yaml good.tsv", "date.yaml: expected YAML, got: month must"),
    "yaml depth": ("train --config deep.yaml good.tsv", "deep.yaml: expected YAML, got: maximum"),
    "yaml twice": (
        "train --config twice.yaml good.tsv",
        "twice.yaml, line 3: expected each setting once, got batch_size again, after line 1",
    ),
    "taken": ("train good.tsv --out taken", "taken: expected a folder without metrics.csv"),
    "export": ("export {home}/g2p taken", "taken: expected no such file or folder yet, got one"),
    "export file": ("export {home}/g2p ok.txt", "ok.txt: expected no such file or folder yet"),
    "export deep": ("export {home}/g2p no/x", "no: expected a folder to write in"),
    "export none": ("export none x", "none: expected a saved model, got no such folder"),
    "picture": ("train good.tsv --out drawn", "drawn: expected a folder without curve.png"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Exit code 2, one line that says what was expected, and nothing new on the disk."""
    monkeypatch.chdir(tmp_path)
    write_pairs(Path("good.tsv"), few_pairs())
    write_pairs(Path("few.tsv"), few_pairs()[:1])
    Path("bad.tsv").write_text("a\tA\nb\n")
    Path("latin1.txt").write_bytes(b"ok\n\xe9\n")
    Path("nul.txt").write_bytes(b"ok\n\x00\n")
    Path("ok.txt").write_text("ok\n")
    Path("taken").mkdir()
    Path("taken/metrics.csv").write_text("somebody's\n")
    Path("drawn").mkdir()
    Path("drawn/curve.png").write_text("somebody's\n")
    Path("date.yaml").write_text("seed: 2024-99-99\n")
    Path("deep.yaml").write_text("[" * 2000)
    Path("twice.yaml").write_text("batch-size: 3\nseed: 1\nbatch_size: 4\n")
    Path("key.yaml").write_text("epoch: 3\n")
    Path("value.yaml").write_text("epochs: many\n")
    Path("broken.yaml").write_text("epochs: 3\nseed: ]\n")
    before = sorted(tmp_path.rglob("*"))
    command, message = BAD[case]
    assert message in refused(*command.format(home=home).split())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_of_nan_writes_nothing(home: Path, tmp_path: Path) -> None:
    """One line for a model whose logits make no distribution, as for other bad input."""
    model = load_model(home / "lm")
    torch.nn.init.constant_(model.output.weight, math.nan)
    model.save_pretrained(tmp_path / "nan")
    assert "logits: expected a finite one at least" in refused("generate", tmp_path / "nan")
