"""`fastchar bench` runs the checkout's benchmarks, or says where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runs import ok, refused, run

from fastchar.cli import bench


def test_arguments_are_the_benchmarks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, as they stand, and --help is answered there."""
    from benchmarks import run as benchmarks

    assert ok("bench", "--help").startswith("usage: python -m benchmarks.run")
    assert run("bench", "--grid", "none").exit_code == 2
    got = []
    monkeypatch.setattr(benchmarks, "main", got.append)
    ok("bench")
    ok("bench", "--group", "linear", "--out=x", "-h")
    assert got == [[], ["--group", "linear", "--out=x", "-h"]]


def test_an_installed_package_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says where they are."""
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert refused("bench", "--grid", "full") == (
        "fastchar: bench: the benchmarks are in fastchar's source checkout, not in the installed "
        "package; there, make bench builds and runs them"
    )
