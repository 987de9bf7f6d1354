"""The command line where things are not as they usually are: names that are no UTF-8, streams that
are closed, output that the shell sends into a file, a terminal on standard error only."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runs import SMALL, ok, refused, run

from fastchar.training import evaluation

FASTCHAR = f"{sys.executable} -m fastchar"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    # Which backend runs is another test's business.
    "PYTHONWARNINGS": "ignore::UserWarning:fastchar.backend",
}


def _shell(command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        shell=True,
        capture_output=True,
        encoding="utf-8",
        env=ENVIRONMENT,
        **options,
    )


def _fastchar(*args: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "fastchar", *args],
        capture_output=True,
        env=ENVIRONMENT,
    )


def test_a_folder_whose_name_is_no_utf8(home: Path, tmp_path: Path) -> None:
    """Old disks have such names, and what is printed of them stands in the log as well."""
    out = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    done = _fastchar("train", home / "pairs.tsv", "--out", out, *SMALL, "--epochs", "1")
    assert done.returncode == 0, done.stderr.decode()
    assert b"caf\xe9" in Path(out, "log").read_bytes()
    assert b"caf\xe9" in done.stdout


def test_export_to_a_folder_whose_name_is_no_utf8(home: Path, tmp_path: Path) -> None:
    """onnxruntime takes no such names."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    out = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    done = _fastchar("export", home / "g2p", out)
    assert done.returncode == 0, done.stderr.decode()
    assert Path(out, "encoder.onnx").is_file()


def test_closed_streams(home: Path) -> None:
    """As from a daemon, or a shell's >&-: no traceback, and one line for an input that is none."""
    done = _shell(f"echo cat | {FASTCHAR} predict {home}/g2p >&-")
    assert (done.returncode, done.stderr) == (0, "")
    done = _shell(f"{FASTCHAR} predict {home}/g2p <&-")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fastchar: <stdin>: expected a readable file, got: it is closed\n"
    assert _shell(f"{FASTCHAR} inspect {home}/g2p >&- 2>&-").returncode == 0


def test_dev_stdout_in_a_file(home: Path, tmp_path: Path) -> None:
    """Mistakes and summary are both in it, behind what the file had."""
    out = tmp_path / "out"
    out.write_text("before\n")
    evaluate = f"{FASTCHAR} evaluate {home}/g2p {home}/pairs.tsv --errors /dev/stdout"
    assert _shell(f"{evaluate} >> {out}").returncode == 0
    before, header, *rest = out.read_text().splitlines()
    assert before == "before"
    assert header.startswith("source\texpected\tgot")
    assert any(line.startswith("words ") for line in rest)
    assert rest[-1].endswith("mistakes in /dev/stdout")


def test_no_total_of_zipped_lines(home: Path, tmp_path: Path) -> None:
    """Line ends in a zipped file are not those of its lines: the bar says how many are done."""
    words = "".join(line.split("\t")[0] + "\n" for line in (home / "pairs.tsv").open())
    (tmp_path / "words.txt").write_text(words)
    _shell(f"gzip --keep {tmp_path}/words.txt")
    count = words.count("\n")
    for name, total in (("words.txt", str(count)), ("words.txt.gz", "?")):
        screen, terminal = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "fastchar", "predict", str(home / "g2p"), str(tmp_path / name)],
            stdout=subprocess.DEVNULL,
            stderr=terminal,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "NO_COLOR": "1"},
        ):
            os.close(terminal)
            seen = b""
            try:
                while part := os.read(screen, 4096):
                    seen += part
            except OSError:  # how a terminal ends
                os.close(screen)
        assert f"{count}/{total}" in seen.decode(), seen


def test_unseen_symbols_of_a_prompt(home: Path) -> None:
    """They are reported as those of other commands are."""
    done = run("generate", home / "lm", "--prompt", "aЖ", "--length", 3)
    warning = "fastchar: 1 of 2 symbols read as <unk>, never seen in training: Ж 1\n"
    assert done.stderr == warning
    assert done.stdout.startswith("aЖ")
    assert run("generate", home / "lm", "--prompt", "a", "--length", 3).stderr == ""


def test_a_perplexity_beyond_all_numbers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that diverged can be off by thousands of nats a symbol."""
    for loss, expected in ((2000.0, "inf"), (2.0, "7.389")):
        monkeypatch.setattr(evaluation, "text_loss", lambda *_, loss=loss, **__: loss)
        perplexity = ok("evaluate", home / "lm", home / "text.txt").splitlines()[-1]
        assert perplexity.split() == ["perplexity", expected]


@pytest.mark.parametrize(
    "option", ["--errors x", "--confusions 3", "--beam 2", "--length-penalty 1", "--batch-size 9"]
)
def test_options_for_pairs_are_refused_for_a_text(home: Path, option: str) -> None:
    """None of them would do anything."""
    name = option.split()[0]
    line = refused("evaluate", home / "lm", home / "text.txt", *option.split())
    assert line == f"fastchar: {name}: expected a seq2seq model, got a char_lm model"
    assert "perplexity" in ok("evaluate", home / "lm", home / "text.txt")
