"""The benchmark's report says what was measured, and nothing else: from JSON to the pages."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_gpu_report import MADE_UP

from benchmarks import grids, plots, report, tables
from benchmarks.gpu import report as gpu_report
from benchmarks.roofline import Roof
from benchmarks.run import main as run_benchmarks
from benchmarks.run import rounded


@pytest.fixture
def measured() -> tables.Result:
    """A result of two points, as `benchmarks.run` writes them; ours is 2 and 8 times faster than
    the faster of two baselines, which is another one at each point."""

    def spread(value: float) -> dict[str, float]:
        return {"median": value, "q1": 0.9 * value, "q3": 1.1 * value}

    def entry(size: int, slow: float, quick: float, ours: float) -> dict[str, object]:
        seconds = {"slow": slow, "quick": quick, "fastchar": ours}
        return {
            "point": {"V": size, "N": 10 * size},
            "rounds": 5,
            "seconds": {name: {"step": spread(value)} for name, value in seconds.items()},
            "ratios": {
                "slow": {"step": spread(slow / ours)},
                "quick": {"step": spread(quick / ours)},
            },
            "roofline": {"share": 0.5, "bound": "memory"},
        }

    return {
        "group": "linear_cross_entropy",
        "title": "Loss",
        "phase": "step",
        "baselines": ["slow", "quick"],
        "floors": [],
        "ours": "fastchar",
        "grid": "quick",
        "machine": {
            "name": "test-cpu",
            "cpu": "Test CPU",
            "backends": {"backend": "native", "cpu": {"isa": "avx2"}},
            "cores": 2,
            "threads": 2,
            "caches": {"L2": 2**20},
            "torch": "2.13.0",
            "torch_isa": "AVX512",
            "python": "3.11.7",
            "fastchar": "0.1.0",
            "commit": "abc",
            "date": "2026-01-02T03:04:05+00:00",
        },
        "foreign_cores": 0.0,
        "roof": {"flops_per_second": 2e11, "bytes_per_second": 2e10},
        "points": [entry(64, 5e-3, 2e-3, 1e-3), entry(128, 8e-4, 9e-4, 1e-4)],
    }


def test_report_arithmetic(measured: tables.Result) -> None:
    """Geometric mean, worst and best come from the faster baseline at each point."""
    verdict = tables.verdict(measured)
    assert verdict.geometric_mean == pytest.approx(4.0)
    assert (verdict.worst, verdict.best) == pytest.approx((2.0, 8.0))
    assert verdict.worst_point == {"V": 64, "N": 640}
    assert tables.summary_table([measured]).splitlines()[-1] == (
        "| Loss | 2 | **4.00×** | 2.00× | V 64, N 640 | 8.00× |"
    )
    assert tables.group_table(measured).splitlines()[2] == (
        "| 64 | 640 | 5.00 ms | 2.00 ms | 1.00 ms | 5.00× | 2.00× | 1.80 to 2.20 | 50 % |"
    )
    assert [tables.duration(s) for s in (1.2, 0.0305, 41.2e-6)] == ["1.20 s", "30.5 ms", "41.2 us"]
    assert [tables.duration(s) for s in (9.996e-3, 999.6e-6)] == ["10.0 ms", "1.00 ms"]


def test_a_machine_s_results_name_every_commit(measured: tables.Result) -> None:
    """Groups that were measured on different days are not said to be of one."""
    later = {**measured["machine"], "commit": "def", "date": "2026-01-05T03:04:05+00:00"}
    text = tables.machine_text([{**measured, "machine": later}, measured])
    assert text.endswith("fastchar 0.1.0 at abc, def; 2026-01-02 to 2026-01-05.")
    assert tables.measured_text({"machine": later}) == "Measured at def, 2026-01-05."


def test_labels_have_room(measured: tables.Result) -> None:
    """However many values an axis of the grid has, no two of its labels lie over each other."""
    (first, *_) = measured["points"]
    points = [{**first, "point": dict.fromkeys("HEBT", 1000 + k)} for k in range(11)]
    figure = plots._axes([{**measured, "points": points}])
    figure.canvas.draw()
    for axes in figure.axes:
        labels = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert len(labels) == 11
        assert not any(a.overlaps(b) for a, b in pairwise(labels))


def third_party_models() -> tables.Result:
    """What examples/third_party.py writes, of one model."""
    phase = {
        "rounds": 5,
        "seconds": {"torch": {"median": 3e-3}, "fastchar": {"median": 2e-3}},
        "ratio": {"median": 1.5, "q1": 1.4, "q3": 1.6},
    }
    error = {"gradient": {"torch": 1.2e-7, "fastchar": 3.4e-7}}
    model = {"model": "a model", "training": phase, "inference": phase, "relative_error": error}
    return {"packages": {"package": "1.0"}, "models": [model]}


def test_report_fills_in_between_the_markers(measured: tables.Result, tmp_path: Path) -> None:
    """From a folder of JSON: docs, a page a machine, pictures and README, and no word outside the
    markers changed; a second run changes nothing."""
    machine = tmp_path / "results" / "test-cpu"
    machine.mkdir(parents=True)
    (machine / "linear_cross_entropy.json").write_text(json.dumps(measured))
    # A later run of a variant: in the docs too, but not in the README.
    variant = tmp_path / "results" / "test-cpu-1-thread"
    variant.mkdir()
    described = {**measured["machine"], "threads": 1, "date": "2026-02-02T03:04:05+00:00"}
    (variant / "linear_cross_entropy.json").write_text(
        json.dumps({**measured, "machine": described})
    )
    (docs := tmp_path / "docs").mkdir()
    marked = (
        "# Head\n<!-- begin results --><!-- end results --><!-- begin gpu --><!-- end gpu -->\nTail"
    )
    (docs / "performance.md").write_text(f"# Head\n{marked}\nTail")
    readme = tmp_path / "README.md"
    readme.write_text("Before\n<!-- begin summary -->old<!-- end summary -->\nAfter")
    arguments = [f"--results={tmp_path / 'results'}", f"--docs={docs}", f"--readme={readme}"]
    report.main(arguments)
    text = (docs / "performance.md").read_text()
    assert text.startswith("# Head\n")
    assert text.endswith("\nTail")
    machines = [line for line in text.splitlines() if line.startswith("## ")]
    assert machines == [f"## Test CPU, 2 cores, {n}, avx2" for n in ("2 threads", "1 thread")]
    assert "| Loss | 4.00× | ≥ 1.6× | 2.00× | ≥ 1× | 0 of 2 |  |" in text
    assert "(performance/test-cpu.md)" in text
    page = (docs / "performance" / "test-cpu.md").read_text()
    assert page.startswith("# Test CPU, 2 cores, 2 threads, avx2\n")
    assert "**4.00×**" in page
    assert "2 cores, 1 thread, avx2" in (docs / "performance" / "test-cpu-1-thread.md").read_text()
    for picture in ("ratios", "roofs", "axes"):
        assert f"](../img/test-cpu-{picture}.png)" in page
        assert (docs / "img" / f"test-cpu-{picture}.png").stat().st_size > 1000
    shown = readme.read_text()
    assert shown.startswith("Before\n")
    assert shown.endswith("\nAfter")
    assert "old" not in shown
    assert "2 threads" in shown
    assert "**4.00×**" in shown
    report.main(arguments)
    assert (docs / "performance.md").read_text() == text
    assert (docs / "performance" / "test-cpu.md").read_text() == page
    assert "still to be measured" in text
    third = {"machine": measured["machine"], "group": tables.THIRD_PARTY, "command": "python -m x"}
    (machine / "third_party.json").write_text(json.dumps(third | third_party_models()))
    (docs / "drop-in.md").write_text("A<!-- begin third-party --><!-- end third-party -->Z")
    report.main(arguments)
    shown = (docs / "drop-in.md").read_text()
    assert "| a model | 3.00 ms | 2.00 ms | **1.50×** (1.40 to 1.60) |" in shown
    assert "| 1.2e-07 and 3.4e-07 |" in shown
    assert "over 5 to 5 interleaved rounds" in shown
    (gpu := tmp_path / "results" / "a-gpu").mkdir()
    (gpu / "gpu_check.json").write_text(json.dumps(MADE_UP))
    report.main(arguments)
    text = (docs / "performance.md").read_text()
    assert "still to be measured" not in text
    assert "### No GPU, 2000-01-01\n\n| goal |" in text
    assert "Failed: B.\n\n[Every check and every point](performance/no-gpu.md)" in text
    assert (docs / "performance" / "no-gpu.md").read_text() == gpu_report.markdown(MADE_UP)
    assert [line for line in text.splitlines() if line.startswith("## Test")] == machines
    with pytest.raises(ValueError, match="end summary"):
        report.replace_between("<!-- begin summary -->", "summary", "")


def test_run_writes_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group from the command line to JSON, in numbers of five digits, to a table row."""
    point = {"V": 17, "H": 13, "N": 100}
    monkeypatch.setitem(grids.GRIDS["linear_cross_entropy"], "quick", [point])
    monkeypatch.setattr("benchmarks.run.BUDGET", {"quick": 0.0})
    monkeypatch.setitem(grids.COMPILED, "linear_cross_entropy", [])  # saves seconds
    monkeypatch.setattr(Roof, "measure", lambda: Roof(1e11, 1e10))  # saves seconds
    run_benchmarks(["--group", "linear_cross_entropy", f"--out={tmp_path}"])
    result = tables.load(tmp_path)["linear_cross_entropy"]
    assert result["points"][0]["point"] == point
    assert result["machine"]["torch"] == torch.__version__
    assert tables.verdict(result).points == 1
    assert rounded({"a": [1.23456789]}) == {"a": [1.2346]}
