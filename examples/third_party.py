"""Models that others wrote, faster after one call: `fastchar.accelerate(model)`.

Nothing in the packages is changed. Each model is built with random weights in the sizes that its
package trains it with, and copied; the copy is accelerated. Outputs and gradients of both are held
against a float64 copy, then training steps and predictions of both are timed, interleaved.

    pip install stanza==1.15.0 yoyodyne==0.5.27
    python -m examples.third_party      # from the repository's root; writes benchmarks/results/
"""

import copy
import functools
import importlib.metadata
import importlib.util
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pydoc_data.topics import topics  # half a megabyte of English that every Python carries
from typing import Any

import torch
from torch import Tensor, nn

import fastchar
from benchmarks import machine
from benchmarks.inputs import default_dtype
from benchmarks.interleave import Case, Contestant, measure
from benchmarks.run import RESULTS, warn_of_contention, write
from benchmarks.tables import THIRD_PARTY, third_party_table

TORCH, OURS = "torch", "fastchar"
BUDGET = 5.0  # seconds that training and inference of a model are interleaved for
BATCHES = 2
PAD, START, END, FIRST = 0, 2, 3, 4  # symbol ids, the same in both packages


@dataclass
class Subject:
    """A model of a package, what to train it on, and how the package calls it."""

    name: str
    model: nn.Module
    batches: list[Any]
    learn: Callable[[nn.Module, Any], tuple[Tensor, ...]]  # the loss, then the outputs
    predict: Callable[[nn.Module, Any], object]


@functools.cache
def words() -> list[str]:
    """Some ten thousand English words in random order."""
    found = sorted(set(re.findall("[a-z]{3,}", " ".join(topics.values()))))
    random.Random(0).shuffle(found)
    return found


def spelled(batch: int, count: int) -> list[Tensor]:
    """Batch number `batch` of `count` words as START, letters, END; ids [length]."""
    chosen = words()[batch * count : (batch + 1) * count]
    return [torch.tensor([START, *(ord(c) - ord("a") + FIRST for c in w), END]) for w in chosen]


def padded(sequences: list[Tensor]) -> Tensor:
    """ids [B, longest]."""
    return nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=PAD)


def lemmatizer(count: int = 50) -> Subject:
    """stanza's lemmatizer: packed BiLSTM, attention and copying over an LSTMCell."""
    from stanza.models.common.loss import MixLoss
    from stanza.models.common.seq2seq_model import Seq2SeqModel

    V = FIRST + 26
    model = Seq2SeqModel(
        {
            "vocab_size": V, "hidden_dim": 200, "emb_dim": 50, "num_layers": 1,
            "emb_dropout": 0.5, "dropout": 0.5, "max_dec_len": 50, "attn_type": "soft",
            "pos": True, "pos_dim": 50, "pos_dropout": 0.5, "pos_vocab_size": 20,
            "edit": True, "num_edit": 3, "copy": True,
        }
    )  # fmt: skip

    def batch(i: int) -> tuple[Tensor, ...]:
        spelt = sorted(spelled(i, count), key=len, reverse=True)  # as pack_padded_sequence asks
        target = padded([ids[1:] for ids in spelt])
        begun = padded([ids[:-1] for ids in spelt])
        return padded(spelt), begun, target, torch.randint(4, 20, (count,)), target[:, 0] % 3

    def learn(model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        source, begun, target, pos, edits = batch
        log_probs, edit_logits = model(source, source.eq(PAD), begun, pos)
        loss = MixLoss(V, 1.0)(log_probs.reshape(-1, V), target.reshape(-1), edit_logits, edits)
        return loss, log_probs, edit_logits

    def predict(model: Any, batch: Any) -> object:
        return model.predict_greedy(batch[0], batch[0].eq(PAD), batch[3])

    batches = [batch(i) for i in range(BATCHES)]
    return Subject("stanza lemmatizer, Seq2SeqModel", model, batches, learn, predict)


def tagger_characters(count: int = 250) -> Subject:
    """The tagger's word vectors from characters: packed LSTM and attention."""
    from stanza.models.common.char_model import CharacterModel

    options: dict[str, float] = {"char_emb_dim": 100, "char_hidden_dim": 400, "char_num_layers": 1}
    options |= {"char_rec_dropout": 0, "dropout": 0.5}
    model = CharacterModel(options, {"char": range(FIRST + 26)})

    def learn(model: nn.Module, spelt: list[Tensor]) -> tuple[Tensor, ...]:
        chars = padded(spelt)
        vectors = model(chars, chars.eq(PAD), range(len(spelt)), [len(spelt)], [*map(len, spelt)])
        return vectors.data.square().mean(), vectors.data

    batches = [sorted(spelled(i, count), key=len, reverse=True) for i in range(BATCHES)]
    return Subject("stanza tagger, CharacterModel", model, batches, learn, learn)


def language_model(count: int = 20, length: int = 100, hidden: int = 1024) -> Subject:
    """stanza's character language model; its training has batches of 100 lines of 250."""
    from stanza.models.common.char_model import CharacterLanguageModel

    text = " ".join(topics.values()).encode()
    options: dict[str, float]
    options = {"char_emb_dim": 100, "char_hidden_dim": hidden, "char_num_layers": 1}
    options |= {"char_dropout": 0.05, "char_unit_dropout": 1e-5, "char_rec_dropout": 0.0}
    model = CharacterLanguageModel(options, {"char": range(max(text) + 1)})

    def learn(model: nn.Module, ids: Tensor) -> tuple[Tensor, ...]:
        _, _, logits = model(ids[:, :-1], [length] * count)
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), logits

    ids = torch.tensor([*text[: BATCHES * count * (length + 1)]])
    batches = [*ids.view(BATCHES, count, length + 1)]
    return Subject("stanza charlm, CharacterLanguageModel", model, batches, learn, learn)


def transducer(kind: str, count: int = 32, hidden: int = 512, longest: int = 128) -> Subject:
    """yoyodyne's encoder-decoders: subclasses of nn.LSTM that pack and unpack."""
    from lightning.pytorch import Trainer
    from yoyodyne import data, models

    V = FIRST + 26
    model = getattr(models, kind)(
        source_encoder=models.modules.LSTMEncoder(hidden_size=hidden),
        decoder_input_size=2 * hidden,
        decoder_hidden_size=hidden,
        max_target_length=longest,
        vocab_size=V,
        target_vocab_size=V,
    )

    def batch(i: int) -> Any:
        spelt = spelled(i, count)
        target = data.PaddedTensor([ids[1:] for ids in spelt])
        return data.Batch(data.PaddedTensor(spelt), target=target)

    def learn(model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        logits = model(batch)
        loss = nn.functional.cross_entropy(logits, batch.target.tensor, ignore_index=PAD)
        return loss, logits

    def predict(model: Any, batch: Any) -> object:
        if model._trainer is None:  # which the model asks whether it is validating
            model.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        return model(batch)

    batches = [batch(i) for i in range(BATCHES)]
    return Subject(f"yoyodyne {kind}", model, batches, learn, predict)


SUBJECTS: dict[str, tuple[str, Callable[..., Subject]]] = {
    "lemmatizer": ("stanza", lemmatizer),
    "tagger": ("stanza", tagger_characters),
    "charlm": ("stanza", language_model),
    "lstm": ("yoyodyne", functools.partial(transducer, "LSTMModel")),
    "attention": ("yoyodyne", functools.partial(transducer, "SoftAttentionLSTMModel")),
}


def results(subject: Subject, model: nn.Module) -> dict[str, Tensor]:
    """Outputs and every parameter's gradient of one training step, without dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    loss, *outputs = subject.learn(model, subject.batches[0])
    loss.backward()
    found = {f"output {k}": output.detach() for k, output in enumerate((loss, *outputs))}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = parameter.grad
    return found


def compare(subject: Subject) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """(name, ours, torch's, float64's) for every result of a training step."""
    plain = copy.deepcopy(subject.model)
    exact = copy.deepcopy(plain).double()
    ours = results(subject, fastchar.accelerate(copy.deepcopy(plain)))
    theirs = results(subject, plain)
    with default_dtype(torch.float64):  # some models make their zero states in it
        judge = results(subject, exact)
    for name in theirs.keys() | ours.keys() | judge.keys():
        yield name, ours[name], theirs[name], judge[name]


def errors(subject: Subject) -> dict[str, dict[str, float]]:
    """torch's and our relative error of all outputs as one vector, and of all gradients."""
    found = list(compare(subject))
    report = {}
    for kind in ("output", "gradient"):
        tensors = [row[1:] for row in found if row[0].startswith(kind)]
        ours, theirs, exact = (
            torch.cat([t.double().flatten() for t in column])
            for column in zip(*tensors, strict=True)
        )
        scale = exact.norm()
        report[kind] = {
            TORCH: float((theirs - exact).norm() / scale),
            OURS: float((ours - exact).norm() / scale),
        }
    return report


def contestants(subject: Subject, training: bool) -> list[Contestant]:
    """torch's and ours, from equal weights."""

    def contestant(name: str, model: nn.Module) -> Contestant:
        if not training:
            model.eval()

            @torch.no_grad()
            def predict(i: int) -> object:
                return subject.predict(model, subject.batches[i])

            return Contestant(name, predict)
        model.train()
        optimizer = torch.optim.Adam(model.parameters())
        return Contestant(
            name,
            lambda i: subject.learn(model, subject.batches[i])[0],
            lambda loss, _: loss.backward(),
            optimizer.step,
            list(model.parameters()),
        )

    plain = copy.deepcopy(subject.model)
    ours = fastchar.accelerate(copy.deepcopy(subject.model))
    return [contestant(TORCH, plain), contestant(OURS, ours)]


def run(subject: Subject) -> dict[str, Any]:
    """Errors and times of one model, JSON-ready."""
    report: dict[str, Any] = {
        "model": subject.name,
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "relative_error": errors(subject),
    }
    for phase in ("training", "inference"):
        case = Case(contestants(subject, phase == "training"), len(subject.batches), True)
        timing = measure(case, budget=BUDGET)
        report[phase] = {
            "rounds": timing.rounds,
            "seconds": {name: asdict(timing.spread(name, "step")) for name in (TORCH, OURS)},
            "ratio": asdict(timing.ratio(TORCH, OURS, "step")),
        }
    return report


def main() -> None:
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    record = machine.Record(
        THIRD_PARTY, "Models of other packages", command="python -m examples.third_party"
    )
    start = time.perf_counter()
    models, packages = [], {}
    for package, build in SUBJECTS.values():
        if importlib.util.find_spec(package) is None:
            print(f"skipped, {package} is not installed: {build.__doc__}")
            continue
        packages[package] = importlib.metadata.version(package)
        torch.manual_seed(0)
        models.append(run(build()))
    result = record.result(
        packages=packages, duration_seconds=time.perf_counter() - start, models=models
    )
    warn_of_contention(result)
    print(third_party_table(result))
    print(write(result, RESULTS / machine.slug()))


if __name__ == "__main__":
    main()
