"""`fastchar sweep` by the command line: what is typed, what is shown, what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import ok, refused, run
from training_data import few_pairs, write_pairs

from fastchar.training import sweeping
from fastchar.training.callbacks import Interrupted

pytestmark = pytest.mark.usefixtures("fast_runs")
SMALL = ["--epochs", 1, "--hidden-size", 8, "--batch-size", 16]
TWO = ["--embedding-dim", 4, "--embedding-dim", 2]


def test_help_imports_nothing_heavy() -> None:
    """The command is in the list, and costs those who only look at it nothing."""
    code = (
        "import sys\nfrom fastchar.cli import app\n"
        "try: app(['sweep', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'optuna', 'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--seeds" in shown.stdout
    assert "one standard error" in " ".join(shown.stdout.split())
    assert re.search(r"\bsweep +[A-Z]", ok("--help"))


def test_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From standard input and a file of settings into the default folder; a table with a line a
    size; the command that it ends with works."""
    monkeypatch.chdir(tmp_path)
    pairs = "".join(f"{source}\t{target}\n" for source, target in few_pairs()[:60])
    Path("config.yaml").write_text("embedding_dim: 999\nattention: dot\n")
    shown = ok("sweep", "-", "--config", "config.yaml", "--seeds", 2, *TWO, *SMALL, stdin=pairs)
    assert "trial 4 of 4: embedding 4, seed 2; about" in shown
    table = shown[shown.index("\nembedding") :].splitlines()[1:4]
    assert table[0].split() == ["embedding", "parameters", "WER", "PER", "seconds"]
    assert [line.split()[0] for line in table[1:]] == ["2", "4"]
    assert all(line.count(" ± ") == 2 for line in table[1:])
    assert "chosen" in "".join(table)
    command = shown.splitlines()[-1].removeprefix("to train it: fastchar ").split()
    assert command == ["train", "--config", "runs/stdin-sweep/chosen.yaml"]
    assert "attention: dot\n" in Path(command[-1]).read_text()
    assert "the best model is in runs/stdin-sweep/chosen/model" in ok(*command)
    assert "has ended already" in ok("sweep", "--resume", "runs/stdin-sweep")


def test_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 130 and the way on."""

    def train(*args: object) -> None:
        raise Interrupted

    write_pairs(tmp_path / "pairs.tsv", few_pairs()[:60])
    out = tmp_path / "a sweep"
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "train", train)
        result = run("sweep", tmp_path / "pairs.tsv", "--out", out, "--seeds", 1, *TWO, *SMALL)
    assert result.exit_code == 130
    assert result.stdout.splitlines()[-1].endswith(f"fastchar sweep --resume '{out}'")
    assert "chosen: " in ok("sweep", "--resume", out)


BAD = {
    "no data": ("sweep", "DATA: expected a file (or - for standard input), got none"),
    "no file": ("sweep none.tsv", "none.tsv: expected a readable file, got: No such file"),
    "no tab": ("sweep bad.tsv", "bad.tsv, line 2: expected source<TAB>target, got 1 column"),
    "one size": (
        "sweep good.tsv --embedding-dim 16 --embedding-dim 16",
        "embedding_dim: expected two sizes or more to choose from, got 16",
    ),
    "seeds": (f"sweep good.tsv --seed {2**32 - 2}", "seed: expected a whole number from 0 to"),
    "setting": ("sweep good.tsv --chunk 3", "chunk: expected with model char_lm, got model seq2"),
    "huge": (
        "sweep good.tsv --embedding-dim 4 --embedding-dim 2000000000",
        "model: expected one that fits the memory, got embedding_dim 2000000000",
    ),
    "again": ("sweep good.tsv --out old", "go on with --resume old"),
    "taken": ("sweep good.tsv --out taken", "taken: expected a new folder or an empty one, got"),
    "a file": ("sweep good.tsv --out bad.tsv", "bad.tsv: expected a folder, got: File exists"),
    "resume": ("sweep --resume taken", "taken: expected a sweep with optuna.log, got none"),
    "damaged": ("sweep --resume old", "old/optuna.log: expected the study of a sweep, got other"),
    "empty": ("sweep --resume empty", "optuna.log: expected the study of a sweep, got other data"),
    "more": (
        "sweep --resume old --seeds 4 --embedding-dim 3",
        "--resume: expected no other settings (the run's own hold), got embedding_dim, seeds",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Exit code 2, one line that says what was expected, nothing trained and nothing written."""
    monkeypatch.chdir(tmp_path)
    write_pairs(Path("good.tsv"), few_pairs()[:60])
    Path("bad.tsv").write_text("a\tA\nb\n")
    for name in ("old/optuna.log", "empty/optuna.log", "taken/notes"):
        Path(name).parent.mkdir()
        Path(name).write_text("somebody's\n" if "empty" not in name else "")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    command, message = BAD[case]
    assert message in refused(*command.split())
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_without_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra of its own: one line with the way to get it, before anything is written."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    write_pairs(tmp_path / "pairs.tsv", few_pairs()[:60])
    message = "fastchar: sweep: expected the package optuna, got none: "
    for arguments in ([tmp_path / "pairs.tsv", "--out", tmp_path / "s"], ["--resume", tmp_path]):
        assert refused("sweep", *arguments) == message + "pip install 'fastchar[sweep]'"
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.tsv"]
