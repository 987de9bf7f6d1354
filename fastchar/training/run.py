"""One training run from a configuration to a run folder, and on from where it was stopped."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from torch import nn

from fastchar.files import InputError, name_of
from fastchar.models import CharLM, Seq2Seq
from fastchar.training.callbacks import Bar, Interrupted, KeepRun, signals_caught
from fastchar.training.checkpoints import LocalFiles, read_checkpoint
from fastchar.training.config import Config, read_yaml, save_config
from fastchar.training.console import Say, clock, make_console
from fastchar.training.data import (
    Content,
    PairData,
    TextData,
    make_data,
    read_data,
    write_data,
)
from fastchar.training.device import choose_device
from fastchar.training.folder import RunFolder, load_model
from fastchar.training.initial import initial_model
from fastchar.training.memory import is_lack_of_memory, keep_freed_memory
from fastchar.training.report import write_report
from fastchar.training.schedules import Schedule
from fastchar.training.tasks import CharLMTask, Seq2SeqTask, Task
from fastchar.version import __version__


@dataclass(frozen=True)
class Finished:
    """A run that came to its end: the best model, in evaluation mode, and its data."""

    folder: RunFolder
    model: Seq2Seq | CharLM
    data: PairData | TextData


def train(config: Config, console: Console | None = None) -> Finished:
    """Train as ``config`` says, into the new run folder ``config.out``.

    Raises :class:`InputError` before anything is written, and :class:`Interrupted` after Ctrl-C,
    when the folder is ready for :func:`resume`.
    """
    choose_device(config.device)
    folder = RunFolder(config.out)
    folder.check_free()
    console = console or make_console()
    with console.status(f"reading {name_of(config.data)}"):
        content, held_out = read_data(config)
        data = make_data(config, content, held_out)
    task = make_task(config, data)
    folder.create()
    with folder.held():
        folder.check_free()  # of a run that began while this one read its data
        config = keep_piped(config, folder, content, held_out)
        save_config(config, folder.config, fastchar=__version__, torch=torch.__version__)
        return _run(config, data, folder, console, task, resumed=False)


def resume(path: str | Path, console: Console | None = None) -> Finished:
    """Go on with the run in folder ``path`` from its last checkpoint, or from the beginning if it
    has none yet: the same bits as if it had never stopped. A run that has ended stays as it is.

    Raises as :func:`train` does, and :class:`InputError` if the data is not the same.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise InputError(f"{path}: expected a run folder with config.yaml, got none")
    with folder.held():
        return _resume(path, folder, console)


def _resume(path: str | Path, folder: RunFolder, console: Console | None) -> Finished:
    settings = read_yaml(str(folder.config))
    if "data" not in settings:
        raise InputError(f"{folder.config}: expected the setting data, got none")
    config = Config(**moved_to(path, settings))
    choose_device(config.device)
    console = console or make_console()
    with console.status(f"reading {config.data}"):
        data = make_data(config, *read_data(config))
    epoch, task = 0, None
    resumed = folder.last.is_file()
    if resumed:
        entries = ("fastchar", "callbacks", "state_dict", "optimizer_states", type(data).__name__)
        last = read_checkpoint(folder.last, *entries)
        if last[type(data).__name__]["fingerprint"] != data.fingerprint:
            raise InputError(f"{config.data}: expected the data that {path} began with, got other")
        epoch = last["fastchar"]["record"].get("epoch", 0)
    if not resumed or not last["callbacks"][KeepRun.__name__]["ended"]:
        task = make_task(config, data)
        if resumed:
            _check_settings(task, data, last, folder)
    folder.forget_after(epoch)
    return _run(config, data, folder, console, task, resumed=resumed)


def keep_piped(
    config: Config, folder: RunFolder, content: Content, held_out: Content | None
) -> Config:
    """``config`` with what came by standard input or a pipe written into ``folder``: nothing else
    would be left of it to resume from."""
    kept: dict[str, Any] = {}
    for name, part in (("data", content), ("dev", held_out)):
        path = getattr(config, name)
        # /dev/stdin is another file the next time, or none, even if it is one now.
        passing = ("/dev/stdin", "/dev/fd/", "/proc/")
        if part is not None and (path.startswith(passing) or not Path(path).is_file()):
            place = folder.kept(name, "txt" if isinstance(part, str) else "tsv")
            write_data(part, place)
            kept[name] = str(place)
    return dataclasses.replace(config, **kept)


def moved_to(path: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The ``settings`` of a folder that is at ``path`` now, where what :func:`keep_piped` wrote
    is too."""
    moved = {**settings, "out": str(path)}
    for name in ("data", "dev"):
        file = settings.get(name)
        if file is not None and Path(file).parent == Path(str(settings.get("out"))):
            moved[name] = str(Path(path) / Path(file).name)
    return moved


def _check_settings(
    task: Task, data: PairData | TextData, last: dict[str, Any], folder: RunFolder
) -> None:
    """Raises :class:`InputError` if the settings are no longer those of the checkpoint ``last``: of
    its weights, and of the batches by which it counts how far it came."""
    own, other = (
        dict[str, Any]({k: list(v.shape) for k, v in d.items()})
        for d in (task.state_dict(), last["state_dict"])
    )
    # Fewer where one is under two names, as tied embeddings are.
    own["parameters"] = len(list(task.parameters()))
    other["parameters"] = len(last["optimizer_states"][0]["param_groups"][0]["params"])
    own |= data.settings
    other |= last[type(data).__name__].get("settings", data.settings)
    for key in sorted(own.keys() | other.keys()):
        sizes, expected = own.get(key, "none"), other.get(key, "none")
        if sizes != expected:
            raise InputError(
                f"{folder.config}: expected the settings that the run began with, got others: "
                f"{key} is {expected} in {folder.last.name}, and would be {sizes}"
            )


def _run(
    config: Config,
    data: PairData | TextData,
    folder: RunFolder,
    console: Console,
    task: Task | None,
    *,
    resumed: bool,
) -> Finished:
    """Train ``task``, unless it is None, as the run has ended; then report."""

    def say(line: str) -> None:
        console.print(line)
        folder.append_log(line)

    if task is None:
        say(f"{folder.path}: this run has ended already")
    else:
        _fit(config, data, folder, console, say, task, resumed=resumed)
    model = load_model(folder.path)
    write_report(model, data, folder, say, console)
    return Finished(folder, model, data)


def _fit(
    config: Config,
    data: PairData | TextData,
    folder: RunFolder,
    console: Console,
    say: Say,
    task: Task,
    *,
    resumed: bool,
) -> None:
    _quiet()
    keep_freed_memory()
    parameters = sum(p.numel() for p in task.model.parameters())
    say(f"{'resuming' if resumed else 'training'} {folder.path}  ({parameters:,} parameters)")
    if config.init_from is not None:
        say(f"beginning from the model in {config.init_from}")
    say(_describe(data))
    if data.unseen is not None:
        say(data.unseen)
    started = time.perf_counter()
    with signals_caught() as request:
        callbacks = [Bar(console), KeepRun(folder, request, say, config.patience)]
        trainer = _make_trainer(config, folder, callbacks)
        try:
            trainer.fit(
                task, datamodule=data, ckpt_path=folder.last if resumed else None, weights_only=True
            )
        except Interrupted:
            say(f"stopped; go on with: fastchar train --resume {folder.quoted}")
            raise
        except SystemExit:  # what Lightning makes of a second Ctrl-C
            if not request:
                raise
            hint = f"fastchar train --resume {folder.quoted}"
            say(f"stopped at once; go on from the last save: {hint}")
            raise Interrupted from None
        except (MemoryError, RuntimeError) as error:
            if not is_lack_of_memory(error):
                raise
            raise InputError(_too_large(config, data)) from None
    say(f"trained in {clock(time.perf_counter() - started)}; the best model is in {folder.model}")


def _too_large(config: Config, data: PairData | TextData) -> str:
    """What the memory was too small for."""
    what = f"{config.batch_size} streams of {config.chunk} symbols"
    if isinstance(data, PairData):
        longest = (int(part.lengths.max()) for part in (data.train.source, data.train.target))
        what = "{} pairs of up to {:,} and {:,} symbols".format(config.batch_size, *longest)
    return (
        f"{config.data}: expected batches that fit the memory, got {what}; "
        "leave the longest out, or try a smaller --batch-size"
    )


def make_task(config: Config, data: PairData | TextData) -> Task:
    """The model to train. The seed decides its initial weights, and all that comes after them.

    Raises :class:`InputError` if there is not enough memory for it.
    """
    seed_everything(config.seed, verbose=False)
    total = config.epochs * len(data.train)
    schedule = Schedule(
        config.schedule,
        peak=config.learning_rate,
        warmup=min(config.warmup, total // 10),
        total=total,
    )
    options = config.model_options()
    model: Seq2Seq | CharLM
    try:
        if isinstance(data, PairData):
            model = Seq2Seq(data.source, data.target, **options)
        else:
            model = CharLM(data.vocabulary, **options)
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        sizes = ", ".join(f"{k} {v}" for k, v in options.items() if type(v) is int)
        raise InputError(f"model: expected one that fits the memory, got {sizes}") from None
    initial = initial_model(config.init_from)
    if initial is None:
        _shorten_embeddings(model)
    else:
        model.load_state_dict(initial.state_dict())
    if isinstance(model, Seq2Seq):
        assert isinstance(data, PairData)
        return Seq2SeqTask(model, schedule, data.dev_references)
    return CharLMTask(model, schedule)


def _shorten_embeddings(model: nn.Module) -> None:
    """Scale nn.Embedding's N(0, 1) to N(0, 0.3 ** 2).

    With N(0, 1), what the first epochs teach is lost in the random directions that symbols begin
    with: neighbours and maps show noise. Words are learned as fast with 0.3, slower with 0.1.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.mul_(0.3)


def _make_trainer(config: Config, folder: RunFolder, callbacks: list[Callback]) -> Trainer:
    logger: Any = False
    if config.tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        logger = TensorBoardLogger(str(folder.path), name=folder.tensorboard.name, version="")
    return Trainer(
        accelerator="gpu" if choose_device(config.device).type == "cuda" else "cpu",
        devices=1,
        max_epochs=config.epochs,
        gradient_clip_val=config.clip or None,
        callbacks=callbacks,
        logger=logger,
        plugins=[LocalFiles()],
        enable_checkpointing=True,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        default_root_dir=str(folder.path),
    )


def _quiet() -> None:
    """Lightning's announcements, tips and advice for loaders that it does not know."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def _describe(data: PairData | TextData) -> str:
    if isinstance(data, TextData):
        return (
            f"{data.train.ids.numel():,} symbols to train on, {data.dev.ids.numel():,} held "
            f"out, a vocabulary of {len(data.vocabulary)}"
        )
    return (
        f"{len(data.train.source):,} pairs to train on, {len(data.references):,} words held out, "
        f"{len(data.source)} source and {len(data.target)} target symbols ({data.target.mode})"
    )
