"""Models of other packages run unchanged after accelerate, right by the error rule."""

import copy
import importlib.util

import pytest
import torch
from error_rule import Sample
from test_examples import load
from torch import nn

import fastchar

third_party = load("third_party")
# Batches, lengths and hidden sizes small enough for a test.
SMALL = {
    "lemmatizer": (9,),
    "tagger": (20,),
    "charlm": (2, 9, 96),
    "lstm": (5, 96, 9),
    "attention": (5, 96, 9),
}
# What accelerate finds in each: modules that are torch's, or subclasses of torch's, no more.
KINDS = (nn.Embedding, nn.LSTM, nn.LSTMCell)


def subject(name: str):
    package, build = third_party.SUBJECTS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: see examples/third_party.py")
    return build(*SMALL[name])


@pytest.mark.parametrize("name", third_party.SUBJECTS)
def test_equal_within_the_rule(name: str) -> None:
    """Every output and every gradient of a training step, against float64.

    Of several models: a bias's gradient has few elements, whose rounding is a matter of luck.
    """
    sample = Sample()
    for seed in range(10):
        torch.manual_seed(seed)
        compared = list(third_party.compare(subject(name)))
        for result in compared:
            sample.add(*result)
        assert len(compared) >= 10
    sample.check()


@pytest.mark.parametrize("name", third_party.SUBJECTS)
def test_everything_is_ours_and_predicts(name: str) -> None:
    """No LSTM, cell or embedding is left on torch's forward, and the package's prediction runs."""
    found = subject(name)
    before = [type(m) for m in found.model.modules() if isinstance(m, KINDS)]
    model = fastchar.accelerate(copy.deepcopy(found.model))
    model.eval()
    ours = [m for m in model.modules() if isinstance(m, (*KINDS, fastchar.LSTM))]
    assert len(ours) == len(before) > 0
    for module in ours:
        assert any(base.__module__.startswith("fastchar") for base in type(module).__mro__)
    with torch.no_grad():
        found.predict(model, found.batches[0])
