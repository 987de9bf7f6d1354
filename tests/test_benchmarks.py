"""The benchmark is honest: equal jobs, interleaved, held against the machine's own rates."""

import timeit
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

from benchmarks import covering, grids, pronunciations
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
from benchmarks.twin import PAD, Pair, Twin, batches, collate, from_seq2seq
from fastchar import Seq2Seq, demo

# A point small enough that every group runs in a moment.
TINY: dict[str, covering.Point] = {
    "embedding_gather": {"V": 64, "E": 16, "N": 100},
    "embedding_gradient": {"V": 64, "E": 16, "N": 100},
    "lstm_training": {"H": 13, "E": 8, "B": 3, "T": 7},
    "lstm_inference": {"H": 13, "E": 8, "B": 3, "T": 7},
    "dense_training": {"H": 13, "E": 8, "B": 3, "T": 7},
    "dense_inference": {"H": 13, "E": 8, "B": 3, "T": 7},
    "lstm_ragged": {"H": 13, "E": 8, "B": 6, "T": 8, "L": 2, "bidirectional": 1},
    "lstm_cell_loop": {"H": 13, "E": 8, "B": 3, "T": 7},
    "lstm_step_loop": {"H": 13, "E": 8, "B": 3, "T": 7},
    "generation": {"H": 13, "E": 8, "L": 2, "T": 7},
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
    """An epoch has every pair once, in batches alike in length, and these in no order."""
    lengths = torch.randint(1, 30, (1000,)).tolist()
    pairs = [(torch.zeros(length), torch.zeros(length)) for length in lengths]
    epoch = batches(pairs, 64)
    assert sorted(i for batch in epoch for i in batch) == list(range(1000))
    cuts = [[lengths[i] for i in batch] for batch in epoch]
    assert max(max(cut) - min(cut) for cut in cuts) <= 4
    assert cuts != sorted(cuts)


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
