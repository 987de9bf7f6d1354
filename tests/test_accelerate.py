"""accelerate(model): in place, for any model, without changing anything but the code that runs."""

import copy
import logging
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune

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
    assert pair.training
    assert not fastchar.EmbeddingLSTM.from_modules(embedding.eval(), lstm.eval()).training
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


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.utils.weight_norm(nn.LSTM(4, 5), "weight_hh_l0"),
        lambda: prune.l1_unstructured(nn.LSTM(4, 5), "weight_hh_l0", amount=0.3),
        lambda: parametrizations.spectral_norm(nn.LSTM(4, 5), "weight_hh_l0").eval(),
        lambda: parametrizations.weight_norm(nn.LSTMCell(4, 5), "weight_hh"),
        lambda: parametrizations.weight_norm(nn.Embedding(9, 4), "weight"),
        lambda: nn.Embedding.from_pretrained(torch.randn(9, 4)),
        lambda: nn.Embedding(9, 4, max_norm=0.5),
        lambda: nn.LSTM(4, 5, proj_size=2),
        lambda: checkpoint_wrapper(nn.LSTM(4, 5)),
        lambda: torch.compile(nn.LSTM(4, 5), backend="eager"),
    ],
)
def test_what_others_made_of_a_module(make: Callable[[], nn.Module]) -> None:
    """Computed weights, options, and wrappers: results and gradients stay."""
    model = make()
    names = [type(m).__name__ for m in model.modules()]
    embeds = any(isinstance(m, nn.Embedding) for m in model.modules())
    cell = any(isinstance(m, nn.LSTMCell) for m in model.modules())
    given = torch.randint(9, (6, 3)) if embeds else torch.randn(6, 3, 4)[0 if cell else slice(None)]

    def results() -> list[Tensor]:
        leaves = torch.utils._pytree.tree_leaves
        out = leaves(model(given))
        trained = [p for p in model.parameters() if p.requires_grad]
        total = sum(t.square().sum() for t in out)
        return [*out, *(torch.autograd.grad(total, trained) if trained else ())]

    before = results()
    fastchar.accelerate(model)
    for a, b in zip(results(), before, strict=True):
        torch.testing.assert_close(a, b)
    assert [type(m).__name__ for m in model.modules()] == names
    assert any(
        cls.__module__.startswith("fastchar") for m in model.modules() for cls in type(m).__mro__
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_quantized_and_scripted_modules_are_left_alone() -> None:
    """They have no weights of ours to run; and quantizing the rest of a model leaves ours alone."""
    model = nn.ModuleDict({"lstm": nn.LSTM(4, 5), "head": nn.Linear(5, 2)})
    quantized = torch.ao.quantization.quantize_dynamic(model)
    kind = type(quantized["lstm"])
    assert type(fastchar.accelerate(quantized)["lstm"]) is kind
    scripted = torch.jit.script(nn.Sequential(nn.LSTM(4, 5)))
    traced = torch.jit.trace(nn.LSTM(4, 5), torch.randn(6, 3, 4))
    for compiled in (scripted, traced):
        assert isinstance(fastchar.accelerate(compiled), torch.jit.ScriptModule)
        assert compiled(torch.randn(6, 3, 4))[0].shape == (6, 3, 5)
    ours = torch.ao.quantization.quantize_dynamic(fastchar.accelerate(model))
    assert type(ours["lstm"]) is fastchar.LSTM
    assert "quantized" in type(ours["head"]).__module__
    x = torch.randn(6, 3, 4)
    torch.testing.assert_close(ours["lstm"](x), model["lstm"](x))
