"""Train a small GPT that is cut over several processes (FSDP2), with any optimizer of metrize.

    torchrun --nproc-per-node 2 examples/train_fsdp2.py --optimizer Muon --lr 1e-3 --steps 200

The same command again goes on from the newest checkpoint, with any number of processes. It runs on GPUs where there are
some, and on processors elsewhere. `metrize train --nproc 2` trains the tasks of the lab in the same way.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import metrize
from metrize.lab.data import load_text, stream
from metrize.lab.models import GPT
from metrize.lab.sharded import load_newest, save


def train(args: argparse.Namespace) -> None:
    """The whole of it; called by each process."""
    rank, size = dist.get_rank(), dist.get_world_size()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))

    # Each process draws the same weights, and keeps its rows of them.
    model = GPT(width=args.width, layers=args.layers, context=args.context, generator=stream(args.seed, "weights"))
    model = model.to(device)
    mesh = init_device_mesh(device, (size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)

    # After the cut, from the module: then roles, spaces and errors go by the names of its parameters.
    optimizer = metrize.catalogue()[args.optimizer](model, lr=args.lr)

    # What a checkpoint must agree with to be gone on from. The number of processes is not among it.
    config = {key: value for key, value in vars(args).items() if key not in ("steps", "folder", "save_every")}
    args.folder.mkdir(parents=True, exist_ok=True)
    saved = load_newest(args.folder, config, model, optimizer)
    first = saved["step"] if saved else 0
    say(f"{size} processes on {device}, from step {first}")

    text = load_text(Path(args.text) if args.text else None, args.context)
    for step in range(first, args.steps):
        # The batch is a function of seed and step, so that a run that goes on sees what it would have seen.
        inputs, targets = (part.chunk(size)[rank].to(device) for part in text.batch(args.seed, step, args.batch_size))
        loss = model.loss(model(inputs), targets)
        loss.backward()
        # A NaN anywhere makes this norm, and so all gradients, NaN; the optimizer then skips the step on all processes.
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % args.log_every == 0:
            dist.all_reduce(loss.detach())
            say(f"step {step + 1}  loss {loss.item() / size:.4f}")
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            # A folder of torch.distributed.checkpoint, complete or not there at all; the last two are kept.
            save(args.folder, step + 1, {"config": config, "step": step + 1}, model, optimizer)


def say(text: str) -> None:
    """Print on the first process."""
    if dist.get_rank() == 0:
        print(text, flush=True)


def main(words: list[str] | None = None) -> None:
    """Read the command line and join the processes that torchrun has started."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options: dict[str, Any] = {
        "optimizer": ("AdamW", "a name of `metrize list`"),
        "lr": (1e-3, "learning rate"),
        "steps": (200, "of the whole run"),
        "batch_size": (32, "windows of a step, over all processes"),
        "context": (128, "bytes of a window"),
        "width": (128, "numbers of a token"),
        "layers": (4, "blocks"),
        "clip": (1.0, "largest norm of the gradient"),
        "seed": (0, "decides weights and batches"),
        "log_every": (10, "steps between two lines"),
        "save_every": (50, "steps between two checkpoints"),
        "folder": (Path("runs/fsdp2"), "where checkpoints are kept"),
        "text": ("", "file to learn; empty for the standard library's own sources"),
    }
    for name, (default, about) in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=about)
    args = parser.parse_args(words)
    dist.init_process_group()
    try:
        train(args)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
