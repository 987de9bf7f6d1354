"""Runs: the metrics are what they say, the best epoch's model is kept, the settings do what they
say. With a learning rate of 0 a model stays as it was made, and every number can be checked."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor
from training_data import few_pairs, write_pairs

from fastchar import CharLM, Seq2Seq, Vocabulary
from fastchar.files import Pair
from fastchar.models import predictor
from fastchar.models.attention import Score
from fastchar.text import pad
from fastchar.text.vocabulary import Mode, Normalization
from fastchar.training import Config, InputError, train
from fastchar.training.config import read_yaml, without_none
from fastchar.training.console import clock, make_console
from fastchar.training.data import TextData, vocabularies
from fastchar.training.evaluation import evaluate, text_loss
from fastchar.training.folder import read_metrics
from fastchar.training.schedules import Kind, Schedule
from fastchar.training.tasks import Seq2SeqTask

pytestmark = pytest.mark.usefixtures("fast_runs")
QUIET = make_console(stderr=True)
CHOICES = {
    "model": {Seq2Seq.model_name, CharLM.model_name},
    "source_mode": {*get_args(Mode)},
    "target_mode": {"auto", *get_args(Mode)},
    "normalize": {*get_args(Normalization)},
    "attention": {*get_args(Score)},
    "schedule": {*get_args(Kind)},
}
STILL = {"learning_rate": 0.0, "dropout": 0.0, "embedding_dim": 8, "hidden_size": 12}


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.tsv", few_pairs()[:60])


def _loss(model: Seq2Seq, pairs: list[Pair]) -> float:
    """Nats per symbol, one pair at a time."""
    total, symbols = 0.0, 0
    with torch.no_grad():
        for source, target in pairs:
            ids, lengths = pad([model.source.encode(source, eos=True)])
            answer, _ = pad([model.target.encode(target, bos=True, eos=True)])
            total += float(model(ids, lengths, answer)) * (len(answer) - 1)
            symbols += len(answer) - 1
    return total / symbols


def _one_epoch(
    folder: Path, pairs_file: Path, dev: list[Pair], **options: object
) -> tuple[Seq2Seq, dict[str, float]]:
    """A model that held out `dev`, and the row of its epoch."""
    config = Config(
        data=str(pairs_file),
        dev=str(write_pairs(folder / "dev.tsv", dev)),
        out=str(folder / "run"),
        **{**STILL, "epochs": 1, **options},
    )
    model = train(config, QUIET).model
    assert isinstance(model, Seq2Seq)
    (row,) = read_metrics(folder / "run" / "metrics.csv")
    return model, row


def test_metrics_of_pairs_are_what_they_say(tmp_path: Path, pairs_file: Path) -> None:
    """Losses are means over symbols, not over batches; error rates are those of `evaluate`."""
    dev = list(few_pairs()[60:80])
    model, row = _one_epoch(tmp_path, pairs_file, dev, label_smoothing=0.0, batch_size=7)
    assert row["train_loss"] == pytest.approx(_loss(model, list(few_pairs()[:60])), rel=1e-4)
    first = list({word: (word, target) for word, target in reversed(dev)}.values())
    assert row["dev_loss"] == pytest.approx(_loss(model, first), rel=1e-4)
    rates = evaluate(model, dev).rates
    assert row["dev_wer"] == pytest.approx(rates.wer)
    assert row["dev_per"] == pytest.approx(rates.per, rel=1e-5)
    assert row["words_per_s"] * row["seconds"] == pytest.approx(60, rel=1e-4)
    characters = sum(len(s) + len(t.split(" ")) for s, t in few_pairs()[:60])
    assert row["chars_per_s"] * row["seconds"] == pytest.approx(characters, rel=1e-4)


@pytest.mark.parametrize("chunk", [1, 10, 1000])
def test_text_is_read_in_one_piece_whatever_the_chunk(tmp_path: Path, chunk: int) -> None:
    """The state goes on from chunk to chunk, in training as in `text_loss`."""
    text = " ".join(word for word, _ in few_pairs()[:30])
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "dev.txt").write_text(text[::-1])
    config = Config(
        data=str(tmp_path / "text.txt"),
        dev=str(tmp_path / "dev.txt"),
        out=str(tmp_path / "run"),
        model="char_lm",
        batch_size=1,
        chunk=chunk,
        epochs=1,
        **STILL,
    )
    finished = train(config, QUIET)
    assert isinstance(finished.model, CharLM)
    assert isinstance(finished.data, TextData)
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    assert row["train_loss"] == pytest.approx(text_loss(finished.model, text), rel=1e-4)
    assert row["dev_loss"] == pytest.approx(text_loss(finished.model, text[::-1]), rel=1e-4)
    assert row["dev_bits"] == pytest.approx(row["dev_loss"] / 0.693147, rel=1e-4)
    assert row["chars_per_s"] * row["seconds"] == pytest.approx(len(text) - 1, rel=1e-4)


def test_early_stopping(tmp_path: Path, pairs_file: Path) -> None:
    """What never gets better stops after `patience` more epochs."""
    config = Config(data=str(pairs_file), out=str(tmp_path / "run"), epochs=9, patience=2, **STILL)
    train(config, QUIET)
    assert len(read_metrics(tmp_path / "run" / "metrics.csv")) == 3


def test_an_epoch_with_a_lower_loss_is_a_better_one(tmp_path: Path) -> None:
    """Early stopping and the best model go by the same rule: equal error rates don't stop a run
    whose loss still falls."""
    train_file, dev_file = (tmp_path / name for name in ("pairs.tsv", "dev.tsv"))
    write_pairs(train_file, few_pairs()[:60])
    write_pairs(dev_file, [(word, target + " Q") for word, target in few_pairs()[60:80]])
    options = {**STILL, "learning_rate": 1e-3, "epochs": 6, "patience": 1}
    config = Config(data=str(train_file), dev=str(dev_file), out=str(tmp_path / "run"), **options)
    train(config, QUIET)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert {row["dev_wer"] for row in rows} == {1.0}
    losses = [row["dev_loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert len(rows) == 6


def test_the_rate_in_the_metrics_is_that_of_the_epoch(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`metrics.csv` has the learning rate that an epoch ended with, not that of the next one."""

    losses = []

    def halve(schedule: Schedule, loss: float) -> None:
        losses.append(loss)
        schedule._scale /= 2

    monkeypatch.setattr(Schedule, "epoch_ended", halve)
    settings = {"epochs": 3, "schedule": "plateau", "learning_rate": 0.001}
    config = Config(data=str(pairs_file), out=str(tmp_path / "run"), **{**STILL, **settings})
    train(config, QUIET)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["learning_rate"] for row in rows] == [0.001, 0.0005, 0.00025]
    assert losses == pytest.approx([row["dev_loss"] for row in rows], rel=1e-5)


def test_the_best_epoch_is_kept(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes astray: the model and best.ckpt are of the best epoch, not of the last."""

    def lead_astray(task: Seq2SeqTask) -> None:
        if task.current_epoch == 3:
            with torch.no_grad():
                for parameter in task.parameters():
                    parameter.mul_(-3)

    monkeypatch.setattr(Seq2SeqTask, "on_train_epoch_start", lead_astray)
    config = Config(
        data=str(pairs_file),
        out=str(tmp_path / "run"),
        embedding_dim=8,
        hidden_size=12,
        epochs=4,
        batch_size=8,
        schedule="constant",
        learning_rate=0.01,
    )
    model = train(config, QUIET).model
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    best = min(rows, key=lambda row: (row["dev_wer"], row["dev_loss"]))
    assert best is not rows[-1]
    kept = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)
    assert kept["fastchar"]["record"]["epoch"] == best["epoch"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept["state_dict"][f"model.{name}"]), name


def test_a_device_that_is_not_there(tmp_path: Path, pairs_file: Path) -> None:
    """Found before anything is written."""
    if torch.cuda.is_available():
        pytest.skip("it is there")
    config = Config(data=str(pairs_file), out=str(tmp_path / "run"), device="cuda")
    with pytest.raises(InputError, match="device: expected one that is there, got cuda, and torch"):
        train(config, QUIET)
    assert not (tmp_path / "run").exists()


def test_pairs_that_are_too_long_for_the_memory(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of 50,000 symbols wants 260 GB for its attention: say so, and what to do."""

    def forward(*args: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")

    monkeypatch.setattr(Seq2Seq, "forward", forward)
    config = Config(data=str(pairs_file), out=str(tmp_path / "run"), **STILL)
    with pytest.raises(InputError, match=r"expected batches that fit .* 64 pairs of up to \d+ and"):
        train(config, QUIET)


def test_a_diverging_run_says_so(tmp_path: Path, pairs_file: Path) -> None:
    """Not a number is no loss to go on with."""
    config = Config(
        data=str(pairs_file),
        out=str(tmp_path / "run"),
        embedding_dim=8,
        hidden_size=12,
        learning_rate=1e38,
    )
    with pytest.raises(InputError, match=r"epoch \d+: expected a loss that is a number, got .*nan"):
        train(config, QUIET)


def test_the_seed_decides_everything(tmp_path: Path, pairs_file: Path) -> None:
    """The same seed makes the same model, another seed another one."""

    def weights(name: str, seed: int) -> torch.Tensor:
        config = Config(
            data=str(pairs_file),
            out=str(tmp_path / name),
            seed=seed,
            epochs=1,
            embedding_dim=8,
            hidden_size=12,
        )
        parameters = train(config, QUIET).model.parameters()
        return torch.cat([p.detach().flatten() for p in parameters])

    one = weights("one", 3)
    assert torch.equal(one, weights("same", 3))
    assert not torch.equal(one, weights("other", 4))


def test_held_out_words_can_be_fewer(tmp_path: Path, pairs_file: Path) -> None:
    """`dev_words` bounds what is read after each epoch; all references of a word stay with it."""
    dev = [*few_pairs()[60:120], *[(word, "X") for word, _ in few_pairs()[60:120]]]
    config = Config(
        data=str(pairs_file),
        dev=str(write_pairs(tmp_path / "dev.tsv", dev)),
        out=str(tmp_path / "run"),
        dev_words=10,
        epochs=1,
        **STILL,
    )
    data = train(config, QUIET).data
    assert len(data.dev.source) == len(data.dev_references) == 10
    assert all(["X"] in references for references in data.dev_references)


def test_two_spellings_are_one_word_to_a_model_that_reads_them_alike() -> None:
    """With the references of both, as it was trained; to another model they are two words."""
    pairs = [("caf\u00e9", "A"), ("cafe\u0301", "B"), ("caf\u00e9", "C")]
    one = {"caf\u00e9": ["A", "B", "C"]}
    two = {"caf\u00e9": ["A", "C"], "cafe\u0301": ["B"]}
    for form, words in (("NFC", one), (None, two)):
        source = Vocabulary.build([s for s, _ in pairs], normalize=form)  # type: ignore[arg-type]
        target = Vocabulary.build(["xyz"])  # so that the model is never right
        found = evaluate(Seq2Seq(source, target, embedding_dim=4, hidden_size=4), pairs)
        assert found.rates.words == len(words)
        assert {mistake.source: mistake.references for mistake in found.mistakes} == words


def test_bytes_that_are_no_text_are_one_symbol_each(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of bytes that writes parts of letters only: each is one edit, not the three bytes of
    the sign that stands for it in a text; in training as in `evaluate`."""
    wrong = [b + 4 for b in b"\xff\xfe"]

    def greedy(model: Seq2Seq, source: Tensor, *rest: object) -> tuple[list[list[int]], Tensor]:
        B = source.shape[1]
        return [wrong] * B, torch.zeros(B)

    monkeypatch.setattr(Seq2Seq, "greedy", greedy)
    monkeypatch.setattr(predictor, "greedy_search", lambda *given: greedy(None, given[3][None]))
    dev = [("ab", "x"), ("cd", "y")]
    model, row = _one_epoch(tmp_path, pairs_file, dev, target_mode="bytes")
    found = evaluate(model, dev)
    assert row["dev_per"] == found.rates.per == 2
    assert found.confusions.total() == 4
    assert {got for _, got in found.confusions} == {"<0xFF>", "<0xFE>"}


def test_what_a_target_symbol_is() -> None:
    """Phones between spaces are found out; words of sentences and letters are not phones."""
    config = Config(data="-")
    letters = [("ab", "ba"), ("cd", "d c")] * 3
    sentences = [(f"a {i}", f"word{i} other{i} third{i}") for i in range(300)]
    assert vocabularies(few_pairs(), config)[1].mode == "separated"
    assert vocabularies(letters, config)[1].mode == "chars"
    assert vocabularies(sentences, config)[1].mode == "chars"
    forced = Config(data="-", target_mode="bytes", source_mode="separated", normalize="NFC")
    source, target = vocabularies(sentences, forced)
    assert (source.mode, target.mode) == ("separated", "bytes")
    assert source.encode("a") != [Vocabulary.unk_id]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs: expected a whole number from 1, got 0"),
        ({"epochs": 1.5}, "epochs: expected a whole number from 1, got 1.5"),
        ({"dropout": 1}, "dropout: expected a number from 0 to 0.99, got 1.0"),
        ({"dropout": "much"}, "dropout: expected a number from 0 to 0.99, got 'much'"),
        ({"attention": "self"}, "attention: expected one of general, dot, additive, got 'self'"),
        ({"tensorboard": "yes"}, "tensorboard: expected true or false, got 'yes'"),
        ({"data": 3}, "data: expected text, got 3"),
        ({"out": ""}, "out: expected text, got ''"),
        ({"seed": 2**32}, "seed: expected a whole number from 0 to 4294967295, got 4294967296"),
        ({"clip": float("nan")}, "clip: expected a number from 0, got nan"),
        ({"clip": True}, "clip: expected a number from 0, got True"),
        ({"clip": float("inf")}, "clip: expected a number from 0, got inf"),
        ({"chunk": 3}, "chunk: expected with model char_lm, got model seq2seq"),
    ],
)
def test_bad_settings(setting: dict[str, object], message: str) -> None:
    """One line: the setting, what was expected, what came."""
    with pytest.raises(InputError) as error:
        Config(**{"data": "x.tsv", **setting})  # type: ignore[arg-type]
    assert str(error.value) == message


def test_choices_are_those_of_what_they_set() -> None:
    """Config spells them out, so that `--help` needs no torch: none is missing, none too many."""
    hints = get_type_hints(Config)
    assert {name: set(get_args(without_none(hints[name]))) for name in CHOICES} == CHOICES


def test_settings_from_yaml(tmp_path: Path) -> None:
    """Names with - or _, numbers that YAML takes for text or whole, null for the default."""
    path = tmp_path / "config.yaml"
    path.write_text("learning-rate: 1e-3\nclip: 5\nnormalize: null\nencoder_layers: 2\n")
    settings = read_yaml(str(path))
    assert settings == {
        "learning_rate": 1e-3,
        "clip": 5.0,
        "normalize": None,
        "encoder_layers": 2,
    }
    config = Config(data="some/words.tsv.gz", **settings)
    assert (config.hidden_size, config.out) == (256, "runs/words")
    assert Config(data="some/.words.tsv").out == "runs/words"
    assert Config(data="-", model="char_lm").hidden_size == 512


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    """A tensor as large as the last one costs no new pages."""
    program = """
import resource, torch
from fastchar.training.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(1 << 20)  # 4 MiB, 1024 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
a = faults()
keep_freed_memory()
faults()
print(a, faults())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    returned, kept = map(int, done.stdout.split())
    assert kept < 100
    assert kept < returned


def test_clock() -> None:
    """Minutes and seconds, rounded as one."""
    assert [clock(s) for s in (0, 59.4, 59.6, 75, 3600)] == [
        "0:00",
        "0:59",
        "1:00",
        "1:15",
        "60:00",
    ]
