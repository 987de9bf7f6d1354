"""A run that was stopped and resumed ends in the same bits as one that never was."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_data import few_pairs, write_pairs
from training_runs import PAIRS, QUIET, config_of, stop_after

from fastchar.training import InputError, resume, train
from fastchar.training.callbacks import Interrupted, signals_caught
from fastchar.training.console import make_console
from fastchar.training.folder import read_metrics
from fastchar.training.tasks import Seq2SeqTask

pytestmark = pytest.mark.usefixtures("fast_runs")
TIMES = {"words_per_s", "chars_per_s", "seconds"}


def _bits(run: Path) -> tuple[list[torch.Tensor], list[dict[str, str]]]:
    """All that must not change: the last weights and optimizer state, and what was measured."""
    state = torch.load(run / "last.ckpt", weights_only=True)
    moments = state["optimizer_states"][0]["state"]
    tensors = [*state["state_dict"].values()]
    tensors += [moments[i][k] for i in sorted(moments) for k in ("exp_avg", "exp_avg_sq", "step")]
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    names = header.split(",")
    measured = [dict(zip(names, row.split(","), strict=True)) for row in rows]
    return tensors, [{k: v for k, v in row.items() if k not in TIMES} for row in measured]


def _assert_same(one: Path, other: Path) -> None:
    tensors, rows = _bits(one)
    other_tensors, other_rows = _bits(other)
    assert rows == other_rows
    assert len(tensors) == len(other_tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, other_tensors, strict=True))
    assert _model_file(one) == _model_file(other)


def _model_file(run: Path) -> bytes:
    (path,) = (run / "model").glob("*.safetensors")
    return path.read_bytes()


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.tsv", few_pairs()[:80])


@pytest.fixture(scope="module")
def pairs_run(tmp_path_factory: pytest.TempPathFactory, pairs_file: Path) -> Path:
    """Three epochs of five batches, never stopped, on a schedule that looks at the results."""
    config = config_of(
        tmp_path_factory.mktemp("whole"), "run", pairs_file, **PAIRS, schedule="plateau"
    )
    train(config, QUIET)
    return Path(config.out)


@pytest.mark.parametrize("stop", [1, 3, 5, 6, 10, 14])
def test_pairs_same_bits_after_a_stop_anywhere(
    tmp_path: Path,
    pairs_file: Path,
    pairs_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
) -> None:
    """In mid-epoch, on an epoch's first and last batch: dropout, schedule, order of batches, sums
    of the epoch, early stopping and best model all go on."""
    config = config_of(tmp_path, "run", pairs_file, **PAIRS, schedule="plateau")
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Interrupted):
            train(config, QUIET)
    torch.manual_seed(12345)  # whatever happened to the generators in between
    resume(config.out, QUIET)
    _assert_same(Path(config.out), pairs_run)


def test_text_same_bits_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state that a language model carries from chunk to chunk goes on too."""
    data = tmp_path / "text.txt"
    data.write_text(re.sub(r"\s+", " ", (re.__doc__ or "") * 2))
    options = {"model": "char_lm", "batch_size": 8, "chunk": 16, "dropout": 0.3}
    whole = config_of(tmp_path, "whole", data, **options)
    train(whole, QUIET)
    stopped = config_of(tmp_path, "stopped", data, **options)
    with monkeypatch.context() as patch:
        stop_after(patch, 40)
        with pytest.raises(Interrupted):
            train(stopped, QUIET)
    resume(stopped.out, QUIET)
    _assert_same(Path(stopped.out), Path(whole.out))


class Killed(BaseException):
    """As `kill -9` does it, nobody handles it."""


@pytest.mark.parametrize("kill_at", range(8))
def test_same_bits_after_a_kill_while_saving(
    tmp_path: Path,
    pairs_file: Path,
    pairs_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: int,
) -> None:
    """Killed before any of the renames that end an epoch, of metrics, model and checkpoints: the
    run goes on from the last whole checkpoint, or from the beginning."""
    config = config_of(tmp_path, "run", pairs_file, **PAIRS, schedule="plateau")
    renames = iter(range(999))
    rename = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name != "config.yaml" and next(renames) == kill_at:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            train(config, QUIET)
    resume(config.out, QUIET)
    _assert_same(Path(config.out), pairs_run)


def test_what_a_kill_left_of_a_model_goes_with_the_next_one(
    tmp_path: Path, pairs_file: Path, pairs_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `kill -9` leaves files under names that no other process writes to."""
    config = config_of(tmp_path, "run", pairs_file, **PAIRS, schedule="plateau")
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(Interrupted):
            train(config, QUIET)
    model = Path(config.out) / "model"
    for name in (".config.json.99.tmp", ".model-0123456789abcdef.safetensors.99.tmp"):
        (model / name).write_text("half")
    resume(config.out, QUIET)
    assert not list(model.glob(".*"))
    _assert_same(Path(config.out), pairs_run)


def test_resume_of_a_damaged_folder(tmp_path: Path, pairs_run: Path) -> None:
    """A checkpoint cut short, one of something else, and rows that are lost: one line each."""
    run = shutil.copytree(pairs_run, tmp_path / "run")
    whole = (run / "last.ckpt").read_bytes()
    for damaged in (whole[:1000], b"", b"something else"):
        (run / "last.ckpt").write_bytes(damaged)
        with pytest.raises(InputError, match=r"last\.ckpt: expected a checkpoint, got a damaged"):
            resume(run, QUIET)
    # One bit of one weight: torch.load would not notice.
    weight = torch.load(pairs_run / "last.ckpt", weights_only=True)["state_dict"]
    at = whole.index(weight["model.output.weight"].numpy().tobytes())
    (run / "last.ckpt").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(InputError, match=r"last\.ckpt: expected a checkpoint, got a damaged"):
        resume(run, QUIET)
    for other in ({"weights": 1}, [1]):
        torch.save(other, run / "last.ckpt")
        with pytest.raises(InputError, match=r"last\.ckpt: expected a checkpoint of such a run"):
            resume(run, QUIET)
    (run / "last.ckpt").write_bytes(whole)
    for text in ("", "epoch,step\n1,5\n3,15\n"):
        (run / "metrics.csv").write_text(text)
        with pytest.raises(InputError, match=r"metrics\.csv: expected a row for each of 3 epochs"):
            resume(run, QUIET)
    for row in ("1", "1,many", "1,2,3"):
        (run / "metrics.csv").write_text(f"epoch,step\n0,5\n{row}\n")
        with pytest.raises(InputError, match=r"metrics\.csv, line 3: expected a number in each"):
            read_metrics(run / "metrics.csv")


def test_resuming_a_run_that_has_ended_changes_nothing(pairs_run: Path) -> None:
    """`--resume` in a loop is safe: at the end it finds nothing to do."""
    before = _bits(pairs_run)
    finished = resume(pairs_run, QUIET)
    after = _bits(pairs_run)
    assert before[1] == after[1]
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert not finished.model.training


def test_checkpoints_are_written_in_place(
    tmp_path: Path, pairs_file: Path, pairs_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not there is room for temporary files, and whatever the folder's name is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    config = config_of(tmp_path, "a::b c", pairs_file, **PAIRS, schedule="plateau")
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            train(config, QUIET)
    hint = (Path(config.out) / "log").read_text().splitlines()[-1]
    assert shlex.split(hint)[-2:] == ["--resume", config.out]
    resume(config.out, QUIET)
    _assert_same(Path(config.out), pairs_run)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_acts_at_once(
    tmp_path: Path,
    pairs_file: Path,
    pairs_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In the middle of a batch, which is lost; the run goes on from the last save, and says so."""
    config = config_of(tmp_path, "run", pairs_file, **PAIRS, schedule="plateau")
    step = Seq2SeqTask.training_step

    def impatient(task: Seq2SeqTask, batch: Any, batch_idx: int) -> Tensor:
        if task.global_step == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step(task, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Seq2SeqTask, "training_step", impatient)
        with pytest.raises(Interrupted):
            train(config, make_console())
    out, err = capfd.readouterr()
    assert f"stopped at once; go on from the last save: fastchar train --resume {config.out}" in out
    assert err.strip() == "stopping after this batch (once more: at once, and the batch is lost)"
    resume(config.out, QUIET)
    _assert_same(Path(config.out), pairs_run)


def test_an_ignored_signal_stays_ignored() -> None:
    """Ctrl-C on a script's foreground command is none on the training in its background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_caught() as request:
            signal.raise_signal(signal.SIGINT)
        assert not request
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_a_process(tmp_path: Path, pairs_file: Path) -> None:
    """SIGINT to `fastchar train`: exit code 130, a hint how to go on, and going on is right."""
    whole, stopped = (
        config_of(tmp_path, name, pairs_file, batch_size=80, epochs=60)
        for name in ("whole", "stopped")
    )
    command = [sys.executable, "-m", "fastchar", "train"]
    for name, value in stopped.used().items():
        if name not in ("data", "tensorboard", "input_feeding") and value is not None:
            command.append(f"--{name.replace('_', '-')}={value}")
    process = subprocess.Popen(
        [*command, stopped.data],
        bufsize=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        # No room for the lines of 60 epochs: it can't end while this process waits for its turn.
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    while not process.stdout.readline().startswith(b"epoch  1/60"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read().decode()
    assert process.wait(600) == 130, rest
    assert f"--resume {stopped.out}" in rest
    assert len((Path(stopped.out) / "metrics.csv").read_text().splitlines()) < 61
    resume(stopped.out, QUIET)
    train(whole, QUIET)
    _assert_same(Path(stopped.out), Path(whole.out))
