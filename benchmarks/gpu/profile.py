"""The kernels that the goals name, each once: for Nsight Compute.

ncu --set full --kernel-name-base demangled --kernel-name regex:fastchar \\
    python -m benchmarks.gpu.profile
"""

import torch

import fastchar
from benchmarks.gpu import ways
from fastchar import autograd

SEQUENCES = [("cluster", 512, 32), ("cluster", 512, 128), ("grid", 1024, 32), ("block", 128, 128)]

IDS = 1_000_000  # of the embedding's gradient


def main() -> None:
    assert fastchar.backends().get("cuda"), fastchar.backends()
    torch.manual_seed(0)
    for way, H, B in SEQUENCES:
        forward, backward, ids = ways.steps_of(H, B, torch.bfloat16)
        with ways.forced(way):
            backward(ids[0], forward(ids[0]))
    V, D = 64, 512
    grad = torch.randn(IDS, D, device="cuda", dtype=torch.bfloat16)
    autograd.embedding_backward(grad, torch.randint(V, (IDS,), device="cuda"), V, -1, False)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
