"""Write the checkpoints of a version: ``python tests/checkpoints/write_checkpoints.py``.

What is there is never overwritten: it is what earlier versions wrote, and has to go on loading.
"""

from __future__ import annotations

import io
import lzma
import os
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from golden_runs import END, FOLDER, SAVED_AT, Net, machine, model_of, optimizer_of, train, weights
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard

import metrize
from metrize.part import Part

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
from cases import VARIANTS

Entry = dict[str, Any]

POINTS: dict[str, tuple[int, ...]] = {
    "Grassmann()": (6, 2),
    "Orthogonal()": (4, 4),
    "Sphere()": (5, 3),
    "Stiefel(blocks=2)": (8, 2),
    'Stiefel(section="transported", retraction="geodesic", polish_every=5)': (6, 2),
    'Stiefel(section="redrawn")': (6, 2),
    "SymplecticStiefel()": (8, 4),
    "SymplecticGrassmann()": (8, 4),
    'SymplecticStiefel(form="full")': (8, 4),
    'SymplecticGrassmann(form="full")': (8, 4),
    "Product(first=Stiefel(), size=6, rest=Sphere())": (9, 2),
}
STORAGES = [
    'Quantized(map="linear", block=4, smallest=0)',
    'Quantized(map="dynamic", squares="float8", block=4, signed=True, smallest=0)',
    "Quantized(bits=4, block=4, smallest=0)",
    "Factored()",
    'Factored(dims="last", floor=None)',
    "Cover()",
    'Cover(variant="I")',
    "Outer()",
    'Blocks(by="rows")',
    "Blocks()",
    "RankOne()",
    'RankOne(vectors="dense")',
    "RandomProjection(rank=2, period=2)",
    "Split(linear=RankOne(), square=Factored())",
    'Dense(dtype="float64")',
]


def entry(method: str, space: str = "", dtype: str = "float32", shape: tuple[int, ...] = (), **options: Any) -> Entry:
    told = {key: f"part {value!r}" if isinstance(value, Part) else value for key, value in options.items()}
    return {"method": method, "options": told, "space": space, "dtype": dtype, "shape": shape}


def of_recipe(recipe: str, **where: Any) -> Entry:
    return entry("Optimizer", **where, recipe=metrize.parse(recipe), lr=0.02)


def listed() -> dict[str, dict[str, Entry]]:
    """The entries of each file."""
    files: dict[str, dict[str, Entry]] = {}
    for method in metrize.catalogue():
        found = files[method] = {}
        for at, options in enumerate(VARIANTS.get(method, [{}])):
            for space in ("", "Stiefel()"):
                for dtype in ("float32", "bfloat16") if not at else ("float32",):
                    found[f"{at} {space or 'free'} {dtype}"] = entry(method, space, dtype, **{"lr": 0.02, **options})
    rounding = {"Stochastic": metrize.Stochastic(3), "Compensated": metrize.Compensated()}
    files["rounding"] = {
        f"{method} {name}": entry(method, dtype="bfloat16", lr=0.02, rounding=part)
        for method in ("AdamW", "SGD")
        for name, part in rounding.items()
    }
    files["spaces"] = {space: entry("Adam", space, shape=shape, lr=0.02) for space, shape in POINTS.items()}
    files["storages"] = {storage: of_recipe(f"Recipe(moments={storage})") for storage in STORAGES}
    files["frames"] = frames()
    files["step sizes"] = {
        size: of_recipe(f"Recipe(step_size={size})")
        for size in ("Decaying()", "Relative()", 'Relative(schedule="warmup")', "Prodigy()", "DualNorm()")
    }
    files["dtypes"] = {
        f"{method} {space or 'free'}": entry(method, space, "float64", lr=0.02)
        for method in ("AdamW", "SOAP", "SMMF")
        for space in ("", "Stiefel()")
    }
    return files


def frames() -> dict[str, Entry]:
    """Every frame that reads with its defaults, with a small rank and period where it has them."""
    found = {}
    for name, cls in Part.known.items():
        fields = getattr(cls, "__dataclass_fields__", {})
        if issubclass(cls, metrize.frames.Frame) and cls is not metrize.frames.Frame:
            small = [f"{key}=2" for key in ("rank", "period", "reproject") if key in fields]
            found[name] = of_recipe(f"Recipe(frame={name}({', '.join(small)}))")
    return found


def run(told: Entry) -> Entry:
    model = model_of(told)
    optimizer = optimizer_of(told, model)
    train(model, optimizer, 0, SAVED_AT)
    saved = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    train(model, optimizer, SAVED_AT, END)
    saved.seek(0)
    return {**told, **torch.load(saved, weights_only=True), "after": weights(model)}


def write(name: str, entries: dict[str, Entry]) -> None:
    file = FOLDER / f"{name.replace(' ', '_')}.pt.xz"
    if file.exists():
        print(f"{file.name} is there, and stays as it is")
        return
    done = {}
    for key, told in entries.items():
        try:
            done[key] = run(told)
        except (ValueError, TypeError) as error:
            print(f"{name}, {key}: {str(error)[:150]}")
    content = io.BytesIO()
    torch.save({"machine": machine(), "entries": done}, content)
    file.write_bytes(lzma.compress(content.getvalue(), preset=9))


def write_folder(rank: int, folder: str) -> None:
    """Two processes, each with its part of the weights."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Net()
    fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
    optimizer = metrize.SOAP(model, lr=0.02, precondition_frequency=2)
    train_sharded(model, optimizer, 0, SAVED_AT)
    parts = get_state_dict(model, optimizer)
    dcp.save(dict(zip(("model", "optimizer"), parts, strict=True)), checkpoint_id=folder)
    train_sharded(model, optimizer, SAVED_AT, END)
    after = {name: p.detach().full_tensor() for name, p in model.named_parameters()}
    if rank == 0:
        torch.save({"machine": machine(), "after": after}, Path(folder) / "after.pt")
    dist.destroy_process_group()


def train_sharded(model: torch.nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(7000 + step)
        for p in model.parameters():
            grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
            p.grad = dist.tensor.distribute_tensor(grad, p.device_mesh, p.placements)
        optimizer.step()


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name, entries in listed().items():
        write(name, entries)
    file = FOLDER / "two_processes.tar.xz"
    if file.exists():
        print(f"{file.name} is there, and stays as it is")
        return
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(write_folder, (folder,), nprocs=2)
        with tarfile.open(file, "w:xz") as pack:
            for part in sorted(Path(folder).iterdir()):
                pack.add(part, part.name)


if __name__ == "__main__":
    main()
