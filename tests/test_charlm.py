"""CharLM: chunks make the whole, seeds make the text, and options do what they say."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastchar.models import CharLM
from fastchar.text import Vocabulary

TEXT = "the cat sat on the mat and the rat sat on the cat\n"
VOCABULARY = Vocabulary.build([TEXT])
VARIANTS = [
    pytest.param(options, id=name)
    for name, options in {
        "plain": {},
        "layers": {"num_layers": 2},
        "tied": {"tie_embeddings": True, "embedding_dim": 8},
        "tied-projected": {"tie_embeddings": True},
    }.items()
]


def make(vocabulary: Vocabulary = VOCABULARY, **options) -> CharLM:
    torch.manual_seed(0)
    return CharLM(vocabulary, **{"embedding_dim": 5, "hidden_size": 8, **options}).double()


def stream(steps: int = 24, streams: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and targets [T, B] of streams of random symbols."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(4, len(VOCABULARY), (steps + 1, streams), generator=generator)
    return ids[:-1], ids[1:]


@pytest.mark.parametrize("options", VARIANTS)
def test_loss_is_that_of_torch_modules(options: dict) -> None:
    """Embedding, nn.LSTM, linear and cross entropy put together by hand give the same loss."""
    model, (ids, targets) = make(**options), stream()
    config = model.config
    rnn = nn.LSTM(config["embedding_dim"], config["hidden_size"], config["num_layers"]).double()
    rnn.load_state_dict(model.rnn.lstm.state_dict())
    hidden = rnn(model.rnn.embedding.weight[ids])[0]
    if config["tie_embeddings"]:
        if config["embedding_dim"] != config["hidden_size"]:
            hidden = hidden @ model.project.weight.T
        logits = hidden @ model.rnn.embedding.weight.T + model.output.bias
    else:
        logits = model.output(hidden)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model(ids, targets)[0], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.logits(ids)[0], logits, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", VARIANTS)
def test_chunks_make_the_whole(options: dict) -> None:
    """With the state carried over, the losses of chunks add up to that of the whole text."""
    model, (ids, targets) = make(**options), stream()
    whole, _ = model(ids, targets)
    total, state = 0.0, None
    for part in (slice(0, 1), slice(1, 9), slice(9, 24)):
        loss, state = model(ids[part], targets[part], state)
        total = total + loss * (part.stop - part.start) / 24
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", VARIANTS)
def test_every_parameter_learns(options: dict) -> None:
    """Each parameter has a gradient, and tied ones are one."""
    model = make(**options)
    model(*stream())[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert (model.output.weight is model.rnn.embedding.weight) == model.config["tie_embeddings"]


def test_gradients_stop_at_the_chunk() -> None:
    """The state comes back cut off: chunk by chunk, memory does not grow."""
    _, state = make()(*stream())
    assert not any(s.requires_grad for s in state)


def test_padding_does_not_count() -> None:
    """<pad> among the targets leaves the loss the mean over the others."""
    model, (ids, targets) = make(), stream()
    expected = model(ids[:, :2], targets[:, :2])[0]
    targets = targets.clone()
    targets[:, 2] = VOCABULARY.pad_id
    torch.testing.assert_close(model(ids, targets)[0], expected, rtol=1e-12, atol=0)


def test_seed_makes_the_text() -> None:
    """The same seed draws the same text, another seed or none another one."""
    model = make()
    with torch.no_grad():  # two texts that end at once would be the same by chance
        model.output.bias[VOCABULARY.eos_id] = -100
    assert model.generate("the ", seed=3) == model.generate("the ", seed=3)
    assert len({model.generate(seed=s, length=50) for s in range(5)}) == 5
    assert model.generate(length=50) != model.generate(length=50)


@pytest.mark.parametrize("as_made", [True, False])
def test_text_under_another_default_device(as_made: bool) -> None:
    """As in programs that make all their tensors on a GPU: the draws are on the CPU all the same,
    where the seed's generator is."""
    model = make().eval()
    if not as_made:
        model.output.register_forward_hook(lambda *_: None)
    expected = model.generate("the ", length=30, seed=3)
    with torch.device("meta"):
        assert model.generate("the ", length=30, seed=3) == expected


def test_length_and_pieces() -> None:
    """`length` symbols come at most, as a stream or in one piece, without the prompt."""
    model = make()
    with torch.no_grad():
        model.output.bias[VOCABULARY.eos_id] = -100
    pieces = list(model.stream("the", length=30, seed=1))
    assert len(pieces) == 30
    assert "".join(pieces) == model.generate("the", length=30, seed=1)
    assert model.generate("the", length=0) == ""


def test_greedy_text_is_the_argmax_chain() -> None:
    """Temperature 0 and top_k 1 both follow the most probable symbol, the prompt read first."""
    model = make()
    ids = VOCABULARY.encode("the c", bos=True)
    for _ in range(20):
        logits = model.logits(torch.tensor(ids).unsqueeze(1))[0][-1, 0]
        logits[[0, 1, 3]] = float("-inf")
        ids.append(int(logits.argmax()))
    expected = VOCABULARY.decode(ids)[len("the c") :]
    assert model.generate("the c", length=20, temperature=0.0) == expected
    assert model.generate("the c", length=20, top_k=1) == expected


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize(
    "way", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 9, "top_p": 0.9}]
)
def test_one_call_writes_what_the_modules_do(options: dict, way: dict) -> None:
    """The text is the same whether many symbols are one call or each is a call of the modules: so
    with hooks, which see every step. Long enough for several calls, from any prompt."""
    model, seen = make(**options), []
    with torch.no_grad():
        model.output.bias[VOCABULARY.eos_id] = -100
    for prompt in ("", "t", "the cat"):
        expected = model.generate(prompt, length=60, seed=1, **way)
        handle = model.rnn.register_forward_hook(lambda *_: seen.append(1))
        assert model.generate(prompt, length=60, seed=1, **way) == expected
        handle.remove()
    assert len(seen) == 3 * 60


@pytest.mark.parametrize("where", ["dropout", "output", "project", "rnn.lstm", "rnn.embedding"])
def test_replaced_modules_write(where: str) -> None:
    """A part that somebody hooked or replaced is called, a symbol at a time."""
    model, seen = make(tie_embeddings=True), []
    expected = model.generate("the", length=20, seed=1)
    model.get_submodule(where).register_forward_hook(lambda *_: seen.append(1))
    assert model.generate("the", length=20, seed=1) == expected
    assert len(seen) == 20


def test_another_head_writes() -> None:
    """An output layer without a bias, and one that isn't torch's Linear, write what the same
    numbers write in its place."""
    model = make()
    head = nn.Linear(8, len(VOCABULARY), bias=False).double()
    with torch.no_grad():
        model.output.weight.copy_(head.weight)
        model.output.bias.zero_()

    def texts() -> list[str]:  # that end where they will
        return [model.generate("the", length=30, seed=seed) for seed in range(5)]

    expected = texts()
    assert len("".join(expected)) > 20
    for output in (head, nn.Sequential(nn.Identity(), model.output)):
        model.output = output
        assert texts() == expected


def test_weights_of_now() -> None:
    """Texts are written by the weights of the moment."""
    model = make()
    with torch.no_grad():
        model.output.bias[VOCABULARY.eos_id] = -100
    before = model.generate(length=40, seed=1)
    model.output.weight.data.neg_()
    assert model.generate(length=40, seed=1) != before
    model.output.weight.data.neg_()
    assert model.generate(length=40, seed=1) == before


def test_a_model_of_nan_says_so() -> None:
    """No text comes of logits that make no distribution, by either way."""
    model = make()
    with torch.no_grad():
        model.output.weight[5, 0] = float("nan")
    for _ in range(2):
        with pytest.raises(ValueError, match="logits: expected a finite one at least, and no NaN"):
            model.generate(length=5, seed=0)
        model.output.register_forward_hook(lambda *_: None)


def test_special_symbols_are_never_drawn() -> None:
    """<pad>, <bos> and <unk> never come; <eos> ends the text."""
    model = make()
    with torch.no_grad():
        model.output.bias[[0, 1, 3]] = 100
        assert "\ufffd" not in model.generate(length=50, seed=0)
        model.output.bias[2] = 100
    assert model.generate(length=50, seed=0) == ""


def test_stop() -> None:
    """Text ends before `stop`, wherever its pieces are cut, and otherwise is as without it."""
    model = make()
    with torch.no_grad():
        model.output.bias[VOCABULARY.eos_id] = -100
    free = model.generate(length=200, seed=2)
    for start, size in itertools.product((0, 1, 40), (1, 2, 3)):
        stop = free[start : start + size]
        assert model.generate(length=200, seed=2, stop=stop) == free[: free.index(stop)]
    assert model.generate(length=200, seed=2, stop="never there") == free


def test_streaming_leaves_the_caller_alone() -> None:
    """Between pieces the caller has gradients, and the model its mode and its dropout."""
    model = make(dropout=0.5)
    expected = model.generate(length=10, seed=0)
    pieces = []
    for piece in model.stream(length=10, seed=0):
        pieces.append(piece)
        assert torch.is_grad_enabled()
        assert model.training
    assert "".join(pieces) == expected


def test_any_prompt() -> None:
    """Unknown symbols in a prompt, bytes, phones: there is always a text."""
    assert isinstance(make().generate("жx😀", length=5, seed=0), str)
    text = make(Vocabulary(mode="bytes")).generate("é", length=20, seed=0)
    assert text.encode()
    phones = make(Vocabulary(["AH", "B"], mode="separated"))
    assert set(phones.generate("AH", length=20, seed=0).split()) <= {"AH", "B"}


def test_a_separated_text_goes_on_behind_a_separator() -> None:
    """The prompt and what follows are the text that its symbols make, `AH HH` and not `AHHH`."""
    model = make(Vocabulary.build(["AH HH N"], mode="separated"))
    for prompt in ("", "AH", "AH "):
        text = prompt + model.generate(prompt, length=20, seed=1)
        assert set(text.split()) <= {"AH", "HH", "N"}
        assert "  " not in text
        assert not text.startswith(" ")


def test_learns_a_sentence() -> None:
    """Trained in chunks on one sentence again and again, it can say the rest of it."""
    torch.manual_seed(0)
    model = CharLM(VOCABULARY, embedding_dim=16, hidden_size=64)
    ids = torch.tensor(VOCABULARY.encode(TEXT * 3)).unsqueeze(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        state = None
        for start in range(0, len(ids) - 1, 50):
            part = ids[start : start + 51]
            loss, state = model(part[:-1], part[1:], state)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss < 0.1
    assert model.generate(TEXT[:20], length=len(TEXT) - 20, temperature=0.0) == TEXT[20:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": -1}, "length: expected 0 or more, got -1"),
        ({"stop": ""}, "stop: expected text or None"),
        ({"temperature": -1}, "temperature: expected 0 or more"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    """Errors come from the call itself, before the first piece is asked for."""
    with pytest.raises(ValueError, match=message):
        make().stream(**options)
