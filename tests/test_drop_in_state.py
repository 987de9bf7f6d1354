"""Our modules' parameters and state behave as torch's: loading, copying, replacing, freezing."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import fastchar

LSTM_OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": False},
    {"proj_size": 2},
]


def modules() -> list[tuple[nn.Module, nn.Module, tuple[Tensor, ...]]]:
    """(ours, torch's, an input) for each class and option."""
    x, ids = torch.randn(5, 3, 4), torch.randint(7, (5, 3))
    out: list[tuple[nn.Module, nn.Module, tuple[Tensor, ...]]] = [
        (fastchar.LSTM(4, 6, **o), nn.LSTM(4, 6, **o), (x,)) for o in LSTM_OPTIONS
    ]
    out.append((fastchar.LSTMCell(4, 6), nn.LSTMCell(4, 6), (x[0],)))
    out.append((fastchar.LSTMCell(4, 6, bias=False), nn.LSTMCell(4, 6, bias=False), (x[0],)))
    out.append((fastchar.Embedding(7, 4), nn.Embedding(7, 4), (ids,)))
    out.append((fastchar.Embedding(7, 4, padding_idx=-1), nn.Embedding(7, 4, -1), (ids,)))
    return out


def tensors(out: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(out)


def same(a: Any, b: Any) -> None:
    for x, y in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y)


def test_state_dict_loads_both_ways_strict() -> None:
    """Same keys in the same order, and after loading the same numbers."""
    for ours, theirs, inputs in modules():
        assert list(ours.state_dict()) == list(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict(), strict=True)
        same(ours(*inputs), theirs(*inputs))
        for parameter in theirs.parameters():
            parameter.data.mul_(2)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        same(ours(*inputs), theirs(*inputs))


def test_initial_values_and_text_are_torchs() -> None:
    """The same seed gives the same parameters, and reset_parameters again; repr tells the same."""
    for cls, twin, args, kwargs in (
        (fastchar.LSTM, nn.LSTM, (4, 6), {"num_layers": 2, "bidirectional": True}),
        (fastchar.LSTM, nn.LSTM, (4, 6, 1, False, True), {"proj_size": 3}),
        (fastchar.LSTMCell, nn.LSTMCell, (4, 6), {"bias": False}),
        (fastchar.Embedding, nn.Embedding, (7, 4), {"padding_idx": 2}),
    ):
        torch.manual_seed(1)
        ours = cls(*args, **kwargs)
        torch.manual_seed(1)
        theirs = twin(*args, **kwargs)
        for method in (lambda m: None, lambda m: m.reset_parameters()):
            torch.manual_seed(2)
            method(ours)
            torch.manual_seed(2)
            method(theirs)
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert torch.equal(a, b)
        assert repr(ours) == repr(theirs)
        assert ours.extra_repr() == theirs.extra_repr()


def test_copies_give_the_same() -> None:
    """deepcopy, pickle, and torch's own attributes of an LSTM."""
    for ours, theirs, inputs in modules():
        for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            same(twin(*inputs), ours(*inputs))
        if isinstance(ours, fastchar.LSTM):
            assert isinstance(theirs, nn.LSTM)
            ours.flatten_parameters()
            shapes = [[w.shape for w in ws] for ws in theirs.all_weights]
            assert [[w.shape for w in ws] for ws in ours.all_weights] == shapes


def test_any_change_of_a_weight_counts_at_the_next_call() -> None:
    """Through .data, numpy, in place, a new Parameter, or another module's: no stale copies."""
    for ours, _, inputs in modules():
        name, weight = next(iter(ours.named_parameters()))
        before = tensors(ours(*inputs))[0].clone()
        for change in (
            lambda m, name, w: w.data.mul_(0.5),
            lambda m, name, w: w.detach().numpy().__imul__(0.5),
            lambda m, name, w: setattr(m, name, nn.Parameter(w.detach() * 3)),
        ):
            change(ours, name, weight)
            after = tensors(ours(*inputs))[0].clone()
            assert not torch.equal(before, after)
            before = after


def test_shared_weights_add_their_gradients() -> None:
    """One parameter in two places gets both gradients."""
    a, b = fastchar.LSTM(4, 6), fastchar.LSTM(4, 6)
    b.weight_ih_l0 = a.weight_ih_l0
    x = torch.randn(5, 3, 4)
    (a(x)[0].sum() + b(x)[0].sum()).backward()
    both = a.weight_ih_l0.grad
    single = [torch.autograd.grad(m(x)[0].sum(), m.weight_ih_l0)[0] for m in (a, b)]
    assert both is not None
    torch.testing.assert_close(both, single[0] + single[1])


def test_frozen_parameters_get_no_gradient() -> None:
    for ours, theirs, inputs in modules():
        if not isinstance(ours, fastchar.LSTM):
            continue
        theirs.load_state_dict(ours.state_dict())
        for module in (ours, theirs):
            for k, p in enumerate(module.parameters()):
                p.requires_grad_(k % 2 == 1)
            tensors(module(*inputs))[0].sum().backward()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            if p.grad is not None:
                torch.testing.assert_close(p.grad, q.grad)


def test_hooks_run() -> None:
    """Forward, pre and full backward hooks on the module; tensor hooks on its parameters."""
    for ours, _, inputs in modules():
        seen: list[str] = []
        ours.register_forward_pre_hook(lambda *_, seen=seen: seen.append("pre"))
        ours.register_forward_hook(lambda *_, seen=seen: seen.append("forward"))
        ours.register_full_backward_hook(lambda *_, seen=seen: seen.append("backward"))
        next(ours.parameters()).register_hook(lambda g, seen=seen: seen.append("tensor"))
        sum(t.sum() for t in tensors(ours(*inputs))).backward()
        assert sorted(seen) == ["backward", "forward", "pre", "tensor"]


def test_weight_norm_spectral_norm_and_pruning() -> None:
    """What torch.nn.utils does to nn.LSTM's weights it does to ours."""
    x = torch.randn(5, 3, 4)
    for change in (
        lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
        lambda m: prune.random_unstructured(m, "weight_hh_l0", amount=0.5),
        lambda m: prune.l1_unstructured(m, "weight_ih_l0", amount=0.5),
    ):
        ours, theirs = fastchar.LSTM(4, 6), nn.LSTM(4, 6)
        theirs.load_state_dict(ours.state_dict())
        for module in (ours, theirs):
            torch.manual_seed(0)
            change(module)
            module(x)[0].square().sum().backward()
        same(ours(x), theirs(x))
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_to_dtype_and_meta(dtype: torch.dtype) -> None:
    """to(dtype) casts results as torch's modules do; meta construction and to_empty work."""
    for ours, theirs, inputs in modules():
        cast = tuple(t.to(dtype) if t.is_floating_point() else t for t in inputs)
        out, expected = ours.to(dtype)(*cast), theirs.to(dtype)(*cast)
        assert [(t.dtype, t.shape) for t in tensors(out)] == [
            (t.dtype, t.shape) for t in tensors(expected)
        ]
        with torch.device("meta"):
            twin = copy.deepcopy(ours).to("meta")
        assert all(p.is_meta for p in twin.parameters())
        twin = twin.to_empty(device="cpu")
        twin.load_state_dict(ours.state_dict())
        same(twin(*cast), out)


def test_embedding_lstm_loads_either_state_dict() -> None:
    """Its parameters are embedding.* and lstm.*, under which torch's own modules fit too."""
    ours = fastchar.EmbeddingLSTM(7, 4, 6, 2, bidirectional=True, batch_first=True, padding_idx=0)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4, 0)
            self.lstm = nn.LSTM(4, 6, 2, bidirectional=True, batch_first=True)

        def forward(self, ids: Tensor) -> Any:
            return self.lstm(self.embedding(ids))

    plain = Plain()
    ours.load_state_dict(plain.state_dict())
    for ids in (torch.randint(7, (3, 5)), torch.randint(7, (1, 2)), torch.randint(7, (9,))):
        same(ours(ids), plain(ids))
    plain.load_state_dict(ours.state_dict())
    assert fastchar.Embedding.from_pretrained(plain.embedding.weight).weight.requires_grad is False
