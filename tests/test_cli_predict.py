"""fastchar predict: an answer a line, in order, and when it is asked for."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_runs import ok, pipe, run
from training_data import write_pairs

import fastchar
from fastchar.models import Hypothesis
from fastchar.training.folder import load_model


def test_predict_keeps_order_and_count(home: Path, tmp_path: Path) -> None:
    """Line by line what the model says, blank lines blank, unknown symbols no reason to stop, the
    same from a file, a pipe and in batches of two, to a file or not."""
    words = ["zebra", "", "a", "Żółć", "  ", "internationalization", "cat"]
    source = tmp_path / "words.txt"
    source.write_text("\n".join(words), encoding="utf-8")
    shown = ok("predict", home / "g2p", source, "--beam", 1)
    model = load_model(home / "g2p")
    for word, line in zip(words, shown.splitlines(), strict=True):
        expected = f"{word}\t{model.predict([word])[0][0].text}" if word.strip() else ""
        assert line == expected
    assert ok("predict", home / "g2p", "--beam", 1, stdin="\n".join(words)) == shown
    assert ok("predict", home / "g2p", source, "--beam", 1, "--batch-size", 2) == shown
    output = tmp_path / "out.tsv"
    assert ok("predict", home / "g2p", source, "--beam", 1, "-o", output) == ""
    assert output.read_text(encoding="utf-8") == shown


def test_predict_n_best_with_probabilities(home: Path) -> None:
    """Several lines a source, best first, with probabilities that are some."""
    shown = ok("predict", home / "g2p", "--n-best", 3, "--probabilities", stdin="cat\ndog\n")
    rows = [line.split("\t") for line in shown.splitlines()]
    assert [row[0] for row in rows] == ["cat"] * 3 + ["dog"] * 3
    for word in (rows[:3], rows[3:]):
        probabilities = [float(row[2]) for row in word]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1
        assert len({row[1] for row in word}) == 3


def test_predict_answers_before_the_input_ends(home: Path) -> None:
    """Someone who types gets an answer to each line, not to the first 256."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastchar", "predict", str(home / "g2p")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for word in ("one", "two"):
        process.stdin.write(word + "\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(word + "\t")
    process.stdin.close()
    assert process.wait(600) == 0


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_at_the_prompt_of_predict(home: Path) -> None:
    """While a thread waits for the next line: an end as quiet as that of any other program."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastchar", "predict", str(home / "g2p")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Which backend runs is another test's business.
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore::UserWarning:fastchar.backend",
        },
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("one\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith("one\t")
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 130
    assert process.stderr is not None
    assert process.stderr.read().strip() in ("", "Aborted.")
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_unseen_symbols_are_reported(home: Path) -> None:
    """A model of lower-case words that is asked for upper-case ones guesses, and says why."""
    result = run("predict", home / "g2p", stdin="cat\nCAT\n\nŻ a\n")
    assert len(result.stdout.splitlines()) == 4
    assert result.stderr == (
        "fastchar: 5 of 9 symbols read as <unk>, never seen in training: C 1, A 1, T 1, Ż 1, ␣ 1\n"
    )
    assert run("predict", home / "g2p", stdin="cat\n").stderr == ""
    write_pairs(home / "upper.tsv", [("CAT", "K AE T"), ("CAT", "K AA T")])
    warning = "fastchar: 3 of 3 symbols read as <unk>, never seen in training: C 1, A 1, T 1\n"
    assert run("evaluate", home / "g2p", home / "upper.tsv").stderr == warning
    assert run("evaluate", home / "lm", home / "upper.tsv").stderr.startswith("fastchar: ")


def test_a_batch_beyond_all_numbers(home: Path, tmp_path: Path) -> None:
    """Is all there is."""
    (tmp_path / "words").write_text("cat\n")
    options = ["predict", home / "g2p", tmp_path / "words"]
    assert ok(*options, "--batch-size", 10**30) == ok(*options)


def test_what_ends_a_line_is_not_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of bytes may predict tabs and line ends, which are no targets."""
    best = Hypothesis("a\tb\nc\rd", [4], -1.0, -1.0, torch.zeros(2, 2))
    monkeypatch.setattr(fastchar.Seq2Seq, "predict", lambda self, texts, **_: [[best]] * len(texts))
    assert ok("predict", home / "g2p", stdin="cat\n") == "cat\ta\ufffdb\ufffdc\ufffdd\n"
    errors = home / "errors.tsv"
    ok("evaluate", home / "g2p", home / "pairs.tsv", "--errors", errors)
    assert {line.count("\t") for line in errors.read_text().splitlines()} == {4}


def test_predict_reads_a_pipe_only_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a bar, whose total must not be counted from `<(zcat words.gz)`."""
    from rich.console import Console

    from fastchar.training import console

    screen = io.StringIO()
    monkeypatch.setattr(
        console, "make_console", lambda **_: Console(file=screen, force_terminal=True)
    )
    with pipe("cat\ndog\n") as path:
        shown = ok("predict", home / "g2p", path)
    assert [line.split("\t")[0] for line in shown.splitlines()] == ["cat", "dog"]
    assert "predicting" in screen.getvalue()
