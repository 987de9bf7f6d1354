"""What benchmarks/gpu_check.py can promise without a GPU: a report, and a clear refusal."""

import subprocess
import sys

import pytest
import torch

from benchmarks import gpu_check

MADE_UP = {  # no measurement: numbers that are easy to follow
    "gpu": "No GPU",
    "date": "2000-01-01",
    "torch": "0",
    "cuda": "0",
    "driver": "0",
    "checks": [
        {"command": "a", "passed": True, "seconds": 1.0, "summary": "3 passed", "output": ""},
        {"command": "b", "passed": False, "seconds": 2.0, "summary": "", "output": "why"},
    ],
    "benchmarks": {
        "embedding_backward": [
            {
                "point": {"V": 64, "N": 10, "D": 8, "dtype": "float32", "skewed": False},
                "seconds": {"fastchar": 2e-6, "torch": 8e-6, "copy": 2e-6},
                "eager": [],
                "bandwidth": 0.5,
            },
            {"point": {"V": 64, "N": 10, "D": 9}, "error": "out of memory"},
        ],
        "lstm": [
            {
                "point": {
                    **{"H": 512, "B": 32, "T": 100, "layers": 1, "bidirectional": False},
                    **{"ragged": False, "dtype": "bf16"},
                },
                "forward": {"seconds": {"fastchar": 2e-4, "torch": 3e-4}, "eager": []},
                "training": {"seconds": {"fastchar": 4e-4, "torch": 4e-4}, "eager": ["torch"]},
            }
        ],
        "left_out": 7,
    },
}


def test_report():
    """Ratios, microseconds a step, the share of the floor and of the bandwidth, and failures."""
    text = gpu_check.markdown(MADE_UP)
    assert "| `b` | FAILED | 2.0 |" in text
    assert "| 64 | 10 | 8 | float32 | False | 2.0 | 4.00 | 50 % |" in text
    assert "out of memory" in text
    assert "| 2.00 | 50 % | 1.50* | 1.00* |" in text
    assert "7 points" in text


def test_checks_report_failures():
    """A command that fails or takes too long is a failed check with its output."""
    failed = gpu_check.run([sys.executable, "-c", "print('1 failed'); raise SystemExit(3)"], 60)
    assert not failed["passed"]
    assert failed["summary"] == "1 failed"
    assert not gpu_check.run([sys.executable, "-c", "import time; time.sleep(30)"], 1)["passed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "needs a GPU" in done.stderr
