"""Search finds what it says it finds; sampling draws from what it says it draws from."""

import itertools

import pytest
import torch

from fastchar.decoding import sample
from fastchar.models import Seq2Seq
from fastchar.text import Vocabulary, pad

SOURCE, TARGET = Vocabulary("ab"), Vocabulary("xyz")
TEXTS = ["", "a", "ba", "abba"]


@pytest.fixture(params=[0, 1, 2])
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    """A tiny model with weights large enough for its distributions to be far from uniform."""
    torch.manual_seed(request.param)
    model = Seq2Seq(SOURCE, TARGET, embedding_dim=4, hidden_size=4).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 1.5)
    return model


def every_target(model: Seq2Seq, text: str, longest: int) -> dict[str, float]:
    """Log-probabilities of all targets of up to `longest` symbols, by teacher forcing."""
    targets = ["".join(t) for n in range(longest + 1) for t in itertools.product("xyz", repeat=n)]
    columns = [TARGET.encode(t, bos=True, eos=True) for t in targets]
    log_prob, _ = model.score(*pad([SOURCE.encode(text, eos=True)]), pad(columns)[0])
    return dict(zip(targets, log_prob.tolist(), strict=True))


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_beam_search_against_exhaustive_search(model: Seq2Seq, penalty: float) -> None:
    """A beam wide enough finds the n best of all targets, in order, with their probabilities."""
    found = model.predict(TEXTS, beam=120, n_best=8, length_penalty=penalty, max_length=3)
    for text, hypotheses in zip(TEXTS, found, strict=True):
        every = every_target(model, text, longest=3)
        scores = {t: p / (len(t) + 1) ** penalty for t, p in every.items()}
        best = sorted(scores, key=scores.__getitem__, reverse=True)[:8]
        assert [h.text for h in hypotheses] == best
        for hypothesis in hypotheses:
            assert hypothesis.log_prob == pytest.approx(every[hypothesis.text], rel=1e-10)
            assert hypothesis.score == pytest.approx(scores[hypothesis.text], rel=1e-10)


@pytest.mark.parametrize("beam", [2, 5])
def test_narrow_beams(model: Seq2Seq, beam: int) -> None:
    """Whatever a beam finds is distinct, sorted, and has the probability of a rescoring."""
    for text, hypotheses in zip(TEXTS, model.predict(TEXTS, beam=beam, n_best=beam), strict=True):
        log_probs = [h.log_prob for h in hypotheses]
        assert log_probs == sorted(log_probs, reverse=True)
        assert len({h.text for h in hypotheses}) == len(hypotheses)
        for hypothesis in hypotheses:
            source = pad([SOURCE.encode(text, eos=True)])
            target = pad([TARGET.encode(hypothesis.text, bos=True, eos=True)])[0]
            expected = model.score(*source, target)[0].item()
            assert hypothesis.log_prob == pytest.approx(expected, rel=1e-10)


def test_greedy_takes_the_best_symbol_each_time(model: Seq2Seq) -> None:
    """`greedy` is the argmax of every step, found here by scoring each continuation."""
    ids, log_prob = model.greedy(*pad([SOURCE.encode(t, eos=True) for t in TEXTS]), max_length=6)
    for text, found, total in zip(TEXTS, ids, log_prob.tolist(), strict=True):
        prefix: list[int] = []
        while len(prefix) < 6:
            columns = [[1, *prefix, symbol] for symbol in (2, 4, 5, 6)]
            scores, _ = model.score(*pad([SOURCE.encode(text, eos=True)]), pad(columns)[0])
            best = (2, 4, 5, 6)[scores.argmax()]
            if best == 2:
                break
            prefix.append(best)
        assert found == prefix
        target = pad([[1, *prefix, 2]])[0]
        rescored = model.score(*pad([SOURCE.encode(text, eos=True)]), target)[0].item()
        assert total == pytest.approx(rescored, rel=1e-10)


def test_limits_end_a_target_with_eos(model: Seq2Seq) -> None:
    """At `max_length` symbols <eos> comes, and counts; 0 leaves the empty target alone."""
    with torch.no_grad():
        model.output.bias[2] = -100.0  # <eos> never comes by itself
    for beam in (1, 3):
        for longest in (0, 1, 4):
            for each in model.predict(TEXTS, beam=beam, max_length=longest):
                assert len(each[0].ids) == longest
                assert each[0].log_prob < -90
    # By default, the limit is each sentence's own.
    assert [len(h[0].ids) for h in model.predict(TEXTS)] == [3 * (len(t) + 1) + 10 for t in TEXTS]


def test_a_limit_never_reached_costs_nothing(model: Seq2Seq) -> None:
    """Memory is taken for what is found, whatever may have been: no limit is a large one."""
    with torch.no_grad():
        model.output.bias[2] += 20.0  # <eos> comes soon
    for beam in (1, 3):
        found = model.predict(TEXTS, beam=beam, n_best=beam, max_length=10**15)
        assert [[h.ids for h in each] for each in found] == [
            [h.ids for h in each]
            for each in model.predict(TEXTS, beam=beam, n_best=beam, max_length=500)
        ]


def test_fewer_hypotheses_than_asked_for(model: Seq2Seq) -> None:
    """Where fewer targets exist than `n_best`, those that do come back."""
    found = model.predict(["ab"], beam=9, n_best=9, max_length=1)[0]
    assert sorted(h.text for h in found) == ["", "x", "y", "z"]
    assert sum(2.718281828459045**h.log_prob for h in found) < 1


def test_length_penalty_favours_longer_targets(model: Seq2Seq) -> None:
    """Ranking by the mean over symbols never shortens the best target."""
    plain = model.predict(TEXTS, beam=20, max_length=4)
    normalised = model.predict(TEXTS, beam=20, max_length=4, length_penalty=1.0)
    for short, long in zip(plain, normalised, strict=True):
        assert len(long[0].ids) >= len(short[0].ids)


def draws(logits: list[float], **options) -> torch.Tensor:
    """Relative frequencies of 20000 draws, seeded."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor(logits).expand(20000, -1)
    ids = sample(rows, generator=generator, **options)
    return torch.bincount(ids, minlength=len(logits)) / len(ids)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_distribution(temperature: float) -> None:
    """Frequencies are softmax(logits / temperature), to 5 standard deviations."""
    logits = [0.0, 1.0, -1.0, 2.0]
    expected = (torch.tensor(logits) / temperature).softmax(0)
    bound = 5 * (expected * (1 - expected) / 20000).sqrt()
    assert ((draws(logits, temperature=temperature) - expected).abs() < bound).all()


def test_top_k_and_top_p_cut_the_tail() -> None:
    """top_k keeps the k best; top_p the fewest that have probability p, never none."""
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log().tolist()
    assert (draws(logits, top_k=2) > 0).tolist() == [False, True, False, True]
    assert (draws(logits, top_k=9) > 0).tolist() == [True] * 4
    assert (draws(logits, top_p=0.7) > 0).tolist() == [False, True, False, True]
    assert (draws(logits, top_p=0.8) > 0).tolist() == [False, True, True, True]
    assert (draws(logits, top_p=0.01) > 0).tolist() == [False, True, False, False]
    assert (draws(logits, top_p=1.0) > 0).tolist() == [True] * 4
    assert (draws(logits, top_k=3, top_p=0.6) > 0).tolist() == [False, True, False, True]
    assert (draws(logits, top_k=3, top_p=0.52) > 0).tolist() == [False, True, False, False]
    assert (draws([0.0, 0.0], top_p=0.5) > 0).tolist() == [True, False]  # enough already
    # What is left keeps its proportions.
    assert draws(logits, top_k=2)[1].item() == pytest.approx(2 / 3, abs=0.02)


def test_top_k_keeps_k_of_equal_ones() -> None:
    """As many as were asked for, the first of them; so 1 is the argmax."""
    assert draws([0.0, 1.0, 1.0, 1.0], top_k=2).nonzero().flatten().tolist() == [1, 2]
    assert draws([0.0, 1.0, 1.0, 1.0], top_k=1).nonzero().flatten().tolist() == [1]


def test_temperature_zero_is_the_argmax() -> None:
    """Temperature 0 draws nothing: the best symbol, every time."""
    assert draws([0.0, 1.0, 0.9], temperature=0.0).tolist() == [0, 1, 0]
    assert draws([0.0, 1.0, 0.9], temperature=1e-320).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature: expected 0 or more, and finite, got -1.0"),
        ({"temperature": float("nan")}, "temperature: expected 0 or more, and finite, got nan"),
        ({"top_k": 0}, "top_k: expected 1 or more, got 0"),
        ({"top_p": 0.0}, "top_p: expected more than 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p: expected more than 0 and at most 1, got 1.5"),
    ],
)
def test_bad_sampling_options(options: dict, message: str) -> None:
    """One clear message names the option, what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        sample(torch.zeros(1, 3), **options)
