"""`pytest benchmarks/`: every group as a pytest-benchmark table, contestants side by side."""

import pytest

from .grids import GRIDS, takes_part
from .groups import all_groups
from .tables import point_text


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--grid", choices=("quick", "full"), default="quick", help="points to measure (quick)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each group, point and contestant; `-k lstm_training` picks a group."""
    if "contestant_name" in metafunc.fixturenames:
        grid = metafunc.config.getoption("--grid")
        cases = [
            pytest.param(group, point, name, id=f"{group.name}-{point_text(point)}-{name}")
            for group in all_groups().values()
            for point in GRIDS[group.name][grid]
            for name in group.contestants
            if takes_part(group.name, name, point)
        ]
        metafunc.parametrize(("group", "point", "contestant_name"), cases)
