"""The benchmark beside its groups: accuracy, instruction sets, threads, goals; tiny, but whole."""

import copy
import json
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks import (
    accuracy,
    compiled,
    goals,
    interleave,
    machine,
    other_tables,
    plots,
    recurrence,
    scaling,
    threads,
    tried,
)
from benchmarks.covering import Point
from benchmarks.groups import all_groups
from benchmarks.interleave import Case, Timing
from benchmarks.roofline import Roof
from benchmarks.run import rounded, warn_of_contention
from benchmarks.scaling import Costs
from benchmarks.tables import Result
from tests.error_rule import Sample

SMALL = {"H": 9, "E": 8, "B": 3, "T": 5}


@pytest.mark.parametrize("name", ["lstm_training", "lstm_inference", "linear_cross_entropy"])
def test_cases_hold_the_same_numbers_in_double(name: str) -> None:
    """The float64 judge gets the very inputs and parameters that float32 gets: their results agree
    as far as float32 reaches."""
    group = all_groups()[name]
    point = {"V": 11, "H": 13, "N": 40} if name == "linear_cross_entropy" else SMALL
    single = accuracy.results(group, point, torch.float32, group.baselines[0])[0]
    double = accuracy.results(group, point, torch.float64, group.baselines[0])[0]
    assert {t.dtype for t in single} == {torch.float32}
    assert {t.dtype for t in double} == {torch.float64}
    for a, b in zip(single, double, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)
    assert torch.get_default_dtype() == torch.float32


def test_accuracy_sees_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that is off by a thousandth breaks the rule; the right ones keep it."""
    group = all_groups()["lstm_training"]
    point = {**SMALL, "H": 40, "E": 40}
    entry = accuracy.judge(group, point, Sample())
    assert entry["worst"] < 3
    assert entry["tensors"] == 6

    right = accuracy.results

    def wrong(*arguments: object) -> list[list[Tensor]]:
        found = right(*arguments)  # type: ignore[arg-type]
        if len(found) == 2:  # torch's and ours
            found[1][2].mul_(1.001)
        return found

    monkeypatch.setattr(accuracy, "results", wrong)
    with pytest.raises(AssertionError, match="gradient 2"):
        accuracy.judge(group, point, Sample())


@pytest.mark.native
@pytest.mark.parametrize("training", [True, False])
def test_compiled_models(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager, compiled and torch's have the same loss and gradients, and all are in the table."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    build = compiled.build
    once = cache(lambda name: build(name, SMALL, training))  # what is compared and then measured
    monkeypatch.setattr(compiled, "build", lambda name, point, training: once(name))
    entries = []
    for name in compiled.MODELS:
        torch.manual_seed(0)
        case = compiled.build(name, SMALL, training=training)
        for c in case.contestants:
            torch.manual_seed(0)  # of the dropout
            results = c.results()
            if c.name == "torch":
                expected = results
            torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-5)
        entries.append(compiled.measure_point(name, SMALL, training, 0.0))
    shown = other_tables.compiled({"points": entries})
    assert all(name in shown for name in compiled.MODELS)


def test_model_of_threads() -> None:
    """Fixed costs stay, memory gives what its bandwidth does, the rest is divided by the members as
    far as their items come out even, and every barrier adds its wait."""
    groups = all_groups()
    point = {"V": 9, "H": 9, "N": 9}
    traffic = groups["linear_cross_entropy"].work(point).bytes
    costs = Costs(fixed=1.0, wait={2: 0.01}, bandwidth={1: traffic / 2, 2: traffic})
    # 1 fixed, 2 of memory at one thread's rate and 1 at two's, 2 of compute and 1 by two.
    found = scaling.predicted(groups["linear_cross_entropy"], point, 5.0, 2, costs, "avx512")
    assert found == pytest.approx(1 + 1 + 1)
    # 3 panels of 16 units: two members have 2 and 1.
    point = {"H": 48, "E": 8, "B": 4, "T": 10}
    assert scaling.imbalance(point, 2, "avx512") == pytest.approx(4 / 3)
    assert scaling.imbalance(point, 2, "avx2") == 1.0
    costs = Costs(fixed=1.0, wait={2: 0.01}, bandwidth={1: 1e30, 2: 1e30})
    expected = 1.0 + 4.0 / 2 * 4 / 3 + 2 * 10 * 0.01
    found = scaling.predicted(groups["lstm_training"], point, 5.0, 2, costs, "avx512")
    assert found == pytest.approx(expected)
    assert scaling.barriers("lstm_ragged", {**point, "L": 2, "bidirectional": 1}) == 80
    assert scaling.slice_bytes({"H": 256, "T": 1}, 2) == 4 * 256 * 256 * 4 // 2
    assert threads.counts_of(1) == [1]
    assert threads.counts_of(6) == [1, 2, 4, 6]


@pytest.mark.native
def test_threads_are_measured_in_processes_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One and two threads, in turns, to a result that the report draws."""
    monkeypatch.setattr(threads, "GROUPS", ("embedding_gather",))
    monkeypatch.setitem(threads.GRIDS, "embedding_gather", {"quick": [{"V": 8, "E": 4, "N": 100}]})
    monkeypatch.setattr(threads, "ROUNDS", {"quick": 3})
    monkeypatch.setattr(threads, "ROOF", {"side": 64, "copy_bytes": 2**16})
    monkeypatch.setattr(threads, "counts_of", lambda cores: [1, 2])
    result = rounded(threads.measure("quick"))
    (entry,) = result["points"]
    assert entry["speedup"]["1"]["median"] == 1
    assert set(entry["predicted"]) == set(result["wait_seconds"]) == {"2"}
    assert "V 8, E 4, N 100" in other_tables.threads(result)
    assert "8 threads, predicted" in other_tables.threads_by_group(result)
    assert "A barrier costs" in other_tables.threads_text(result)
    plots.draw_threads(result, tmp_path / "threads.png")
    assert (tmp_path / "threads.png").stat().st_size > 1000


@pytest.mark.native
def test_instruction_sets_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each set that the machine has runs the same step, and the chosen one is back afterwards."""
    from benchmarks import isas

    before, seen = isas.library.isa(), []
    group = all_groups()["embedding_gather"]

    def spying(case: Case, *, budget: float) -> Timing:
        for contestant in case.contestants:
            forward = contestant.forward
            contestant.forward = lambda i, forward=forward: (
                forward(i),
                seen.append(isas.library.isa()),
            )
        return interleave.measure(case, budget=budget, least_rounds=3, most_rounds=3)

    monkeypatch.setattr(isas, "interleave", spying)
    entry = isas.measure_point(group, {"V": 8, "E": 4, "N": 100}, 0.0)
    assert set(seen) == set(entry["speed"]) == set(isas.library.available_isas())
    assert isas.library.isa() == before
    isa_result = {"isa": before, "points": [entry]}
    assert "V 8, E 4, N 100" in other_tables.isas(isa_result)


@pytest.mark.native
def test_recurrent_products_are_counted() -> None:
    """The rate is 8 T B H^2 flops a forward and 16 a backward, by torch.mm's in the same round."""
    point: Point = {"H": 16, "B": 2, "T": 3}
    case = recurrence.build(point)
    case.contestants[2].step(0)
    second = {"forward": [1.0], "backward": [1.0]}
    timing = Timing({"torch.mm": second, "inference": second, "training": second})
    parts = recurrence.shares(point, timing)
    once = 8 * 3 * 2 * 16**2
    assert parts["forward"]["flops_per_second"] == once
    assert parts["backward"]["share"]["median"] == pytest.approx(2 * once / (2 * 2048**3))
    text = other_tables.recurrence({"points": [{"point": point, "parts": parts}]})
    assert "H 16, B 2, T 3" in text


def test_what_was_tried_is_compared_with_what_was_predicted(tmp_path: Path) -> None:
    """Two runs' ratios, at the points of both that the change concerns, and an entry for each try;
    figures come from the files alone."""

    def folder(name: str, ratios: dict[tuple[int, int], float]) -> str:
        (tmp_path / name).mkdir()
        points = [
            {
                "point": {"H": H, "L": L},
                "seconds": {"packed": {"step": {"median": 1.0}}},
                "ratios": {"packed": {"step": {"median": value}}},
            }
            for (H, L), value in ratios.items()
        ]
        result = {"group": "lstm_ragged", "phase": "step", "baselines": ["packed"]}
        result |= {"points": points, "foreign_cores": 0.0, "machine": {"commit": name}}
        (tmp_path / name / "lstm_ragged.json").write_text(json.dumps(result))
        return str(tmp_path / name)

    before = folder("a", {(8, 1): 2.0, (8, 2): 2.0, (16, 2): 4.0})
    after = folder("b", {(8, 1): 9.0, (8, 2): 6.0, (16, 2): 16.0, (32, 2): 7.0})
    arguments = ["A change", "--predicted=3 times", "--group=lstm_ragged", "--only=L=2"]
    arguments += [f"--before={before}", f"--after={after}", f"--out={tmp_path}"]
    for _ in range(2):
        tried.main(arguments)
    entries = json.loads((tmp_path / "tried.json").read_text())["entries"]
    assert len(entries) == 2
    line = other_tables.tried({"entries": entries}).splitlines()[-1]
    assert line.startswith("| A change | 3 times |")
    assert "2 points | 2.83× | 9.80× | 3.46× (3.00× to 4.00×)" in line
    with pytest.raises(ValueError, match="no point"):
        tried.main([*arguments, "--only=L=3"])


def test_goals_say_what_falls_short() -> None:
    """Mean, worst point and floor against the goal, ✗ and the point by name where short of it."""

    def entry(size: int, ratio: float, of_sum: float) -> Result:
        def spread(value: float) -> dict[str, dict[str, float]]:
            return {"backward": {"median": value, "q1": value, "q3": value}}

        return {
            "point": {"V": size},
            "seconds": {"torch": spread(ratio), "sum": spread(of_sum), "fastchar": spread(1.0)},
            "ratios": {"torch": spread(ratio), "sum": spread(of_sum)},
            "least_seconds": 0.5,
        }

    result = {
        "group": "embedding_gradient",
        "title": "Gradient",
        "phase": "backward",
        "baselines": ["torch", "torch.compile"],
        "points": [entry(1, 36.0, 0.9), entry(2, 1.0, 0.9)],
    }
    rows = goals.all_rows([result], {})
    lines = goals.goals_table(rows).splitlines()[2:]
    assert lines == [
        "| Gradient | 6.00× | ≥ 5× | 1.00× ✗ | ≥ 1.5× | 1 of 2 | 12.0× |",
        "| Gradient, of sum's speed | 90 % | ≥ 80 % | 90 % |  |  |  |",
    ]
    assert goals.reached_text(rows) == "2 of 3 goals are reached."
    without = next(goals.group_rows({**result, "group": "linear"}))
    assert without.cells()[1:5] == ["6.00×", "", "1.00×", ""]
    # 2.999 would read as the goal; and no implementation comes above 2.
    near = goals.Row("Near", [({"V": 1}, 2.999)], 3.0, 3.0, False, [2.0])
    assert near.cells() == ["Near", "2.999× ✗", "≥ 3×", "2.999× ✗", "≥ 3×", "1 of 1", "2.00×"]
    assert goals.reached_text([near]).endswith("reach here: Near (3×, ceiling 2.00×).")
    assert goals.misses_text([near]).endswith("- Near: V 1: 2.999×")
    assert goals.limits_text([result]) == ""
    reads = {str(2**k): 2e11 for k in range(14, 27)}
    measured = {"flops_per_second": 4e11, "bytes_per_second": reads, "threads": 2}
    text = goals.limits_text([{"limits": measured, "roof": {"flops_per_second": 3e11}}])
    assert "400 GFLOP/s" in text
    assert "200 GB/s of 512 KiB a thread" in text
    assert text.endswith("reached 75 % of the former.")
    assert goals.misses_text(rows).splitlines()[2:] == ["- Gradient: V 2: 1.00×"]
    better = copy.deepcopy(result)
    better["points"].pop()
    assert "Every point" in goals.misses_text(goals.all_rows([better], {}))
    assert set(goals.GOALS) < set(all_groups())
    versus = {"twin, bucketed": {"median": 1.9}, "twin, not bucketed": {"median": 3.0}}
    rows = goals.all_rows([], {"train_speed": {"ours": "fastchar train", "ratios": versus}})
    assert [row.cells()[:3] for row in rows] == [
        ["fastchar train, against twin, bucketed", "1.90× ✗", "≥ 2×"]
    ]


def test_descriptions_are_of_this_machine() -> None:
    """A roof and a description have what the tables read."""
    described = machine.describe()
    assert {"cores", "threads", "caches", "backends"} <= described.keys()
    roof = Roof.measure(side=64, copy_bytes=2**16)
    assert roof.flops_per_second > 0
    assert roof.bytes_per_second > 0


def test_what_else_ran_is_measured_and_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 30 seconds of work in 20, this process did 28: a tenth of a core is others'."""
    clock = SimpleNamespace(perf_counter=iter([100.0, 120.0]).__next__)
    monkeypatch.setattr(machine, "time", clock)
    monkeypatch.setattr(machine, "_busy_seconds", iter([500.0, 530.0]).__next__)
    monkeypatch.setattr(machine, "_own_seconds", iter([5.0, 33.0]).__next__)
    foreign = machine.Contention().foreign_cores()
    assert foreign == pytest.approx(0.1)
    for cores in (None, 0.05):
        warn_of_contention({"group": "linear", "foreign_cores": cores})
    assert capsys.readouterr().err == ""
    warn_of_contention({"group": "linear", "foreign_cores": foreign})
    assert "other processes used 0.10 cores during linear" in capsys.readouterr().err
