"""`pytest` alone shares the tests out to processes, which share nothing out themselves."""

from types import SimpleNamespace
from typing import Any

import conftest
import pytest

Source = pytest.Config.ArgsSource


@pytest.mark.parametrize(
    ("changed", "processes"),
    [
        ({}, 3),
        ({"cores": 1}, None),
        ({"worker": "gw0"}, None),  # or each would start three more, and these too
        ({"source": Source.ARGS}, None),  # a file or a test is named
        ({"option": {"numprocesses": 0}}, 0),  # -n0
        ({"option": {"usepdb": True}}, None),
        ({"option": {"collectonly": True}}, None),
    ],
)
def test_who_shares_the_tests_out(
    changed: dict[str, Any], processes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole suite's first process alone, where it has several cores, unless told not to."""
    monkeypatch.setattr(conftest, "PROCESSES", changed.get("cores", 3))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    if "worker" in changed:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", changed["worker"])
    given = {"numprocesses": None, "dist": "no", "usepdb": False, "collectonly": False}
    option = SimpleNamespace(**given | changed.get("option", {}))
    source = changed.get("source", Source.TESTPATHS)
    config = SimpleNamespace(args_source=source, ArgsSource=Source, option=option)
    conftest.pytest_cmdline_main(config)
    assert option.numprocesses == processes
    assert option.dist == ("loadfile" if processes else "no")


def test_without_xdist_nothing_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are not there, as on a machine that has only torch and pytest."""
    monkeypatch.setattr(conftest, "PROCESSES", 3)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    option = SimpleNamespace(usepdb=False, collectonly=False)
    config = SimpleNamespace(args_source=Source.TESTPATHS, ArgsSource=Source, option=option)
    conftest.pytest_cmdline_main(config)
    assert vars(option) == {"usepdb": False, "collectonly": False}
