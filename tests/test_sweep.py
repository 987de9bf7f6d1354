"""Sweeps: the rule that chooses, the same data for all trials, and going on without repeating."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from training_data import few_pairs, write_pairs

from fastchar.analysis.choice import Choice, choose, spread, standard_error
from fastchar.training import Config, InputError, resume_sweep, run, sweep, sweeping, train
from fastchar.training.callbacks import Interrupted, KeepRun
from fastchar.training.config import read_yaml
from fastchar.training.console import make_console
from fastchar.training.data import PairData, make_data, read_data
from fastchar.training.folder import load_model, read_metrics
from fastchar.training.sweep_report import Row, SweepFolder, write_table
from fastchar.training.sweeping import Swept

pytestmark = pytest.mark.usefixtures("fast_runs")
QUIET = make_console(stderr=True)
SIZES, SEEDS = (8, 4, 6), 2
BATCHES = 5 * 2  # of a trial


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        # The standard error of the best, 64, is 0.02 / 2 = 0.01: 32 is within it, 16 is not.
        (
            {16: [0.33] * 4, 32: [0.305] * 4, 64: [0.28, 0.32, 0.28, 0.32]},
            Choice(32, 64, 0.3 + 0.04 / 12**0.5),
        ),
        # Errors of others that vary more do not make them better.
        ({16: [0.1, 0.7], 32: [0.3, 0.3]}, Choice(32, 32, 0.3)),
        # A larger size is chosen only if it is the best.
        ({16: [0.4, 0.4], 32: [0.2, 0.22], 64: [0.205, 0.205]}, Choice(64, 64, 0.205)),
        # The smallest of equal ones, in whatever order they come.
        ({64: [0.5], 16: [0.5], 32: [0.6]}, Choice(16, 16, 0.5)),
        # One seed: no standard error, so the best.
        ({16: [0.31], 32: [0.3], 64: [0.35]}, Choice(32, 32, 0.3)),
        ({16: [0.0, 0.0], 32: [0.0, 0.0]}, Choice(16, 16, 0.0)),
    ],
)
def test_choice(errors: dict[int, list[float]], expected: Choice) -> None:
    """The smallest size within one standard error of the best."""
    choice = choose(errors)
    assert (choice.size, choice.best) == (expected.size, expected.best)
    assert choice.limit == pytest.approx(expected.limit)


def test_spread_and_standard_error() -> None:
    """Of a sample, divided by n - 1; of one alone there is none."""
    assert spread([1.0, 2.0, 3.0, 4.0]) == pytest.approx((5 / 3) ** 0.5)
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx((5 / 12) ** 0.5)
    assert spread([3.0]) == standard_error([3.0]) == 0


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.tsv", few_pairs()[:80])


def _config(out: Path, data: Path | str, **options: Any) -> Config:
    small = {"hidden_size": 12, "batch_size": 16, "epochs": 2, "learning_rate": 0.01, "seed": 7}
    return Config(**{**small, "data": str(data), "out": str(out), **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pairs_file: Path) -> Swept:
    """Three sizes, two seeds, never stopped."""
    return sweep(_config(tmp_path_factory.mktemp("whole") / "s", pairs_file), SIZES, SEEDS, QUIET)


def _measured(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def _fingerprints(path: Path) -> set[int]:
    states = [torch.load(p, weights_only=True) for p in path.glob("*/last.ckpt")]
    return {state["PairData"]["fingerprint"] for state in states}


def _stop(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Ctrl-C, as it were, while batch number `batches` of all (from 1) is worked on."""
    end_of_batch = KeepRun.on_train_batch_end
    count = iter(range(1, 999))

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        if next(count) == batches:
            self.request.made = True
        end_of_batch(self, trainer, task, outputs, batch, batch_idx)

    monkeypatch.setattr(KeepRun, "on_train_batch_end", on_train_batch_end)


def _count_epochs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the runs in which an epoch ends, as they come."""
    seen: list[str] = []
    append = run.RunFolder.append_metrics

    def counted(folder: run.RunFolder, record: dict[str, float]) -> None:
        seen.append(folder.path.name)
        append(folder, record)

    monkeypatch.setattr(run.RunFolder, "append_metrics", counted)
    return seen


def test_what_a_sweep_leaves(whole: Swept) -> None:
    """A run folder a trial; a table with what their metrics say of the best epoch; a picture."""
    path = whole.folder.path
    trials = [f"embedding-{size}-seed-{seed}" for seed in (7, 8) for size in (4, 6, 8)]
    assert {p.name for p in path.iterdir()} == {
        *trials,
        *("optuna.log", "sweep.csv", "sweep.png", "chosen.yaml"),
    }
    assert (path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    with open(path / "sweep.csv", encoding="utf-8", newline="") as stream:
        table = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
    assert table == [pytest.approx(row) for row in whole.rows]
    for trial, row in zip(trials, table, strict=True):
        assert trial == f"embedding-{row['embedding_dim']:g}-seed-{row['seed']:g}"
        metrics = read_metrics(path / trial / "metrics.csv")
        best = min(metrics, key=lambda m: (m["dev_wer"], m["dev_loss"]))
        for name in ("epoch", "dev_loss", "dev_wer", "dev_per"):
            assert row[name] == best[name]
        assert row["seconds"] == pytest.approx(sum(m["seconds"] for m in metrics))
        model = load_model(path / trial)
        assert model.config["embedding_dim"] == row["embedding_dim"]
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
    errors = {s: [r["dev_wer"] for r in whole.rows if r["embedding_dim"] == s] for s in SIZES}
    assert whole.choice == choose(errors)


def test_whole_numbers_of_the_table_are_whole(tmp_path: Path) -> None:
    """Also those of ten digits: one could not train again with the seed of a row."""
    rows: list[Row] = [{"seed": 2**32 - 1, "parameters": 1234567891, "dev_wer": 1 / 3}]
    write_table(rows, tmp_path / "sweep.csv")
    last = (tmp_path / "sweep.csv").read_text().splitlines()[-1]
    assert last == "4294967295,1234567891,0.333333333"


def test_all_trials_have_the_same_data(whole: Swept, tmp_path: Path, pairs_file: Path) -> None:
    """The same split whatever the seed, also if not all held-out words are read; another order of
    batches and other weights."""
    assert len(_fingerprints(whole.folder.path)) == 1
    first, second = (
        load_model(whole.folder.trial(4, seed)).state_dict()["output.weight"] for seed in (7, 8)
    )
    assert not torch.equal(first, second)
    dev = write_pairs(tmp_path / "dev.tsv", few_pairs()[80:160])
    config = _config(tmp_path / "none", pairs_file, dev=str(dev), dev_words=10)
    a, b = (make_data(Config(**{**config.used(), "seed": s}), *read_data(config)) for s in (1, 2))
    assert isinstance(a, PairData)
    assert isinstance(b, PairData)
    assert len(a.dev_references) == 10
    assert a.dev_references == b.dev_references
    assert torch.equal(a.dev.source.ids, b.dev.source.ids)
    assert torch.equal(a.train.source.ids, b.train.source.ids)
    assert not torch.equal(a.train.batches(0)[0], b.train.batches(0)[0])


def test_train_with_the_chosen_settings(whole: Swept) -> None:
    """`chosen.yaml` is for `train --config`, which makes the same model as the sweep did."""
    config = Config(**read_yaml(str(whole.folder.chosen)))
    assert config == whole.config
    assert config.embedding_dim == whole.choice.size
    again = train(config, QUIET).model.state_dict()
    shutil.rmtree(config.out)
    in_sweep = load_model(whole.folder.trial(whole.choice.size, 7)).state_dict()
    assert all(torch.equal(again[k], in_sweep[k]) for k in again)


@pytest.mark.parametrize("stop", [1, BATCHES + 3, 3 * BATCHES - 2])
def test_resume_repeats_nothing(
    tmp_path: Path, pairs_file: Path, whole: Swept, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """After Ctrl-C in the first trial and in later ones: what was done stays, what was begun goes
    on from its checkpoint, and the end is that of a sweep that was never stopped."""
    out = tmp_path / "s"
    epochs = _count_epochs(monkeypatch)
    with monkeypatch.context() as patch:
        _stop(patch, stop)
        with pytest.raises(Interrupted):
            sweep(_config(out, pairs_file), SIZES, SEEDS, QUIET)
    finished = resume_sweep(out, QUIET)
    assert _measured(finished.rows) == _measured(whole.rows)
    assert finished.choice == whole.choice
    assert sorted(epochs) == sorted(2 * [p.name for p in out.glob("embedding-*")])


@pytest.mark.parametrize("place", ["train", "_result", "write_table"])
def test_resume_after_a_kill(
    tmp_path: Path, pairs_file: Path, whole: Swept, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Before the second trial has a folder, after its training, and after it was counted."""

    class Killed(BaseException):
        pass

    original, calls = getattr(sweeping, place), iter(range(99))

    def killed(*args: Any) -> Any:
        if next(calls) == 1:
            raise Killed
        return original(*args)

    epochs = _count_epochs(monkeypatch)
    out = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, place, killed)
        with pytest.raises(Killed):
            sweep(_config(out, pairs_file), SIZES, SEEDS, QUIET)
    assert _measured(resume_sweep(out, QUIET).rows) == _measured(whole.rows)
    assert len(epochs) == 2 * len(SIZES) * SEEDS


def test_resume_after_a_kill_in_mid_write(
    tmp_path: Path, pairs_file: Path, whole: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which left optuna's lock behind, a link by a name that leads nowhere from where it lies, or
    what optuna renames it to before it deletes it."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        _stop(patch, BATCHES + 3)
        with pytest.raises(Interrupted):
            sweep(_config(Path("s"), pairs_file), SIZES, SEEDS, QUIET)
    for lock in (Path("s/optuna.log.lock"), Path("s/optuna.log.lock-12.rename")):
        lock.symlink_to("s/optuna.log")
    sweeping._open_study(SweepFolder("s"))
    assert [p.name for p in Path("s").glob("optuna.log*")] == ["optuna.log"]
    assert _measured(resume_sweep("s", QUIET).rows) == _measured(whole.rows)


def test_a_sweep_killed_while_it_made_its_study(
    tmp_path: Path, pairs_file: Path, whole: Swept
) -> None:
    """Has begun nothing: the same command begins it."""
    out = tmp_path / "s"
    out.mkdir()
    half = out / ".optuna.log.partial"
    optuna.create_study(storage=sweeping._storage(half), study_name=sweeping._NAME)
    (out / f"{half.name}.lock").symlink_to(half)
    assert _measured(sweep(_config(out, pairs_file), SIZES, SEEDS, QUIET).rows) == _measured(
        whole.rows
    )
    assert not list(out.glob(".*"))


def test_resume_after_a_full_disk(
    tmp_path: Path, pairs_file: Path, whole: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which cut the study's last line short: without it, nothing that was done is lost."""
    with monkeypatch.context() as patch:
        _stop(patch, BATCHES + 3)
        with pytest.raises(Interrupted):
            sweep(_config(tmp_path / "s", pairs_file), SIZES, SEEDS, QUIET)
    with open(tmp_path / "s" / "optuna.log", "ab") as stream:
        stream.write(b'{"op_code":')
    assert _measured(resume_sweep(tmp_path / "s", QUIET).rows) == _measured(whole.rows)
    assert _measured(resume_sweep(tmp_path / "s", QUIET).rows) == _measured(whole.rows)


def test_resuming_a_sweep_that_has_ended(
    whole: Swept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Makes the report again, from the study alone, and trains nothing."""
    monkeypatch.setattr(sweeping, "read_data", None)
    monkeypatch.setattr(sweeping, "train", None)
    before = whole.folder.table.read_bytes()
    whole.folder.table.unlink()
    again = resume_sweep(whole.folder.path, make_console())
    assert (again.rows, again.choice) == (whole.rows, whole.choice)
    assert whole.folder.table.read_bytes() == before
    out = capsys.readouterr().out
    assert "this sweep has ended already" in out
    assert f"chosen: {whole.choice.size}, the smallest size with a mean WER within one " in out


def test_a_folder_has_one_sweep_at_a_time(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one would train the trial that the first one is at."""
    config = _config(tmp_path / "s", pairs_file)
    _stop(monkeypatch, 3)
    with pytest.raises(Interrupted):
        sweep(config, SIZES, SEEDS, QUIET)
    with (
        SweepFolder(config.out).held(),
        pytest.raises(InputError, match="got one that is running"),
    ):
        resume_sweep(config.out, QUIET)


def test_resume_refuses_other_data(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes would not be compared on the same words: neither after a stop nor in mid-sweep."""
    data = tmp_path / "pairs.tsv"
    data.write_bytes(pairs_file.read_bytes())
    with monkeypatch.context() as patch:
        _stop(patch, 2)
        with pytest.raises(Interrupted):
            sweep(_config(tmp_path / "s", data), SIZES, SEEDS, QUIET)
    content = data.read_text()
    data.write_text(content + "zyx\tZ IH K S\n")
    with pytest.raises(InputError, match=r"expected the data that .* began with, got other"):
        resume_sweep(tmp_path / "s", QUIET)

    def train_on_other(config: Config, console: Any) -> Any:
        data.write_text(content + "zyx\tZ IH K S\n")
        return train(config, console)

    data.write_text(content)
    monkeypatch.setattr(sweeping, "train", train_on_other)
    with pytest.raises(InputError, match=r"expected the data that .* began with, got other"):
        sweep(_config(tmp_path / "t", data), SIZES, SEEDS, QUIET)


def test_a_trial_that_fails_names_itself(tmp_path: Path, pairs_file: Path) -> None:
    """And is tried again by a resume, since it has no result."""
    config = _config(tmp_path / "s", pairs_file, learning_rate=1e38)
    for again in (False, True):
        with pytest.raises(InputError, match=r"s/embedding-4-seed-7: epoch \d+: expected a loss"):
            resume_sweep(config.out, QUIET) if again else sweep(config, SIZES, 1, QUIET)


def test_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A language model is chosen by its loss. What came by a pipe is kept, and found where the
    sweep is moved, in mid-trial too."""
    text = " ".join(word for word, _ in few_pairs()) * 2
    monkeypatch.setattr(sweeping, "read_data", lambda config: (text, None))
    config = _config(tmp_path / "s", "-", model="char_lm", batch_size=8, chunk=16)
    with monkeypatch.context() as patch:
        _stop(patch, 50)
        with pytest.raises(Interrupted):
            sweep(config, (2, 8), 1, make_console())
    out = capsys.readouterr().out
    assert f"the sweep goes on with: fastchar sweep --resume {tmp_path}/s" in out
    (tmp_path / "s").rename(tmp_path / "moved")
    monkeypatch.setattr(sweeping, "read_data", read_data)
    finished = resume_sweep(tmp_path / "moved", make_console())
    losses = {row["embedding_dim"]: row["dev_loss"] for row in finished.rows}
    assert len(losses) == 2
    assert finished.choice.size == finished.choice.best == min(losses, key=losses.__getitem__)
    out = capsys.readouterr().out
    assert f"{min(losses.values()):.4f}" in out
    assert "bits/symbol" in out
    assert f"chosen: {finished.choice.size}, the size with the lowest loss; --seeds 3" in out
    assert finished.config.data == str(tmp_path / "moved" / "data.txt.gz")


def test_optunas_own_tools_read_the_study(whole: Swept) -> None:
    """All trials complete, with their errors and what else is known of them."""
    storage = JournalStorage(JournalFileBackend(str(whole.folder.study)))
    study = optuna.load_study(storage=storage, study_name="fastchar sweep")
    assert [trial.value for trial in study.trials] == [row["dev_wer"] for row in whole.rows]
    assert study.best_value == min(row["dev_wer"] for row in whole.rows)
    assert {"parameters", "epoch", "dev_per", "seconds"} <= set(study.trials[0].user_attrs)
