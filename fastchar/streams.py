"""The two directions of a layer at the same time on a GPU: the reverse one on a side stream.

Streams outside of the op, rather than both directions in one kernel: the input projections and the
weight gradients overlap too, autograd runs each node's backward on the stream of its forward, so
the backward is forked and joined without more code, and a CUDA graph captures it all as branches.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor

from fastchar import backend
from fastchar.reference.layers import Direction, Weights
from fastchar.routing import Result

_side: dict[tuple[int, int], torch.cuda.Stream] = {}  # by device and main stream


def may_overlap(x: Tensor, dtype: torch.dtype, hidden: int) -> bool:
    """Whether a layer's two directions, of x [T,B,*] and computed in dtype, may run at once.

    Not in a graph of the compiler, which has no streams, nor where each may be a cooperative grid
    (csrc/cuda/ways.h): two of those want the whole GPU each, and would wait for each other.
    """
    if not x.is_cuda or type(x) is not Tensor or torch.compiler.is_compiling():
        return False
    forced = os.environ.get("FASTCHAR_CUDA_LSTM")
    if forced:
        return forced != "grid"
    if dtype == torch.float64 or (dtype == torch.float32 and not backend.tf32_lstm()):
        return True
    block = 64 if dtype == torch.float32 else 128  # the largest size of one block
    if hidden <= block or hidden > 8 * block:
        return True
    # Clusters, as long as both directions' fit side by side, 8 sequences and up to 4 or 16 blocks
    # each. A larger batch may be a grid's, which has room where the last cluster has not.
    if hidden > 4 * block:
        return False
    blocks = 4 if hidden <= 2 * block else 16
    clusters = 2 * ((x.shape[1] + 7) // 8)
    capability = torch.cuda.get_device_capability(x.device)
    count = torch.cuda.get_device_properties(x.device).multi_processor_count
    if clusters * blocks > count or (blocks > 8 and not _large_clusters(capability, count)):
        return False
    return backend.cuda_clusters(capability)


def _large_clusters(capability: tuple[int, int], count: int) -> bool:
    """Whether a GPU of `count` multiprocessors has room for four clusters of 16 blocks.

    A cluster lies in one of its parts: of eight, of 18 at most, four have 16 if 126 are there, but
    not in a slice of a GPU. sm_120's clusters have 8 blocks.
    """
    return count >= 126 and capability < (12, 0)


def side_by_side(
    direction: Direction, device: torch.device, shared: Iterable[Tensor | None]
) -> Direction:
    """`direction` for `run_layers`, which calls it for a layer's forward direction, then the other.

    The reverse one waits for what was there before the forward one, and what comes next for both.
    `shared` are the tensors that `direction` reads besides its arguments: no leaves.
    """
    main = torch.cuda.current_stream(device)
    key = (main.device_index, main.cuda_stream)
    if key not in _side:
        side = torch.cuda.Stream(device)
        if side.cuda_stream == main.cuda_stream:  # torch has 32, which come round
            side = torch.cuda.Stream(device)
        _side[key] = side
    side = _side[key]
    shared = list(shared)
    before = torch.cuda.Event()

    def run(x: Tensor, weights: Weights, h0: Tensor, c0: Tensor, reverse: bool) -> Result:
        if not reverse:
            before.record(main)
            return direction(x, weights, h0, c0, reverse)
        # Views, made on the main stream: there the gradients of leaves are added up, as whoever
        # holds their AccumulateGrad nodes expects. Torch warns of it otherwise.
        x = x.view_as(x)
        w_ih, w_hh, b_ih, b_hh, w_hr = (w if w is None else w.view_as(w) for w in weights)
        assert w_ih is not None
        assert w_hh is not None
        side.wait_event(before)
        with torch.cuda.stream(side):
            results = direction(x, (w_ih, w_hh, b_ih, b_hh, w_hr), h0, c0, reverse)
        # Memory goes back to the stream that it came from: not before the other one is done, in
        # the backward too, which has saved tensors of both.
        for tensor in (x, w_ih, w_hh, b_ih, b_hh, h0, c0, *shared):
            if tensor is not None:
                tensor.record_stream(side)
        for tensor in results:
            tensor.record_stream(main)
        main.wait_stream(side)
        return results

    return run
