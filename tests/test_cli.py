"""The command line end to end: what goes in and what comes out."""

from __future__ import annotations

import gzip
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_runs import SMALL, ok, pipe, refused, run
from training_data import few_pairs

import fastchar
from fastchar.training.console import make_console
from fastchar.training.folder import RunFolder, load_model, read_metrics


def test_help_is_fast_and_complete() -> None:
    """Under a second, which leaves no time for torch; every command is there and says what for."""

    def used() -> float:
        """By the processes that have ended: not what they waited for others on a busy machine."""
        times = os.times()
        return times.children_user + times.children_system

    seconds = []
    for _ in range(3):
        before = used()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "fastchar", "--help"],
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        seconds.append(used() - before)
    commands = ["train", "evaluate", "predict", "generate", "inspect", "sweep", "export", "bench"]
    for command in [*commands, "env"]:
        assert re.search(rf"\b{command} +[A-Z]", done.stdout), command
    for heavy in ("torch", "lightning", "numpy", "matplotlib", "onnx", "onnxruntime"):
        assert not re.search(rf"\| +{heavy}$", done.stderr, re.MULTILINE), heavy
    assert min(seconds) < 1


def test_run_folder_holds_everything(home: Path) -> None:
    """Model, checkpoints, metrics, settings, log and pictures, and nothing half-written."""
    names = {p.name for p in (home / "g2p").iterdir()}
    assert names == {
        *("model", "last.ckpt", "best.ckpt", "metrics.csv", "config.yaml", "log"),
        *("curve.png", "attention.png", "embedding.png"),
    }
    rows = read_metrics(home / "g2p" / "metrics.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    wanted = {"train_loss", "dev_loss", "dev_wer", "dev_per", "words_per_s", "chars_per_s"}
    assert wanted <= set(rows[0])
    assert rows[1]["dev_loss"] < rows[0]["dev_loss"] < math.log(50)
    log = (home / "g2p" / "log").read_text()
    assert "epoch 2/2" in log
    assert re.search(r"held out: \d+ words, WER", log)


def test_settings_from_a_file_yield_to_the_command_line(home: Path) -> None:
    """`--config` sets what no option does; config.yaml has what counted."""
    model = load_model(home / "g2p")
    assert model.config["attention"] == "dot"
    assert model.config["hidden_size"] == 24
    text = (home / "g2p" / "config.yaml").read_text()
    assert "hidden_size: 24\n" in text
    assert "epochs: 2\n" in text


def test_a_run_is_never_overwritten(home: Path) -> None:
    """A second one into the same folder is refused, with the way on."""
    message = refused("train", home / "pairs.tsv", "--out", home / "g2p")
    assert f"go on with --resume {home / 'g2p'}" in message


def test_resume_by_the_command_line(home: Path) -> None:
    """A run that has ended says so; what is no run is refused, and so are other settings."""
    assert "has ended already" in ok("train", "--resume", home / "g2p")
    assert "expected a run folder" in refused("train", "--resume", home / "g2p" / "model")
    message = refused("train", "--resume", home / "g2p", "--epochs", 9)
    assert message.endswith("expected no other settings (the run's own hold), got epochs")


def test_train_from_gzip_and_standard_input(home: Path, tmp_path: Path) -> None:
    """The same bits from a file, a zipped one and a pipe; what was piped is kept for resuming."""
    content = (home / "pairs.tsv").read_bytes()
    zipped = tmp_path / "pairs.tsv.gz"
    zipped.write_bytes(gzip.compress(content))
    options = ["--epochs", 1, "--tensorboard", *SMALL]
    ok("train", zipped, "--out", tmp_path / "zipped", *options)
    ok("train", "-", "--out", tmp_path / "piped", *options, stdin=content)
    weights = [load_model(tmp_path / name).state_dict() for name in ("zipped", "piped")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert "has ended already" in ok("train", "--resume", tmp_path / "piped")
    assert list((tmp_path / "zipped" / "tensorboard").glob("events.out.tfevents.*"))


def test_evaluate_pairs(home: Path, tmp_path: Path) -> None:
    """Rates that agree with the table of mistakes, and confusions that sum to the edits."""
    errors = tmp_path / "errors.tsv"
    shown = ok("evaluate", home / "g2p", home / "pairs.tsv", "--errors", errors, "--confusions", 99)
    numbers = dict(re.findall(r"^(words|wrong|symbols|edits) +([\d,]+)", shown, re.MULTILINE))
    count = {name: int(value.replace(",", "")) for name, value in numbers.items()}
    words = {word for word, _ in few_pairs()}
    assert count["words"] == len(words)
    assert f"WER {count['wrong'] / count['words']:.2%}" in shown
    assert f"PER {count['edits'] / count['symbols']:.2%}" in shown
    header, *rows = errors.read_text().splitlines()
    assert header == "source\texpected\tgot\tedits\tlog_prob"
    assert len(rows) == count["wrong"]
    references = {w: [p for x, p in few_pairs() if x == w] for w in words}
    for row in rows:
        word, expected, got, edits, log_prob = row.split("\t")
        assert expected.split(" | ") == list(dict.fromkeys(references[word]))
        assert got not in references[word]
        assert int(edits) > 0
        assert float(log_prob) < 0
    assert sum(int(row.split("\t")[3]) for row in rows) == count["edits"]


def test_evaluate_text(home: Path) -> None:
    """Nats, bits and perplexity of one and the same loss."""
    shown = ok("evaluate", home / "lm", home / "text.txt")
    loss = float(re.search(r"([\d.]+) +nats", shown)[1])  # type: ignore[index]
    assert float(re.search(r"([\d.]+) +bits", shown)[1]) == pytest.approx(  # type: ignore[index]
        loss / math.log(2), abs=1e-3
    )
    assert 1.0 < math.exp(loss) < 30
    assert f"perplexity {math.exp(loss):13.3f}"[:20] in shown


def test_output_is_utf8_whatever_the_locale(home: Path) -> None:
    """As what is read is: a pipe in an ASCII locale, or on Windows, gets the same bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "fastchar", "predict", str(home / "g2p")],
        input="Żółć\n".encode(),
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout.decode().startswith("Żółć\t"), done.stderr.decode()


def test_a_reader_that_goes_away_ends_it_quietly(home: Path) -> None:
    """`fastchar generate ... | head -1` says nothing on standard error."""
    # The prompt alone is what `head` takes, so that a text that ends soon is no failure.
    generate = f"{sys.executable} -m fastchar generate {home}/lm --prompt abababababab --seed 3"
    command = f"{generate} --length 3000 | head -c 10"
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        # Which backend runs is another test's business.
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore::UserWarning:fastchar.backend",
        },
    )
    assert done.stdout == "ababababab"
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_line(home: Path) -> None:
    """What the system refuses is no traceback, and no bad input either."""
    result = run("predict", home / "g2p", "-o", "/dev/full", stdin="cat\n")
    assert result.exit_code == 1
    assert result.stderr == "fastchar: No space left on device\n"
    assert Path("/dev/full").is_char_device()


def test_too_little_memory_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the attention over a line of 100,000 symbols."""

    def predict(*args: object, **options: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")

    monkeypatch.setattr(fastchar.Seq2Seq, "predict", predict)
    result = run("predict", home / "g2p", stdin="cat\n")
    assert result.exit_code == 1
    assert result.stderr.startswith("fastchar: not enough memory; ")


def test_without_its_packages_it_says_how_to_get_them(tmp_path: Path) -> None:
    """`pip install fastchar` alone has the command and not what it needs."""
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(name='typer')")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "fastchar", "train"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 1
    assert done.stderr == (
        "fastchar: the command line needs typer: pip install 'fastchar[train]'\n"
    )


def test_train_from_a_pipe_can_be_resumed(home: Path, tmp_path: Path) -> None:
    """What was read from `<(zcat pairs.gz)` is kept in the run, and found where that is moved."""
    text = (home / "pairs.tsv").read_text()
    with pipe(text) as path, pipe(text[: text.index("\n") + 1]) as dev:
        ok("train", path, "--dev", dev, "--out", tmp_path / "run", "--epochs", 1, *SMALL)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert "has ended already" in ok("train", "--resume", tmp_path / "moved")


def test_train_from_a_file_that_the_shell_opened(home: Path, tmp_path: Path) -> None:
    """`train /dev/stdin < pairs.tsv` can be resumed when /dev/stdin is something else."""
    with open(home / "pairs.tsv") as stream:
        path = f"/dev/fd/{stream.fileno()}"
        ok("train", path, "--out", tmp_path / "run", "--epochs", 1, *SMALL)
    assert "has ended already" in ok("train", "--resume", tmp_path / "run")


def test_generate(home: Path) -> None:
    """The prompt and its continuation; the same seed draws the same."""
    options = ["generate", home / "lm", "--prompt", "aba", "--length", 40, "--seed", 3]
    shown = ok(*options)
    model = load_model(home / "lm")
    assert shown == "aba" + model.generate("aba", length=40, seed=3) + "\n"
    assert ok(*options) == shown
    assert len(ok(*options, "--top-k", 1, "--stop", "a").removeprefix("aba")) <= 41


def test_inspect(home: Path, tmp_path: Path) -> None:
    """Counts as in the data, neighbours that are other symbols, a map that is a PNG."""
    shown = ok("inspect", home / "g2p", "--symbol", "e", "--map", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    (row,) = re.findall(r"^ +e +([\d,]+) +([\d.]+) +(.*)$", shown, re.MULTILINE)
    model = load_model(home / "g2p")
    assert int(row[0]) == model.source.counts[model.source.encode("e")[0]]
    near = row[2].split()[::2]
    assert len(near) == len(set(near)) == 5
    assert "e" not in near
    assert ok("inspect", home / "lm").count("\n") > 20


def test_inspect_a_byte_that_was_never_seen(tmp_path: Path) -> None:
    """Every byte is in the vocabulary, but there is no row for it."""
    vocabulary = fastchar.Vocabulary.build(["ab"], mode="bytes")
    fastchar.CharLM(vocabulary, embedding_dim=4, hidden_size=4).save_pretrained(tmp_path)
    assert "  a  " in ok("inspect", tmp_path, "-s", "a")
    assert "expected a symbol of the model, seen" in refused("inspect", tmp_path, "-s", "c")


def test_env() -> None:
    """What a bug report needs: versions, and what `fastchar.backends()` says."""
    shown = ok("env")
    assert re.search(rf"^fastchar +{re.escape(fastchar.__version__)}$", shown, re.MULTILINE)
    assert re.search(rf"^torch +{re.escape(torch.__version__)}$", shown, re.MULTILINE)
    assert re.search(rf"^backend +{fastchar.backends()['backend']}$", shown, re.MULTILINE)


def test_names_are_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor markup: a folder is called what it is called."""
    make_console().print("runs:x: [red]words[/]")
    assert capsys.readouterr().out == "runs:x: [red]words[/]\n"


def test_progress_bar_shows_metrics(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal: a bar an epoch, with loss and words/s, which leaves only the summary lines."""
    from rich.console import Console

    from fastchar.training import Config, callbacks, train

    monkeypatch.setattr(callbacks.Bar, "INTERVAL", 0.0)
    with (tmp_path / "screen").open("w+", encoding="utf-8") as screen:
        console = Console(file=screen, force_terminal=True, width=120, highlight=False)
        small = {"epochs": 1, "embedding_dim": 8, "hidden_size": 8}
        train(Config(str(home / "pairs.tsv"), out=str(tmp_path / "run"), **small), console)
        screen.seek(0)
        seen = screen.read()
    assert re.search(r"epoch 1/1.*\d+/\d+.*loss \d\.\d+ +[\d,]+ words/s", seen)
    assert RunFolder(tmp_path / "run").log.read_text().count("epoch 1/1") == 1
