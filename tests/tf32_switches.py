"""torch's switches for TF32 on CUDA, for a test's time."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Sets both; they may be set inside, too, and are as before afterwards.

    Torch's own test helpers, which other tests import, freeze them for good. And by
    monkeypatch.setattr they can't be set back: they are no attributes of their objects.
    """
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = torch.backends.flags_frozen.__globals__
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(flags, "__allow_nonbracketed_mutation_flag", True)
        before = products.allow_tf32, cudnn.allow_tf32
        products.allow_tf32 = cudnn.allow_tf32 = allowed
        yield
        products.allow_tf32, cudnn.allow_tf32 = before
