"""What benchmarks/gpu makes of a GPU machine's results: pages, and the goals."""

from benchmarks.gpu import goals as gpu_goals
from benchmarks.gpu import report as gpu_report

MADE_UP = {  # no measurement: numbers that are easy to follow
    "gpu": "No GPU",
    "date": "2000-01-01",
    "torch": "0",
    "cuda": "0",
    "driver": "0",
    "nvcc": "0",
    "checks": [
        {
            **{"what": "A", "command": "a", "passed": True, "seconds": 1.0},
            **{"summary": "3 passed", "output": ""},
        },
        {
            **{"what": "B", "command": "b", "passed": False, "seconds": 2.0},
            **{"summary": "", "output": "why"},
        },
    ],
    "benchmarks": {
        "embedding_backward": [
            {
                "point": {"V": 64, "N": 10, "D": 8, "dtype": "float32", "skewed": False},
                "seconds": {"fastchar": 2e-6, "torch": 8e-6, "copy": 2e-6},
                "eager": {},
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
                "forward": {"seconds": {"fastchar": 2e-4, "torch": 3e-4}, "eager": {}},
                "training": {
                    "seconds": {"fastchar": 4e-4, "torch": 4e-4},
                    "graph_seconds": {"fastchar": 3e-4},
                    "eager_seconds": {"fastchar": 4e-4, "torch": 4e-4},
                    "eager": {"torch": "why"},
                },
            }
        ],
        "ways": [
            {
                "point": {"H": 512, "B": 8, "dtype": "bf16", "way": "grid"},
                "forward": {"seconds": {"fastchar": 3e-6}},
                "backward": {"seconds": {"fastchar": 4.5e-6}},
            },
            {"point": {"H": 512, "B": 8, "dtype": "bf16", "way": "block"}, "error": "no room"},
        ],
        "left_out": 7,
        "problems": ["hung for 40 s: "],
    },
}


def test_report():
    """Ratios, microseconds a step, the share of the floor and of the bandwidth, goals, failures."""
    text = gpu_report.markdown(MADE_UP)
    assert "| B | FAILED | 2.0 |" in text
    assert "B FAILED: `b`\n\n```\nwhy\n```" in text
    assert "started again: hung" in text
    assert "| 64 | 10 | 8 | float32 | False | 2.0 | 4.00 | 50 % |" in text
    assert "out of memory" in text
    assert "| 2.00 | 50 % | 1.50* | 1.00* |  | 1.00 |" in text
    assert gpu_goals.by_graph(MADE_UP["benchmarks"]["lstm"][0]["training"]) == {"fastchar": 3e-4}
    assert "7 points" in text
    assert "| embedding gradient, mean ratio >= 5.00× | 1 | 4.00× | no |" in text
    assert "copy bandwidth" not in gpu_goals.goals_table(MADE_UP["benchmarks"])  # of 1e6 ids, none
    assert "| embedding + LSTM, training, every ratio >= 0.95× | 1 | 1.00× | yes |" in text
    assert "a step of forward <= 1.50 us | 1 | 2.00 us | no |" in text
    assert "| 512 | 8 | bf16 | grid | 3.00 | 4.50 |" in text
    assert "| 512 | 8 | bf16 | block | no room |  |" in text
    assert gpu_goals.goals_table({}) == ""
