"""embedding stays within the error rule, and raises as torch does."""

import pytest
import torch
import torch.nn.functional as F
from error_rule import Sample
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dtypes, laid_out, layouts, seeds, widths

import fastchar
from fastchar import functional, reference

pytestmark = pytest.mark.usefixtures("by_kernels")


@pytest.mark.usefixtures("poisoned")
def test_embedding(isa: str) -> None:
    """Rows are copied exactly; the gradient keeps the rule for every option and layout of ids.

    From rows of 1 KiB on the gradient sorts the tokens; narrower ones go to tables.
    """
    sample = Sample()

    @settings(max_examples=80)
    @given(
        shape=st.sampled_from(((), (0,), (1,), (5,), (0, 3), (7, 19), (2, 3, 5), (301,))),
        V=st.sampled_from((1, 2, 31, 257)),
        E=st.one_of(widths, st.sampled_from((127, 256, 300, 1025))),
        padding=st.booleans(),
        by_freq=st.booleans(),
        int32=st.booleans(),
        dtype=dtypes,
        layout=layouts,
        seed=seeds,
    )
    def run(shape, V, E, padding, by_freq, int32, dtype, layout, seed):  # type: ignore
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(V, shape, generator=g, dtype=torch.int32 if int32 else torch.int64)
        plain = torch.randn(V, E, generator=g)
        weight = plain.to(dtype).requires_grad_()
        options = {"padding_idx": V // 2 if padding else None, "scale_grad_by_freq": by_freq}
        ours = functional.embedding(laid_out(ids, layout), laid_out(weight, layout), **options)
        leaves = (plain.clone().requires_grad_(), plain.double().requires_grad_())
        theirs = F.embedding(ids, leaves[0], **options)
        exact = reference.embedding(ids, leaves[1], **options)
        assert torch.equal(ours, exact.to(dtype))
        grad = torch.randn(ours.shape, generator=g)
        mine, his, true = (
            torch.autograd.grad(out, leaf, laid_out(grad.to(out.dtype), layout))[0]
            for out, leaf in zip((ours, theirs, exact), (weight, *leaves), strict=True)
        )
        sample.add("dw", mine, his, true)

    run()
    sample.check()


@pytest.mark.parametrize("bad", [-1, 7, 10**12])
def test_out_of_range_ids_raise_index_error(bad: int) -> None:
    """As torch does, and before anything is written."""
    with pytest.raises(IndexError):
        fastchar.Embedding(7, 3)(torch.tensor([0, bad, 3]))
    with pytest.raises(IndexError):
        fastchar.EmbeddingLSTM(2, 3, 4)(torch.tensor([[0, 1, bad]]))
    for place in (0, 255, 256, 599):  # the kernel looks at ids block by block
        ids = torch.arange(600) % 7
        ids[place] = bad
        with pytest.raises(IndexError):
            fastchar.Embedding(7, 3)(ids)


@pytest.mark.parametrize(
    ("ids", "options"),
    [
        (torch.tensor([1.0]), {}),
        (torch.tensor([1], dtype=torch.int16), {}),
        (torch.tensor([1]), {"padding_idx": 7}),
        (torch.tensor([1]), {"padding_idx": -8}),
    ],
)
def test_wrong_input_raises_as_torch(ids: torch.Tensor, options: dict[str, int]) -> None:
    """Same exception type, same message."""
    weight = torch.randn(7, 3)
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        F.embedding(ids, weight, **options)
    with pytest.raises(theirs.type) as ours:
        functional.embedding(ids, weight, **options)
    assert str(ours.value) == str(theirs.value)


def test_max_norm_and_sparse_are_torchs() -> None:
    """max_norm renormalises the weight in place; sparse gives a sparse gradient."""
    ids = torch.tensor([[0, 3], [3, 1]])
    ours = fastchar.Embedding(5, 4, max_norm=0.5, sparse=True)
    theirs = torch.nn.Embedding(5, 4, max_norm=0.5, sparse=True)
    theirs.load_state_dict(ours.state_dict())
    for module in (ours, theirs):
        module(ids).sum().backward()
    assert torch.equal(ours.weight, theirs.weight)
    assert ours.weight.grad is not None
    assert ours.weight.grad.is_sparse
    assert torch.equal(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())


def test_negative_padding_idx_counts_from_the_end() -> None:
    weight = torch.randn(5, 3, requires_grad=True)
    functional.embedding(torch.tensor([4, 1]), weight, padding_idx=-1).sum().backward()
    assert weight.grad is not None
    assert weight.grad.sum(1).tolist() == [0, 3, 0, 0, 0]


@pytest.mark.native
def test_a_size_past_int64_is_an_error() -> None:
    """As torch's own is: the bytes of a result are never what is left of too many."""
    from fastchar import ops  # noqa: F401  registers the ops

    call, ids = torch.ops.fastchar.embedding_backward, torch.tensor([0])
    for V, E in ((2**60 + 2**16, 4), (2**62 + 2**20, 1)):
        with pytest.raises(RuntimeError):
            call(torch.ones(1, E), ids, V, -1, False)
