"""What the golden tests share: data of an independent dense float64 oracle, and a run of one of its cases."""

import json
from pathlib import Path

import torch

import metrize

GOLDEN = Path(__file__).parent.parent / "golden"
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def load(name):
    return json.loads((GOLDEN / f"manifolds_{name}.json").read_text())


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


def gradient(case, y):
    data = {key: matrix(value) for key, value in case["data"].items()}
    if case["objective"] == "linear":
        return data["C"]
    if case["objective"] == "pca":
        return -data["M"] @ y
    d = data["D"]
    return data["M"] @ y @ (torch.diag(d) if d.ndim == 1 else d)


def optimizer_of(case, y, section):
    kind = {"stiefel": metrize.Stiefel, "grassmann": metrize.Grassmann}[case["manifold"]]
    space = kind(rows=False, retraction=case["retraction"], section=section, polish_every=0)
    hyper = case["hyper"]
    if case["optimizer"] == "adam":
        betas = (hyper["beta1"], hyper["beta2"])
        return metrize.Adam([y], lr=hyper["eta"], betas=betas, eps=hyper["delta"], space=space)
    return metrize.SGD([y], lr=hyper["eta"], momentum=hyper.get("alpha", 0.0), space=space)


def name_of(case):
    return f"{case['id']}-{case['hyper']['eta']}"


def run(case, section="transported", complement=None):
    """Yield (record, point, state, previous point) at the recorded steps."""
    y = torch.nn.Parameter(matrix(case["Y0"]))
    optimizer = optimizer_of(case, y, section)
    optimizer.init_state()
    if "section" in optimizer.state[y]:
        optimizer.state[y]["section"].copy_(matrix(case["Yperp0"]) if complement is None else complement)
    records = {record["step"]: record for record in case["steps"]}
    for step in range(1, max(records) + 1):
        y.grad = gradient(case, y.detach())
        optimizer.step()
        if step in records:
            yield records[step], y.detach(), optimizer.state[y], optimizer.param_groups[0]
