"""What a run is not resumed with: other data, other settings, a folder that is in use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from training_data import few_pairs, write_pairs
from training_runs import PAIRS, QUIET, config_of, stop_after

from fastchar.training import InputError, resume, train
from fastchar.training.callbacks import Interrupted, KeepRun
from fastchar.training.device import choose_device
from fastchar.training.folder import RunFolder

pytestmark = pytest.mark.usefixtures("fast_runs")


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.tsv", few_pairs()[:80])


def test_a_folder_has_one_training_at_a_time(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would both write metrics.csv and last.ckpt, and neither run could be resumed."""
    config = config_of(tmp_path, "run", pairs_file, **PAIRS)
    refused: list[str] = []

    def in_between(run: KeepRun, trainer: Any, *rest: Any) -> None:
        with pytest.raises(InputError, match="got one that is running") as error:
            resume(config.out, QUIET)
        refused.append(str(error.value))

    monkeypatch.setattr(KeepRun, "on_train_batch_end", in_between)
    train(config, QUIET)
    assert refused
    resume(config.out, QUIET)


def test_a_run_that_began_in_the_meantime(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that begin in one folder, the one that is later to read its data is refused."""
    config = config_of(tmp_path, "run", pairs_file, **PAIRS)
    create = RunFolder.create

    def create_late(folder: RunFolder) -> None:
        create(folder)
        folder.config.write_text("epochs: 5\n")

    monkeypatch.setattr(RunFolder, "create", create_late)
    with pytest.raises(InputError, match="expected no run in this folder yet"):
        train(config, QUIET)
    assert (tmp_path / "run" / "config.yaml").read_text() == "epochs: 5\n"


@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "model", "last.ckpt", "best.ckpt", "metrics.csv", "log", "tensorboard"),
        *("curve.png", "attention.png", "embedding.png", "data.tsv.gz", "dev.txt.gz"),
    ],
)
def test_what_a_run_would_write_over(tmp_path: Path, pairs_file: Path, name: str) -> None:
    """May be somebody's: a folder that has any of it is refused, and stays as it is."""
    (tmp_path / name).write_text("somebody's")
    config = config_of(tmp_path.parent, tmp_path.name, pairs_file)
    with pytest.raises(InputError, match="choose another with --out"):
        train(config, QUIET)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["somebody's"]


def test_the_second_of_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count from 0, so that of two there is no third."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="got cuda:2, and torch finds 2"):
        choose_device("cuda:2")


def test_resume_refuses_other_data(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data is not in the checkpoint, so that it must be what the run began with."""
    data = tmp_path / "pairs.tsv"
    data.write_bytes(pairs_file.read_bytes())
    config = config_of(tmp_path, "run", data, **PAIRS)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(config, QUIET)
    data.write_text(data.read_text() + "zyx\tZ IH K S\n")
    with pytest.raises(InputError, match=r"expected the data that .* began with"):
        resume(config.out, QUIET)


def test_resume_refuses_other_held_out_data(tmp_path: Path, pairs_file: Path) -> None:
    """Rates before and after would not be of the same words."""
    dev = write_pairs(tmp_path / "dev.tsv", few_pairs()[80:90])
    config = config_of(tmp_path, "run", pairs_file, **PAIRS, dev=str(dev))
    train(config, QUIET)
    write_pairs(dev, few_pairs()[80:91])
    with pytest.raises(InputError, match=r"expected the data that .* began with"):
        resume(config.out, QUIET)


def test_resume_refuses_other_sizes(tmp_path: Path, pairs_file: Path) -> None:
    """config.yaml is there to be read; who edits it may ask for what the weights do not fit."""
    config = config_of(tmp_path, "run", pairs_file, **PAIRS, epochs=1)
    train(config, QUIET)
    last = Path(config.out) / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state["callbacks"]["KeepRun"]["ended"] = False
    torch.save(state, last)
    settings = Path(config.out) / "config.yaml"
    before = settings.read_text()
    message = r"config\.yaml: expected the settings that the run began with, got others: model\."
    for old, new in (("hidden_size: 12", "hidden_size: 13"), ("general", "additive")):
        settings.write_text(before.replace(old, new))
        with pytest.raises(InputError, match=message):
            resume(config.out, QUIET)


PAIR_CHANGES = ("batch_size: 16", "batch_size: 64"), ("seed: 1", "seed: 2"), ("2000", "3")
TEXT = {"model": "char_lm", "batch_size": 8, "chunk": 16, "embedding_dim": 12}
TEXT_CHANGES = (
    ("batch_size: 8", "batch_size: 4"),
    ("chunk: 16", "chunk: 512"),
    ("tie_embeddings: false", "tie_embeddings: true"),
)


@pytest.mark.parametrize(
    ("options", "old", "new"),
    [(PAIRS, *c) for c in PAIR_CHANGES] + [(TEXT, *c) for c in TEXT_CHANGES],
    ids=lambda v: v if isinstance(v, str) else str(v.get("model")),
)
def test_resume_refuses_other_batches(
    tmp_path: Path,
    pairs_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    old: str,
    new: str,
) -> None:
    """A position is a number of batches: of larger ones an epoch may have fewer than that, and the
    run would end without a step. Rates are compared from one epoch to the next, so that they must
    be of the same words."""
    data = pairs_file
    if "model" in options:
        data = tmp_path / "text.txt"
        data.write_text((re.__doc__ or "") * 2)
    config = config_of(tmp_path, "run", data, **options)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            train(config, QUIET)
    settings = Path(config.out) / "config.yaml"
    before = settings.read_text()
    assert before.count(old) == 1
    settings.write_text(before.replace(old, new))
    with pytest.raises(InputError, match=r"config\.yaml: expected the settings that the run began"):
        resume(config.out, QUIET)
    settings.write_text(before)
    resume(config.out, QUIET)
