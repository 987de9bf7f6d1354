"""Which tokens of a ragged batch are real, so that only they are projected."""

import torch
from torch import Tensor

# Share of real tokens up to which picking them out costs less than projecting the padding too.
RAGGED_SHARE = 0.9


def ragged_in_a_graph(lengths: Tensor) -> bool:
    """Whether a graph is being made that may hold `ops.lstm_ragged`, which looks as it runs."""
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    return compiling and lengths.device.type == "cpu"


def real_tokens(lengths: Tensor, T: int) -> tuple[Tensor, Tensor] | None:
    """Where the tokens before each end stand: their indices in [T*B], and each one's place, [T,B].

    So that input projections and their gradients cost what those tokens cost. None where few
    would be saved, and where their number can't be looked at: in a graph (whose op calls this when
    it runs), or on a GPU.
    """
    if torch.compiler.is_compiling() or type(lengths) is not Tensor or lengths.device.type != "cpu":
        return None
    tokens = int(lengths.sum())
    if not 0 < tokens <= RAGGED_SHARE * T * lengths.shape[0]:
        return None
    alive = (torch.arange(T, device="cpu").unsqueeze(1) < lengths).flatten()
    place = (alive.cumsum(0) - 1).clamp_(min=0)  # in the padding anything: it's never looked up
    return alive.nonzero().squeeze(1), place.view(T, -1)
