"""Every mistake is met by a message that names the parameter and the remedy, and harms nothing."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import SPACES, assert_same_bits, backward, build, set_gradients, snapshot, train
from torch import nn

import metrize
from metrize import Dense, Recipe, SpaceError, Stiefel, constrain, error_on_space, rules, spaces_of


def on_manifold(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    torch.manual_seed(0)
    return nn.Parameter(Stiefel().project_(torch.randn(shape, dtype=dtype)))


def holder(weight: torch.Tensor) -> nn.Module:
    """A module with this weight, and with one that is in order."""
    module = nn.Module()
    module.fine = nn.Parameter(torch.eye(4))
    module.weight = nn.Parameter(weight, requires_grad=weight.is_floating_point() or weight.is_complex())
    return module


# Tensors a space cannot hold

UNFIT = {
    "number": (torch.ones(()), Stiefel(), "holds matrices.*leave it free"),
    "vector": (torch.ones(4), Stiefel(), r"holds matrices.*\(N, 1\)"),
    "rows": (torch.ones(5, 3), Stiefel(rows=True), "5, 3.*no orthonormal rows.*rows=False"),
    "columns": (torch.ones(3, 5), Stiefel(rows=False), "3, 5.*no orthonormal columns.*rows=True"),
    "complex": (torch.ones(5, 3, dtype=torch.complex64), Stiefel(), "complex64; leave it free"),
    "integer": (torch.ones(5, 3, dtype=torch.int64), Stiefel(), "only floating point.*int64"),
    "blocks": (torch.ones(7, 3), Stiefel(blocks=2), r"\(7, 3\) cannot be cut into blocks=2"),
    "empty": (torch.ones(0, 3), Stiefel(), r"\(0, 3\) holds no matrix"),
}


@pytest.mark.parametrize("what", [what for what in UNFIT if what != "integer"])  # which is always frozen
def test_an_optimizer_refuses_a_tensor_its_space_cannot_hold(what: str) -> None:
    weight, space, match = UNFIT[what]
    module = holder(weight.clone())
    with pytest.raises(SpaceError, match=f"'weight'.*{match}"):
        metrize.Adam(module, space=space)
    with pytest.raises(SpaceError, match=f"'#1 of its group'.*{match}"):
        metrize.SGD(list(module.parameters()), space=space)
    assert torch.equal(module.weight, weight)


@pytest.mark.parametrize("what", UNFIT)
@pytest.mark.parametrize("project", [True, False])
def test_a_declaration_refuses_a_tensor_its_space_cannot_hold(what: str, project: bool) -> None:
    weight, space, match = UNFIT[what]
    module = holder(weight.clone())
    with pytest.raises(SpaceError, match=f"weight'.*{match}"):
        constrain(module, "weight", space, project=project)
    assert torch.equal(module.weight, weight)
    assert not spaces_of(module)
    if weight.is_floating_point():
        metrize.Adam(module)  # and it is as free as before


def test_a_group_with_an_unfit_tensor_is_not_added() -> None:
    optimizer = metrize.Adam([nn.Parameter(torch.ones(3))])
    with pytest.raises(SpaceError, match="'#0 of its group'"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(4))], "space": Stiefel()})
    assert len(optimizer.param_groups) == 1


# Points off their space


def test_a_point_off_the_manifold_is_refused_with_a_remedy_that_works() -> None:
    module = holder(torch.randn(5, 3))
    before = module.weight.detach().clone()
    with pytest.raises(SpaceError, match=r"'weight'.*its error is .* at most .*`Stiefel\(\)\.project_\(") as caught:
        metrize.Adam(module, space=Stiefel())
    assert torch.equal(module.weight, before)
    remedy = re.search("`(.*?)`", str(caught.value))
    assert remedy
    eval(remedy[1], {"Stiefel": Stiefel, "parameter": module.weight.data})
    metrize.Adam(module, space=Stiefel())
    other = re.search("or `(.*?)`", str(caught.value))
    assert other
    eval(other[1], {"Stiefel": Stiefel, "metrize": metrize, "module": module, "name": "weight"})
    assert spaces_of(module) == {"weight": Stiefel()}


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_point_that_is_no_point_at_all_is_refused(value: float) -> None:
    module = holder(torch.full((5, 3), value))
    with pytest.raises(SpaceError, match=r"'weight'.*not a point of Stiefel"):
        metrize.Adam(module, space=Stiefel())


def test_constrain_projects() -> None:
    module = holder(torch.randn(5, 3))
    u, _, vh = torch.linalg.svd(module.weight.detach(), full_matrices=False)
    assert constrain(module, "weight", Stiefel()) is module
    torch.testing.assert_close(module.weight.detach(), u @ vh)
    assert isinstance(module.weight, nn.Parameter)
    assert float(error_on_space(module)["weight"]) < 1e-6


def test_constrain_without_projecting_refuses_what_is_off_and_leaves_no_trace() -> None:
    module = holder(torch.randn(5, 3))
    before = module.weight.detach().clone()
    with pytest.raises(SpaceError, match=r"Module.weight'.*not a point of Stiefel"):
        constrain(module, "weight", Stiefel(), project=False)
    assert torch.equal(module.weight, before)
    assert not spaces_of(module)
    metrize.Adam(module)


def test_constrain_without_projecting_takes_a_point_as_it_is() -> None:
    module = holder(on_manifold(5, 3).detach())
    before = module.weight.detach().clone()
    constrain(module, "weight", Stiefel(), project=False)
    assert torch.equal(module.weight, before)


def test_a_weight_overwritten_before_the_first_step_is_refused_there() -> None:
    model = build(Stiefel())
    optimizer = metrize.Adam(model, lr=0.1)
    with torch.no_grad():
        model.two.weight.mul_(2)
    backward(model, 0)
    before = snapshot(model, optimizer)["weights"]
    for _ in range(2):
        with pytest.raises(SpaceError, match=r"'two.weight'.*not a point of Stiefel"):
            optimizer.step()
        assert_same_bits(snapshot(model, optimizer)["weights"], before)
        assert all(float(state["step"]) == 0 for state in optimizer.state.values() if state)
    constrain(model.two, "weight", Stiefel())
    optimizer.step()
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


def test_constrain_names_the_parameters_there_are() -> None:
    with pytest.raises(AttributeError, match="Linear has no parameter 'wieght' of its own; it has 'weight', 'bias'"):
        constrain(nn.Linear(3, 3), "wieght", Stiefel())
    with pytest.raises(AttributeError, match=r"'0.weight'"):
        constrain(nn.Sequential(nn.Linear(3, 3)), "0.weight", Stiefel())


# Options


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"betass": (0.9, 0.99)}, "'betass' of Adam.*did you mean 'betas'"),
        ({"weigth_decay": 0.1}, "'weigth_decay'.*did you mean 'weight_decay'"),
        ({"maximise": True}, "'maximise'.*did you mean 'maximize'"),
        ({"xyz": 1}, "'xyz' of Adam.*options: lr, weight_decay, maximize, skip_nonfinite, rules, betas, eps"),
        ({"momentum": 0.9}, "'momentum' of Adam.*options"),
    ],
)
def test_an_unknown_option_is_refused_with_a_close_match(option: dict[str, Any], match: str) -> None:
    with pytest.raises(TypeError, match=match):
        metrize.Optimizer([nn.Parameter(torch.ones(3))], Recipe(), **option)


@pytest.mark.parametrize("name", metrize.catalogue())
@pytest.mark.parametrize("option", ["learning_rate", "fused", "foreach", "capturable"])
def test_the_catalogue_swallows_no_option(name: str, option: str) -> None:
    with pytest.raises(TypeError, match=option):
        metrize.catalogue()[name]([nn.Parameter(torch.ones(3))], **{option: True})


NUMBERS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (metrize.Adam, {"lr": -1e-3}, "lr=-0.001"),
    (metrize.SGD, {"lr": float("nan")}, "lr=nan"),
    (metrize.SGD, {"lr": torch.tensor(-1.0)}, "lr=-1"),
    (metrize.Adam, {"lr": torch.tensor([0.1, 0.2])}, r"lr has shape \(2,\)"),
    (metrize.AdamW, {"weight_decay": -0.1}, "weight_decay=-0.1"),
    (metrize.Adam, {"betas": (1.0, 0.9)}, r"betas=\(1.0, 0.9\)"),
    (metrize.Adam, {"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\)"),
    (metrize.Adam, {"betas": (-0.1, 0.9)}, r"betas=\(-0.1, 0.9\)"),
    (metrize.Adam, {"betas": (0.9,)}, r"betas=\(0.9,\)"),
    (metrize.Adam, {"betas": (0.9, 0.99, 0.999)}, "betas"),
    (metrize.Adam, {"eps": -1e-8}, "eps=-1e-08"),
    (metrize.SGD, {"momentum": -0.5}, "momentum=-0.5"),
    (metrize.SGD, {"momentum": 1.0}, "momentum=1.0"),
    (metrize.SGD, {"nesterov": True}, "nesterov=True needs a momentum"),
    (metrize.SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov=True needs .* dampening=0"),
    (metrize.Adam, {"second_moment": "vector"}, "second_moment is one of 'elementwise', 'scalar'"),
]


@pytest.mark.parametrize(("make", "options", "match"), NUMBERS, ids=str)
def test_numbers_out_of_range_are_refused(make: Callable[..., Any], options: dict[str, Any], match: str) -> None:
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=match):
        make([p], **options)
    if "second_moment" not in options:
        with pytest.raises(ValueError, match=match):
            make([{"params": [nn.Parameter(torch.ones(3))]}, {"params": [p], **options}])
        optimizer = make([nn.Parameter(torch.ones(3))])
        with pytest.raises(ValueError, match=match):
            optimizer.add_param_group({"params": [p], **options})
        assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Dense("int3"), ValueError, "dtype is one of 'bfloat16'"),
        (lambda: Stiefel(blocks=0), ValueError, "blocks=0.*at least 1"),
        (lambda: Stiefel(polish_every=-1), ValueError, "polish_every=-1"),
        (lambda: Stiefel(retraction="qr"), ValueError, "retraction='qr'.*'cayley', 'geodesic'"),
        (lambda: Stiefel(section="open"), ValueError, "section='open'.*'closed-form'"),
        (lambda: Recipe(decay="l1"), ValueError, "decay='l1'.*'decoupled', 'l2'"),
        (lambda: Recipe(rule=Stiefel()), TypeError, "is no rule; it may be .*Adam, .*Gradient, .*Momentum"),
        (lambda: Recipe(space=Dense()), TypeError, r"is no space; it may be .*Stiefel, .*Vector"),
        (lambda: metrize.parse("Stiefle(blocks=2)"), ValueError, "'Stiefle'.*did you mean 'Stiefel'"),
        (lambda: metrize.parse("Stiefel(block=2)"), ValueError, "block.*Stiefel takes rows, blocks"),
        (lambda: metrize.parse("Stiefel(2)"), ValueError, "named arguments only"),
        (lambda: metrize.parse("Stiefel("), ValueError, "cannot read"),
        (lambda: metrize.parse("__import__('os').system('true')"), ValueError, "named arguments|unknown part"),
        (lambda: metrize.parse_space("Dense()"), ValueError, "is a Dense, not a space"),
    ],
)
def test_sentences_that_make_no_sense_are_refused(make: Callable[[], Any], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("group", "error", "match"),
    [
        ({"recipe": "Recipe("}, ValueError, "cannot read"),
        ({"recipe": "Stiefel()"}, ValueError, "not a recipe"),
        ({"space": "Stiefle"}, ValueError, "did you mean 'Stiefel'"),
        ({"space": "Dense()"}, ValueError, "not a space"),
        ({"recipe": Recipe(rule=rules.Momentum()), "momentum": 2.0}, ValueError, "momentum=2.0"),
    ],
    ids=str,
)
def test_a_group_that_makes_no_sense_is_not_added(group: dict[str, Any], error: type, match: str) -> None:
    optimizer = metrize.Adam([nn.Parameter(torch.ones(3))])
    with pytest.raises(error, match=match):
        optimizer.add_param_group({"params": [on_manifold(4, 3)], **group})
    assert len(optimizer.param_groups) == 1


def test_what_cannot_be_optimized_is_refused_as_torch_does() -> None:
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match="iterable"):
        metrize.Adam(p)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty parameter list"):
        metrize.Adam([])
    with pytest.raises(ValueError, match="empty parameter list"):
        metrize.Adam(nn.ReLU())
    with pytest.raises(TypeError, match="set"):
        metrize.Adam([{"params": {p}}])
    with pytest.raises(ValueError, match="non-leaf"):
        metrize.Adam([p * 2])
    with pytest.raises(ValueError, match="more than one parameter group"):
        metrize.Adam([{"params": [p]}, {"params": [p]}])
    with pytest.raises(ValueError, match="with/without names"):
        metrize.Adam([("p", p), nn.Parameter(torch.ones(3))])  # type: ignore[list-item]
    with pytest.warns(UserWarning, match="duplicate parameters"):
        metrize.Adam([p, p])


# Gradients


@pytest.mark.parametrize("space", ["vector", "stiefel"])
@pytest.mark.parametrize("lr", [0.1, 0.0])
def test_a_sparse_gradient_is_refused_before_anything_changes(space: str, lr: float) -> None:
    model = build(SPACES[space])
    optimizer = metrize.Adam(model, lr=lr)
    set_gradients(model.parameters(), 0)
    model.tall.weight.grad = model.tall.weight.grad.to_sparse()
    before = snapshot(model, optimizer)["weights"]
    with pytest.raises(TypeError, match=r"'tall.weight' has a sparse gradient.*sparse=False.*SparseAdam"):
        optimizer.step()
    assert_same_bits(snapshot(model, optimizer)["weights"], before)
    assert all(float(state["step"]) == 0 for state in optimizer.state.values())
    assert optimizer.param_groups[0]["skipped_steps"] == 0


# Declarations


def test_two_spaces_for_one_tensor_are_refused() -> None:
    model = build(Stiefel())
    with pytest.raises(SpaceError, match=r"'tall.weight'.*declared to live on Stiefel\(\).*told Stiefel\(retraction"):
        metrize.Adam(list(model.tall.named_parameters(prefix="tall"))[:1], space=Stiefel(retraction="geodesic"))
    with pytest.raises(SpaceError, match=r"'tall.weight'.*leave out `space`, or change the declaration"):
        metrize.Adam(model, space=metrize.Vector())
    optimizer = metrize.Adam(list(model.one.parameters()))
    with pytest.raises(SpaceError, match=r"'#0 of its group'.*declared"):
        optimizer.add_param_group({"params": [model.tall.weight], "space": metrize.Vector()})
    assert len(optimizer.param_groups) == 1


def test_a_weight_with_a_nan_is_refused_by_name_and_not_projected() -> None:
    layer = nn.Linear(5, 3)
    with torch.no_grad():
        layer.weight[1, 2] = float("nan")
    with pytest.raises(SpaceError, match=r"Linear\.weight.*not finite"):
        constrain(layer, "weight", Stiefel())


def test_two_declarations_of_a_tied_weight_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    constrain(model[0], "weight", Stiefel())
    with pytest.raises(SpaceError, match=r"weight.*Stiefel"):
        metrize.Adam(constrain(model[1], "weight", Stiefel(retraction="geodesic")))


def test_a_tied_weight_may_be_declared_twice_alike() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    for layer in model:
        constrain(layer, "weight", Stiefel())
    optimizer = metrize.Adam(model, lr=0.1)
    assert len(optimizer.param_groups[0]["params"]) == 3
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert float(error_on_space(model)["0.weight"]) < 1e-5


def copies(model: nn.Module) -> dict[str, nn.Module]:
    return {"deepcopy": copy.deepcopy(model), "pickle": pickle.loads(pickle.dumps(model)), "bfloat16": model.bfloat16()}


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "bfloat16"])
@pytest.mark.parametrize("given", ["module", "named", "bare", "groups"])
def test_a_copied_model_keeps_its_spaces(how: str, given: str) -> None:
    model = copies(build(Stiefel()))[how]
    params: Any = {
        "module": model,
        "named": list(model.named_parameters()),
        "bare": list(model.parameters()),
        "groups": [{"params": list(layer.parameters())} for layer in model.children()],
    }[given]
    optimizer = metrize.Adam(params, lr=0.3)
    train(model, optimizer, 0, 3)  # with a forward before each step
    error = max(float(e) for e in error_on_space(model).values())
    assert error < (0.1 if how == "bfloat16" else 1e-5)
    spaces = [space for group in optimizer.param_groups for space in group["spaces"]]
    assert spaces == [repr(Stiefel()), None] * 4


def test_a_checkpoint_for_a_copied_model_is_taken_as_soon_as_its_spaces_are_known() -> None:
    model = build(Stiefel())
    optimizer = metrize.Adam(model, lr=0.1)
    train(model, optimizer, 0, 2)
    other = copy.deepcopy(model)
    bare = metrize.Adam(list(other.parameters()), lr=0.1)
    with pytest.raises(ValueError, match=r"'tall.weight' was trained on Stiefel.*declare it alike before loading"):
        bare.load_state_dict(optimizer.state_dict())
    other(torch.ones(1, 3))
    bare.load_state_dict(optimizer.state_dict())
    train(model, optimizer, 2, 4)
    train(other, bare, 2, 4)
    assert_same_bits(snapshot(other, bare)["weights"], snapshot(model, optimizer)["weights"])


def test_a_copied_model_trained_before_any_forward_is_refused_when_it_comes_to_light() -> None:
    model = copy.deepcopy(build(Stiefel()))
    optimizer = metrize.Adam(list(model.named_parameters()), lr=0.1)
    set_gradients(model.parameters(), 0)
    optimizer.step()
    backward(model, 1)
    before = snapshot(model, optimizer)
    with pytest.raises(SpaceError, match=r"'tall.weight' was declared.*after it was trained elsewhere"):
        optimizer.step()
    assert_same_bits(snapshot(model, optimizer), before)


@pytest.mark.parametrize("names", [True, False])
def test_a_declaration_after_training_is_refused(names: bool) -> None:
    model = build(None)
    optimizer = metrize.Adam(model if names else list(model.parameters()), lr=0.1)
    train(model, optimizer, 0, 2)
    constrain(model.two, "weight", Stiefel())
    backward(model, 2)
    before = snapshot(model, optimizer)
    name = "two.weight" if names else "#4 of its group"
    for _ in range(2):
        with pytest.raises(SpaceError, match=f"'{name}' was declared.*Stiefel.*declare it first, then build the opt"):
            optimizer.step()
        assert_same_bits(snapshot(model, optimizer), before)
    train(model, metrize.Adam(model, lr=0.1), 2, 4)
    assert float(error_on_space(model)["two.weight"]) < 1e-5


def test_a_declaration_between_construction_and_the_first_step_is_honoured() -> None:
    model = build(None)
    optimizer = metrize.Adam(model, lr=0.1)
    constrain(model.two, "weight", Stiefel())
    train(model, optimizer, 0, 3)
    assert float(error_on_space(model)["two.weight"]) < 1e-5


def test_a_declaration_changed_after_training_is_refused() -> None:
    model = build(Stiefel())
    optimizer = metrize.Adam(model, lr=0.1)
    train(model, optimizer, 0, 2)
    constrain(model.two, "weight", Stiefel(section="transported"))
    backward(model, 2)
    before = snapshot(model, optimizer)
    with pytest.raises(SpaceError, match=r"'two.weight' was declared.*transported"):
        optimizer.step()
    assert_same_bits(snapshot(model, optimizer), before)


def test_a_declaration_taken_back_before_construction_leaves_no_trace() -> None:
    model = build(Stiefel())
    constrain(model.two, "weight", None)
    optimizer = metrize.Adam(model, lr=0.1)
    train(model, optimizer, 0, 3)
    assert set(spaces_of(model)) == {"tall.weight", "one.weight", "wide.weight"}
    assert float(Stiefel().error_of(model.two.weight)) > 0.01
    assert float(Stiefel().error_of(model.one.weight)) < 1e-5


def test_a_declared_space_the_optimizer_agrees_with_is_fine() -> None:
    model = build(Stiefel())
    optimizer = metrize.Adam([p for p in model.parameters() if p.ndim > 1], lr=0.1, space=Stiefel())
    train(model, optimizer, 0, 2)
    assert max(float(error) for error in error_on_space(model).values()) < 1e-5


def test_weight_decay_that_can_do_nothing_is_told() -> None:
    with pytest.warns(UserWarning, match=r"weight_decay=0.1 does nothing here.*Stiefel") as caught:
        metrize.Adam([on_manifold(5, 3)], weight_decay=0.1, space=Stiefel())
    assert len(caught) == 1


def test_weight_decay_that_does_something_is_not() -> None:
    metrize.AdamW(build(Stiefel()), weight_decay=0.1)
    metrize.AdamW([on_manifold(5, 3)], weight_decay=0.0, space=Stiefel())
