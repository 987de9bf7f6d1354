"""Learning rates against torch's own schedulers."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from fastchar.training.schedules import Schedule


def _optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def test_warm_up_rises_by_equal_steps_to_the_peak() -> None:
    """Each step by peak / (warmup + 1), so that neither the first nor the last is wasted."""
    schedule = Schedule("constant", peak=0.5, warmup=4, total=100)
    rates = [schedule.rate(step) for step in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


def test_cosine_is_torchs() -> None:
    """After the warm-up, `CosineAnnealingLR` to 0."""
    schedule = Schedule("cosine", peak=0.3, warmup=10, total=50)
    optimizer = _optimizer(0.3)
    theirs = lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(10, 51):
        assert schedule.rate(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_linear_is_torchs() -> None:
    """After the warm-up, `LinearLR` to 0."""
    schedule = Schedule("linear", peak=0.3, warmup=0, total=30)
    optimizer = _optimizer(0.3)
    theirs = lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=30)
    for step in range(31):
        assert schedule.rate(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_plateau_is_torchs() -> None:
    """`ReduceLROnPlateau` with factor 1/2, and its state survives being saved."""
    losses = [3.0, 2.0, 2.1, 2.0, 1.9, 2.5, 2.4, 2.3, 2.2, 1.8, 1.9, 1.9, 1.9, 1.9]
    schedule = Schedule("plateau", peak=0.4, warmup=0, total=1, patience=1)
    optimizer = _optimizer(0.4)
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.0)
    for step, loss in enumerate(losses):
        schedule.epoch_ended(loss)
        saved, schedule = schedule, Schedule("plateau", peak=0.4, warmup=0, total=1, patience=1)
        schedule.load_state_dict(saved.state_dict())
        theirs.step(loss)
        assert schedule.rate(step + 1) == optimizer.param_groups[0]["lr"]
    assert optimizer.param_groups[0]["lr"] < 0.1


def test_unknown_kind_is_refused() -> None:
    """With the kinds that there are."""
    with pytest.raises(ValueError, match=r"expected one of .*'cosine'.* got 'step'"):
        Schedule("step", peak=1.0, warmup=0, total=1)  # type: ignore[arg-type]
