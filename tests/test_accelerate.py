"""accelerate(model): in place, for any model, without changing anything but the code that runs."""

import copy
import logging
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fastchar


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4, padding_idx=0)
        self.encoder = nn.ModuleDict({"rnn": nn.LSTM(4, 5, bidirectional=True)})
        self.again = self.encoder["rnn"]
        self.cell = nn.LSTMCell(10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        y, _ = self.encoder["rnn"](self.embedding(ids))
        return self.cell(y[-1])[0]


def test_same_numbers_same_objects() -> None:
    """Modules, parameters, hooks, mode and sharing stay; only the classes change."""
    model = Model().eval()
    ids = torch.randint(9, (6, 3))
    seen = []
    model.again.register_forward_hook(lambda *_: seen.append(1))
    before, modules = model(ids), dict(model.named_modules())
    parameters = dict(model.named_parameters())
    assert fastchar.accelerate(model) is model
    assert type(model.embedding) is fastchar.Embedding
    assert type(model.encoder["rnn"]) is fastchar.LSTM
    assert type(model.cell) is fastchar.LSTMCell
    assert model.again is model.encoder["rnn"]
    assert all(modules[k] is m for k, m in model.named_modules())
    assert all(parameters[k] is p for k, p in model.named_parameters())
    assert not model.again.training
    torch.testing.assert_close(model(ids), before)
    assert len(seen) == 2


def test_idempotent_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """A second call changes nothing; the log names each change once."""
    model = Model()
    with caplog.at_level(logging.INFO, "fastchar"):
        fastchar.accelerate(model)
        first = len(caplog.records)
        classes = [type(m) for m in model.modules()]
        fastchar.accelerate(model)
    assert first == 3
    assert len(caplog.records) == first
    assert classes == [type(m) for m in model.modules()]
    assert "encoder.rnn: LSTM" in caplog.text


def test_a_bare_module_and_what_is_left_alone() -> None:
    """The model may be the LSTM itself; a replaced forward is the user's."""
    assert type(fastchar.accelerate(nn.LSTM(2, 3))) is fastchar.LSTM
    patched = nn.LSTM(2, 3)
    patched.forward = lambda x: x  # type: ignore[method-assign]
    assert type(fastchar.accelerate(patched)) is nn.LSTM


def test_copies_and_pickles_of_accelerated_models() -> None:
    model = fastchar.accelerate(Model())
    ids = torch.randint(9, (6, 3))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin.again) is fastchar.LSTM
        assert torch.equal(twin(ids), model(ids))


def test_parametrized_modules_keep_their_parametrization() -> None:
    """Weight norm on an LSTM's weight stays in force, and trains, after accelerate."""
    model = nn.LSTM(4, 5)
    parametrizations.weight_norm(model, "weight_hh_l0")
    x = torch.randn(6, 3, 4)
    before = model(x)[0]
    fastchar.accelerate(model)
    assert isinstance(model, fastchar.LSTM)
    torch.testing.assert_close(model(x)[0], before)
    model(x)[0].sum().backward()
    magnitude = model.parametrizations.weight_hh_l0.original0
    assert magnitude.grad is not None
    with torch.no_grad():
        magnitude.mul_(2)
    assert not torch.equal(model(x)[0], before)


def test_from_modules() -> None:
    """The fold of an existing pair shares its parameters and computes what the pair did."""
    embedding, lstm = nn.Embedding(9, 4, padding_idx=2), nn.LSTM(4, 5, batch_first=True)
    ids = torch.randint(9, (3, 6))
    before = lstm(embedding(ids))
    pair = fastchar.EmbeddingLSTM.from_modules(embedding, lstm)
    assert pair.embedding.weight is embedding.weight
    torch.testing.assert_close(pair(ids), before)
    with pytest.raises(ValueError, match="expected input_size 4"):
        fastchar.EmbeddingLSTM.from_modules(embedding, nn.LSTM(3, 5))
    with pytest.raises(TypeError, match=r"expected an nn.LSTM, got GRU"):
        fastchar.EmbeddingLSTM.from_modules(embedding, nn.GRU(4, 5))
    with pytest.raises(ValueError, match="max_norm"):
        fastchar.EmbeddingLSTM.from_modules(nn.Embedding(9, 4, max_norm=1.0), lstm)
    with pytest.raises(TypeError, match=r"expected an nn.Embedding, got Linear"):
        fastchar.EmbeddingLSTM.from_modules(nn.Linear(9, 4), lstm)


def test_from_modules_refuses_what_it_would_not_run() -> None:
    """A forward of the user's own would be passed over in silence."""

    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return 3 * super().forward(input)

    class Doubled(nn.LSTM):
        def forward(self, *args: Tensor) -> Tensor:
            return 2 * super().forward(*args)[0]

    class Plain(nn.Embedding):
        """Nothing of its own."""

    replaced = nn.Embedding(9, 4)
    replaced.forward = lambda ids: ids  # type: ignore[method-assign]
    for embedding, lstm, message in (
        (Scaled(9, 4), nn.LSTM(4, 5), "Scaled with its own forward"),
        (nn.Embedding(9, 4), Doubled(4, 5), "got Doubled"),
        (replaced, nn.LSTM(4, 5), "one with another forward"),
    ):
        with pytest.raises(TypeError, match=message):
            fastchar.EmbeddingLSTM.from_modules(embedding, lstm)
    pair = fastchar.EmbeddingLSTM.from_modules(Plain(9, 4), nn.LSTM(4, 5))
    ids = torch.randint(9, (6, 3))
    torch.testing.assert_close(pair(ids), pair.lstm(pair.embedding(ids)))
