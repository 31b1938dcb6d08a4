"""How near `orthogonalize` comes to the duality map, and what its products cost.

Run: ``python benchmarks/polar_quality.py``. One thread; times are medians over interleaved repetitions, comparisons
medians of paired ratios with their quartiles. Writes ``polar_quality.json`` and ``polar_quality.md`` beside this file,
and the table of the guide.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metrize.linalg import orthogonalize, polar, polar_express
from metrize.linalg.orthogonalize import newton_schulz

HERE = Path(__file__).parent
GUIDE = HERE.parent / "docs" / "guide" / "norms.md"
torch.set_num_threads(1)
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


# ---- quality


def matrices() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)

    def gauss(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    def with_spectrum(s: Tensor) -> Tensor:
        n = len(s)
        return (torch.linalg.qr(gauss(n, n))[0] * s) @ torch.linalg.qr(gauss(n, n))[0]

    rank = torch.arange(1, 513, dtype=torch.float64)
    return {
        "Gaussian 512 x 512": gauss(512, 512),
        "Gaussian 256 x 1024": gauss(256, 1024),
        "singular values 1/i, 512": with_spectrum(1 / rank),
        "singular values 1/i^2, 512": with_spectrum(1 / rank**2),
        "rank 16, 512 x 512": gauss(512, 16) @ gauss(16, 512),
        "rank 1, 512 x 512": gauss(512, 1) @ gauss(1, 512),
    }


def quality(x: Tensor, accuracy: str, dtype: torch.dtype) -> dict[str, float]:
    found = orthogonalize(x.float(), accuracy, dtype=dtype).double()
    exact = polar(x, rtol=1e-9)
    return {
        "share": float((x * found).sum() / torch.linalg.svdvals(x).sum()),
        "norm": float(torch.linalg.matrix_norm(found, 2)),
        "error": float((found - exact).norm() / exact.norm()),
    }


def qualities() -> list[dict[str, Any]]:
    return [
        {"matrix": name, "accuracy": accuracy, "dtype": kind, **quality(x, accuracy, dtype)}
        for name, x in matrices().items()
        for accuracy in ("muon", "fast", "tight")
        for kind, dtype in DTYPES.items()
    ]


# ---- cost


def textbook(x: Tensor) -> Tensor:
    """Six steps as the papers write them, with a copy of X in each."""
    for a, b, c in polar_express(6):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def plain(x: Tensor) -> Tensor:
    """Six steps, the Gram matrix computed anew in each."""
    for p in polar_express(6):
        x = newton_schulz(x, [p])
    return x


def ours(x: Tensor) -> Tensor:
    return newton_schulz(x, polar_express(6))


def with_scaling(x: Tensor) -> Tensor:
    """From a float32 gradient to a float32 direction."""
    return orthogonalize(x.float(), "tight", dtype=x.dtype)


def interleave(calls: list[Callable[[Tensor], Tensor]], x: Tensor, repeats: int = 15) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {call.__name__: [] for call in calls}
    for turn in range(repeats + 2):
        for call in calls:
            start = time.perf_counter()
            call(x)
            if turn > 1:
                times[call.__name__].append(1e3 * (time.perf_counter() - start))
    return times


def costs() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind, dtype in DTYPES.items():
        for shape in [(32, 32, 32), (16, 128, 128), (1, 768, 768), (1, 768, 1536), (1, 768, 3072), (2, 256, 2048)]:
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            x = (x / x.flatten(1).norm(dim=1)[:, None, None]).to(dtype)
            times = interleave([textbook, plain, ours, with_scaling], x)
            ratios = {
                name: statistics.quantiles([t / o for t, o in zip(times[name], times["ours"], strict=True)])
                for name in times
            }
            rows.append({"dtype": kind, "shape": shape, "ms": statistics.median(times["ours"]), "ratio": ratios})
    return rows


# ---- report


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def report(found: dict[str, Any]) -> str:
    quality_rows = [
        [r["matrix"], r["accuracy"], r["dtype"], f"{r['share']:.3f}", f"{r['norm']:.3f}", f"{r['error']:.3f}"]
        for r in found["quality"]
    ]
    cost_rows = [
        [r["dtype"], " x ".join(map(str, r["shape"])), f"{r['ms']:.2f}"]
        + [
            f"{r['ratio'][name][1]:.2f} [{r['ratio'][name][0]:.2f}, {r['ratio'][name][2]:.2f}]"
            for name in ("textbook", "plain", "with_scaling")
        ]
        for r in found["cost"]
    ]
    return f"""# Orthogonalization

{found["machine"]}. Written by `benchmarks/polar_quality.py`.

## Quality

`share` is `<G, O>` over the nuclear norm of G, `norm` the largest singular value of O (both 1 for the duality map), and
`error` the distance to the polar factor over its Frobenius norm. Directions that are missing from G count in `error`
only.

{table(["matrix", "accuracy", "products", "share", "norm", "error"], quality_rows)}

## Cost of six steps

Time of `newton_schulz`, and of others over it: as the papers write it (a copy of X in each step), with the Gram matrix
computed anew in each step, and of `orthogonalize` from float32 to float32.

{table(["products", "batch", "ms", "textbook", "Gram anew", "whole"], cost_rows)}
"""


def summary(found: list[dict[str, Any]]) -> str:
    """A row for each matrix, for the guide."""
    columns = [("muon", "bfloat16"), ("fast", "bfloat16"), ("tight", "bfloat16"), ("tight", "float32")]
    entry = {
        (r["matrix"], r["accuracy"], r["dtype"]): f"{r['share']:.3f}, {r['norm']:.3f}, {r['error']:.3f}" for r in found
    }
    names = dict.fromkeys(r["matrix"] for r in found)
    head = ["matrix", *(f'`"{accuracy}"`, {kind}' for accuracy, kind in columns)]
    return table(head, [[name, *(entry[name, *column] for column in columns)] for name in names])


def into_guide(text: str) -> None:
    page = GUIDE.read_text()
    start, end = "<!-- polar quality -->\n", "<!-- end -->"
    before, rest = page.split(start)
    GUIDE.write_text(f"{before}{start}{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    machine = f"torch {torch.__version__}, 1 thread, {platform.machine()}"
    found = {"machine": machine, "quality": qualities(), "cost": costs()}
    (HERE / "polar_quality.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "polar_quality.md").write_text(report(found))
    into_guide(summary(found["quality"]))


if __name__ == "__main__":
    main()
