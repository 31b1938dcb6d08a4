"""Cost of an optimizer step on the Grassmann manifold against the peers in one run, and how far it is from its floor.

64 points of Gr(64, 512) in float32, as one batched parameter and as 64 parameters. Ours is Adam with the Cayley
retraction. pymanopt has no Adam: its step is a projection of the gradient and its retraction (a polar factor), without
averages. geoopt has no Grassmann manifold: its steps are RiemannianAdam on Stiefel manifolds of the same sizes.

Run: ``python benchmarks/grassmann_step.py [--threads 1]`` (needs the extra ``bench``). Writes ``grassmann_step.json``
and ``grassmann_step.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--repeats", type=int, default=25)
GIVEN = parser.parse_args()
for library in (
    "OMP",
    "OPENBLAS",
):  # read on import; after torch.set_num_threads(2) geoopt's batched solve never returned
    os.environ[f"{library}_NUM_THREADS"] = str(GIVEN.threads)

import torch  # noqa: E402
from timing import Step, Times, interleave, machine, quartiles, ratio, spread, with_grad  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import metrize  # noqa: E402

HERE = Path(__file__).parent
POINTS, ROWS, COLUMNS = 64, 512, 64
LR = 1e-3
OURS = {
    "batched": "metrize Adam on Grassmann, one batched parameter",
    "apart": "metrize Adam on Grassmann, 64 parameters",
}


def ours(start: Tensor) -> dict[str, Step]:
    space = metrize.Grassmann()
    return {
        OURS["batched"]: metrize.Adam([with_grad(start)], LR, space=space).step,
        OURS["apart"]: metrize.Adam([with_grad(y) for y in start], LR, space=space).step,
    }


def geoopt_steps(start: Tensor) -> dict[str, Step]:
    import geoopt

    steps: dict[str, Step] = {}
    for name, kind in (("Euclidean metric, QR", geoopt.EuclideanStiefel), ("canonical", geoopt.CanonicalStiefel)):
        for label, values in (("one batched parameter", [start]), ("64 parameters", list(start))):
            points = [with_grad(geoopt.ManifoldParameter(y.clone(), manifold=kind())) for y in values]
            steps[f"geoopt RiemannianAdam on Stiefel ({name}), {label}"] = geoopt.optim.RiemannianAdam(points, LR).step
    return steps


def pymanopt_steps(start: Tensor) -> dict[str, Step]:
    import pymanopt

    gradient = torch.randn_like(start).numpy()
    batch, single = (pymanopt.manifolds.Grassmann(ROWS, COLUMNS, k=k) for k in (POINTS, 1))
    whole, apart = start.clone().numpy(), list(start.clone().numpy())

    def descend(manifold: Any, y: Any, g: Any) -> Any:
        return manifold.retraction(y, -LR * manifold.euclidean_to_riemannian_gradient(y, g))

    def batched() -> None:
        whole[:] = descend(batch, whole, gradient)

    def one_by_one() -> None:
        for i, g in enumerate(gradient):
            apart[i] = descend(single, apart[i], g)

    return {
        "pymanopt projection and retraction on Grassmann, one batch": batched,
        "pymanopt projection and retraction on Grassmann, 64 points": one_by_one,
    }


def floor_parts(start: Tensor) -> tuple[Times, dict[str, float]]:
    """What a step cannot do without, each piece at the rate it reaches alone, and how often a step needs it."""
    other, square = torch.randn_like(start), torch.randn(POINTS, COLUMNS, COLUMNS)
    tall, small, spare = torch.empty_like(start), torch.empty_like(square), torch.empty_like(start)
    k = 0.1 * square / COLUMNS**0.5 + torch.eye(COLUMNS)
    pieces: dict[str, Step] = {
        "product Y S": lambda: torch.bmm(start, square, out=tall),
        "product Y^T G": lambda: torch.bmm(start.mT, other, out=small),
        "copy of all numbers": lambda: spare.copy_(other),
        "n x n system": lambda: torch.linalg.solve_ex(k, square),
    }
    half = products(start) / 2  # a lift and a move each end with products of the one kind and begin with the other
    # a copy reads and writes; a step reads Y, G and two averages, and writes Y and the averages
    counts = {"product Y S": half, "product Y^T G": half, "copy of all numbers": 3.5, "n x n system": 2.0}
    return interleave(pieces, GIVEN.repeats), counts


def products(start: Tensor) -> float:
    """Flops of the products of one step without a polish, in units of ``2 N n^2`` for each point."""
    step = metrize.Adam([with_grad(start)], LR, space=metrize.Grassmann(polish_every=0)).step
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / (2 * POINTS * ROWS * COLUMNS**2)


def report() -> str:
    torch.manual_seed(0)
    start = torch.linalg.qr(torch.randn(POINTS, ROWS, COLUMNS))[0].contiguous()
    times = interleave(ours(start) | geoopt_steps(start) | pymanopt_steps(start), GIVEN.repeats)
    parts, counts = floor_parts(start)
    floor = sum(count * quartiles(parts[name])[0] for name, count in counts.items())
    (HERE / "grassmann_step.json").write_text(json.dumps({"steps": times, "floor": parts, "counts": counts}) + "\n")
    lines = [
        "# Cost of a step on the Grassmann manifold",
        "",
        f"{POINTS} points of Gr({COLUMNS}, {ROWS}), float32; {machine()}; medians [quartiles] over interleaved "
        "repetitions, ratios pair by pair. Written by `benchmarks/grassmann_step.py`, which says what each line does.",
        "",
        "| step | ms | over ours, one batched parameter | over ours, 64 parameters |",
        "|---|---|---|---|",
    ]
    for name, values in times.items():
        over = [spread(ratio(times, mine, name)) for mine in OURS.values()]
        lines.append(f"| {name} | {spread(quartiles(values))} | {' | '.join(over)} |")
    lines += ["", "## The floor", "", "| piece | ms | times in a step | ms in a step |", "|---|---|---|---|"]
    for name, count in counts.items():
        middle = quartiles(parts[name])[0]
        lines.append(f"| {name} | {spread(quartiles(parts[name]))} | {count:.2f} | {count * middle:.2f} |")
    mine = quartiles(times[OURS["batched"]])[0]
    lines += [
        "",
        f"Together {floor:.1f} ms: no step that makes these products, solves and passes is faster here. Ours takes "
        f"{mine / floor:.2f} times as long. Five times faster than a peer means a fifth of its time:",
        "",
        "| peer | a fifth, ms | over the floor |",
        "|---|---|---|",
    ]
    for name, values in times.items():
        if name not in OURS.values():
            fifth = quartiles(values)[0] / 5
            lines.append(f"| {name} | {fifth:.1f} | {fifth / floor:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    text = report()
    (HERE / "grassmann_step.md").write_text(text)
    print(text)
