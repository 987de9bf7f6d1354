"""torch's own check of every op's registration: schema, autograd, fake tensors, dynamic shapes."""

import pytest
import torch
from torch.library import opcheck

pytestmark = pytest.mark.native

T, B, E, H, V = 4, 3, 5, 6, 7


def real(*shape: int, grad: bool = False) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=grad)


def samples() -> list[tuple[str, tuple[object, ...]]]:
    ids = torch.randint(V, (T, B))
    lengths = torch.tensor([2, 0, 4])
    target = torch.tensor([0, -100, 3, 6])
    w = torch.rand(V)
    sequence = (real(4 * H, H, grad=True), real(B, H, grad=True), real(B, H, grad=True))
    grads = (real(T, B, H), real(B, H))
    saved = (torch.rand(T, B, 4 * H), real(T, B, H), real(T, B, H))
    start = (real(4 * H, H), real(B, H), real(B, H))
    bias = real(4 * H, grad=True)
    head = (real(4, H, grad=True), real(V, H, grad=True), real(V, grad=True))
    bare = (real(4, H), real(V, H), real(V))
    layers = [real(4 * H, E), real(4 * H, H), real(4 * H), real(4 * H)]
    layers += [real(4 * H, H), real(4 * H, H), real(4 * H), real(4 * H)]
    return [
        ("embedding", (real(V, E, grad=True), ids, -1, False)),
        ("embedding", (real(V, E, grad=True), ids.int(), 2, True)),
        ("embedding_backward", (real(T, B, E, grad=True), ids, V, 2, True)),
        ("lstm_cell", (real(B, 4 * H, grad=True), real(B, H, grad=True))),
        ("lstm_cell_backward", (real(B, H), real(B, H), real(B, 4 * H), real(B, H))),
        ("lstm_cell_backward", (None, real(B, H), real(B, 4 * H), real(B, H))),
        ("lstm_step", (real(B, E, grad=True), *sequence[1:], real(4 * H, E, grad=True),
                       sequence[0], real(4 * H, grad=True), real(4 * H))),
        ("lstm_step", (real(B, E), *start[1:], real(4 * H, E), start[0], None, None)),
        ("lstm_step", (real(B, E), *start[1:], real(4 * H, E).bfloat16(), start[0].bfloat16(),
                       real(4 * H), None)),
        ("lstm_step_backward", (real(B, H), None, real(B, 4 * H), real(B, H),
                                real(4 * H, E), start[0], True, False)),
        ("lstm_step_backward", (None, real(B, H), real(B, 4 * H), real(B, H),
                                real(4 * H, E), start[0], False, True)),
        ("lstm_generate", (1, real(V, E), layers[:4], *bare[1:], real(1, H), real(1, H),
                           torch.rand(T, dtype=torch.float64), 0.8, 3, 0.9, 2)),
        ("lstm_generate", (1, real(V, E), [w.bfloat16() if w.dim() == 2 else w for w in layers[:4]],
                           bare[1].bfloat16(), bare[2], real(1, H), real(1, H),
                           torch.rand(T, dtype=torch.float64), 1.0, V, 1.0, 2)),
        ("lstm_generate", (0, real(V, E), layers, *bare[1:], real(2, H), real(2, H),
                           torch.rand(0, dtype=torch.float64), 0.0, V, 1.0, -5)),
        ("linear", (real(B, E, grad=True), real(H, E, grad=True), real(H, grad=True))),
        ("linear", (real(B, E, grad=True), real(H, E), None)),
        ("linear_input_grad", (real(B, H), real(H, E))),
        ("linear_weight_grad", (real(B, H), real(B, E), True)),
        ("linear_weight_grad", (real(B, H), real(B, E), False)),
        ("lstm_step_weight_grad", ([real(B, 4 * H), real(2, 4 * H)], [real(B, E), real(2, E)],
                                   True)),
        ("lstm_step_weight_grad", ([real(B, 4 * H)], [real(B, H)], False)),
        ("lstm_sequence", (real(T, B, 4 * H, grad=True), None, *sequence, None, False, True)),
        ("lstm_sequence", (real(V, 4 * H, grad=True), ids, *sequence, lengths, True, True)),
        ("lstm_sequence", (real(V, 4 * H), ids, *start, None, False, False)),
        ("lstm_sequence_backward", (*grads, None, *saved, None, *start, None, False, 0, True)),
        ("lstm_sequence_backward", (None, None, real(B, H), *saved, ids, *start, lengths, True, V,
                                    False)),
        ("lstm_layer", (real(T, B, E, grad=True), None, real(4 * H, E, grad=True), bias, bias,
                        *sequence, lengths, -1, False, True)),
        ("lstm_layer", (ids, real(V, E, grad=True), real(4 * H, E), None, None, *sequence, None, 2,
                        True, True)),
        ("lstm_layer", (ids, real(3 * V, E, grad=True), real(4 * H, E), bias, bias, *sequence,
                        lengths, -1, True, True)),
        ("lstm_layer", (real(T, B, E), None, real(4 * H, E), None, None, *start, None, -1, False,
                        False)),
        ("lstm_layer_backward", (*grads, None, *saved, real(T, B, E), None, real(4 * H, E), *start,
                                 lengths, -1, True, True, True, True, True)),
        ("lstm_layer_backward", (None, *grads[1:], None, *saved, ids, real(V, E), real(4 * H, E),
                                 *start, None, 2, False, True, False, False, False)),
        ("linear_cross_entropy", (*head, target, None, -100, 0.1)),
        ("linear_cross_entropy", (*head[:2], None, target, w, -100, 0.0)),
        ("linear_cross_entropy_backward", (real(4), *bare, target, w, -100, 0.1)),
        ("linear_cross_entropy_reduced", (*head, target, None, -100, 0.1, True, True)),
        ("linear_cross_entropy_reduced", (*bare, target, w, -100, 0.0, False, False)),
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _registered() -> None:
    from fastchar import ops  # noqa: F401  (not where the library is absent)


@pytest.mark.parametrize("k", range(len(samples())))
def test_opcheck(k: int) -> None:
    """Every op, forward and backward, optional arguments given and not."""
    name, arguments = samples()[k]
    op = getattr(torch.ops.fastchar, name)
    opcheck(op.default, arguments)
    unrecorded = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    opcheck(op.plain, tuple(unrecorded))


def test_every_op_is_sampled() -> None:
    """A new op cannot be forgotten here."""
    defined = {
        s.name.removeprefix("fastchar::")
        for s in torch._C._jit_get_all_schemas()
        if s.name.startswith("fastchar::")
    }
    assert defined == {name for name, _ in samples()}
