"""The models' dropout: the right share, the right gradient, reproducible; else torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastchar
from fastchar.models.dropout import Dropout
from fastchar.text import Vocabulary

N = 1 << 20


def dropped(p: float, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    y: Tensor = Dropout(p)(x)
    return y


@pytest.mark.parametrize("p", [1e-3, 0.2, 1 / 3, 0.5, 0.9, 0.999])
def test_share(p: float) -> None:
    """Of each of the four elements that share a draw p go, alone and in pairs, but for luck (6
    standard deviations); the others are scaled so that the mean stays."""
    y = dropped(p, torch.ones(N))
    gone = (y == 0).view(-1, 4).double()
    at_most = 6 * math.sqrt(p * (1 - p) / len(gone))
    assert (gone.mean(0) - p).abs().max() < at_most
    covariance = torch.cov(gone.t())
    apart = covariance - covariance.diag().diag()
    assert apart.abs().max() < 6 * p * (1 - p) / math.sqrt(len(gone))
    kept = y[y != 0]
    assert torch.equal(kept, kept[:1].expand_as(kept))
    assert kept[0] == pytest.approx(1 / (1 - p), rel=2**-16 / (1 - p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 5, 3), (1,), (0, 4), (), (64, 33)])
def test_values_and_gradients(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """What is kept, and its gradient, are scaled alike, whatever the shape."""
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    y = dropped(0.25, x)
    y.backward(torch.ones_like(y))
    scale = (y != 0).to(dtype) * (4 / 3)
    assert y.dtype == dtype
    torch.testing.assert_close(y, x * scale)
    torch.testing.assert_close(x.grad, scale)


def test_reproducible() -> None:
    """The generator's seed and state decide, whatever the threads; each call draws anew."""
    x, threads = torch.ones(100_000), torch.get_num_threads()
    first = dropped(0.5, x)
    state = torch.get_rng_state()
    second = Dropout(0.5)(x)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    try:
        torch.set_num_threads(1)
        assert torch.equal(Dropout(0.5)(x), second)
        assert torch.equal(dropped(0.5, x), first)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(dropped(0.5, x, seed=1), first)


def test_where_it_is_torchs() -> None:
    """In evaluation nothing goes and nothing is drawn; transforms and probabilities beyond 16 bits
    are torch's own dropout."""
    x = torch.randn(1000)
    state = torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)
    y = x.clone()
    assert Dropout(0.5, inplace=True)(y) is y
    for p in (0.0, 1e-9, 1 - 1e-9, 1.0):
        torch.manual_seed(0)
        assert torch.equal(nn.Dropout(p)(x), dropped(p, x))
    module = Dropout(0.5)
    rows = torch.vmap(module, randomness="different")(x.view(10, 100))
    torch.manual_seed(0)
    found = torch.func.jvp(module, (x,), (x,))
    torch.manual_seed(0)
    expected = F.dropout(x, 0.5)
    assert rows.shape == (10, 100)
    for a in found:
        torch.testing.assert_close(a, expected)


PLACES = {
    "encoder, between layers": ({}, "encoder.rnn.lstm"),
    "encoder's states": ({}, "encoder.dropout"),
    "decoder, between layers": ({}, "decoder.rnn.lstm"),
    "attentional vectors": ({}, "decoder.dropout"),
    "attentional vectors, fed": ({"input_feeding": True, "decoder_layers": 1}, "decoder.dropout"),
    "text, between layers": ({"model": fastchar.CharLM}, "rnn.lstm"),
    "text, before the output": ({"model": fastchar.CharLM}, "dropout"),
}


@pytest.mark.parametrize("place", PLACES)
def test_each_place_drops_out(place: str) -> None:
    """Where it alone does, two passes of training differ, and two of evaluation do not."""
    options, name = PLACES[place]
    letters, ids = Vocabulary("abc"), torch.tensor([[1, 4, 5, 6, 4, 2]]).t()
    if "model" in options:
        model: nn.Module = fastchar.CharLM(letters, hidden_size=32, num_layers=2, dropout=0.5)
        arguments = ids[:-1], ids[1:]
    else:
        layers = {"encoder_layers": 2, "decoder_layers": 2, "hidden_size": 32, "dropout": 0.5}
        model = fastchar.Seq2Seq(letters, letters, **{**layers, **options})
        arguments = ids, torch.tensor([6]), ids
    for path, module in model.named_modules():
        if path != name and isinstance(module, Dropout):
            module.p = 0.0
        elif path != name and isinstance(module, nn.RNNBase):
            module.dropout = 0.0

    def loss() -> float:
        result = model(*arguments)
        return float((result[0] if isinstance(result, tuple) else result).detach())

    assert loss() != loss()
    model.eval()
    assert loss() == loss()


def test_input_feeding_drops_out_at_each_step() -> None:
    """Between the layers and after the attention, which share a module."""
    letters, ids = Vocabulary("abc"), torch.tensor([[1, 4, 5, 6, 4, 2]]).t()
    options = {"decoder_layers": 3, "input_feeding": True, "dropout": 0.5}
    model = fastchar.Seq2Seq(letters, letters, **options)
    calls: list[Tensor] = []
    model.decoder.dropout.register_forward_hook(lambda *given: calls.append(given[2]))
    model(ids, torch.tensor([6]), ids)
    assert len(calls) == 5 * (2 + 1)  # steps, two gaps between layers, attention


def test_models_have_it() -> None:
    """In every place where a model drops out, but between layers, where the LSTM's are torch's."""
    letters = Vocabulary.build(["abc"])
    for model in (
        fastchar.Seq2Seq(letters, letters, dropout=0.2),
        fastchar.Seq2Seq(letters, letters, dropout=0.2, input_feeding=True),
        fastchar.CharLM(letters, dropout=0.2),
    ):
        found = [m for m in model.modules() if isinstance(m, nn.Dropout)]
        assert found
        assert all(type(m) is Dropout for m in found)
