"""What a sweep says at its end: means and spreads of each size, which is best, which is chosen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastchar.training import Config, sweep_report
from fastchar.training.sweep_report import Row, SweepFolder, write_sweep_report

ERRORS = {4: (0.5, 0.52), 8: (0.3, 0.32), 16: (0.26, 0.34)}  # word errors of two seeds
ROWS: list[Row] = [
    {
        **{"embedding_dim": size, "seed": seed, "parameters": 1000 * size, "seconds": seed},
        **{"dev_wer": wer, "dev_per": wer / 10, "dev_loss": 1.0},
    }
    for size, errors in ERRORS.items()
    for seed, wer in enumerate(errors, 7)
]


def test_the_table_and_the_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best size has the lowest mean, and a smaller one that is within a standard error of it is
    chosen: the lines tell the two apart, and lead to what was trained."""
    monkeypatch.setattr(sweep_report, "plot_sizes", lambda *args, **options: None)
    said: list[str] = []
    folder = SweepFolder(tmp_path)
    config = Config(data="words.tsv", seed=7)
    write_sweep_report(config, ROWS, "dev_wer", folder, said.append)
    assert [re.split(r" {2,}", line.strip()) for line in said[:4]] == [
        ["embedding", "parameters", "WER", "PER", "seconds"],
        ["4", "4,000", "51.00% ± 1.41%", "5.10% ± 0.14%", "7.5"],
        ["8", "8,000", "31.00% ± 1.41%", "3.10% ± 0.14%", "7.5", "chosen"],
        ["16", "16,000", "30.00% ± 5.66%", "3.00% ± 0.57%", "7.5", "best"],
    ]
    text = "\n".join(said[4:])
    assert "chosen: 8, the smallest size" in text
    assert "at most 34.00%, 16 has 30.00%" in text
    assert f"trained already: {tmp_path}/embedding-8-seed-7" in text
