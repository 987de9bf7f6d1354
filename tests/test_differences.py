"""What docs/drop-in.md says of differences from torch, where no other file tests it."""

import pytest
import torch
from torch import Tensor, nn

import fastchar

IDS = torch.tensor([[0, 2], [1, 1], [2, 0]])  # [T,B]


class Model(nn.Module):
    """Our two modules one after the other: ids [T,B] to y [T,B,4]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = fastchar.Embedding(4, 3), fastchar.LSTM(3, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.lstm(self.embedding(ids))[0]


def test_symbolic_traces_take_ours_as_leaves_on_demand() -> None:
    """Not by torch's own rule, under which they are looked into."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
            ours = type(m).__module__.startswith("fastchar.")
            return ours or super().is_leaf_module(m, qualified_name)

    model = Model()
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(model)
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    assert torch.equal(traced(IDS), model(IDS))


@pytest.mark.native
def test_a_decomposed_program_has_no_gradient_and_warns() -> None:
    model = Model()
    program = torch.export.export(model, (IDS,)).run_decompositions().module()
    output = program(IDS)
    torch.testing.assert_close(output, model(IDS))
    with pytest.warns(UserWarning, match=r"fastchar::.* an autograd kernel was not registered"):
        output.sum().backward()
    assert all(p.grad is None for p in program.parameters())


@pytest.mark.native
@pytest.mark.parametrize("wild", [float("nan"), float("inf")])
def test_the_fold_multiplies_rows_that_no_id_looks_up(wild: float) -> None:
    """They show in the gradient of weight_ih_l0, and nowhere else."""
    model = fastchar.EmbeddingLSTM(4, 3, 4)
    with torch.no_grad():
        model.embedding.weight[3] = wild
    output, _ = model(IDS)
    output.sum().backward()
    assert output.isfinite().all()
    shown = [name for name, p in model.named_parameters() if not p.grad.isfinite().all()]
    assert shown == ["lstm.weight_ih_l0"]


@pytest.mark.native
def test_a_hook_on_a_cells_state_that_nothing_else_reads_gets_none() -> None:
    """As of torch's operations with several results; nn.LSTMCell's c' gets what h' passes on."""
    x = torch.randn(2, 3, requires_grad=True)
    for (reached, other), expected in (
        (torch.var_mean(x, 0), None),
        (fastchar.LSTMCell(3, 4)(x), None),
        (nn.LSTMCell(3, 4)(x), Tensor),
    ):
        seen: list[Tensor | None] = []
        other.register_hook(seen.append)
        reached.sum().backward()
        assert [None if grad is None else type(grad) for grad in seen] == [expected]


def test_weights_are_read_by_name() -> None:
    """One that stands in `_flat_weights` alone is not seen; nn.LSTM computes with it."""
    x = torch.randn(3, 2, 3)
    for cls, seen in ((fastchar.LSTM, False), (nn.LSTM, True)):
        lstm = cls(3, 4)
        before, _ = lstm(x)
        lstm._flat_weights[0] = torch.zeros(16, 3)
        assert torch.equal(lstm(x)[0], before) != seen
