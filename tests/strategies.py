"""What hypothesis draws: sizes with 0, 1, odd and one off a vector, and awkward memory layouts."""

import torch
from hypothesis import strategies as st
from torch import Tensor

# Around the vector lengths (8 and 16 floats) and the panels built of them.
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 65)
LAYOUTS = ("contiguous", "misaligned", "strided", "transposed")

widths = st.sampled_from(WIDTHS)
batches = st.sampled_from((1, 2, 3, 5, 16, 19))
steps = st.sampled_from((1, 2, 3, 6, 11))
layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from((torch.float32, torch.float64))
seeds = st.integers(0, 2**20)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in other memory: off alignment, every second row, dimensions swapped."""
    if layout == "misaligned":
        flat = x.new_empty(x.numel() + 1)
        flat[1:] = x.reshape(-1)
        return flat[1:].view(x.shape)
    if layout == "strided" and x.dim():
        wide = x.new_empty(x.shape[0] * 2, *x.shape[1:])
        wide[::2] = x
        return wide[::2]
    if layout == "transposed" and x.dim() > 1:
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x


def ragged(T: int, B: int, generator: torch.Generator) -> Tensor:
    """Lengths 0..T in any order, with the bounds more often than chance has them."""
    return torch.randint(-1, T + 2, (B,), generator=generator).clamp(0, T)
