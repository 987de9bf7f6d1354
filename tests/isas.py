"""The instruction sets that this machine has, and the error rule for each of them at once."""

import contextlib
from collections.abc import Iterator

from error_rule import FEW, Sample

import fastchar

BACKENDS = fastchar.backends()
NATIVE = BACKENDS["backend"] == "native"
ISAS = BACKENDS["cpu"]["available"] if NATIVE else ["reference"]


@contextlib.contextmanager
def running(isa: str) -> Iterator[None]:
    """Our kernels are those of the set `isa`, one of ISAS."""
    if not NATIVE:
        yield
        return
    from fastchar import _C

    before = _C.isa()
    _C.set_isa(isa)
    try:
        yield
    finally:
        _C.set_isa(before)


class Samples:
    """A sample for each instruction set: what torch and the reference give, which takes longer than
    ours does, is the same for all."""

    def __init__(self, few: float = FEW) -> None:
        self.of = {isa: Sample(few) for isa in ISAS}

    def each(self) -> Iterator[tuple[str, Sample]]:
        """Each set's name and sample, while that set runs."""
        for isa, sample in self.of.items():
            with running(isa):
                yield isa, sample

    def check(self) -> None:
        for sample in self.of.values():
            sample.check()
