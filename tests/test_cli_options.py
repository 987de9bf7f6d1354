"""Each option of the command line does what Python's does, shown with models made on the spot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli_runs import ok
from training_data import one_thread

from fastchar import CharLM, Seq2Seq, Vocabulary
from fastchar.analysis.unseen import Unseen
from fastchar.cli.options import warn
from fastchar.training.evaluation import evaluate

WORDS = ["abba", "bad", "cabbage", "decaf", "ace", "fed"]
PAIRS = [(word, word[::-1]) for word in WORDS]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def pairs_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seq2Seq, Path]:
    """A model far from uniform, so that a beam finds what greedy search does not."""
    torch.manual_seed(5)
    letters = Vocabulary("abcdefg")
    model = Seq2Seq(letters, letters, embedding_dim=8, hidden_size=8).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.8)
        model.output.bias[Vocabulary.eos_id] += 2
    folder = tmp_path_factory.mktemp("pairs")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[CharLM, Path]:
    torch.manual_seed(0)
    model = CharLM(Vocabulary("abcdefg"), embedding_dim=4, hidden_size=4).eval()
    with torch.no_grad():
        model.output.bias[Vocabulary.eos_id] = -100.0
    folder = tmp_path_factory.mktemp("text")
    model.save_pretrained(folder)
    return model, folder


SEARCHES = [
    {"beam": 1},
    {"beam": 6},
    {"beam": 6, "length_penalty": 2.0},
]


def _typed(options: dict[str, float]) -> list[object]:
    return [part for k, v in options.items() for part in ("--" + k.replace("_", "-"), v)]


def test_searches_differ(pairs_model: tuple[Seq2Seq, Path]) -> None:
    """The tests below would tell one search from another."""
    found = [str(pairs_model[0].predict(WORDS, **options)) for options in SEARCHES]
    assert len(set(found)) == 3


@pytest.mark.parametrize("options", [{}, *SEARCHES])
def test_predict(pairs_model: tuple[Seq2Seq, Path], options: dict[str, float]) -> None:
    """Searches as it is told, with a beam of 5 if it is not; the third column is exp(log_prob)."""
    model, folder = pairs_model
    shown = ok("predict", folder, "--probabilities", *_typed(options), stdin="\n".join(WORDS))
    rows = [line.split("\t") for line in shown.splitlines()]
    found = model.predict(WORDS, **({"beam": 5} | options))  # type: ignore[arg-type]
    for word, row, (best,) in zip(WORDS, rows, found, strict=True):
        assert row[:2] == [word, best.text]
        assert float(row[2]) == pytest.approx(torch.tensor(best.log_prob).exp().item(), rel=1e-3)


@pytest.mark.parametrize("options", SEARCHES)
def test_evaluate(
    pairs_model: tuple[Seq2Seq, Path], tmp_path: Path, options: dict[str, float]
) -> None:
    """Judges what the search that it is told finds, here and in Python."""
    model, folder = pairs_model
    data, errors = tmp_path / "pairs.tsv", tmp_path / "errors.tsv"
    data.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    found = dict(zip(WORDS, model.predict(WORDS, **options), strict=True))  # type: ignore[arg-type]
    judged = evaluate(model, PAIRS, **options)  # type: ignore[arg-type]
    assert len(judged.mistakes) == len(WORDS)
    for mistake in judged.mistakes:
        assert mistake.hypothesis.ids == found[mistake.source][0].ids
        assert mistake.hypothesis.score == pytest.approx(found[mistake.source][0].score)
    ok("evaluate", folder, data, "--errors", errors, *_typed(options))
    rows = [line.split("\t") for line in errors.read_text().splitlines()[1:]]
    assert {row[0]: row[2] for row in rows} == {word: found[word][0].text for word in WORDS}


def test_confusions_of_evaluate(pairs_model: tuple[Seq2Seq, Path], tmp_path: Path) -> None:
    """The most frequent ones, as many as are asked for: what was expected, what came, how often."""
    model, folder = pairs_model
    data = tmp_path / "pairs.tsv"
    data.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    confusions = evaluate(model, PAIRS).confusions
    shown = ok("evaluate", folder, data, "--confusions", 3)
    rows = re.findall(r"^ +(\S)  (\S) +(\d+) +([\d.]+)%  ▇+$", shown, re.MULTILINE)
    assert len(rows) == 3
    times = {tuple(None if s == "∅" else s for s in row[:2]): int(row[2]) for row in rows}
    assert times.items() <= Counter(confusions).items()
    assert sorted(times.values()) == sorted(confusions.values())[-3:]
    for row in rows:
        assert float(row[3]) == pytest.approx(100 * int(row[2]) / confusions.total(), abs=0.06)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.05}, {"top_k": 2}, {"top_p": 0.3}, {"stop": "a"}]
)
def test_generate(text_model: tuple[CharLM, Path], options: dict[str, float | str]) -> None:
    """Draws as it is told, and that makes a difference."""
    model, folder = text_model
    same = {"length": 40, "seed": 3}
    shown = ok("generate", folder, *_typed({**same, **options}))  # type: ignore[dict-item]
    assert shown == model.generate(**same, **options) + "\n"
    assert shown != model.generate(**same) + "\n"


def test_inspect(tmp_path: Path) -> None:
    """Each symbol with its own count, length and neighbours, also behind symbols never seen."""
    vocabulary = Vocabulary("abcde", counts=[0, 0, 0, 0, 5, 0, 0, 3, 1000])
    model = CharLM(vocabulary, embedding_dim=2, hidden_size=2)
    with torch.no_grad():
        rows = [[3.0, 4.0], [3.0, 4.1], [1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]  # of a to e
        model.rnn.embedding.weight[4:] = torch.tensor(rows)
    model.save_pretrained(tmp_path)
    shown = ok("inspect", tmp_path, "--neighbours", 1)
    assert "text: 3 symbols seen, embeddings of 2 numbers" in shown
    assert [line.split() for line in shown.splitlines()[-3:]] == [
        ["a", "5", "5.00", "e", "0.99"],
        ["d", "3", "2.00", "a", "0.80"],
        ["e", "1,000", "1.41", "a", "0.99"],
    ]
    both = ok("inspect", tmp_path, "--symbol", "d").splitlines()[-1].split()
    assert both == ["d", "3", "2.00", "a", "0.80", "e", "0.71"]


def test_env_has_the_variables_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of a bug needs them: they say which code runs."""
    monkeypatch.setenv("FASTCHAR_CPU_ISA", "portable")
    assert re.search(r"^FASTCHAR_CPU_ISA +portable$", ok("env"), re.MULTILINE)


def test_the_most_frequent_unseen_symbols(capsys: pytest.CaptureFixture[str]) -> None:
    """Five of them, the others as dots."""
    unseen = Unseen(Vocabulary("a"))
    unseen.add("abcdefgg")
    warn(unseen)
    assert capsys.readouterr().err == (
        "fastchar: 7 of 8 symbols read as <unk>, never seen in training: "
        "g 2, b 1, c 1, d 1, e 1, ...\n"
    )
