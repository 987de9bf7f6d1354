"""Training over processes: the gradients are those of one process with the whole batch."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import fastchar
from fastchar import functional

RANKS = 2
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = fastchar.EmbeddingLSTM(11, 4, 8, bidirectional=True)
        self.decoder = fastchar.LSTM(16, 8)
        self.head = nn.Linear(8, 11)

    def forward(self, ids: Tensor) -> Tensor:
        y, _ = self.decoder(self.encoder(ids)[0])
        return functional.linear_cross_entropy(y, self.head.weight, ids, linear_bias=self.head.bias)


def batch() -> Tensor:
    return torch.randint(11, (6, 4 * RANKS), generator=torch.Generator().manual_seed(1))


def worker(rank: int, folder: str, sharded: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS
    )
    model: nn.Module = Model()
    if sharded:
        from torch.distributed.fsdp import fully_shard

        for module in (model.encoder, model.decoder, model):
            fully_shard(module, mesh=dist.device_mesh.init_device_mesh("cpu", (RANKS,)))
    else:
        model = nn.parallel.DistributedDataParallel(model)
    model(batch().chunk(RANKS, 1)[rank]).backward()
    grads = [p.grad for p in model.parameters()]
    grads = [g.full_tensor() if sharded else g for g in grads]
    if rank == 0:
        torch.save(grads, os.path.join(folder, "grads.pt"))
    dist.barrier()
    # One time in sixty gloo's threads abort a process that ends as usual, whatever its model is.
    os._exit(0)


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_gradients_are_one_processs(tmp_path: Path, sharded: bool) -> None:
    """DistributedDataParallel and fully_shard, two gloo ranks on the CPU."""
    model = Model()
    model(batch()).backward()
    mp.spawn(worker, (str(tmp_path), sharded), nprocs=RANKS)
    grads = torch.load(tmp_path / "grads.pt")
    for p, g in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(g, p.grad)


def test_tensors_of_a_mesh(tmp_path: Path) -> None:
    """Weights and inputs that are DTensors, as in tensor parallelism, run on torch's ops."""
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
    from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        ids = torch.randint(7, (5, 3))
        model = nn.Sequential(fastchar.Embedding(7, 4))
        expected = model(ids)
        parallelize_module(model, mesh, {"0": RowwiseParallel(input_layouts=Replicate())})
        torch.testing.assert_close(model(ids), expected)
        model(ids).sum().backward()
        assert isinstance(model[0].weight.grad, DTensor)
        lstm, x = fastchar.LSTM(4, 6), torch.randn(5, 3, 4)
        expected = lstm(x)[0]
        for name, p in list(lstm.named_parameters()):
            setattr(lstm, name, nn.Parameter(distribute_tensor(p.data, mesh, [Replicate()])))
        y = lstm(distribute_tensor(x, mesh, [Replicate()]))[0]
        assert isinstance(y, DTensor)
        torch.testing.assert_close(y.full_tensor(), expected)
    finally:
        dist.destroy_process_group()
