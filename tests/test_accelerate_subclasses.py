"""accelerate and users' subclasses: `super().forward` is ours, all else stays theirs."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastchar


class Mixin:
    def pack(self, x: Tensor, lengths: Tensor) -> object:
        return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


class Packing(nn.LSTM, Mixin):
    """The usual wrapper."""

    calls = 0

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        self.calls += 1
        return pad_packed_sequence(super().forward(self.pack(x, lengths))[0], batch_first=True)[0]


class Deeper(Packing):
    def extra_repr(self) -> str:
        return "deeper"


class Scaled(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return 3 * super().forward(ids)


class Clipped(nn.LSTMCell):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0].clamp(-0.01, 0.01)


CASES = {
    Packing: lambda: (
        Packing(4, 5, batch_first=True),
        (torch.randn(3, 6, 4), torch.tensor([2, 6, 1])),
    ),
    Deeper: lambda: (
        Deeper(4, 5, batch_first=True),
        (torch.randn(3, 6, 4), torch.tensor([2, 6, 1])),
    ),
    Scaled: lambda: (Scaled(9, 4), (torch.randint(9, (6, 3)),)),
    Clipped: lambda: (Clipped(4, 5), (torch.randn(3, 4),)),
}
KERNELS = {nn.LSTM: "lstm", nn.Embedding: "embedding", nn.LSTMCell: "lstm_cell"}


@pytest.mark.parametrize("cls", CASES)
def test_super_is_ours(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's forward still runs, on our functions; numbers, names and isinstance stay, and a
    second call changes nothing."""
    module, inputs = CASES[cls]()
    before, shown = module(*inputs), repr(module)
    assert fastchar.accelerate(module) is module
    name = next(name for theirs, name in KERNELS.items() if isinstance(module, theirs))
    called = []
    ours = getattr(fastchar.functional, name)
    monkeypatch.setattr(
        fastchar.functional, name, lambda *a, **k: called.append(name) or ours(*a, **k)
    )
    torch.testing.assert_close(module(*inputs), before)
    assert called == [name]
    assert isinstance(module, cls)
    assert repr(module) == shown
    accelerated = type(module)
    assert type(fastchar.accelerate(module)) is accelerated
    assert type(fastchar.accelerate(CASES[cls]()[0])) is accelerated


@pytest.mark.parametrize("cls", CASES)
def test_copies_and_pickles(cls: type) -> None:
    """Copied, pickled and saved as before, and still ours afterwards; a state_dict too."""
    module, inputs = CASES[cls]()
    fastchar.accelerate(module)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    plain = cls(*(4, 5) if cls is not Scaled else (9, 4))
    plain.load_state_dict(module.state_dict())
    for twin in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(file, weights_only=False),
    ):
        assert type(twin) is type(module)
        assert torch.equal(twin(*inputs), module(*inputs))


class Tokens(nn.Embedding):
    """No forward of its own."""

    def __init__(self) -> None:
        super().__init__(9, 4, padding_idx=0)


class Twice(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return self.both(input)

    @torch.jit.export
    def both(self, ids: Tensor) -> Tensor:
        return 2 * nn.functional.embedding(ids, self.weight)


class Biased(nn.LSTMCell):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.bias_ih)


class Prepared(nn.Embedding):
    def __prepare_scriptable__(self) -> nn.Module:
        return nn.Embedding.from_pretrained(2 * self.weight.data)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("make", [Tokens, lambda: Twice(9, 4), lambda: Biased(9, 4)])
def test_scripted(make: Callable[[], nn.Module]) -> None:
    """torch.jit.script compiles what it would have without ours, and ours can come again."""
    module = make()
    given = torch.randn(6, 9) if isinstance(module, Biased) else torch.randint(9, (6, 3))
    expected = torch.jit.script(nn.Sequential(module))(given)
    model = fastchar.accelerate(nn.Sequential(module))
    accelerated, parameters = type(module), list(module.parameters())
    torch.testing.assert_close(torch.jit.script(model)(given), expected)
    fastchar.accelerate(model)
    assert type(model[0]) is accelerated
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_scripted_as_the_user_wants() -> None:
    """A subclass that names what to compile has its will."""
    model, ids = nn.Sequential(Prepared(9, 4)), torch.randint(9, (6, 3))
    before = 2 * model(ids)
    scripted = torch.jit.script(fastchar.accelerate(model))
    torch.testing.assert_close(scripted(ids), before)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_subclasses_of_ours_scripted() -> None:
    """Without a forward of their own they are torch's classes to torch.jit.script, as ours are."""

    class Ours(fastchar.Embedding):
        def __init__(self) -> None:
            super().__init__(9, 4, padding_idx=0)

    model, ids = nn.Sequential(Ours()), torch.randint(9, (6, 3))
    expected = model(ids)
    torch.testing.assert_close(torch.jit.script(model)(ids), expected)


def test_parametrized_afterwards() -> None:
    """Weight norm comes and goes on an accelerated subclass."""
    module, inputs = CASES[Packing]()
    fastchar.accelerate(module)
    accelerated, before = type(module), module(*inputs)
    parametrizations.weight_norm(module, "weight_hh_l0")
    torch.testing.assert_close(module(*inputs), before)
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is accelerated
    torch.testing.assert_close(module(*inputs), before)


class OwnCheck(nn.LSTM):
    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        raise NotImplementedError


class OwnWeights(nn.LSTM):
    """Its method has the name of one of ours."""

    def _weights(self) -> int:
        return 7


class OwnPickle(nn.LSTM):
    def __reduce__(self) -> tuple[object, ...]:
        return OwnPickle, (self.input_size, self.hidden_size)


class OwnParameter(nn.LSTM):
    """Its parameter has the name of one of ours."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self._weights = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize("cls", [OwnCheck, OwnWeights, OwnPickle, OwnParameter])
def test_left_alone(cls: type) -> None:
    """Where the subclass's names and ours would meet, nothing changes."""
    assert type(fastchar.accelerate(cls(2, 3))) is cls


def test_parametrized_before_is_left_alone() -> None:
    """torch undoes a parametrization by the class's first base, which has to be the user's."""
    module, inputs = CASES[Packing]()
    parametrizations.weight_norm(module, "weight_hh_l0")
    before = module(*inputs)
    fastchar.accelerate(module)
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is Packing
    torch.testing.assert_close(module(*inputs), before)
