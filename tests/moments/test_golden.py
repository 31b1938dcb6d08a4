"""Every method follows its reference implementation, parameters and state."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from trajectories import GOLDEN, Case, close, follow, load, tolerance

import metrize
from metrize.moments.bits import packed, signs
from metrize.moments.rank_one import nearly_square

BUG = "COMPOUNDING_BUG"


def each(*names: str, but: str = BUG) -> pytest.MarkDecorator:
    found = [(name, case) for name in names for case in load(name) if but not in case["name"]]
    return pytest.mark.parametrize("case", [c for _, c in found], ids=[f"{name}-{c['name']}" for name, c in found])


def check_state(case: Case, state: dict[str, Tensor], keys: dict[str, str]) -> None:
    """Our keys hold what theirs do; no other tensor of more than a number is kept."""
    theirs = case["final_state"]
    for ours, name in keys.items():
        if name in theirs:
            close(state[ours], torch.tensor(theirs[name], dtype=torch.float64), 10 * tolerance(case), ours)
    assert set(state) - {"step"} == {ours for ours, name in keys.items() if name in theirs}


def smmf(params: Any, h: dict[str, Any]) -> metrize.Optimizer:
    told = {key: h[key] for key in ("lr", "eps", "weight_decay", "decay_rate", "growth_rate")}
    return metrize.SMMF(params, momentum=h["beta"] or 0.0, vectors="matrix" if h["vector_reshape"] else "dense", **told)


@each("smmf", but="noop_bug")
def test_smmf(case: Case) -> None:
    state = follow(case, smmf)
    sides = {
        f"{ours}.{key}": f"momentum_{theirs}[{i}]"
        for ours, theirs in (("exp_avg", "m"), ("exp_avg_sq", "v"))
        for i, key in enumerate(("row", "col"))
    }
    theirs = case["final_state"]
    for ours, name in sides.items():
        if name in theirs:
            close(state[ours], torch.tensor(theirs[name], dtype=torch.float64), tolerance(case), ours)
    if "sign" in theirs and "exp_avg.sign" in state:
        wanted = torch.tensor(theirs["sign"]).flatten()
        assert torch.equal(signs(state["exp_avg.sign"][None], len(wanted), torch.float32)[0] > 0, wanted)


def test_smmf_decays_where_the_published_code_forgets_to() -> None:
    case = next(c for c in load("smmf") if "noop_bug" in c["name"])
    with pytest.raises(AssertionError, match="off by"):
        follow(case, lambda params, h: metrize.SMMF(params, h["lr"], weight_decay=h["weight_decay"], decay="l2"))


FACTORED = {
    "exp_avg": "exp_avg",
    "exp_avg_sq": "exp_avg_sq",
    "exp_avg_sq.row": "exp_avg_sq_row",
    "exp_avg_sq.col": "exp_avg_sq_col",
    "exp_avg_res.row": "exp_avg_res_row",
    "exp_avg_res.col": "exp_avg_res_col",
}


@each("came")
def test_came(case: Case) -> None:
    def build(params: Any, h: dict[str, Any]) -> metrize.Optimizer:
        return metrize.CAME(params, h["lr"], h["betas"], h["eps"], h["clip_threshold"], h["weight_decay"], dims="last")

    check_state(case, follow(case, build), FACTORED)


@each("adafactor_hf", "adafactor_fairseq")
@pytest.mark.parametrize("dialect", ["hf", "fairseq"])
def test_adafactor(case: Case, dialect: Any) -> None:
    def build(params: Any, h: dict[str, Any]) -> metrize.Optimizer:
        return metrize.Adafactor(
            params,
            h["lr"],
            h["eps"],
            h["clip_threshold"],
            h["decay_rate"],
            h["beta1"] or 0.0,
            h["weight_decay"],
            dialect=dialect,
            scale_parameter=h["scale_parameter"],
            relative_step=h["relative_step"],
            warmup_init=h["warmup_init"],
        )

    state = follow(case, build)
    if "exp_avg" in state:  # theirs averages lr U
        state = {**state, "exp_avg": state["exp_avg"] * case["hyperparameters"]["lr"]}
    check_state(case, state, FACTORED)


@each("adafactor_torch")
def test_adafactor_of_torch(case: Case) -> None:
    def build(params: Any, h: dict[str, Any]) -> metrize.Optimizer:
        told = {"decay_rate": h["beta2_decay"], "clip": h["d"], "weight_decay": h["weight_decay"]}
        return metrize.Adafactor(params, h["lr"], dialect="torch", **told)

    names = {"exp_avg_sq": "variance", "exp_avg_sq.row": "row_var", "exp_avg_sq.col": "col_var"}
    check_state(case, follow(case, build), names)


@pytest.mark.parametrize("shape", [(6, 4), (5,), (2, 3, 4)])
@pytest.mark.parametrize("lr", [1e-2, 1.0])
def test_the_dialect_of_torch_is_torch_with_small_gradients_too(shape: tuple[int, ...], lr: float) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    ours = metrize.Adafactor([mine], lr, dialect="torch", weight_decay=0.1)
    other = torch.optim.Adafactor([theirs], lr, weight_decay=0.1)
    for scale in (1e-9, 1e-17, 1.0, 0.0):
        mine.grad = theirs.grad = start.flip(0) * scale
        ours.step()
        other.step()
        close(mine.detach(), theirs.detach(), 1e-12)


def test_lr_does_not_compound_as_in_fairseq() -> None:
    case = next(c for c in load("adafactor_fairseq") if BUG in c["name"])
    with pytest.raises(AssertionError, match="step 1: off by"):  # the first step of the first tensor is still right
        follow(case, lambda params, h: metrize.Adafactor(params, h["lr"], dialect="fairseq"))


@each("sm3")
def test_sm3(case: Case) -> None:
    state = follow(case, lambda params, h: metrize.SM3(params, h["learning_rate"], h["momentum"], h["eps"]))
    covers = {f"exp_avg_sq.{d}": f"accumulator_{d}" for d in range(4)}
    check_state(case, state, {"exp_avg": "momentum", "exp_avg_sq": "accumulator", **covers})


@each("hfac")
def test_hfac(case: Case) -> None:
    def build(params: Any, h: dict[str, Any]) -> metrize.Optimizer:
        told = {"eps": h["eps"], "clip": h["clip_threshold"], "weight_decay": h["weight_decay"]}
        return metrize.HFac(params, h["lr"], (h["beta1"], h["beta2"]), **told)

    sides = {"exp_avg.row": "u", "exp_avg.col": "v", "exp_avg_sq.row": "r", "exp_avg_sq.col": "s"}
    check_state(case, follow(case, build), sides)


@each("adam_mini")
def test_adam_mini(case: Case) -> None:
    def build(params: Any, h: dict[str, Any]) -> metrize.Optimizer:
        heads = h["dim"] // h["n_heads"]
        return metrize.AdamMini(params, h["lr"], h["betas"], h["eps"], h["weight_decay"], head_dim=heads)

    state = follow(case, build)
    close(state["exp_avg"], torch.tensor(case["final_state"]["m"]), 1e-6)
    squares = case["final_state"].get("vmean", case["final_state"].get("v"))
    close(state["exp_avg_sq"], torch.tensor(squares).reshape(state["exp_avg_sq"].shape), 1e-6)


# Primitives


def primitives() -> dict[str, Any]:
    return json.loads((GOLDEN / "primitives.json").read_text())


@pytest.mark.parametrize("case", primitives()["sign_packing"], ids=lambda c: str(c["shape"]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_are_packed_flat_lowest_bit_first(case: dict[str, Any], dtype: torch.dtype) -> None:
    bits = torch.tensor(case["bits"], dtype=dtype).flatten()
    codes = packed(torch.stack([bits, 1 - bits]))
    assert codes.dtype == torch.uint8
    assert codes[0].tolist() == case["flat_lsb_first"]
    assert torch.equal(signs(codes, len(bits), dtype), torch.stack([2 * bits - 1, 1 - 2 * bits]))


@pytest.mark.parametrize("case", primitives()["nnmf"], ids=lambda c: str(c["shape"]))
def test_factors_of_a_matrix(case: dict[str, Any]) -> None:
    matrix = torch.tensor(case["matrix"], dtype=torch.float64)
    n, m = matrix.shape
    if (n, m) != nearly_square(n * m):
        pytest.skip("not a shape that a tensor of this size is read in")
    slot = metrize.moments.Slot("x", "square", matrix.shape, torch.float64, lambda stack: stack)
    state = {"x.row": torch.zeros(1, n).double(), "x.col": torch.zeros(1, m).double()}
    metrize.RankOne().write(slot, state, matrix[None])
    close(state["x.row"], torch.tensor(case["row_factor"]), 1e-7)
    close(state["x.col"], torch.tensor(case["col_factor"]), 1e-7)
    close(metrize.RankOne().read(slot, state), torch.tensor(case["reconstruction"]), 1e-7)


def test_nearly_square_shapes() -> None:
    table = json.loads((GOLDEN / "smmf.json").read_text())["effective_shape"]
    assert {count: list(nearly_square(int(count))) for count in table} == table
