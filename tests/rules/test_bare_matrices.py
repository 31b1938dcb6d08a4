"""Matrices that come without their module: kernels, vectors, layouts of groups; and what the module adds."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metrize
from metrize import Recipe, rules
from metrize.norms import RMS, Layout, Spectral

MUONS = {name: cls for name, cls in metrize.catalogue().items() if issubclass(cls, metrize.Muon)}
ADAPTIVE = {"AdaMuon", "NorMuon"}
"""They scale what was orthogonalized."""
every_muon = pytest.mark.parametrize("name", MUONS)
KERNELS = [nn.Conv1d(8, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv3d(4, 6, 2)]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def one_step(cls: Any, params: Any, grads: list[Tensor], **options: Any) -> list[Tensor]:
    """What a step adds to parameters that are zero."""
    optimizer = cls(params, **options)
    entries = [p for group in optimizer.param_groups for p in group["params"]]
    for p, grad in zip(entries, grads, strict=True):
        p.grad = grad
    optimizer.step()
    return [p.detach() for p in entries]


def exact(name: str) -> dict[str, Any]:
    return {
        "accuracy": "exact",
        "scale": "unit",
        "momentum": 0.0,
        **({"d0": 1.0} if name == "FreeMuon" else {"lr": 1.0}),
    }


@every_muon
@pytest.mark.parametrize("layer", KERNELS, ids=lambda layer: type(layer).__name__)
def test_a_bare_kernel_is_one_matrix_as_in_its_module(name: str, layer: nn.Module) -> None:
    shape = layer.weight.shape
    grad = normal(*shape)
    options = exact(name) | ({"rank": 10**6} if name == "COAPMuon" else {})  # of full rank, no subspace
    (step,) = one_step(MUONS[name], [nn.Parameter(torch.zeros(shape))], [grad], **options)
    if name not in ADAPTIVE:
        u, _, vh = torch.linalg.svd(grad.flatten(1), full_matrices=False)
        length = step.norm() / (u @ vh).norm()
        if name != "FreeMuon":  # which finds the length
            assert length == pytest.approx(1, rel=1e-4)
        torch.testing.assert_close(step.flatten(1) / length, -u @ vh, rtol=1e-4, atol=1e-4)
    of_module = MUONS[name](nn.Sequential(nn.Conv2d(3, 3, 1), layer, nn.Linear(4, 4)), **exact(name)).param_groups
    bare = MUONS[name]([layer.weight], **exact(name)).param_groups[0]
    assert bare["recipe"] in [group["recipe"] for group in of_module]


@every_muon
def test_matrices_keep_their_recipe_and_a_list_its_single_group(name: str) -> None:
    matrices = MUONS[name]([nn.Parameter(normal(6, 4))])
    assert matrices.recipes()[0].rule.in_norm().layout == Layout()
    mixed = MUONS[name]([nn.Parameter(normal(6, 4)), nn.Parameter(normal(6, 4, 3))])
    assert len(mixed.param_groups) == 1
    grads = [normal(6, 4), normal(6, 4, 3)]
    both = one_step(MUONS[name], [nn.Parameter(torch.zeros_like(g)) for g in grads], grads)
    if name != "FreeMuon":  # whose rate all parameters share
        (alone,) = one_step(MUONS[name], [nn.Parameter(torch.zeros(6, 4))], grads[:1])
        torch.testing.assert_close(both[0], alone)


@every_muon
def test_a_later_group_is_read_alike(name: str) -> None:
    optimizer = MUONS[name]([nn.Parameter(normal(6, 4))])
    optimizer.add_param_group({"params": nn.Parameter(normal(6, 4, 3, 3))})
    optimizer.add_param_group({"params": [nn.Parameter(normal(6, 4, 3))], "layout": Layout()})  # a bank of matrices
    layouts = [recipe.rule.in_norm().layout for recipe in optimizer.recipes()]
    assert layouts == [Layout(), Layout(unfold=True), Layout()]
    assert "layout" not in optimizer.param_groups[-1]


@pytest.mark.parametrize("name", [*MUONS, "Scion"])
@pytest.mark.parametrize("layout", [Layout(split=(2, 4)), "Layout(transposed=True)"], ids=str)
def test_the_layout_of_a_group_is_honoured(name: str, layout: Any) -> None:
    meant = layout if isinstance(layout, Layout) else Layout(transposed=True)
    for options in ({}, {"norm": Spectral("muon")}, {"recipe": Recipe(rule=rules.Steepest(Spectral()))}):
        group = {"params": [nn.Parameter(normal(6, 4))], "layout": layout, **options}
        first = metrize.catalogue()[name]([group])
        first.add_param_group({**group, "params": [nn.Parameter(normal(6, 4))]})
        for recipe in first.recipes():
            assert recipe.rule.in_norm().layout == meant
            if hasattr(recipe.step_size, "norm") and not options:
                assert recipe.step_size.norm.layout == meant


@pytest.mark.parametrize("name", [*MUONS, "Scion"])
def test_a_layout_that_means_nothing_is_refused(name: str) -> None:
    cls, p = metrize.catalogue()[name], nn.Parameter(normal(6, 4))
    with pytest.raises(TypeError, match=r"layout='rows'|layout=3|unknown part"):
        cls([{"params": [p], "layout": 3}])
    with pytest.raises(TypeError, match=r"layout=Layout\(transposed=True.*\) for a group whose rule is Adam"):
        cls([{"params": [p], "layout": Layout(transposed=True), "recipe": Recipe()}])
    with pytest.raises(metrize.SpaceError, match="cannot be read by"):
        cls([{"params": [p], "layout": Layout(split=(4, 4))}])


@every_muon
@pytest.mark.parametrize("entries", [lambda p: [("norm.weight", p)], lambda p: [p]], ids=["named", "bare"])
def test_a_vector_is_told_about_the_module(name: str, entries: Any) -> None:
    p = nn.Parameter(normal(5))
    with pytest.raises(
        metrize.SpaceError, match=rf"shape \(5,\).*metrize\.{name}\(model\).*Recipe\(\).*factory"
    ) as told:
        MUONS[name](entries(p))
    assert "'norm.weight'" in str(told.value) or "'#0 of its group'" in str(told.value)
    MUONS[name]([{"params": entries(p), "recipe": "Recipe()"}])  # the other remedy
    refused = pytest.raises(ValueError, match="in no norm of matrices")
    with refused if name in ADAPTIVE else contextlib.nullcontext():
        MUONS[name]([{"params": entries(p), "norm": RMS()}])
    later = MUONS[name]([nn.Parameter(normal(3, 3))])
    with pytest.raises(metrize.SpaceError, match="'#0 of its group'"):
        later.add_param_group({"params": [p]})
    assert len(later.param_groups) == 1


def test_a_later_group_of_scion_goes_by_shapes_and_is_added_whole_or_not_at_all() -> None:
    shapes = [(5,), (6, 4), (6, 4, 3, 3)]
    first = metrize.Scion(
        [nn.Parameter(normal(*shape)) for shape in shapes], accuracy="exact", rounding=metrize.Nearest()
    )
    later = metrize.Scion([nn.Parameter(normal(3, 3))], accuracy="exact")
    later.add_param_group({"params": [nn.Parameter(normal(*shape)) for shape in shapes]})
    assert [group["recipe"] for group in later.param_groups[1:]] == [group["recipe"] for group in first.param_groups]
    with pytest.raises(ValueError, match="float8"):
        later.add_param_group({"params": [nn.Parameter(normal(5)), nn.Parameter(normal(6, 4).to(torch.float8_e4m3fn))]})
    assert len(later.param_groups) == 4


@every_muon
def test_decay_spares_what_a_plan_spares(name: str) -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 9))
    planned = {row.name: row.numbers.get("weight_decay", 0.1) for row in metrize.plan(model).rows}
    groups = MUONS[name](model, weight_decay=0.1).param_groups
    assert {n: group["weight_decay"] for group in groups for n in group["param_names"]} == planned
    told = MUONS[name](model, weight_decay=0.1, rest={"weight_decay": 0.2}).param_groups
    assert {group["weight_decay"] for group in told} == {0.1, 0.2}


# Shampoo


def test_shampoo_cuts_long_dimensions() -> None:
    grad = normal(7, 5)
    (whole,) = one_step(metrize.Shampoo, [nn.Parameter(torch.zeros(7, 5))], [grad])
    (cut,) = one_step(metrize.Shampoo, [nn.Parameter(torch.zeros(7, 5))], [grad], max_dim=4)
    blocks = [
        [one_step(metrize.Shampoo, [nn.Parameter(torch.zeros_like(b))], [b])[0] for b in rows.split(4, 1)]
        for rows in grad.split(4)
    ]
    torch.testing.assert_close(cut, torch.cat([torch.cat(row, 1) for row in blocks]))
    assert not torch.allclose(cut, whole)


def test_shampoo_of_a_long_table_stays_within_bounds() -> None:
    with torch.device("meta"):
        table = nn.Embedding(50_257, 768)
    assert metrize.predict(table, metrize.Shampoo).state < 4 * 2**30
    assert metrize.predict(table, lambda p: metrize.Shampoo(p, max_dim=1024)).state < 2**30
    with pytest.raises(ValueError, match="max_dim=0"):
        metrize.Shampoo(table, max_dim=0)
