"""The benchmark is honest: equal jobs, interleaved, and a report that says what was measured."""

import json
import timeit
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

from benchmarks import covering, grids, pronunciations, report, tables
from benchmarks.attentive_twin import AttentiveTwin
from benchmarks.groups import OURS, Group, all_groups
from benchmarks.interleave import (
    Case,
    Contestant,
    Spread,
    Timing,
    buffers_beyond_cache,
    measure,
    order_of_round,
)
from benchmarks.limits import Limits
from benchmarks.roofline import Roof, Work
from benchmarks.run import main as run_benchmarks
from benchmarks.run import rounded
from benchmarks.twin import PAD, Pair, Twin, batches, collate, from_seq2seq
from fastchar import Seq2Seq, demo

# A point small enough that every group runs in a moment.
TINY: dict[str, covering.Point] = {
    "embedding_gather": {"V": 64, "E": 16, "N": 100},
    "embedding_gradient": {"V": 64, "E": 16, "N": 100},
    "lstm_training": {"H": 13, "E": 8, "B": 3, "T": 7},
    "lstm_inference": {"H": 13, "E": 8, "B": 3, "T": 7},
    "lstm_ragged": {"H": 13, "E": 8, "B": 6, "T": 8, "L": 2, "bidirectional": 1},
    "lstm_cell_loop": {"H": 13, "E": 8, "B": 3, "T": 7},
    "lstm_step_loop": {"H": 13, "E": 8, "B": 3, "T": 7},
    "linear": {"E": 64, "H": 32, "N": 512},  # the smallest that the kernel takes
    "linear_cross_entropy": {"V": 17, "H": 13, "N": 100},
    "seq2seq_training": {"H": 16, "B": 8},
}


@pytest.fixture(autouse=True, scope="module")
def few_words() -> Iterator[None]:
    """One entry of the dictionary in 200: encoding all of them takes seconds."""
    chosen = demo.dictionary()[::200]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "dictionary", lambda: chosen)
        pronunciations.pronunciations.cache_clear()
        yield
    pronunciations.pronunciations.cache_clear()


@pytest.fixture
def without_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile traces and differentiates as it does, and then calls torch's own kernels."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize("group", all_groups().values(), ids=lambda group: group.name)
@pytest.mark.usefixtures("without_code_generation")
def test_contestants_do_the_same_job(group: Group) -> None:
    """Every contestant of a group returns the same output and the same gradients, so that a ratio
    of their times compares like with like."""
    torch.manual_seed(0)
    case = group.build(TINY[group.name])
    assert tuple(c.name for c in case.contestants) == group.contestants
    assert set(group.floors) | set(group.baselines) < set(group.contestants)
    peers = {c.name: c.results() for c in case.contestants if c.name not in group.floors}
    ours = peers.pop(OURS)
    assert peers
    for name, found in peers.items():
        # index_add_ has no output: there the gradient alone is the job.
        compared = ours[-1:] if name == "index_add_" else ours
        torch.testing.assert_close(found, compared, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", grids.COMPILED)
def test_compiled_contestants_are_compiled_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No buffer, and no later step, makes torch.compile work again: its work is in the first step,
    which is not timed."""
    torch._dynamo.reset()  # what other tests compiled counts towards its limit
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    case = all_groups()[name].build(TINY[name])
    (compiled,) = (c for c in case.contestants if c.name == grids.TORCH_COMPILE)
    for index in range(min(4, case.buffers)):
        compiled.step(index)
    assert counter.frame_count == 1


def test_torch_compile_leaves_lstms_alone() -> None:
    """Why it takes no part in the LSTM groups: Dynamo makes no graph of a model with nn.LSTM."""
    torch._dynamo.reset()
    counter = CompileCounter()
    model = torch.compile(nn.Sequential(nn.Embedding(5, 3), nn.LSTM(3, 4)), backend=counter)
    model(torch.zeros(2, 2, dtype=torch.long))
    assert counter.op_count <= 1  # the lookup at most


def test_a_contestant_that_cannot_run_is_recorded() -> None:
    """One that may fail leaves its error and no timing; the others are timed. One that may not
    fail stops the run."""

    def broken(_: int) -> None:
        raise RuntimeError("no compiler here\nwith details")

    good = Contestant("good", lambda _: None)
    timing = measure(Case([Contestant("bad", broken, may_fail=True), good]), budget=0)
    assert timing.failed == {"bad": "RuntimeError: no compiler here"}
    assert set(timing.samples) == set(timing.first) == {"good"}
    with pytest.raises(RuntimeError, match="no compiler"):
        measure(Case([Contestant("bad", broken), good]), budget=0)


def test_covering_design() -> None:
    """Every pair of values of two axes occurs, in far fewer points than the full product has."""
    axes = {"H": (1, 2, 3, 4), "E": (1, 2, 3), "B": (1, 2, 3), "T": (1, 2)}
    everything = covering.grid(axes)
    chosen = covering.covering(everything, lambda point: point["H"] * point["B"])
    assert set().union(*map(covering.pairs_of, chosen)) == set().union(
        *map(covering.pairs_of, everything)
    )
    assert len(chosen) < len(everything) / 4


def test_every_group_has_both_grids() -> None:
    """Both grids name the same axes at every point, and the full one is the larger."""
    assert set(grids.GRIDS) == set(all_groups()) == set(TINY)
    for name, grid in grids.GRIDS.items():
        assert {tuple(p) for points in grid.values() for p in points} == {tuple(TINY[name])}
        assert len(grid["full"]) > len(grid["quick"])
    for name, points in grids.COMPILED.items():
        for grid in ("quick", "full"):
            assert any(p in grids.GRIDS[name][grid] for p in points)


def test_twin_equals_seq2seq() -> None:
    """The plain-torch twin has Seq2Seq's parameters, loss and gradients on real words."""
    _, source, target = pronunciations.pronunciations()
    torch.manual_seed(0)
    ours = Seq2Seq(source, target, embedding_dim=16, hidden_size=24).double()
    twin = Twin(len(source), len(target), 16, 24).double()
    twin.load_seq2seq(ours.state_dict())
    batch = collate(some_words())
    losses = [model(*batch) for model in (ours, twin)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=0)
    for loss in losses:
        loss.backward()
    expected = from_seq2seq({name: p.grad for name, p in ours.named_parameters()})
    got = {name: p.grad for name, p in twin.named_parameters()}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in twin.parameters())
    torch.testing.assert_close(got, expected)


def some_words() -> list[Pair]:
    pairs, _, _ = pronunciations.pronunciations()
    return [pairs[i] for i in range(0, 600, 100)]


def test_attentive_twin_ignores_padding() -> None:
    """The twin with attention in its loop has 1.93 M parameters; a batch is its words' mean."""
    _, source, target = pronunciations.pronunciations()
    full = AttentiveTwin(len(source), len(target))
    assert round(sum(p.numel() for p in full.parameters()) / 1e6, 2) == 1.93
    twin = AttentiveTwin(len(source), len(target), 16, 24).double()
    words = some_words()
    weighted = [twin(*collate([word])) * (len(word[1]) - 1) for word in words]
    mean = sum(weighted) / sum(len(phones) - 1 for _, phones in words)
    torch.testing.assert_close(twin(*collate(words)), mean, rtol=1e-12, atol=0)


def test_attentive_twin_equals_yoyodynes() -> None:
    """It is yoyodyne's attentive LSTM: with the same parameters it has the same loss."""
    data, models = pytest.importorskip("yoyodyne.data"), pytest.importorskip("yoyodyne.models")
    _, source, target = pronunciations.pronunciations()
    twin = AttentiveTwin(len(source), len(target), 16, 24).double()
    # yoyodyne has one table for both sides, whose first rows are special: 0 pads, 2 starts.
    letters, phones = 4, 4 + len(source)
    theirs = models.SoftAttentionLSTMModel(
        source_encoder=models.modules.LSTMEncoder(hidden_size=24, embedding_size=16, dropout=0.0),
        decoder_input_size=48,
        decoder_hidden_size=24,
        decoder_dropout=0.0,
        embedding_size=16,
        vocab_size=phones + len(target),
        target_vocab_size=len(target),
    ).double()
    start = twin.target_embedding.weight[target.bos_id]
    key, query = twin.attention_key, twin.attention_query
    tensors = {
        "embeddings.weight": torch.cat(
            [
                *(start.new_zeros(2, 16), start.unsqueeze(0), start.new_zeros(1, 16)),
                *(twin.source_embedding.weight, twin.target_embedding.weight),
            ]
        ),
        "decoder.h0": twin.h0,
        "decoder.c0": twin.c0,
        "decoder.attention.M.weight": torch.cat([key.weight, query.weight], dim=1),
        "decoder.attention.M.bias": key.bias,
        "decoder.attention.V.weight": twin.attention_energy.weight,
        "decoder.attention.V.bias": twin.attention_energy.bias,
        "classifier.weight": twin.output.weight,
        "classifier.bias": twin.output.bias,
    }
    tensors |= {f"source_encoder.module.{n}": p for n, p in twin.encoder.named_parameters()}
    tensors |= {f"decoder.module.{n}_l0": p for n, p in twin.cell.named_parameters()}
    theirs.load_state_dict(tensors)

    words = some_words()
    batch = data.Batch(
        data.PaddedTensor([word + letters for word, _ in words]),
        target=data.PaddedTensor([phonemes[1:] + phones for _, phonemes in words]),
    )
    ids, lengths, wanted = collate(words)
    loss = F.cross_entropy(theirs(batch), wanted[1:].t(), ignore_index=PAD)
    torch.testing.assert_close(loss, twin(ids, lengths, wanted), rtol=1e-10, atol=0)


def test_batches_hold_every_word_once() -> None:
    """Bucketed or not, an epoch has every pair once; bucketed ones are alike in length."""
    lengths = torch.randint(1, 30, (1000,)).tolist()
    pairs = [(torch.zeros(length), torch.zeros(length)) for length in lengths]
    spreads = {}
    for bucketed in (True, False):
        epoch = batches(pairs, 64, bucketed=bucketed)
        assert sorted(i for batch in epoch for i in batch) == list(range(1000))
        cuts = [[lengths[i] for i in batch] for batch in epoch]
        spreads[bucketed] = sum(max(cut) - min(cut) for cut in cuts) / len(cuts)
    assert spreads[True] < spreads[False] / 4


def test_rounds_are_interleaved() -> None:
    """Within a round each contestant runs once; over the rounds each one runs in every place."""
    calls: list[str] = []

    def contestant(name: str) -> Contestant:
        return Contestant(name, lambda _: calls.append(name))

    timing = measure(
        Case([contestant(name) for name in "abc"]), budget=0, least_rounds=12, least_sample=0
    )
    assert timing.rounds == 12
    played = calls[-36:]
    rounds = [played[start : start + 3] for start in range(0, 36, 3)]
    assert all(sorted(names) == list("abc") for names in rounds)
    assert all({names[place] for names in rounds} == set("abc") for place in range(3))
    assert [order_of_round(3, i) for i in range(3)] == [[0, 1, 2], [2, 1, 0], [1, 2, 0]]


def test_contestants_never_share_a_warm_buffer() -> None:
    """Consecutive calls use different buffers, and every contestant comes by all of them."""
    used: list[tuple[str, int]] = []

    def contestant(name: str) -> Contestant:
        return Contestant(name, lambda i: used.append((name, i)))

    measure(
        Case([contestant("a"), contestant("b")], buffers=4),
        budget=0,
        least_rounds=8,
        least_sample=0,
    )
    assert {i for name, i in used if name == "a"} == set(range(4))
    assert all(one[1] != two[1] for one, two in pairwise(used))
    assert buffers_beyond_cache(1000, 4000) == 8
    assert buffers_beyond_cache(10**9, 4000) == 1


def test_ratio_is_taken_within_rounds() -> None:
    """A drift that slows both contestants alike leaves their ratio as it is."""
    samples = {"a": {"step": [1.0, 30.0, 5.0]}, "b": {"step": [2.0, 60.0, 10.0]}}
    assert Timing(samples).ratio("b", "a", "step") == Spread(2.0, 2.0, 2.0)


def test_roof() -> None:
    """A time is compared with the roof that bounds it: compute or memory, whichever is slower."""
    roof = Roof(flops_per_second=100.0, bytes_per_second=10.0)
    position = roof.position(Work(flops=50.0, bytes=1.0), seconds=1.0)
    assert position["bound"] == "compute"
    assert position["share"] == pytest.approx(0.5)
    position = roof.position(Work(flops=50.0, bytes=8.0), seconds=1.0)
    assert position["bound"] == "memory"
    assert position["share"] == pytest.approx(0.8)


def test_limits() -> None:
    """The floor is the longest of compute, cold reads and the weights' reads at every step."""
    limits = Limits(100.0, {10: 40.0, 100: 20.0, 1000: 5.0}, threads=2)
    assert limits.seconds(Work(flops=300.0, bytes=0.0, cold=10.0)) == 3.0
    assert limits.seconds(Work(flops=100.0, bytes=0.0, cold=10.0)) == 2.0
    weights = Work(flops=100.0, bytes=0.0, held=60.0, passes=4)
    assert limits.seconds(weights) == 60 * 4 / 40.0  # 30 bytes a thread: at most the rate of 10
    faster = Limits(50.0, {10: 50.0, 100: 10.0, 1000: 6.0}, threads=2)
    assert limits.best(faster) == Limits(100.0, {10: 50.0, 100: 20.0, 1000: 6.0}, threads=2)


def test_rates_of_this_machine() -> None:
    """Small blocks are read at least as fast as large ones; a product by the same instructions
    stays below the peak. What else runs lowers any rate, so the best of several tries counts."""
    limits = Limits.measure()
    if limits is None:
        pytest.skip("the native library measures them")
    from fastchar import ops

    a = torch.randn(512, 512)
    seconds = min(timeit.repeat(lambda: ops.linear(a, a, None), number=1, repeat=9))

    def right() -> bool:
        reads = limits.bytes_per_second
        below = 2 * 512**3 / seconds < 1.1 * limits.flops_per_second
        return below and reads[2**15] > reads[2**26] > 1e8

    for _ in range(9):
        if right():
            break
        limits = limits.best(Limits.measure())
    assert right(), (limits, seconds)


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
    """From a folder of JSON: docs, pictures and README, and no word outside the markers changed;
    a second run changes nothing."""
    machine = tmp_path / "results" / "test-cpu"
    machine.mkdir(parents=True)
    (machine / "linear_cross_entropy.json").write_text(json.dumps(measured))
    # A later run of a variant: on the page too, but not in the README.
    variant = tmp_path / "results" / "test-cpu-1-thread"
    variant.mkdir()
    described = {**measured["machine"], "threads": 1, "date": "2026-02-02T03:04:05+00:00"}
    (variant / "linear_cross_entropy.json").write_text(
        json.dumps({**measured, "machine": described})
    )
    (docs := tmp_path / "docs").mkdir()
    (docs / "performance.md").write_text("# Head\n<!-- begin results --><!-- end results -->\nTail")
    readme = tmp_path / "README.md"
    readme.write_text("Before\n<!-- begin summary -->old<!-- end summary -->\nAfter")
    arguments = [f"--results={tmp_path / 'results'}", f"--docs={docs}", f"--readme={readme}"]
    report.main(arguments)
    text = (docs / "performance.md").read_text()
    assert text.startswith("# Head\n")
    assert text.endswith("\nTail")
    assert "## Test CPU, 2 cores, 2 threads, avx2" in text
    assert "## Test CPU, 2 cores, 1 threads, avx2" in text
    assert "**4.00×**" in text
    for picture in ("ratios", "roofs", "axes"):
        assert f"img/test-cpu-{picture}.png" in text
        assert (docs / "img" / f"test-cpu-{picture}.png").stat().st_size > 1000
    shown = readme.read_text()
    assert shown.startswith("Before\n")
    assert shown.endswith("\nAfter")
    assert "old" not in shown
    assert "2 threads" in shown
    assert "**4.00×**" in shown
    report.main(arguments)
    assert (docs / "performance.md").read_text() == text
    third = {"machine": measured["machine"], "group": tables.THIRD_PARTY, "command": "python -m x"}
    (machine / "third_party.json").write_text(json.dumps(third | third_party_models()))
    (docs / "drop-in.md").write_text("A<!-- begin third-party --><!-- end third-party -->Z")
    report.main(arguments)
    shown = (docs / "drop-in.md").read_text()
    assert "| a model | 3.00 ms | 2.00 ms | **1.50×** (1.40 to 1.60) |" in shown
    assert "| 1.2e-07 and 3.4e-07 |" in shown
    assert "over 5 to 5 interleaved rounds" in shown
    with pytest.raises(ValueError, match="end summary"):
        report.replace_between("<!-- begin summary -->", "summary", "")


def test_run_writes_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group from the command line to JSON, in numbers of five digits, to a table row."""
    point = TINY["linear_cross_entropy"]
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
