"""Ensemble: several models whose probabilities are averaged, symbol by symbol."""

from pathlib import Path

import pytest
import torch
from cli_runs import ok, refused
from torch import Tensor

from fastchar.models import CharLM, Ensemble, Seq2Seq
from fastchar.text import Vocabulary, pad
from fastchar.training.folder import load_model

SOURCE, TARGET = Vocabulary("abcde"), Vocabulary("uvwxyz")
SOURCES = ["abc", "e", "deadbeca", "cab"]


def make(seed: int, **options) -> Seq2Seq:
    torch.manual_seed(seed)
    sizes = {"embedding_dim": 5, "hidden_size": 6}
    return Seq2Seq(SOURCE, TARGET, **{**sizes, **options}).double()


def three_models() -> list[Seq2Seq]:
    """Of other sizes, other scores and other states of the decoder."""
    return [
        make(1, input_feeding=True, decoder_layers=2),
        make(2, hidden_size=9, attention="dot", dropout=0.5),
        make(3, encoder_layers=2, attention="additive"),
    ]


def probabilities(model: Seq2Seq, source: str, past: list[int]) -> Tensor:
    """Of each next symbol after `past`: those of its targets that go on with it, all steps anew."""
    ids, lengths = pad([SOURCE.encode(source, eos=True)])
    memory, state = model._encode(ids, lengths)
    for symbol in [Vocabulary.bos_id, *past]:
        scores, state = model._step(torch.tensor([symbol]), state, memory)
    return scores[0].exp()


@pytest.mark.parametrize("beam", [1, 4])
def test_probabilities_are_the_means(beam: int) -> None:
    """A hypothesis has the product over its symbols of the models' mean probabilities, and greedy
    search takes the most probable by them; whatever the models are, and whatever the batch."""
    models = three_models()
    with torch.no_grad():
        for model in models:
            model.eval()
        every = Ensemble(models).predict(SOURCES, beam=beam, n_best=beam, max_length=5)
        for source, hypotheses in zip(SOURCES, every, strict=True):
            assert len(hypotheses) == beam
            for found in hypotheses:
                total = 0.0
                for t, symbol in enumerate([*found.ids, Vocabulary.eos_id]):
                    past = found.ids[:t]
                    mean = sum(probabilities(m, source, past) for m in models) / len(models)
                    total += float(mean[symbol].log())
                    if beam == 1 and t < 5:
                        allowed = [Vocabulary.eos_id, *TARGET.encode("uvwxyz")]
                        assert symbol == max(allowed, key=lambda i: float(mean[i]))
                assert found.log_prob == pytest.approx(total, rel=1e-12)


def test_attention_is_the_mean() -> None:
    """The weights that come with a hypothesis are the mean of the models', and so sum to 1."""
    models = three_models()
    ((found,),) = Ensemble(models).predict(["abc"])
    ids, lengths = pad([SOURCE.encode("abc", eos=True)])
    target, _ = pad([[Vocabulary.bos_id, *found.ids, Vocabulary.eos_id]])
    expected = sum(model.score(ids, lengths, target)[1] for model in models) / 3
    torch.testing.assert_close(found.attention, expected[0, :, 0].detach())
    torch.testing.assert_close(found.attention.sum(1), torch.ones(len(found.ids) + 1).double())


def test_one_model_alone_is_itself() -> None:
    """To the bit, with a beam or without."""
    for model in three_models():
        for beam in (1, 3):
            options = {"beam": beam, "n_best": beam, "max_length": 6}
            assert Ensemble([model]).predict(SOURCES, **options) == model.predict(
                SOURCES, **options
            )


def test_models_stay_as_they_are() -> None:
    """Dropout is off while they predict, and on again after it; their numbers are not copied."""
    models = [model.train() for model in three_models()]
    ensemble = Ensemble(models)
    assert ensemble.predict(SOURCES) == ensemble.predict(SOURCES)
    assert all(model.training for model in models)
    assert {id(p) for p in ensemble.parameters()} == {id(p) for m in models for p in m.parameters()}


def test_bad_models() -> None:
    """Each is refused in words that say what was expected, and what came."""
    with pytest.raises(ValueError, match="models: expected one or more, got none"):
        Ensemble([])
    with pytest.raises(TypeError, match="models: expected Seq2Seq, got CharLM"):
        Ensemble([make(1), CharLM(SOURCE, embedding_dim=3, hidden_size=4)])
    for side, vocabularies in (("source", (TARGET, TARGET)), ("target", (SOURCE, SOURCE))):
        other = Seq2Seq(*vocabularies, embedding_dim=3, hidden_size=4)
        with pytest.raises(ValueError, match=f"the {side} symbols of the first .* in number 2"):
            Ensemble([make(1), other])


def test_commands_take_ensembles(home: Path, tmp_path: Path) -> None:
    """predict and evaluate with --ensemble say what the ensemble says; what cannot be in one is
    refused."""
    first = load_model(home / "g2p")
    assert isinstance(first, Seq2Seq)
    torch.manual_seed(5)
    second = Seq2Seq(first.source, first.target, hidden_size=8)
    second.save_pretrained(tmp_path / "second")
    other = ["--ensemble", tmp_path / "second"]
    words = ["cat", "zebra", "dog"]
    shown = ok("predict", home / "g2p", *other, "--beam", 2, stdin="\n".join(words))
    found = Ensemble([first, second]).predict(words, beam=2)
    assert shown.splitlines() == [f"{w}\t{h[0].text}" for w, h in zip(words, found, strict=True)]
    # Against its own answers an ensemble makes no mistake; one of its models alone does.
    answers = tmp_path / "answers.tsv"
    answers.write_text(shown)
    assert "WER 0.00%" in ok("evaluate", home / "g2p", answers, *other, "--beam", 2)
    assert "WER 0.00%" not in ok("evaluate", tmp_path / "second", answers, "--beam", 2)

    stranger = tmp_path / "stranger"
    Seq2Seq(SOURCE, TARGET, hidden_size=4).save_pretrained(stranger)
    for command in (["predict", home / "g2p"], ["evaluate", home / "g2p", answers]):
        line = refused(*command, "--ensemble", stranger)
        assert line.endswith(
            f"--ensemble: expected a model of {home / 'g2p'}'s symbols, got {stranger}"
        )
        assert "expected a seq2seq model" in refused(*command, "--ensemble", home / "lm")
    assert "--ensemble: expected a seq2seq" in refused("evaluate", home / "lm", answers, *other)
