"""Cost of a step of weights that are sharded over processes, against torch's own optimizers, in one run.

Run: ``python benchmarks/sharded_step.py [--ranks 2]``. Processes of one thread each talk by gloo on this machine; 16
matrices of 512 x 512 and their gradients are DTensors cut by rows. All optimizers take their steps in turn. Writes
``sharded_step.json`` and ``sharded_step.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timing import Times, interleave, machine, table
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import metrize

HERE = Path(__file__).parent
COUNT, SIDE = 16, 512
REFERENCE = "metrize Muon"
BUILDS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "metrize Muon": lambda params: metrize.Muon(params, accuracy="muon", lr=1e-3),
    "torch Muon": lambda params: torch.optim.Muon(params, lr=1e-3),
    "metrize SOAP": lambda params: metrize.SOAP(params, lr=1e-3),
    "metrize SMMF": lambda params: metrize.SMMF(params, lr=1e-3),
    "metrize AdamW": lambda params: metrize.AdamW(params, lr=1e-3),
    "torch AdamW(fused=True)": lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
}


def parameters(mesh: DeviceMesh) -> list[nn.Parameter]:
    """Sharded matrices with gradients, the same on every process."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(COUNT):
        whole, grad = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
        p = nn.Parameter(distribute_tensor(whole * 0.02, mesh, [Shard(0)], src_data_rank=None))
        p.grad = distribute_tensor(grad, mesh, [Shard(0)], src_data_rank=None)
        made.append(p)
    return made


def process(rank: int, ranks: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    steps = {name: build(parameters(mesh)).step for name, build in BUILDS.items()}
    times = interleave(steps, repeats=20, warmup=3)
    if rank == 0:
        (HERE / "sharded_step.json").write_text(json.dumps(times) + "\n")
        (HERE / "sharded_step.md").write_text(report(times, ranks))
    dist.destroy_process_group()


def report(times: Times, ranks: int) -> str:
    lines = [
        "# Cost of a sharded step",
        "",
        f"{COUNT} matrices of {SIDE} x {SIDE}, float32, cut by rows over {ranks} processes of one thread that talk by "
        f"gloo; times of the first process. {machine()}. Written by `benchmarks/sharded_step.py`.",
        "",
        *table(times, REFERENCE),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, (given.ranks, folder), nprocs=given.ranks)
    print((HERE / "sharded_step.md").read_text())
