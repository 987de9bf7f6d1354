"""The one rule by which numbers are right: err(ours) <= 2 * err(torch in the same dtype) + tiny.

Errors are against the float64 reference, as the largest and as the root mean square; the worse of
the two ratios counts. `tiny` is two units in the last place of the largest exact value. Luck in
rounding alone breaks the rule in up to 1.4 % of random configurations (by up to 3.7 times, of 660
measured), so over a sample at most 2 % may be over 2, and none over 5. Where a result has few
elements, torch's error is luck and nothing else: those are pooled over the sample, each scaled by
the larger of the two errors, and judged by the ratio of the pools' root mean squares; a single one
may be 100 times torch's (59 were measured), which is far from what a wrong formula gives.

Float64 has no better judge: there torch's error is its float32 error on the same numbers, scaled by
the units in the last place, and by sqrt(2) because the judge errs as much as the judged.
"""

from collections import defaultdict

import torch
from torch import Tensor

SAMPLE_SHARE = 0.02
SAMPLE_WORST = 5.0
FEW = 1024  # elements of one result
POOL = 32  # elements that a pool needs to be judged
POOLED_WORST = 100.0


class Errors:
    """Errors of `ours` and `theirs` against `exact`, the float64 reference.

    `theirs` has ours' dtype, or float32 where that is float64. NaN and Inf have to stand where the
    exact result has them.
    """

    def __init__(self, what: str, ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
        assert ours.shape == exact.shape, f"{what}: {tuple(ours.shape)} != {tuple(exact.shape)}"
        judged = torch.float32 if ours.dtype == torch.float64 else ours.dtype
        assert theirs.dtype == judged, f"{what}: torch's is {theirs.dtype}, expected {judged}"
        eps = torch.finfo(ours.dtype).eps
        scale = 1.0 if ours.dtype == judged else 2**0.5 * eps / torch.finfo(judged).eps
        ours, theirs, exact = (t.detach().double() for t in (ours, theirs, exact))
        finite = exact.isfinite()
        assert torch.equal(ours.isfinite(), finite), f"{what}: NaN or Inf in the wrong place"
        self.ours, self.theirs = (ours - exact)[finite], (theirs - exact)[finite] * scale
        self.tiny = 2 * eps * float(exact[finite].abs().max()) if finite.any() else 0.0

    def ratio(self) -> float:
        """err(ours) / err(theirs), the worse of maximum and RMSE; 0 where ours is within tiny."""
        if not self.ours.numel():
            return 0.0
        largest = (self.ours.abs().max(), self.theirs.abs().max())
        rms = (self.ours.square().mean().sqrt(), self.theirs.square().mean().sqrt())
        return max(
            float(mine) / max(float(his), 1e-300) if mine > self.tiny else 0.0
            for mine, his in (largest, rms)
        )


class Sample:
    """The errors of a random sample, judged as a whole.

    Results of fewer than `few` elements are pooled: all of them, where `few` is infinite, for cases
    whose errors are those of a few elements however many a result has.
    """

    def __init__(self, few: float = FEW) -> None:
        self.few = few
        self.ratios: list[tuple[float, str]] = []
        self.pools: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, what: str, ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
        errors = Errors(what, ours, theirs, exact)
        if 0 < errors.ours.numel() < self.few:
            both = torch.stack([errors.ours, errors.theirs])
            mine, his = both.abs().amax(1).tolist()
            assert mine <= POOLED_WORST * max(his, errors.tiny), f"{what}: error {mine}, not {his}"
            scale = max(float(both.abs().max()), errors.tiny, 1e-300)
            self.pools[what].append(both / scale)
            return
        ratio = errors.ratio()
        assert ratio <= SAMPLE_WORST, f"{what}: error {ratio:.1f} times torch's"
        self.ratios.append((ratio, what))

    def check(self) -> None:
        for what, parts in self.pools.items():
            pool = torch.cat(parts, 1)
            if pool.shape[1] >= POOL:
                mine, his = pool.square().mean(1).sqrt()
                assert mine <= 2 * his, f"{what}: pooled error {mine / his:.2f} times torch's"
        over = [f"{what} {ratio:.2f}" for ratio, what in self.ratios if ratio > 2]
        allowed = max(1, SAMPLE_SHARE * len(self.ratios))
        assert len(over) <= allowed, (
            f"{len(over)} of {len(self.ratios)} over twice torch's error, allowed {allowed:.1f}: "
            + ", ".join(over[:10])
        )


def assert_exact_enough(what: str, ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
    """The rule for one chosen case: at most twice torch's error."""
    ratio = Errors(what, ours, theirs, exact).ratio()
    assert ratio <= 2, f"{what}: error {ratio:.2f} times torch's"
