"""The same training with embeddings of several sizes, and the size to choose by held-out data."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from fastchar.analysis.choice import Choice
from fastchar.files import InputError, beside, name_of
from fastchar.training.callbacks import Interrupted
from fastchar.training.config import SEEDS, SIZES, Config, save_config
from fastchar.training.console import clock, make_console
from fastchar.training.data import make_data, read_data
from fastchar.training.device import choose_device
from fastchar.training.folder import RunFolder
from fastchar.training.run import Finished, keep_piped, make_task, moved_to, resume, train
from fastchar.training.sweep_report import Row, SweepFolder, write_sweep_report, write_table
from fastchar.training.tasks import CharLMTask, Seq2SeqTask
from fastchar.version import __version__

if TYPE_CHECKING:
    from optuna import Study, Trial

_NAME = "fastchar sweep"  # of the study in its file
_LARGEST = 2**32 - 1  # of sizes and seeds


@dataclass(frozen=True)
class Swept:
    """A sweep that came to its end: its trials, the choice, and the settings to train with."""

    folder: SweepFolder
    rows: list[Row]
    choice: Choice
    config: Config


def sweep(
    config: Config,
    sizes: Sequence[int] = SIZES,
    seeds: int = SEEDS,
    console: Console | None = None,
) -> Swept:
    """Train as ``config`` says, but with embeddings of each of ``sizes`` and with ``seeds`` seeds
    from ``config.seed`` on, each in a run folder of its own in the new folder ``config.out``; then
    choose a size as :func:`fastchar.analysis.choice.choose` does, by the number that tells which
    epoch is the best.

    All read the same split of the data; a seed decides the initial weights, dropout and the order
    of batches. Raises :class:`InputError` before anything is written, and :class:`Interrupted`
    after Ctrl-C, when the folder is ready for :func:`resume_sweep`.
    """
    _optuna()
    folder = SweepFolder(config.out)
    sizes = _checked_sizes(config, sizes, seeds)
    _check_free(folder)
    choose_device(config.device)
    console = console or make_console()
    with console.status(f"reading {name_of(config.data)}"):
        content, held_out = read_data(config)
        data = make_data(config, content, held_out)
    make_task(dataclasses.replace(config, embedding_dim=sizes[-1]), data)  # is there room for it?
    folder.create()
    with folder.held():
        _check_free(folder)  # of a sweep that began while this one read its data
        config = keep_piped(config, folder, content, held_out)
        study = _create_study(config, sizes, seeds, data.fingerprint, folder)
        return _run(config, study, folder, console)


def resume_sweep(path: str | Path, console: Console | None = None) -> Swept:
    """Go on with the sweep in folder ``path``: with the trial that was interrupted from where it
    was, then with those that are left. Of a sweep that has ended, only the report is made again.

    Raises as :func:`sweep` does, and :class:`InputError` if the data is not the same.
    """
    _optuna()
    folder = SweepFolder(path)
    if not folder.study.is_file():
        raise InputError(f"{folder.path}: expected a sweep with {folder.study.name}, got none")
    with folder.held():
        return _resume(path, folder, console)


def _resume(path: str | Path, folder: SweepFolder, console: Console | None) -> Swept:
    study = _open_study(folder)
    config = Config(**moved_to(path, study.user_attrs["settings"]))
    console = console or make_console()
    if _unfinished(study):
        choose_device(config.device)
        with console.status(f"reading {config.data}"):
            data = make_data(config, *read_data(config))
        _check_data(config, data.fingerprint, study, folder)
    return _run(config, study, folder, console)


def _optuna() -> Any:
    """The package, which the other commands do without. Raises :class:`InputError`."""
    try:
        import optuna
    except ImportError:
        raise InputError(
            "sweep: expected the package optuna, got none: pip install 'fastchar[sweep]'"
        ) from None
    return optuna


def _checked_sizes(config: Config, sizes: Sequence[int], seeds: int) -> list[int]:
    """``sizes`` in order, each once. Raises :class:`InputError`."""
    for size in sizes:
        dataclasses.replace(config, embedding_dim=size)
    sizes = sorted(set(sizes))
    if len(sizes) < 2:
        got = ", ".join(map(str, sizes)) or "none"
        raise InputError(f"embedding_dim: expected two sizes or more to choose from, got {got}")
    if type(seeds) is not int or seeds < 1:
        raise InputError(f"seeds: expected a whole number from 1, got {seeds!r}")
    dataclasses.replace(config, seed=config.seed + seeds - 1)
    return sizes


def _check_free(folder: SweepFolder) -> None:
    """Raises :class:`InputError` if there is anything in the folder yet."""
    if folder.study.exists():
        raise InputError(
            f"{folder.path}: expected no sweep in this folder yet, got one; "
            f"choose another with --out, or go on with --resume {folder.quoted}"
        )
    found = set(folder.path.iterdir()) if folder.path.is_dir() else set()
    if first := next(iter(found - {*_half_made(folder)}), None):
        raise InputError(
            f"{folder.path}: expected a new folder or an empty one, got one with {first.name}; "
            "choose another with --out"
        )


def _half_made(folder: SweepFolder) -> Iterator[Path]:
    """What a sweep leaves that was killed before its study was whole."""
    return folder.path.glob(f".{folder.study.name}.partial*")


def _storage(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def _create_study(
    config: Config, sizes: list[int], seeds: int, fingerprint: int, folder: SweepFolder
) -> Study:
    """A study with all trials in its queue, every size with one seed before the next seed.

    A queue and no GridSampler, which deals in an order of its own, and takes a trial that was
    interrupted for one that is done or running elsewhere.
    """
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for left in _half_made(folder):
        left.unlink()
    with beside(folder.study) as place:
        study = optuna.create_study(storage=_storage(place), study_name=_NAME)
        study.set_user_attr("settings", config.used())
        study.set_user_attr("fingerprint", fingerprint)
        for seed in range(config.seed, config.seed + seeds):
            for size in sizes:
                study.enqueue_trial({"embedding_dim": size, "seed": seed})
    return _open_study(folder)


def _open_study(folder: SweepFolder) -> Study:
    # Optuna would wait for ever for the lock of a sweep that was killed; the folder is held. It has
    # another name while it is given back.
    for lock in folder.path.glob(f"{folder.study.name}.lock*"):
        lock.unlink()
    # A line that a full disk or a kill cut short would swallow the next one.
    content = folder.study.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(folder.study, content.rfind(b"\n") + 1)
    try:
        return _optuna().load_study(storage=_storage(folder.study), study_name=_NAME)
    except (KeyError, ValueError):  # of a study that is not there, and of lines that are no JSON
        raise InputError(f"{folder.study}: expected the study of a sweep, got other data") from None


def _run(config: Config, study: Study, folder: SweepFolder, console: Console) -> Swept:
    """Train what is left to train; then report."""
    total, left = len(study.trials), len(_unfinished(study))
    what = "sweeping" if left == total else "resuming"
    console.print(
        f"{what} {folder.path}  ({left} of {total} trials to train)"
        if left
        else f"{folder.path}: this sweep has ended already"
    )
    monitor = (Seq2SeqTask if config.model == "seq2seq" else CharLMTask).monitor
    started = time.perf_counter()
    try:
        for done in range(left):
            trial, of_trial = _next(study, config, folder)
            number = f"trial {total - left + done + 1} of {total}"
            line = f"\n{number}: embedding {of_trial.embedding_dim}, seed {of_trial.seed}"
            if done:
                seconds = (time.perf_counter() - started) / done * (left - done)
                line += f"; about {clock(seconds)} left"
            console.print(line)
            finished = _train(of_trial, console)
            _check_data(config, finished.data.fingerprint, study, folder)
            row = _result(finished, monitor)
            for name, value in row.items():
                trial.set_user_attr(name, value)
            study.tell(trial, row[monitor])
            write_table(_rows(study), folder.table)
    except (Interrupted, KeyboardInterrupt):
        console.print(f"the sweep goes on with: fastchar sweep --resume {folder.quoted}")
        raise Interrupted from None
    console.print()
    rows = _rows(study)
    return Swept(folder, rows, *write_sweep_report(config, rows, monitor, folder, console.print))


def _unfinished(study: Study) -> list[Any]:
    """Trials to train, one that was interrupted before the others."""
    left = [trial for trial in study.get_trials(deepcopy=False) if not trial.state.is_finished()]
    return sorted(left, key=lambda trial: trial.state != _optuna().trial.TrialState.RUNNING)


def _next(study: Study, config: Config, folder: SweepFolder) -> tuple[Trial, Config]:
    """The next trial, which is one that was interrupted, if any, and its settings."""
    optuna = _optuna()
    first = _unfinished(study)[0]
    running = first.state == optuna.trial.TrialState.RUNNING
    trial = optuna.Trial(study, first._trial_id) if running else study.ask()
    # The queue has the values; optuna wants ranges that hold them.
    size, seed = (trial.suggest_int(name, 0, _LARGEST) for name in ("embedding_dim", "seed"))
    out = str(folder.trial(size, seed))
    return trial, dataclasses.replace(config, embedding_dim=size, seed=seed, out=out)


def _check_data(config: Config, fingerprint: int, study: Study, folder: SweepFolder) -> None:
    """Raises :class:`InputError` if the data is not what the sweep began with."""
    if fingerprint != study.user_attrs["fingerprint"]:
        raise InputError(
            f"{config.data}: expected the data that {folder.path} began with, got other"
        )


def _train(config: Config, console: Console) -> Finished:
    """One trial, on from where it was stopped, if it was."""
    folder = RunFolder(config.out)
    try:
        if not folder.config.exists():
            return train(config, console)
        # The paths of now: the sweep may have been moved.
        save_config(config, folder.config, fastchar=__version__, torch=torch.__version__)
        return resume(config.out, console)
    except InputError as error:
        raise InputError(f"{config.out}: {error}") from None


def _result(finished: Finished, monitor: str) -> Row:
    """What to keep of a trial besides its size and seed."""
    rows = finished.folder.read_metrics()
    best = min(rows, key=lambda row: (row[monitor], row["dev_loss"]))  # whose model was kept
    return {
        "parameters": sum(p.numel() for p in finished.model.parameters()),
        "epoch": int(best["epoch"]),
        **{name: value for name, value in best.items() if name.startswith("dev_")},
        "seconds": sum(row["seconds"] for row in rows),
    }


def _rows(study: Study) -> list[Row]:
    return [
        {**trial.params, **trial.user_attrs}
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished()
    ]
