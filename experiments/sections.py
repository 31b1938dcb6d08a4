"""Open questions of Adam on homogeneous spaces (arXiv:2305.16901), each answered by runs.

(a) Which section, and one second moment for each entry or for each point? (b) Is the geometry better than Adam with a
projection after every step, and what does it cost? (c) How far do float32 points drift off the manifold? (d) Do other
homogeneous spaces train as well?

Every method has the best learning rate of a common grid, by the mean over the seeds; all seeds of a run are one batch.
Run: ``python experiments/sections.py [--steps 1000] [--network-steps 200]`` (needs the extras ``data`` and ``plot``).
Writes ``sections.md`` beside this file, and the picture of (c) to ``docs/assets/sections.svg``.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

import metrize
from metrize import Grassmann, Orthogonal, Space, Sphere, Stiefel
from metrize.lab.data import load_digits
from metrize.lab.models import VisionTransformer

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "assets" / "sections.svg"
SEEDS = 5
BETAS = (0.9, 0.99)  # the paper's
RATES = (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
NETWORK_RATES = (3e-2, 1e-2, 3e-3, 1e-3)
LAYERS, BATCH = 3, 64
NOISE = 0.3  # of the root mean square of the first gradient

Step = Callable[[], None]
Build = Callable[[list[nn.Parameter], list[nn.Parameter], float], Step]  # constrained and free weights, learning rate


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Methods


def ours(space: Space, second_moment: str = "elementwise") -> Build:
    def build(constrained: list[nn.Parameter], free: list[nn.Parameter], lr: float) -> Step:
        group = {"params": constrained, "recipe": metrize.Adam.recipe(space, second_moment=second_moment)}
        return metrize.Adam([group, {"params": free}] if free else [group], lr=lr, betas=BETAS).step

    return build


def projected(space: Space, project: Callable[[Tensor], Tensor]) -> Build:
    """torch's Adam, and every point put back on the manifold after every step."""

    def build(constrained: list[nn.Parameter], free: list[nn.Parameter], lr: float) -> Step:
        optimizer = torch.optim.Adam(constrained + free, lr=lr, betas=BETAS, fused=True)

        @torch.no_grad()
        def step() -> None:
            optimizer.step()
            for p in constrained:
                points = space.points(p.unsqueeze(0))
                points.copy_(project(points))

        return step

    return build


def qr(x: Tensor) -> Tensor:
    q, r = torch.linalg.qr(x)
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def polar(x: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def unit(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def on_stiefel(blocks: int = 1) -> dict[str, Build]:
    space = Stiefel(blocks=blocks)
    return {
        "closed-form section": ours(space),
        "transported section": ours(space.replace(section="transported")),
        "redrawn section": ours(space.replace(section="redrawn")),
        "one second moment": ours(space, "scalar"),
        "Adam, then QR": projected(space, qr),
        "Adam, then polar": projected(space, polar),
    }


# Problems with a known optimum


@dataclasses.dataclass
class Problem:
    """A loss of points ``[seeds, N, n]`` and its gradient, with everything drawn from the seeds."""

    start: Tensor
    loss: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    best: Tensor
    noise: float = 0.0


def spectrum(rows: int, decades: float) -> Tensor:
    """Symmetric matrices ``[seeds, N, N]`` with eigenvalues from 1 down over so many decades."""
    axes = torch.stack([Orthogonal().random_(torch.empty(rows, rows).double(), draw(s)) for s in range(SEEDS)])
    return axes * torch.logspace(0, -decades, rows, dtype=torch.float64) @ axes.mT


def points(space: Space, *shape: int, seed: int) -> Tensor:
    return torch.stack([space.random_(torch.empty(shape).double(), draw(seed + s)) for s in range(SEEDS)])


def pca(rows: int, n: int, noise: float = 0.0) -> Problem:
    """``-tr(Y^T M Y) / 2``: the subspace of the largest eigenvalues."""
    m = spectrum(rows, 2)
    best = -torch.linalg.eigvalsh(m)[:, -n:].sum(-1) / 2
    start = points(Stiefel(), rows, n, seed=100)
    return Problem(start, lambda y: -(y * (m @ y)).sum((-2, -1)) / 2, lambda y: -m @ y, best, noise)


def procrustes(goal: Tensor, start: Tensor, noise: float = 0.0) -> Problem:
    """``||A (Y - Y*)||^2 / 2`` with a condition number of 10,000 in the square of A."""
    square = spectrum(goal.shape[-2], 4)

    def loss(y: Tensor) -> Tensor:
        return ((y - goal) * (square @ (y - goal))).sum((-2, -1)) / 2

    return Problem(start, loss, lambda y: square @ (y - goal), torch.zeros(SEEDS, dtype=torch.float64), noise)


def stiefel_problems(rows: int = 40, n: int = 8) -> dict[str, Problem]:
    goal, start = (points(Stiefel(), rows, n, seed=s) for s in (200, 300))
    return {
        "PCA": pca(rows, n),
        "PCA, noisy": pca(rows, n, NOISE),
        "Procrustes": procrustes(goal, start),
        "Procrustes, noisy": procrustes(goal, start, NOISE),
    }


def excess(problem: Problem, build: Build, lr: float, steps: int) -> Tensor:
    """Loss over the optimum as a share of that at the start, mean of the last 50 steps, ``[seeds]``."""
    y = nn.Parameter(problem.start.clone())
    step, noise = build([y], [], lr), draw(1)
    span = problem.loss(problem.start) - problem.best
    scale = problem.noise * problem.gradient(problem.start).square().mean().sqrt()
    last = []
    for t in range(steps):
        y.grad = problem.gradient(y.detach())
        if problem.noise:
            y.grad.add_(torch.randn(y.shape, generator=noise, dtype=y.dtype) * scale)
        step()
        if t >= steps - 50:
            last.append((problem.loss(y.detach()) - problem.best) / span)
    return torch.stack(last).mean(0).clamp(min=1e-16).nan_to_num(nan=9.0, posinf=9.0)


# The network


def digits(build: Callable[[int], Build], lr: float, steps: int) -> Tensor:
    """Training loss of the paper's transformer with few blocks, mean of the last 50 steps, ``[seeds]``."""
    models = [VisionTransformer(layers=LAYERS, generator=draw(seed)) for seed in range(SEEDS)]
    values, _ = torch.func.stack_module_state(models)
    values = {name: nn.Parameter(value.detach()) for name, value in values.items()}
    constrained = {name: p for name, p in values.items() if name.endswith("qkv.weight")}
    blocks = models[0].constrained()[0].blocks
    for p in constrained.values():
        Stiefel(blocks=blocks).project_(p)
    free = [p for name, p in values.items() if name not in constrained]
    step = build(blocks)(list(constrained.values()), free, lr)
    data, losses = load_digits(), []

    def loss(state: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return models[0].loss(torch.func.functional_call(models[0], state, (images,)), labels)

    for t in range(steps):
        images, labels = map(torch.stack, zip(*(data.batch(s, t, BATCH) for s in range(SEEDS)), strict=True))
        each = torch.vmap(loss)(values, images, labels)
        for p in values.values():
            p.grad = None
        each.sum().backward()
        step()
        losses.append(each.detach())
    return torch.stack(losses[-50:]).mean(0)


# Reports


def log_mean(values: Tensor) -> float:
    return float(values.log().mean().exp())


def best_of(runs: dict[float, Tensor]) -> tuple[float, Tensor]:
    lr = min(runs, key=lambda rate: log_mean(runs[rate]))
    return lr, runs[lr]


def cell(runs: dict[float, Tensor]) -> str:
    lr, found = best_of(runs)
    return f"{log_mean(found):.1e} [{found.min():.0e}, {found.max():.0e}], {lr:g}"


def grid(problems: dict[str, Problem], methods: dict[str, Build], steps: int) -> list[str]:
    lines = ["| | " + " | ".join(problems) + " |", "|---" * (len(problems) + 1) + "|"]
    for name, build in methods.items():
        cells = [cell({lr: excess(p, build, lr, steps) for lr in RATES}) for p in problems.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def network(steps: int) -> list[str]:
    lines = [
        "| | training loss | learning rate | " + " | ".join(f"at {lr:g}" for lr in NETWORK_RATES) + " |",
        "|---" * (3 + len(NETWORK_RATES)) + "|",
    ]
    for name in on_stiefel():
        runs = {lr: digits(lambda blocks: on_stiefel(blocks)[name], lr, steps) for lr in NETWORK_RATES}  # noqa: B023
        lr, found = best_of(runs)
        each = " | ".join(f"{losses.mean():.3f}" for losses in runs.values())
        lines.append(f"| {name} | {found.mean():.3f} ± {found.std():.3f} | {lr:g} | {each} |")
    return lines


def cost(shapes: Iterable[tuple[int, int, int]], repeats: int = 9) -> list[str]:
    """Processor time of a step, which other work on the machine does not lengthen; all methods in turn."""
    table: dict[str, list[str]] = {name: [] for name in on_stiefel()}
    shapes = list(shapes)
    for shape in shapes:
        start = Stiefel().random_(torch.empty(shape), draw(0))
        steps = {}
        for name, build in on_stiefel().items():
            y = nn.Parameter(start.clone())
            y.grad = torch.randn(shape, generator=draw(1))
            steps[name] = build([y], [], 1e-3)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(repeats + 4):  # the first steps polish
            for name, step in steps.items():
                begin = time.process_time()
                step()
                times[name] += [1e3 * (time.process_time() - begin)] * (turn >= 4)
        for name, values in times.items():
            low, middle, high = statistics.quantiles(values, n=4)
            table[name].append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
    heads = [f"{count} of {rows} x {n}" for count, rows, n in shapes]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    return lines + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in table.items()]


def drift(steps: int) -> dict[str, Tensor]:
    """(c) Largest ``||Y^T Y - I||_F`` of 16 matrices of 49 x 7 in float32, every 10 steps of noisy gradients."""
    methods = {
        "closed form, polish every 20 (default)": ours(Stiefel()),
        "transported, polish every 20": ours(Stiefel(section="transported")),
        "closed form, geodesic": ours(Stiefel(retraction="geodesic")),
        "closed form, never polished": ours(Stiefel(polish_every=0)),
        "Adam, then QR": projected(Stiefel(), qr),
        "Adam, then polar": projected(Stiefel(), polar),
    }
    start = Stiefel().random_(torch.empty(16, 49, 7), draw(0))
    errors = {}
    for name, build in methods.items():
        y, noise, seen = nn.Parameter(start.clone()), draw(1), []
        step = build([y], [], 1e-3)
        for t in range(steps):
            y.grad = torch.randn(y.shape, generator=noise)
            step()
            if t % 10 == 9:
                seen.append(Stiefel().error_of(y))
        errors[name] = torch.stack(seen)
    return errors


def draw_drift(errors: dict[str, Tensor]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "metrize"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, values in errors.items():
        axes.plot(torch.arange(1, len(values) + 1) * 10, values, label=name, linewidth=1)
    axes.set(yscale="log", xlabel="step", ylabel="largest ||YᵀY − I||", title="float32, learning rate 1e-3")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize="small", frameon=False)
    figure.savefig(PICTURE, metadata={"Date": None})


def other_spaces(steps: int) -> list[str]:
    """(d) Problems posed on several spaces."""
    rows, n = 40, 8
    lines = ["| problem | method | excess [range], learning rate |", "|---|---|---|"]
    subspace = {
        "Stiefel": ours(Stiefel()),
        "Grassmann": ours(Grassmann()),
        "Grassmann, transported": ours(Grassmann(section="transported")),
        "Adam, then QR": projected(Stiefel(), qr),
    }
    turns = [points(Orthogonal(special=True), 12, 12, seed=s) for s in (400, 500)]
    rotation = {
        "Orthogonal": ours(Orthogonal()),
        "Orthogonal, geodesic": ours(Orthogonal(retraction="geodesic")),
        "Adam, then QR": projected(Stiefel(), qr),
        "Adam, then polar": projected(Stiefel(), polar),
    }
    vector = {
        "Stiefel of one column": ours(Stiefel()),
        "Sphere": ours(Sphere(axis=-2)),
        "Adam, then unit length": projected(Sphere(axis=-2), unit),
    }
    columns = {
        "Sphere (oblique)": ours(Sphere(axis=-2)),
        "Adam, then unit length": projected(Sphere(axis=-2), unit),
    }
    oblique = [points(Sphere(axis=-2), rows, n, seed=s) for s in (600, 700)]
    posed = {
        "principal subspace, 40 x 8": (pca(rows, n), subspace),
        "rotation, 12 x 12": (procrustes(*turns), rotation),
        "leading eigenvector of 40 x 40": (pca(rows, 1), vector),
        "unit columns, 40 x 8": (procrustes(*oblique), columns),
    }
    for problem, (given, methods) in posed.items():
        for name, build in methods.items():
            lines.append(f"| {problem} | {name} | {cell({lr: excess(given, build, lr, steps) for lr in RATES})} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--network-steps", type=int, default=200)
    parser.add_argument("--drift-steps", type=int, default=3000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    errors = drift(given.drift_steps)
    draw_drift(errors)
    shapes = [(SEEDS, 40, 8), (336, 49, 7), (16, 512, 64)]
    lines = [
        "# Open questions of Adam on homogeneous spaces",
        "",
        f"torch {torch.__version__}, 1 thread, {platform.machine()}; {SEEDS} seeds; betas {BETAS}; every method with "
        "the best learning rate of a common grid. Written by `experiments/sections.py`, which defines the problems.",
        "",
        "## (a), (b) The section, and Adam with a projection: loss reached",
        "",
        f"40 x 8 matrices in float64, {given.steps} steps. Excess over the optimum as a share of that at the start: "
        "geometric mean over the seeds [smallest, largest], learning rate.",
        "",
        *grid(stiefel_problems(), on_stiefel(), given.steps),
        "",
        f"The paper's transformer with {LAYERS} blocks on digits, {given.network_steps} steps of {BATCH} samples, "
        "float32: training loss over the last 50 steps, mean ± standard deviation over the seeds, and the mean at "
        "every learning rate.",
        "",
        *network(given.network_steps),
        "",
        "## (b) What a step costs",
        "",
        "Milliseconds of processor time of the optimizer's step alone, float32; medians [quartiles].",
        "",
        *cost(shapes),
        "",
        "## (c) Distance from the manifold",
        "",
        f"Largest `||Y^T Y - I||_F` of 16 matrices of 49 x 7 in float32 over {given.drift_steps} steps of random "
        "gradients with learning rate 1e-3.",
        "",
        "| | at the end | largest |",
        "|---|---|---|",
        *(f"| {name} | {values[-1]:.1e} | {values.max():.1e} |" for name, values in errors.items()),
        "",
        "![distance from the manifold](../docs/assets/sections.svg)",
        "",
        "## (d) Other spaces",
        "",
        f"As in (a), {given.steps} steps.",
        "",
        *other_spaces(given.steps),
    ]
    (HERE / "sections.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
