"""EmbeddingLSTM and what others hang on, or put in place of, its two modules."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastchar

IDS = torch.randint(9, (6, 3), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([6, 2, 4])
Pair = dict[str, nn.Module]


class Adapter(nn.Module):
    """Low-rank adaptation, as packages put it in a module's place; the weight is still there."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        self.low, self.high = nn.Parameter(torch.ones(9, 2)), nn.Parameter(torch.ones(2, 4))

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def padding_idx(self) -> int | None:
        return self.base.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.base(ids) + nn.functional.embedding(ids, self.low) @ self.high
        return y


def adapted(pair: Any) -> None:
    torch.manual_seed(1)
    pair.embedding = Adapter(pair.embedding)


def option(name: str, value: Any) -> Callable[[Any], None]:
    return lambda pair: setattr(pair.embedding, name, value)


def doubled(pair: Any) -> None:
    forward = pair.embedding.forward
    pair.embedding.forward = lambda ids: 2 * forward(ids)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "older weight norm": lambda p: nn.utils.weight_norm(p.lstm, "weight_hh_l0"),
    "older spectral norm": lambda p: nn.utils.spectral_norm(p.lstm.eval(), "weight_ih_l0"),
    "pruned": lambda p: prune.l1_unstructured(p.lstm, "weight_hh_l0", amount=0.5),
    "pruned embedding": lambda p: prune.l1_unstructured(p.embedding, "weight", amount=0.5),
    "weight norm": lambda p: parametrizations.weight_norm(p.lstm, "weight_hh_l0"),
    "hooked input": lambda p: p.embedding.register_forward_pre_hook(lambda m, a: (a[0].flip(0),)),
    "hooked output": lambda p: p.embedding.register_forward_hook(lambda m, a, y: 2 * y),
    "hooked states": lambda p: p.lstm.register_forward_hook(
        lambda m, a, y: (y[0], (2 * y[1][0], y[1][1]))
    ),
    "hooked gradient": lambda p: p.embedding.register_full_backward_hook(lambda m, a, y: None),
    "an adapter": adapted,
    "another forward": doubled,
    "max_norm": option("max_norm", 0.5),
    "scale_grad_by_freq": option("scale_grad_by_freq", True),
}

ERRORS: dict[str, Callable[[Any], Any]] = {
    "padding_idx too large": option("padding_idx", 9),
    "padding_idx too small": option("padding_idx", -10),
    "a table of doubles": lambda p: p.embedding.double(),
    "an LSTM of halves": lambda p: p.lstm.half(),
}


class Plain(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4, padding_idx=2)
        self.lstm = nn.LSTM(4, 5, batch_first=batch_first)

    def forward(self, ids: Tensor, lengths: Tensor | None) -> Any:
        x, first = self.embedding(ids), self.lstm.batch_first
        if lengths is None:
            return self.lstm(x)
        packed = pack_padded_sequence(x, lengths, first, enforce_sorted=False)
        y, state = self.lstm(packed)
        y, _ = pad_packed_sequence(y, first, total_length=6)
        return y, state


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_what_is_done_to_the_two_modules(change: str, batch_first: bool, ragged: bool) -> None:
    """Two steps of training end as with torch's two modules: nothing is passed over, no weight
    that a hook computes is an old one."""
    if change == "hooked input" and ragged:
        pytest.skip("turning the ids round turns the padding to the front")
    plain = Plain(batch_first)
    pair = fastchar.EmbeddingLSTM(9, 4, 5, padding_idx=2, batch_first=batch_first)
    pair.load_state_dict(plain.state_dict())
    given = IDS.t() if batch_first else IDS
    spoilt, lengths = given, None
    if ragged:
        lengths = LENGTHS
        past = torch.arange(6).unsqueeze(1) >= lengths
        spoilt = given.masked_fill(past.t() if batch_first else past, 10**9)
        given = given.masked_fill(past.t() if batch_first else past, 0)
    found = []
    for model, call in (
        (plain, lambda: plain(given, lengths)),
        (pair, lambda: pair(spoilt, lengths=lengths)),
    ):
        torch.manual_seed(0)
        CHANGES[change](model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for _ in range(2):
            optimizer.zero_grad()
            y, (h, c) = call()
            (y.square().sum() + h.sum() + c.sum()).backward()
            optimizer.step()
        found.append([*torch.utils._pytree.tree_leaves(call()), *model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["batched", "batch first", "one sequence"])
def test_hooks_see_what_the_two_modules_pass(form: str) -> None:
    """Its own shapes, batched or not; without hooks the numbers are the same."""
    first = form == "batch first"
    pair = fastchar.EmbeddingLSTM(9, 4, 5, batch_first=first)
    ids = {"batched": IDS, "batch first": IDS.t(), "one sequence": IDS[:, 0]}[form]
    lengths = LENGTHS[:1] if form == "one sequence" else LENGTHS
    folded = [pair(ids), pair(ids, lengths=lengths)]
    seen: list[tuple[int, ...]] = []
    pair.embedding.register_forward_hook(lambda m, a, y: seen.append(tuple(y.shape)))
    pair.lstm.register_forward_hook(lambda m, a, y: seen.append(tuple(y[0].shape)))
    torch.testing.assert_close([pair(ids), pair(ids, lengths=lengths)], folded)
    assert seen == [(*ids.shape, 4), (*ids.shape, 5)] * 2


def test_hooks_of_all_modules_see_the_two() -> None:
    """As tools register them that watch every module: to trace, to time, to keep activations."""
    pair = fastchar.EmbeddingLSTM(9, 4, 5)
    seen: list[nn.Module] = []
    handle = register_module_forward_hook(lambda m, a, y: seen.append(m))
    try:
        pair(IDS)
    finally:
        handle.remove()
    assert seen == [pair.embedding, pair.lstm, pair]


@pytest.mark.parametrize("change", ERRORS)
@pytest.mark.parametrize("ids", [IDS, IDS[:2]], ids=["many", "fewer than symbols"])
def test_errors_are_those_of_the_two(change: str, ids: Tensor) -> None:
    """Of what was changed after construction: a row for padding that isn't there, a dtype."""
    plain, pair = Plain(False), fastchar.EmbeddingLSTM(9, 4, 5, padding_idx=2)
    errors = []
    for model in (plain, pair):
        ERRORS[change](model)
        with pytest.raises((AssertionError, ValueError)) as error:
            model(ids, lengths=None)
        errors.append(error.value)
    assert type(errors[0]) is type(errors[1])
    assert str(errors[0]) == str(errors[1])


@pytest.mark.native
def test_without_any_it_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair as it was made is one call, parametrized or not."""
    calls = []
    ours = fastchar.functional.embedding_lstm
    monkeypatch.setattr(
        fastchar.functional, "embedding_lstm", lambda *a, **k: calls.append(1) or ours(*a, **k)
    )
    pair = fastchar.EmbeddingLSTM(9, 4, 5)
    pair(IDS)
    parametrizations.weight_norm(pair.lstm, "weight_hh_l0")
    pair(IDS)
    assert len(calls) == 2
