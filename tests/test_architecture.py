"""What docs/architecture.md says of the package's layers, asked of the sources."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastchar import reference

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastchar"
# Of no layer: the names that the package gives out, its version, and `python -m fastchar`.
APART = {"__init__", "__main__", "version"}


def layers() -> list[set[str]]:
    """The modules of each layer, the lowest first."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.split(r"\n(?=\S)", page.split("```")[1].strip())
    named = [set(re.findall(r"\b(\w+)(?:\.py\b|/(?=[ :]))", row)) for row in rows]
    return [names for names in named if names]


def imported(path: Path) -> Iterator[str]:
    """The package's modules that a file imports, wherever in it and for whatever reason."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("fastchar."))


def test_every_module_has_a_layer() -> None:
    """The page names each module and subpackage once, and none that is not there."""
    there = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    named = [name for layer in layers() for name in layer]
    assert sorted(named) == sorted(there - APART)


def test_no_layer_knows_those_that_use_it() -> None:
    """A module imports from its own layer and from lower ones."""
    level = {name: k for k, names in enumerate(layers()) for name in names}
    upwards = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name not in APART:
            upwards += [f"{path}: {m}" for m in imported(path) if level.get(m, -1) > level[name]]
    assert upwards == []


@pytest.mark.native
def test_an_op_names_its_specification() -> None:
    """Each function of `fastchar.ops` is called as its op, and says what it is tested against."""
    import torch

    from fastchar import ops

    found = inspect.getmembers(ops, inspect.isfunction)
    own = {name: f for name, f in found if f.__module__ == ops.__name__}
    assert "lstm_layer" in own
    for name, function in own.items():
        assert hasattr(torch.ops.fastchar, name)
        (specified,) = re.findall(r"see `reference\.(\w+)`", function.__doc__ or "", re.IGNORECASE)
        assert specified in reference.__all__
