"""Runs that begin from a model: its weights, its symbols and its sizes, and on from there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_runs import ok
from training_data import few_pairs, write_pairs
from training_runs import PAIRS, QUIET, config_of, stop_after

from fastchar import CharLM, Seq2Seq, Vocabulary
from fastchar.models import load
from fastchar.training import Config, InputError, resume, train
from fastchar.training.callbacks import Interrupted
from fastchar.training.config import read_yaml
from fastchar.training.data import TextData

pytestmark = pytest.mark.usefixtures("fast_runs")
TEXT = " ".join(word for word, _ in few_pairs()[:60])


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.tsv", few_pairs()[:60])


def save_seq2seq(folder: Path, **options: object) -> Seq2Seq:
    """A model of the pairs' symbols, of sizes that are nobody's default, with random weights."""
    torch.manual_seed(7)
    source = Vocabulary.build(word for word, _ in few_pairs())
    target = Vocabulary.build((phones for _, phones in few_pairs()), mode="separated")
    sizes = {"embedding_dim": 6, "hidden_size": 10, "attention": "dot", "encoder_layers": 2}
    model = Seq2Seq(source, target, **{**sizes, **options})
    model.save_pretrained(folder)
    return model


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_pairs_go_on_from_a_model(tmp_path: Path, pairs_file: Path) -> None:
    """With a learning rate of 0 it is the same model to the bit, symbols and sizes included,
    whatever the data's own symbols are; the run folder says what it was; and it can be the next
    one's beginning."""
    model = save_seq2seq(tmp_path / "model", dropout=0.4)
    begin, still = str(tmp_path / "model"), {"learning_rate": 0.0, "epochs": 1, "dropout": 0.1}
    for name in ("first", "second"):
        out = tmp_path / name
        config = Config(data=str(pairs_file), out=str(out), init_from=begin, **still)
        found = train(config, QUIET).model
        assert same_weights(model, found)
        assert (found.source, found.target) == (model.source, model.target)
        assert found.config == {**model.config, "dropout": 0.1, "label_smoothing": 0.1}
        assert read_yaml(str(out / "config.yaml"))["hidden_size"] == 10
        assert f"beginning from the model in {begin}" in (out / "log").read_text()
        begin = str(out)


def test_text_goes_on_from_a_model(tmp_path: Path) -> None:
    """The same for plain text, whose kind of model need not be named."""
    torch.manual_seed(7)
    model = CharLM(Vocabulary.build([TEXT + "0123"]), embedding_dim=6, hidden_size=10, num_layers=2)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT + " ß?")
    config = Config(
        data=str(tmp_path / "text.txt"),
        out=str(tmp_path / "run"),
        init_from=str(tmp_path / "model"),
        learning_rate=0.0,
        epochs=1,
        batch_size=2,
    )
    finished = train(config, QUIET)
    assert same_weights(model, finished.model)
    assert isinstance(finished.data, TextData)
    assert finished.data.vocabulary == model.vocabulary


def test_it_learns_from_where_the_model_was(tmp_path: Path, pairs_file: Path) -> None:
    """The first epoch after a trained model is better than the first epoch of all."""
    options = {**PAIRS, "hidden_size": 24, "learning_rate": 0.01}
    first = config_of(tmp_path, "first", pairs_file, **{**options, "epochs": 12})
    losses = [row["train_loss"] for row in train(first, QUIET).folder.read_metrics()]
    second = config_of(tmp_path, "second", pairs_file, **options, init_from=first.out)
    begun = train(second, QUIET).folder.read_metrics()[0]["train_loss"]
    assert losses[-1] < losses[0] - 0.3
    assert begun < losses[0] - 0.3


def test_a_stopped_run_goes_on_with_the_same_bits(
    tmp_path: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any other; and its beginning is needed for its symbols only."""
    save_seq2seq(tmp_path / "model")
    sizes = {"embedding_dim": 6, "hidden_size": 10, "init_from": str(tmp_path / "model")}
    whole = train(config_of(tmp_path, "whole", pairs_file, **PAIRS, **sizes), QUIET).model
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Interrupted):
            train(config_of(tmp_path, "stopped", pairs_file, **PAIRS, **sizes), QUIET)
    save_seq2seq(tmp_path / "model", dropout=0.0).output.weight.data.zero_()
    assert same_weights(whole, resume(tmp_path / "stopped", QUIET).model)


def test_what_the_model_lacks(tmp_path: Path) -> None:
    """Sources may have symbols that it never saw, and the log says which; targets may not, since
    it could never write them."""
    save_seq2seq(tmp_path / "model")
    dev = write_pairs(tmp_path / "dev.tsv", few_pairs()[60:70])
    begin = {"init_from": str(tmp_path / "model"), "dev": str(dev), "epochs": 1}
    pairs = [*few_pairs()[:60], ("zürich", "Z UH R IH K")]
    file = write_pairs(tmp_path / "sources.tsv", pairs)
    train(Config(data=str(file), out=str(tmp_path / "run"), **begin), QUIET)
    assert "read as <unk>, never seen in training: ü 1" in (tmp_path / "run" / "log").read_text()
    file = write_pairs(tmp_path / "targets.tsv", [*few_pairs()[:60], ("loch", "L AA KH")])
    message = "expected targets of the symbols that the model .* got others: 1 of .*: KH 1"
    with pytest.raises(InputError, match=message):
        train(Config(data=str(file), out=str(tmp_path / "other"), **begin), QUIET)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 64}, "embedding_dim: expected 6, which the model in .* has, got 64"),
        ({"attention": "additive"}, "attention: expected dot, which .* got additive"),
        ({"model": "char_lm"}, "model: expected seq2seq, which .* got char_lm"),
        ({"source_mode": "bytes"}, "source_mode: expected chars, which .* got bytes"),
        ({"normalize": "NFC"}, "normalize: expected None, which .* got NFC"),
        ({"init_from": "nowhere"}, "init_from: expected a model, got: nowhere: expected a saved"),
    ],
)
def test_settings_that_the_model_does_not_have(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    """Each is refused by its name, with what the model has and what came; the same is welcome."""
    save_seq2seq(tmp_path / "model")
    begin = {"data": "pairs.tsv", "init_from": str(tmp_path / "model")}
    with pytest.raises(InputError, match=message):
        Config(**{**begin, **settings})
    config = Config(**begin, embedding_dim=6, attention="dot", source_mode="chars", epochs=3)
    assert (config.hidden_size, config.target_mode, config.epochs) == (10, "separated", 3)


def test_a_model_of_another_version(tmp_path: Path) -> None:
    """One that has a part that this version knows nothing of is refused in a line."""
    save_seq2seq(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(file.read_text().replace('"embedding_dim"', '"embedding_size"'))
    message = "model: expected a model that train can make, got one with embedding_size"
    with pytest.raises(InputError, match=message):
        Config(data="pairs.tsv", init_from=str(tmp_path / "model"))


def test_the_command_line_begins_from_a_run(tmp_path: Path, home: Path) -> None:
    """`train --init-from RUN` needs no other setting, and makes a run of its own."""
    ok(
        *("train", home / "pairs.tsv", "--init-from", home / "g2p", "--epochs", 1),
        *("--learning-rate", 0, "--out", tmp_path / "run"),
    )
    assert same_weights(load(home / "g2p" / "model"), load(tmp_path / "run" / "model"))
