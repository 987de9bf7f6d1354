"""`nn.Embedding` on fastchar's kernels."""

from torch import Tensor, nn

from fastchar import functional
from fastchar.nn.scripting import torchs_twin


class Embedding(nn.Embedding):
    """`nn.Embedding` with a deterministic, parallel scatter-add gradient.

    Every option and every error of `nn.Embedding`; ids int32 or int64 of any shape in,
    ids.shape + [E] out. `max_norm` and `sparse` run on torch's own code.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )

    def __prepare_scriptable__(self) -> nn.Module:
        return torchs_twin(self, Embedding, nn.Embedding)
