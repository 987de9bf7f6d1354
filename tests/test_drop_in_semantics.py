"""What torch tests of its own recurrent and embedding modules, asked of ours beside torch's.

Each case is a function of the three classes; run with torch's and with ours from the same seed, it
must end the same: equal results and warnings, or the same type of error and, by default, its words.
"""

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drop_in import (
    IDS,
    PACKED,
    Case,
    H,
    X,
    changed,
    ends_the_same,
    fails_the_same,
    trained,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_sequence

import fastchar


def built(name: str, *args: Any, **kwargs: Any) -> Case:
    """A module's text and parameters."""

    def case(m: Any) -> Any:
        module = getattr(m, name)(*args, **kwargs)
        return repr(module), list(module.parameters())

    return case


def replica(m: Any) -> Any:
    """What nn.DataParallel does: a copy whose weights are plain tensors of the original's."""
    module = m.LSTM(4, 6)
    copy = module._replicate_for_data_parallel()
    copy._parameters = {}
    for name, p in module._parameters.items():
        setattr(copy, name, p * 1)
    copy._flat_weights = [getattr(copy, name) for name in copy._flat_weights_names]
    copy(X)[0].sum().backward()
    return [p.grad for p in module.parameters()]


def saved_whole(m: Any) -> Any:
    file = io.BytesIO()
    torch.save(m.LSTM(4, 6, 2), file)
    file.seek(0)
    return torch.load(file, weights_only=False)(X)


def odd_strides(m: Any) -> Any:
    """Weights that are transposed or sliced views; torch's CPU code warns of nothing."""
    module = m.LSTM(4, 6)
    module.weight_hh_l0.data = module.weight_hh_l0.data.t().contiguous().t()
    module.weight_ih_l0.data = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))[
        :, ::2
    ]
    return trained(module, X)


def one_by_one(m: Any) -> Any:
    """Sequences of several lengths, packed, against each alone: outputs and last states."""
    module = m.LSTM(4, 6, 2, bidirectional=True)
    sequences = [X[:n, b] for b, n in enumerate((2, 5, 3))]
    y, (h, c) = module(pack_sequence(sequences, enforce_sorted=False))
    alone = [module(s) for s in sequences]
    padded, lengths = nn.utils.rnn.pad_packed_sequence(y)
    torch.testing.assert_close(padded, pad_sequence([a[0] for a in alone]))
    torch.testing.assert_close(h, torch.stack([a[1][0] for a in alone], 1))
    torch.testing.assert_close(c, torch.stack([a[1][1] for a in alone], 1))
    return y, h, c, lengths


def transposed(m: Any) -> Any:
    """batch_first only turns input and output."""
    module = m.LSTM(4, 6, 2, bidirectional=True)
    y, (h, c) = module(X)
    module.batch_first = True
    z, (k, d) = module(X.transpose(0, 1))
    for a, b in ((y, z.transpose(0, 1)), (h, k), (c, d)):
        torch.testing.assert_close(a, b)
    return y, h, c


def dropout_between_layers(p: float, training: bool) -> Case:
    """With ones for weights, a dropped input of layer 2 shows; p may change after construction."""

    def case(m: Any) -> Any:
        module = m.LSTM(4, 6, 2, dropout=0.5, bias=False).train(training)
        module.dropout = p
        return module(X)

    return case


def renormalized(**options: Any) -> Case:
    """Rows that were looked up and are too long are shortened in place; the others stay."""

    def case(m: Any) -> Any:
        module = m.Embedding.from_pretrained(torch.arange(12.0).view(4, 3), freeze=False, **options)
        return [module(IDS).detach(), module.weight, *trained(module, IDS)]

    return case


def embedded(*args: Any, ids: Any = IDS, **kwargs: Any) -> Case:
    return lambda m: trained(m.Embedding(*args, **kwargs), ids)


def pretrained(dtype: torch.dtype) -> Case:
    return lambda m: m.Embedding.from_pretrained(torch.arange(12).view(4, 3).to(dtype))(IDS)


CASES: dict[str, Case] = {
    "packed lengths one by one": one_by_one,
    "batch_first turns": transposed,
    "packed, batch_first": lambda m: m.LSTM(4, 6, batch_first=True)(PACKED),
    "packed with state": lambda m: m.LSTM(4, 6)(PACKED, (H, H)),
    "packed, one length": lambda m: trained(
        m.LSTM(4, 6, 2, bidirectional=True), pack_padded_sequence(X, [5, 5, 5])
    ),
    "packed, one step": lambda m: m.LSTM(4, 6)(pack_padded_sequence(X[:1], [1, 1, 1])),
    "packed to double": lambda m: m.LSTM(4, 6).double()(PACKED.double()),
    "packed, projected": lambda m: m.LSTM(4, 6, 2, proj_size=3, bidirectional=True)(PACKED),
    "no dropout": dropout_between_layers(0.0, True),
    "half dropped": dropout_between_layers(0.5, True),
    "all dropped": dropout_between_layers(1.0, True),
    "none in eval": dropout_between_layers(1.0, False),
    "state as a list": lambda m: m.LSTM(4, 6)(X, [H, H]),
    "cell's state as a list": lambda m: m.LSTMCell(4, 6)(X[0], [H[0], H[0]]),
    "one sequence": lambda m: m.LSTM(4, 6)(X[:, 0], (H[:, 0], H[:, 0])),
    "one input of a cell": lambda m: m.LSTMCell(4, 6)(X[0, 0], (H[0, 0], H[0, 0])),
    "no batch": lambda m: trained(m.LSTM(4, 6, 2, bidirectional=True), X[:, :0]),
    "no batch in a cell": lambda m: trained(m.LSTMCell(4, 6), X[0, :0]),
    "no features in a cell": lambda m: trained(m.LSTMCell(0, 6), X[0, :, :0]),
    "strided weights": odd_strides,
    "a replica": replica,
    "weights in one block": lambda m: [m.LSTM(4, 6).flatten_parameters(), m.LSTM(4, 6)(X)],
    "a stack cut short": lambda m: changed(m.LSTM(4, 6, 4), "num_layers", 2)(X),
    "a stack cut short by a fifth": lambda m: changed(m.LSTM(4, 6, 5), "num_layers", 4)(X),
    "all_weights": lambda m: m.LSTM(4, 6, 2, proj_size=2, bidirectional=True).all_weights,
    "a cell's one bias": lambda m: trained(changed(m.LSTMCell(4, 6), "bias_hh", None), X[0]),
    "a cell's other bias": lambda m: trained(changed(m.LSTMCell(4, 6), "bias_ih", None), X[0]),
    "expected sizes": lambda m: [
        m.LSTM(4, 6, 2, proj_size=3).get_expected_hidden_size(X, None),
        m.LSTM(4, 6, 2, proj_size=3).get_expected_cell_size(X, None),
        m.LSTM(4, 6).permute_hidden((H, H), torch.tensor([2, 0, 1])),
        m.LSTM(4, 6).check_forward_args(X, (H, H), None),
    ],
    "saved whole": saved_whole,
    "pickled": lambda m: pickle.loads(pickle.dumps(m.LSTMCell(4, 6)))(X[0]),
    "shared memory": lambda m: [p.is_shared() for p in m.LSTM(4, 6).share_memory().parameters()],
    "to": lambda m: m.LSTM(4, 6).to("cpu", torch.float64).to(X)(X),
    "keys that lack": lambda m: str(m.LSTM(4, 6).load_state_dict({}, strict=False)),
    "embedding": embedded(4, 3),
    "padding_idx": embedded(4, 3, padding_idx=3),
    "padding_idx from the end": lambda m: m.Embedding(4, 3, padding_idx=-1).padding_idx,
    "padding's row is zero": built("Embedding", 4, 3, padding_idx=-2),
    "scale_grad_by_freq": embedded(4, 3, scale_grad_by_freq=True, padding_idx=0),
    "sparse": embedded(4, 3, sparse=True, padding_idx=0),
    "sparse, no ids": embedded(4, 3, sparse=True, ids=IDS[:0]),
    "sparse, no columns": embedded(4, 0, sparse=True),
    "no ids": embedded(4, 3, ids=IDS[:0]),
    "no ids, no rows": embedded(0, 3, ids=torch.empty(2, 0, 3, dtype=torch.int64)),
    "one id": embedded(4, 3, ids=torch.tensor(2)),
    "int32 ids": embedded(4, 3, ids=IDS.int()),
    "max_norm": renormalized(max_norm=2.0),
    "max_norm of another norm": renormalized(max_norm=2.0, norm_type=0.5, sparse=True),
    "max_norm, padding": renormalized(max_norm=1.0, padding_idx=3),
    **{f"pretrained {d}": pretrained(d) for d in (torch.uint8, torch.int64, torch.float64)},
    "pretrained is frozen": lambda m: m.Embedding.from_pretrained(X[0])(IDS % 3),
    "given weight": lambda m: m.Embedding(3, 4, _weight=X[0], _freeze=True)(IDS % 3),
    "the function": lambda m: [
        m.Embedding.from_pretrained(X[0], padding_idx=2)(IDS % 3),
        F.embedding(IDS % 3, X[0], padding_idx=2),
    ],
    "in place afterwards": lambda m: trained(nn.Sequential(m.Embedding(4, 3), nn.ReLU(True)), IDS),
}

ERRORS: dict[str, Case] = {
    **{
        f"LSTM {name}={value}": built("LSTM", **{"input_size": 4, "hidden_size": 6, name: value})
        for name, value in (
            ("hidden_size", 0), ("hidden_size", -1), ("hidden_size", 2.5), ("num_layers", 0),
            ("num_layers", -1), ("num_layers", "a"), ("proj_size", -1), ("proj_size", 6),
            ("proj_size", 7), ("dropout", 2.5), ("dropout", -1), ("dropout", "a"),
            ("dropout", True), ("bias", None), ("batch_first", 1), ("input_size", -1),
            ("input_size", 0), ("no_such", 1),
        )
    },
    "LSTM no sizes": built("LSTM"),
    "LSTMCell sizes": built("LSTMCell", 4, -1),
    "LSTMCell option": built("LSTMCell", 4, 6, no_such=1),
    "one state": lambda m: m.LSTM(4, 6)(X, (H,)),
    "three states": lambda m: m.LSTM(4, 6)(X, (H, H, H)),
    "no second state": lambda m: m.LSTM(4, 6)(X, (H, None)),
    "states of doubles": lambda m: m.LSTM(4, 6)(X, (H.double(), H.double())),
    "cell: one state": lambda m: m.LSTMCell(4, 6)(X[0], (H[0],)),
    "cell: three states": lambda m: m.LSTMCell(4, 6)(X[0], (H[0], H[0], H[0])),
    "cell: input size": lambda m: m.LSTMCell(3, 6)(X[0], (H[0], H[0])),
    "cell: hidden size": lambda m: m.LSTMCell(4, 5)(X[0], (H[0], H[0])),
    "cell: batches": lambda m: m.LSTMCell(4, 6)(X[0, :2], (H[0], H[0])),
    "cell: cell state's size": lambda m: m.LSTMCell(4, 6)(X[0], (H[0], H[0, :, :5])),
    "cell: doubles": lambda m: m.LSTMCell(4, 6)(X[0].double()),
    "input size": lambda m: m.LSTM(3, 6)(X),
    "dtype": lambda m: m.LSTM(4, 6)(X.half()),
    "whole numbers": lambda m: m.LSTM(4, 6)(X.long()),
    "hidden size": lambda m: m.LSTM(4, 5)(X, (H, H)),
    "projected hidden size": lambda m: m.LSTM(4, 6, proj_size=3)(X, (H, H)),
    "no steps": lambda m: m.LSTM(4, 6)(X[:0]),
    "four dimensions": lambda m: m.LSTM(4, 6)(X[None]),
    "batched state, one sequence": lambda m: m.LSTM(4, 6)(X[:, 0], (H, H)),
    "packed: states": lambda m: m.LSTM(4, 6)(PACKED, (H[:, :2], H[:, :2])),
    "foreign keys": lambda m: m.LSTM(4, 6).load_state_dict({"a": X}),
    "a weight that is no Parameter": lambda m: setattr(m.LSTM(4, 6), "weight_ih_l0", X),
    "padding_idx too large": built("Embedding", 4, 3, padding_idx=4),
    "padding_idx too small": built("Embedding", 4, 3, padding_idx=-5),
    "negative rows": built("Embedding", -1, 3),
    "weight of another shape": lambda m: m.Embedding(4, 4, _weight=X[0]),
    "pretrained, one dimension": lambda m: m.Embedding.from_pretrained(X[0, 0]),
    "weight in 3-D": lambda m: changed(m.Embedding(5, 4), "weight", nn.Parameter(X))(IDS),
    "ids of floats": lambda m: m.Embedding(4, 3)(IDS.float()),
    "ids of bytes": lambda m: m.Embedding(4, 3)(IDS.byte()),
    "ids of bools": lambda m: m.Embedding(4, 3)(IDS.bool()),
    "ids in a list": lambda m: m.Embedding(4, 3)([0, 1]),
    "ids in an array": lambda m: m.Embedding(4, 3)(np.zeros(3, dtype=np.int64)),
    "no ids given": lambda m: m.Embedding(4, 3)(None),
    "ids, no rows": lambda m: m.Embedding(0, 3)(IDS),
}  # fmt: skip

# Same type, other words: torch's come from its matrix products, or name its overloads.
SAME_TYPE: dict[str, Case] = {
    "state in one tensor": lambda m: m.LSTM(4, 6)(X, torch.stack([H, H])),
    "cell: state in one tensor": lambda m: m.LSTMCell(4, 6)(X[0], torch.stack([H[0], H[0]])),
    "packed: input size": lambda m: m.LSTM(3, 6)(PACKED),
    "packed: doubles": lambda m: m.LSTM(4, 6)(PACKED.double()),
    "more layers than weights": lambda m: changed(m.LSTM(4, 6), "num_layers", 2)(X),
    "more directions than weights": lambda m: changed(m.LSTM(4, 6), "bidirectional", True)(X),
    "a bias gone": lambda m: changed(m.LSTM(4, 6), "bias_ih_l0", None)(X),
    "ids out of range": lambda m: m.Embedding(3, 3)(IDS),
    "ids below zero": lambda m: m.Embedding(3, 3)(IDS - 1),
    "a cell's weight": lambda m: changed(m.LSTMCell(4, 6), "weight_hh", nn.Parameter(X[0]))(X[0]),
}


@pytest.mark.parametrize("name", CASES)
def test_same_results(name: str) -> None:
    """Values, gradients, dtypes, layouts and warnings are torch's."""
    ends_the_same(CASES[name], warns=True)


@pytest.mark.parametrize("name", [*ERRORS, *SAME_TYPE])
def test_same_errors(name: str) -> None:
    """The error's type is torch's, and its message where torch has one of its own for the case."""
    fails_the_same(ERRORS.get(name) or SAME_TYPE[name], words=name in ERRORS)


class AllThree(nn.Module):
    """Each of our modules that torch has too: ids [T,B] to h [B,6]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = fastchar.Embedding(7, 4, padding_idx=0)
        self.lstm = fastchar.LSTM(4, 6, 2, bidirectional=True)
        self.cell = fastchar.LSTMCell(12, 6)

    def forward(self, ids: Tensor) -> Tensor:
        h: Tensor = self.cell(self.lstm(self.embedding(ids))[0][-1])[0]
        return h


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")
def test_traces_run_at_other_sizes() -> None:
    """torch.jit.trace holds torch's own operations, so it needs nothing of ours and any T and B."""

    model = AllThree()
    traced = torch.jit.trace(model, torch.randint(7, (5, 3)))
    assert "fastchar::" not in str(traced.inlined_graph)
    assert "aten::lstm" in str(traced.inlined_graph)
    for T, B in ((5, 3), (9, 2), (1, 8)):
        ids = torch.randint(7, (T, B))
        torch.testing.assert_close(traced(ids), model(ids))


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["packed", "lengths", "projected"])
def test_ragged_traces_run_at_other_sizes(how: str) -> None:
    """Packed or by lengths, a trace holds torch's packed LSTM: other lengths, T and B go in."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = fastchar.LSTM(4, 6, bidirectional=True, proj_size=2 * (how == "projected"))

        def forward(self, x: Tensor, lengths: Tensor, h: Tensor, c: Tensor) -> Any:
            if how != "packed":
                return self.lstm(x, (h, c), lengths=lengths)
            packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
            y, state = self.lstm(packed, (h, c))
            return nn.utils.rnn.pad_packed_sequence(y)[0], state

    def inputs(T: int, lengths: list[int]) -> tuple[Tensor, ...]:
        B = len(lengths)
        h = torch.randn(2, B, 2 if how == "projected" else 6)
        return torch.randn(T, B, 4), torch.tensor(lengths), h, torch.randn(2, B, 6)

    model = Model()
    traced = torch.jit.trace(model, inputs(5, [5, 3, 2]), check_trace=False)
    least = 1 if how == "packed" else 0
    for T, lengths in ((5, [1, 5, 2]), (9, [9, least, 1]), (3, [3, 3]), (4, [2])):
        if how == "packed":
            T = max(lengths)
        given = inputs(T, lengths)
        torch.testing.assert_close(traced(*given), model(*given))


def test_scripted_models_run_torchs_own() -> None:
    """torch.jit.script takes models with ours in them: torch's modules, with the same parameters,
    stand in their places; what has no such twin says so."""

    model, ids = AllThree(), torch.randint(7, (5, 3))
    parameters, expected = list(model.parameters()), model(ids)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(ids), expected)
    torch.testing.assert_close(model(ids), expected)
    assert type(fastchar.accelerate(model).lstm) is fastchar.LSTM
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    with pytest.raises(NotImplementedError, match="can't compile an EmbeddingLSTM"):
        torch.jit.script(fastchar.EmbeddingLSTM(7, 4, 6))


def test_a_cell_wants_two_dimensions() -> None:
    """`functional.lstm_cell` has torch.lstm_cell's errors."""
    weights, state = list(nn.LSTMCell(4, 6).parameters()), (H[0], H[0])
    for cell in (torch.lstm_cell, fastchar.functional.lstm_cell):
        with pytest.raises(RuntimeError, match="inconsistent input_size: got 3 expected 4"):
            cell(X, state, *weights)
        with pytest.raises(IndexError):
            cell(X[0, 0], state, *weights)


def test_weights_left_over_are_an_error() -> None:
    """As of torch.lstm: more than whole layers have."""
    weights = list(nn.LSTM(4, 6).parameters())
    for lstm in (torch.lstm, fastchar.functional.lstm):
        with pytest.raises(RuntimeError):
            lstm(X, (H, H), [*weights, *weights[:2]], True, 1, 0.0, True, False, False)


def test_the_packed_result_is_a_packed_sequence() -> None:
    """With the input's batch sizes and order, moved like torch's."""
    y = fastchar.LSTM(4, 6)(PACKED)[0]
    assert isinstance(y, PackedSequence)
    assert torch.equal(y.batch_sizes, PACKED.batch_sizes)
    assert y.double().data.dtype == torch.float64
