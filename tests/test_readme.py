"""What README.md and the pages of docs/ say to type does run, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_data import few_pairs, one_thread, write_pairs
from typer.testing import CliRunner

import fastchar
from fastchar.cli import app
from fastchar.training import config, run
from fastchar.training.folder import RunFolder

ROOT = Path(__file__).parents[1]


def blocks(language: str, page: str = "README.md") -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run_commands(block: str) -> None:
    """The `fastchar` commands of a block, each of which ends well."""
    for line in block.splitlines():
        words, stdin = shlex.split(line, comments=True), None
        if words[0] == "echo":
            stdin, words = words[1] + "\n", words[3:]
        assert words[0] == "fastchar"
        result = CliRunner().invoke(app, words[1:], input=stdin)
        assert result.exit_code == 0, (line, result.output, result.exception)


def test_drop_in_block() -> None:
    """The modules, as a change of an import."""
    (block,) = (b for b in blocks("python") if "EmbeddingLSTM" in b)
    names: dict[str, object] = {}
    exec(block, names)
    assert names["output"].shape == (50, 32, 256)


def test_drop_in_page() -> None:
    """The migration of a model with an embedding and an LSTM of torch's; then packed sequences, and
    `lengths` in their place."""
    model, old = (nn.Module() for _ in range(2))
    for m in (model, old):
        m.embedding, m.lstm = nn.Embedding(128, 64), nn.LSTM(64, 256)
    ids, lengths = torch.randint(128, (7, 3)), torch.tensor([6, 1, 2])
    names: dict[str, object] = {"model": model, "old": old, "ids": ids, "lengths": lengths}
    migration, packing = blocks("python", "docs/drop-in.md")
    exec(migration, names)
    assert type(model.embedding) is fastchar.Embedding
    assert names["y"].shape == (7, 3, 256)
    exec(packing, names)
    assert names["y"].shape == (7, 3, 512)
    torch.testing.assert_close(names["y"], names["y_too"])


def test_command_line_and_model_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `fastchar` command of the page, then the Python that loads what they trained; of little
    models, soon trained, as no command there says how large."""
    for defaults in config.DEFAULTS.values():
        monkeypatch.setitem(defaults, "hidden_size", 16)
        monkeypatch.setitem(defaults, "epochs", 2)
    monkeypatch.chdir(tmp_path)
    write_pairs(Path("words.tsv"), few_pairs()[:70])
    write_pairs(Path("test.tsv"), few_pairs()[70:90])
    Path("book.txt").write_text("The cat sat on the mat. " * 50)
    (block,) = (b for b in blocks("sh") if "fastchar train" in b)
    with one_thread():
        run_commands(block)
        assert Path("map.png").is_file()
        assert Path("errors.tsv").read_text("utf-8").startswith("source\texpected\tgot")
        (block,) = (b for b in blocks("python") if "from_pretrained" in b)
        capsys.readouterr()
        exec("import fastchar\n" + block, {})
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_first_model_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is made, and all programs and commands of the page run on it; a tenth of its lines
    will do here. What the page shows is there afterwards."""
    write_report = run.write_report

    def write(model: Any, data: Any, folder: RunFolder, *rest: Any) -> None:
        """Pictures but for a sweep's trials, which have them in the test above."""
        if "-sweep" not in str(folder.path):
            write_report(model, data, folder, *rest)

    monkeypatch.setattr(run, "write_report", write)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "first-model.md").read_text("utf-8").replace("4000", "400")
    with one_thread():
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if language == "python":
                exec(block, {})
            else:
                run_commands(block)
    # The test asks for no ending of a number that the training has not seen.
    lines = (Path(name).read_text("utf-8").splitlines() for name in ("numerals.tsv", "test.tsv"))
    to_train, to_test = ({line.partition("\t")[0][-1] for line in some} for some in lines)
    assert to_test <= to_train
    for picture in ("curve", "attention", "embedding"):
        assert Path("runs", "numerals", f"{picture}.png").is_file()
    columns = Path("mistakes.tsv").read_text("utf-8").splitlines()[0].split("\t")
    assert columns == ["source", "expected", "got", "edits", "log_prob"]
    assert len(Path("answers.tsv").read_text("utf-8").splitlines()) == 2


def test_models_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs run one after the other, and a run's folder holds what the page says."""
    monkeypatch.chdir(tmp_path)
    page = "docs/models.md"
    names: dict[str, Any] = {}
    with one_thread():
        exec("\n".join(blocks("python", page)), names)
    assert names["log_probs"].shape == (1,)
    assert names["attention"].shape == (1, 4, 1, 5)
    assert names["row"].shape == (16,)
    assert len(names["close"]) == 3
    table = (ROOT / page).read_text("utf-8").partition("| file | holds |")[2].partition("\n\n")[0]
    files = " ".join(row.split("|")[1] for row in table.splitlines() if "`" in row)
    named = set(re.findall(r"`([\w.]+)/?`", files))
    assert named == {path.name for path in Path("run").iterdir()}
