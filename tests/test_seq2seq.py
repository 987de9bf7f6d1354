"""Seq2Seq: the model that its docstrings describe, whatever a sentence is batched with."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastchar.models import Seq2Seq
from fastchar.text import Vocabulary, batches_by_length, pad

SOURCE, TARGET = Vocabulary("abcde"), Vocabulary("uvwxyz")
SOURCES = ["abc", "e", "deadbeca", "cab"]
TARGETS = ["xy", "uvwxyzu", "z", "vvv"]
SCORES = ["dot", "general", "additive"]
VARIANTS = [
    pytest.param({"attention": score, "input_feeding": feed}, id=f"{score}-{feed}")
    for score, feed in itertools.product(SCORES, [False, True])
]


def make(**options) -> Seq2Seq:
    torch.manual_seed(1)
    sizes = {"embedding_dim": 5, "hidden_size": 6, "encoder_layers": 2, "decoder_layers": 2}
    return Seq2Seq(SOURCE, TARGET, **{**sizes, **options}).double()


def batch(sources: list[str], targets: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    ids, lengths = pad([SOURCE.encode(s, eos=True) for s in sources])
    return ids, lengths, pad([TARGET.encode(t, bos=True, eos=True) for t in targets])[0]


def by_hand(model: Seq2Seq, source: str, target: str) -> Tensor:
    """Total loss of one pair, step by step as the papers write it, from torch's own modules."""
    config, attention = model.config, model.decoder.attention
    E, H, L = (config[k] for k in ("embedding_dim", "hidden_size", "decoder_layers"))
    rnn = nn.LSTM(E, H, config["encoder_layers"], bidirectional=True).double()
    rnn.load_state_dict(model.encoder.rnn.lstm.state_dict())
    ids = torch.tensor(SOURCE.encode(source, eos=True))
    states, (h_n, c_n) = rnn(model.encoder.rnn.embedding.weight[ids])  # [S, 2H]
    h = model.encoder.bridge_h(h_n[-2:].flatten()).tanh().view(L, H)
    c = model.encoder.bridge_c(c_n[-2:].flatten()).view(L, H)
    cells = nn.ModuleList(
        nn.LSTMCell(E + H * config["input_feeding"] if layer == 0 else H, H) for layer in range(L)
    ).double()
    if config["input_feeding"]:
        cells.load_state_dict(model.decoder.cells.state_dict())
        table = model.decoder.embedding.weight
    else:
        for layer, cell in enumerate(cells):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                parameter = getattr(model.decoder.rnn.lstm, f"{name}_l{layer}")
                getattr(cell, name).data.copy_(parameter)
        table = model.decoder.rnn.embedding.weight
    W, W_m = attention.states.weight[:H], attention.states.weight[-H:]
    W_c = torch.cat([W_m, attention.query.weight], dim=1)  # [H, 2H + H]
    h, c, fed, loss = list(h), list(c), torch.zeros(H).double(), 0.0
    symbols = TARGET.encode(target, bos=True, eos=True)
    for symbol, following in itertools.pairwise(symbols):
        below = torch.cat([table[symbol], fed]) if config["input_feeding"] else table[symbol]
        for layer, cell in enumerate(cells):
            h[layer], c[layer] = cell(below, (h[layer], c[layer]))
            below = h[layer]
        match config["attention"]:
            case "dot":
                scores = states @ (W_m.T @ below)
            case "general":
                scores = states @ (W.T @ below)
            case "additive":
                sums = attention.query_key(below) + states @ W.T
                scores = attention.energy(sums.tanh()).squeeze(1)
        context = scores.softmax(0) @ states  # [2H]
        fed = (W_c @ torch.cat([context, below]) + attention.query.bias).tanh()
        loss = loss - model.output(fed).log_softmax(0)[following]
    return loss


@pytest.mark.parametrize("options", VARIANTS)
def test_loss_is_that_of_the_equations(options: dict) -> None:
    """The batched, ragged loss and its gradients are those of the papers' equations, in float64."""
    model = make(**options)
    model(*batch(SOURCES, TARGETS)).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    expected = sum(map(by_hand, itertools.repeat(model), SOURCES, TARGETS))
    expected = expected / sum(len(t) + 1 for t in TARGETS)
    loss = model(*batch(SOURCES, TARGETS))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    # The encoder, the attention and the embeddings are the model's own in `by_hand`, too.
    expected.backward()
    for name, parameter in model.named_parameters():
        if ".lstm." in name or ".cells." in name or "encoder.rnn" in name:
            continue
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("options", VARIANTS)
def test_every_parameter_learns(options: dict) -> None:
    """No parameter is there for nothing: each has a gradient, finite and not all zero."""
    model = make(**options)
    model(*batch(SOURCES, TARGETS)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("options", VARIANTS)
def test_batch_makes_no_difference(options: dict) -> None:
    """The loss of a batch is the mean over its symbols, padding or not; so are the gradients."""
    model = make(**options)
    total, symbols = 0.0, sum(len(t) + 1 for t in TARGETS)
    for source, target in zip(SOURCES, TARGETS, strict=True):
        total = total + model(*batch([source], [target])) * (len(target) + 1) / symbols
    alone = torch.autograd.grad(total, list(model.parameters()))
    loss = model(*batch(SOURCES, TARGETS))
    torch.testing.assert_close(loss, total, rtol=1e-12, atol=0)
    together = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("options", VARIANTS)
def test_predictions_do_not_depend_on_the_batch(options: dict) -> None:
    """Greedy and beam search give a text the same hypotheses alone, in company, in any order."""
    model = make(**options)
    for beam in (1, 3):
        options = {"beam": beam, "n_best": beam, "max_length": 6}
        together = model.predict(SOURCES, **options)
        alone = [model.predict([s], **options)[0] for s in SOURCES]
        split = model.predict(SOURCES[::-1], batch_size=2, **options)[::-1]
        for other in (alone, split):
            for these, those in zip(together, other, strict=True):
                assert [h.ids for h in these] == [h.ids for h in those]
                for one, two in zip(these, those, strict=True):
                    assert one.log_prob == pytest.approx(two.log_prob, rel=1e-12)
                    torch.testing.assert_close(one.attention, two.attention)


@pytest.mark.parametrize("options", VARIANTS)
def test_attention_weights(options: dict) -> None:
    """Weights sum to 1 over the real source symbols, and are exactly 0 in the padding."""
    model = make(**options)
    source_ids, lengths, target_ids = batch(SOURCES, TARGETS)
    weights = model.score(source_ids, lengths, target_ids)[1]  # [B, T, 1, S]
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    for row, length in zip(weights, lengths.tolist(), strict=True):
        assert (row[..., length:] == 0).all()
        assert (row[..., :length] > 0).all()


@pytest.mark.parametrize("options", VARIANTS)
def test_hypotheses(options: dict) -> None:
    """A hypothesis is whole: text, ids, a log-probability and attention that belong together."""
    model = make(**options)
    for source, hypotheses in zip(SOURCES, model.predict(SOURCES, beam=4, n_best=3), strict=True):
        assert len(hypotheses) == 3
        for hypothesis in hypotheses:
            text = hypothesis.text
            assert hypothesis.ids == TARGET.encode(text)
            log_prob, weights = model.score(*batch([source], [text]))
            assert hypothesis.log_prob == pytest.approx(log_prob.item(), rel=1e-12)
            assert hypothesis.attention.shape == (len(text) + 1, len(source) + 1)
            torch.testing.assert_close(hypothesis.attention, weights[0, :, 0])
            kept = hypothesis.attention.untyped_storage().nbytes()  # not the whole batch's
            assert kept == hypothesis.attention.nbytes


def test_predictions_can_be_compared() -> None:
    """Those of two calls are equal if they say the same, and that is no error."""
    model = make()
    first = model.predict(SOURCES, beam=3, n_best=2)
    assert first == model.predict(SOURCES, beam=3, n_best=2)
    assert first[0][0] != first[0][1]


def test_score_takes_several_targets_a_source() -> None:
    """Target k of sentence b in column k*B + b has the log-probability that it has alone."""
    model = make()
    ids, lengths, targets = batch(SOURCES, TARGETS)
    rest = TARGETS[1:] + TARGETS[:1]
    several, weights = model.score(ids, lengths, batch(SOURCES, TARGETS + rest)[2])
    assert weights.shape == (4, 8, 2, 9)
    torch.testing.assert_close(several[:4], model.score(ids, lengths, targets)[0])
    torch.testing.assert_close(several[4:], model.score(*batch(SOURCES, rest))[0])


@pytest.mark.parametrize("feeding", [False, True])
def test_steps_equal_the_sequence(feeding: bool) -> None:
    """The decoder step by step, as a search runs it, gives what it gives over the whole target."""
    model = make(input_feeding=feeding)
    ids, lengths, targets = batch(SOURCES, TARGETS)
    memory, start = model._encode(ids, lengths)
    whole, weights, _ = model.decoder(targets, start, memory)
    state = start
    for t, column in enumerate(targets):
        step, step_weights, state = model.decoder(column.unsqueeze(0), state, memory)
        torch.testing.assert_close(step[0], whole[t], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(step_weights[:, 0], weights[:, t], rtol=1e-10, atol=1e-12)


def test_label_smoothing_is_for_training() -> None:
    """With smoothing the training loss is torch's own; the validation loss is the plain one."""
    model, plain = make(label_smoothing=0.2), make()
    plain.load_state_dict(model.state_dict())
    arguments = batch(SOURCES, TARGETS)
    with torch.no_grad():
        states, start = model.encoder(*arguments[:2])
        memory = model.decoder.attention.memory(states, arguments[1])
        vectors = model.decoder(arguments[2][:-1], start, memory)[0]
        logits = model.output(vectors).flatten(0, 1)
        smoothed = F.cross_entropy(
            logits, arguments[2][1:].flatten(), ignore_index=0, label_smoothing=0.2
        )
    torch.testing.assert_close(model(*arguments).detach(), smoothed, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.eval()(*arguments), plain(*arguments), rtol=1e-12, atol=0)


@pytest.mark.parametrize("feeding", [False, True])
def test_dropout_is_for_training(feeding: bool) -> None:
    """Predicting switches dropout off and leaves the model in the mode that it was in."""
    model = make(dropout=0.5, input_feeding=feeding)
    arguments = batch(SOURCES, TARGETS)
    assert model(*arguments) != model(*arguments)
    before = [h[0].log_prob for h in model.predict(SOURCES)]
    assert model.training
    assert model.encoder.training
    assert before == [h[0].log_prob for h in model.eval().predict(SOURCES)]
    assert not model.training
    assert model(*arguments) == model(*arguments)


@pytest.mark.parametrize("feeding", [False, True])
def test_log_probabilities_in_low_precision(feeding: bool) -> None:
    """A bfloat16 model's are a distribution's, as float32 has it: not rounded at each symbol."""
    model = make(input_feeding=feeding).bfloat16()
    ids, lengths, _ = batch(SOURCES, TARGETS)
    with torch.no_grad():
        memory, state = model._encode(ids, lengths)
        log_probs = model._step(torch.full((4,), TARGET.bos_id), state, memory)[0]
    torch.testing.assert_close(log_probs.double().exp().sum(1), torch.ones(4).double())
    # A target of many symbols has the probability of their product.
    with torch.no_grad():
        model.output.bias[TARGET.eos_id] = -100
    best = model.predict(["abc"], max_length=50)[0][0]
    expected = model.double().score(*batch(["abc"], [best.text]))[0].item()
    assert best.log_prob == pytest.approx(expected, rel=1e-3)


def test_a_model_of_nan_says_so() -> None:
    """Beam search names what it found, where no target has a probability."""
    model = make()
    with torch.no_grad():
        model.output.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="model: expected log-probabilities, got NaN"):
        model.predict(["a"], beam=2)


@pytest.mark.parametrize("feeding", [False, True])
def test_another_default_device(feeding: bool) -> None:
    """As in programs that make all their tensors on a GPU: the model computes where it is, with
    lengths on the CPU."""
    model = make(input_feeding=feeding, dropout=0.1)
    ids, lengths, targets = batch(SOURCES, TARGETS)
    torch.manual_seed(2)
    expected = model(ids, lengths, targets), model.eval().predict(SOURCES, beam=2, n_best=2)
    with torch.device("meta"):
        torch.manual_seed(2)
        loss = model.train()(ids, lengths, targets)
        loss.backward()
        assert (loss, model.eval().predict(SOURCES, beam=2, n_best=2)) == expected
        sources = [SOURCE.encode(s, eos=True) for s in SOURCES]
        assert pad(sources)[1].is_cpu
        assert pad(sources)[0].is_meta


def test_lengths_of_any_integers() -> None:
    """int32 lengths serve for searching as they do for training."""
    model, (ids, lengths, targets) = make(), batch(SOURCES, TARGETS)
    assert model(ids, lengths.int(), targets) == model(ids, lengths, targets)
    assert model.greedy(ids, lengths.int())[0] == model.greedy(ids, lengths)[0]


def test_a_frozen_part_stays_frozen() -> None:
    """Predicting in the midst of training leaves a module in evaluation mode that was in it."""
    model = make(dropout=0.5)
    model.encoder.eval()
    model.predict(SOURCES)
    model.score(*batch(SOURCES, TARGETS))
    assert model.training
    assert model.decoder.dropout.training
    assert not any(module.training for module in model.encoder.modules())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    model.decoder.register_forward_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.predict(SOURCES)
    assert model.decoder.dropout.training
    assert not model.encoder.training


def test_any_text_can_be_predicted() -> None:
    """Symbols never seen, no symbols, no texts: there is always an answer, and no gradient."""
    model = make()
    hypotheses = model.predict(["жx😀", "", "a" * 50], beam=2)
    assert [len(h) for h in hypotheses] == [1, 1, 1]
    assert not hypotheses[0][0].attention.requires_grad
    assert model.predict([]) == []
    texts = ["abc", "a"]
    read_once = (text for text in texts)
    assert [best.text for (best,) in model.predict(read_once)] == [
        best.text for (best,) in model.predict(texts)
    ]


def test_empty_sources_leave_the_rest_alone() -> None:
    """A source of length 0 makes no NaN, neither in its own loss nor in its neighbours'."""
    model = make()
    ids, lengths, targets = batch(SOURCES, TARGETS)
    lengths[1] = 0
    log_prob = model.score(ids, lengths, targets)[0]
    assert log_prob.isfinite().all()
    others = [0, 2, 3]
    expected = model.score(*batch(SOURCES, TARGETS))[0]
    torch.testing.assert_close(log_prob[others], expected[others], rtol=1e-12, atol=0)


def test_a_huge_text_goes_alone() -> None:
    """The others of its batch are not padded to it; all are there once, in batches of `most`."""
    lengths = [5, 9, 100_000, 40, 7, 6, 8]
    batches = list(batches_by_length(lengths, 4))
    assert batches == [[0, 5, 4, 6], [1, 3], [2]]
    assert list(batches_by_length([], 4)) == []


def test_bad_arguments() -> None:
    """One clear message names the argument, what was expected and what came."""
    with pytest.raises(ValueError, match="attention: expected one of"):
        make(attention="luong")
    with pytest.raises(ValueError, match=r"n_best: expected 1 to beam \(2\), got 3"):
        make().predict(["a"], beam=2, n_best=3)
    for beam in (1, 2):
        with pytest.raises(ValueError, match=r"length_penalty: expected 0 or more, .*got -1"):
            make().predict(["a"], beam=beam, length_penalty=-1)
    with pytest.raises(ValueError, match="length_penalty: expected 0 or more, and finite, got inf"):
        make().predict(["a"], beam=2, length_penalty=float("inf"))
    ids, lengths, targets = batch(SOURCES, TARGETS)
    for wrong in (targets[:, :3], targets[:, [0, 1, 2, 3, 0]]):
        for call in (make(), make().score):
            with pytest.raises(ValueError, match=r"target_ids: expected 4 columns, .* got [35]"):
                call(ids, lengths, wrong)
    for call in (make(), make().score):
        with pytest.raises(ValueError, match=r"source_lengths: expected \[B\], got shape \[\d, 4"):
            call(ids, targets, lengths)
        with pytest.raises(ValueError, match=r"target_ids: expected int64, got torch\.int32"):
            call(ids, lengths, targets.int())
    with pytest.raises(TypeError, match="source: expected a Vocabulary, got list"):
        Seq2Seq(["a"], TARGET)
    with pytest.raises(TypeError, match="target: expected a Vocabulary, got str"):
        Seq2Seq(SOURCE, "abc")
    with pytest.raises(ValueError, match="label_smoothing: expected 0 to 1, got 2"):
        make(label_smoothing=2)
    with pytest.raises(ValueError, match="beam: expected 1 or more, got 0"):
        make().predict(["a"], beam=0)
    with pytest.raises(ValueError, match="max_length: expected 0 or more, got -1"):
        make().predict(["a"], max_length=-1)
    with pytest.raises(ValueError, match="batch_size: expected 1 or more, got 0"):
        make().predict(["a"], batch_size=0)
    with pytest.raises(TypeError, match="texts: expected several texts"):
        make().predict("abc")
