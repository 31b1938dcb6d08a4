"""An option does in a parameter group what it does in the constructor, or is refused by its name."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import re
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

import metrize
from metrize import Blocks, Dense, Stiefel, Stochastic, frames, norms, rules, step_sizes
from metrize.arguments import SYNONYMS, arguments_of

CATALOGUE = metrize.catalogue()
KEPT = ("lr", "weight_decay", "maximize", "skip_nonfinite")
TOLD: dict[str, Any] = {
    "space": Stiefel(),
    "frame": frames.COAP(rank=2),
    "moments": Dense("bfloat16"),
    "first_moment": Dense("bfloat16"),
    "step_size": step_sizes.Decaying(power=0.25),
    "decay": "independent",
    "rounding": Stochastic(),
    "around": rules.Cautious(),
    "norm": norms.RMS(),
    "blocks": {"*head*": Blocks("tensor")},
    "rest": {"lr": 0.125},
    "exponent": 0.25,
    "exponent_override": 0.25,
    "inner": "8bit",
    "grafting": "adam",
    "accuracy": "exact",
    "head_dim": 4,
    "map": "linear",
    "hidden": "frozen",
    "block": 64,
    "rank": 2,
    "min_size": 4,
    "beta3": 0.5,
    "lr": 0.125,
    "eps": 0.25,
    "hidden_lr": 0.25,
    "lr_decay": 0.5,
    "lr_power": 0.25,
    "scale": 0.25,
    "growth": 1.5,
    "relative_step": True,
    "initial_accumulator_value": 0.5,
    "weight_decay": 0.25,
    "momentum": 0.5,
    "dampening": 0.5,
    "decay_rate": -0.3,
    "tolerance": 0.5,
    "shampoo_beta": 0.5,
    "start_preconditioning_step": 3,
    "max_dim": 4,
}
"""Another legal value of an argument whose annotation does not tell one."""

OWN: dict[tuple[str, str], Any] = {
    ("Muon", "scale"): "adam",
    ("COAPMuon", "scale"): "adam",
    ("FreeMuon", "scale"): "muon",
    ("CAME", "eps"): (1e-20, 1e-10),
    ("Adafactor", "eps"): (1e-20, 1e-2),
    ("Flora", "eps"): (1e-20, 1e-2),
    ("Prodigy", "growth_rate"): 2.0,
    ("FreeMuon", "growth_rate"): 2.0,
    ("FreeMuon", "step_size"): step_sizes.Prodigy(d0=0.5),
    ("Adafactor", "dialect"): "optax",
}
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("SGD", "nesterov"): {"momentum": 0.5},
    ("Adalayer", "freeze_after"): {"hidden": "frozen"},
    ("Adalayer", "hidden_lr"): {"hidden": "sgd"},
    ("Adafactor", "warmup_init"): {"relative_step": True},
    ("Adafactor", "relative_step"): {"lr": 0.5},
    ("APOLLO", "granularity"): {"mini": True},
}
"""What an argument needs beside it, so that it does something."""


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(embed=nn.Embedding(12, 8), q_proj=nn.Linear(8, 8), lm_head=nn.Linear(8, 12))
    return nn.Sequential(layers).to(dtype)


def default_of(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        if name in parameters and parameters[name].default is not inspect.Parameter.empty:
            return parameters[name].default
    return getattr(vars(cls).get("further"), name, None)


def another(cls: type, name: str) -> Any:
    """A legal value that is not the default."""
    default, annotation = default_of(cls, name), arguments_of(cls)[name]
    if (cls.__name__, name) in OWN:
        return OWN[cls.__name__, name]
    if isinstance(default, bool) or annotation == "bool":
        return not default
    choices = re.findall(r"'(\w+)'|\"(\w+)\"", annotation) if "Literal" in annotation else []
    for choice in (a or b for a, b in choices):
        if choice != default:
            return choice
    if annotation.startswith("tuple[float, float"):
        return (0.5,) * annotation.count("float")
    if name in TOLD and TOLD[name] != default:
        return TOLD[name]
    return default + 1 if isinstance(default, int) else default / 2


def content(optimizer: metrize.Optimizer, start: int) -> dict[str, Any]:
    """Recipe, numbers and declared state of every parameter of the groups from `start` on."""
    found = {}
    for group in optimizer.param_groups[start:]:
        recipe = metrize.parse(group["recipe"])
        numbers = {key: group[key] for key in (*KEPT, *recipe.hyper())}  # type: ignore[attr-defined]
        for index, name in enumerate(group["param_names"]):
            found[name] = (group["recipe"], numbers, optimizer.spec(group, index))
    return found


@functools.cache
def plain(name: str, beside: tuple[tuple[str, Any], ...], dtype: torch.dtype) -> dict[str, Any]:
    return content(CATALOGUE[name](model(dtype), **dict(beside)), 0)


SWEEP = [(name, option) for name, cls in CATALOGUE.items() for option in arguments_of(cls)]


@pytest.mark.filterwarnings("ignore:weight_decay=.*does nothing")
@pytest.mark.parametrize(("name", "option"), SWEEP)
def test_a_group_honours_every_argument_of_the_constructor(name: str, option: str) -> None:
    cls = CATALOGUE[name]
    told = {**BESIDE.get((name, option), {}), option: another(cls, option)}
    dtype = torch.bfloat16 if option == "rounding" else torch.float32

    def members() -> Any:
        if option != "space":
            return model(dtype)
        return [("weight", nn.Parameter(Stiefel().project_(torch.randn(8, 4, generator=generator()))))]

    try:
        right = content(cls(members(), **told), 0)
    except metrize.SpaceError as refused:  # and as clearly in a group
        with pytest.raises(metrize.SpaceError, match=re.escape(str(refused))):
            cls([{"params": members(), **told}])
        return
    later = cls(model(dtype))
    start = len(later.param_groups)
    later.add_param_group({"params": members(), **told})
    assert content(later, start) == right
    assert content(cls([{"params": members(), **told}]), 0) == right
    assert option == "space" or right != plain(name, tuple(BESIDE.get((name, option), {}).items()), dtype)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape or (8, 6), generator=generator()))


def test_names_that_other_libraries_give_are_read_in_groups() -> None:
    told = {"rank": 2, "update_proj_gap": 7, "proj_type": "right", "scale": 1.0}
    optimizer = metrize.GaLore([{"params": [weight()]}, {"params": [weight()], **told}], rank=4)
    plain, low = optimizer.recipes()
    assert plain.frame == frames.GaLore(rank=4)
    assert low.frame == frames.GaLore(rank=2, period=7, side="right", scale=1.0)
    assert metrize.Adafactor([{"params": [weight()], "clip_threshold": 3.0}]).param_groups[0]["clip"] == 3


@pytest.mark.parametrize("copied", [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("make", [metrize.Muon, lambda model: metrize.Optimizer(model, "Muon")])
def test_a_group_without_muon_is_trained_as_the_rest_of_a_model(make: Any, copied: Any) -> None:
    optimizer = copied(make(model()))
    start = len(optimizer.param_groups)
    optimizer.add_param_group({"params": [weight()], "use_muon": True, "scale": "adam"})
    optimizer.add_param_group({"params": [weight()], "use_muon": False, "lr": 0.25, "betas": (0.5, 0.75)})
    matrices, rest = optimizer.recipes()[start:]
    assert matrices.rule == rules.Steepest(norms.Spectral("adam", "muon"))
    assert rest.rule == rules.Adam()
    group = optimizer.param_groups[-1]
    assert (group["lr"], group["betas"], group["eps"], group["use_muon"]) == (0.25, (0.5, 0.75), 1e-10, False)


@pytest.mark.parametrize("name", ["Adafactor", "Flora"])
def test_an_eps_of_two_numbers_may_be_the_first_alone(name: str) -> None:
    cls = CATALOGUE[name]
    pair = cls([weight()], eps=(1e-20, 1e-2))
    later = cls([weight()], eps=(1e-30, 1e-2))
    later.add_param_group({"params": [weight()], "eps": 1e-20})
    assert later.recipes()[1] == pair.recipes()[0]  # the second stays
    assert later.param_groups[1]["eps"] == pair.param_groups[0]["eps"] == 1e-20
    assert cls([weight()], eps=1e-20).param_groups[0]["eps"] == 1e-20


@pytest.mark.parametrize("how", ["group", "schedule"])
def test_the_factors_of_soap_decay_with_the_betas_of_their_group(how: str) -> None:
    p, grads = weight(6, 4), [weight(6, 4).detach() * scale for scale in (1.0, 2.0, 3.0)]
    optimizer = metrize.SOAP([{"params": [p], "betas": (0.9, 0.5)}] if how == "group" else [p])
    expected = torch.zeros(6, 6)
    for grad in grads:
        if how == "schedule":
            optimizer.param_groups[0]["betas"] = (0.9, 0.5)
        p.grad = grad.clone()
        optimizer.step()
        expected.lerp_(grad @ grad.T, 0.5)
    torch.testing.assert_close(optimizer.state[p]["factor_0"], expected)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"weight_deacy": 0.1}, "'weight_deacy'.*did you mean 'weight_decay'"),
    ({"ns_steps": 5}, "ns_steps"),
    ({"amsgrad": True}, "metrize.AMSGrad"),
    ({"conv_above": 3}, "conv_above"),
    ({"max_precond_dim": 3}, "max_precond_dim"),
    ({"use_muon": True}, "use_muon is for groups of metrize.Muon"),
    ({"recipe": metrize.SGD.recipe(), "momentum": 0.5, "head": "rows"}, "'head'"),
]


def honours(name: str, key: str) -> bool:
    known = arguments_of(CATALOGUE[name])
    return key in known or SYNONYMS.get(key) in known or key in CATALOGUE[name].marks


@pytest.mark.parametrize(
    ("name", "told", "match"),
    [(n, *row) for n in CATALOGUE for row in REFUSED if "recipe" in row[0] or not honours(n, next(iter(row[0])))],
)
def test_what_a_group_cannot_honour_is_refused_by_name(name: str, told: dict[str, Any], match: str) -> None:
    optimizer = CATALOGUE[name]([weight()])
    before = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(TypeError, match=match):
        optimizer.add_param_group({"params": [("x", weight())], **told})
    assert list(map(str, optimizer.param_groups)) == list(map(str, before))


@pytest.mark.parametrize("name", CATALOGUE)
def test_words_of_frameworks_pass(name: str) -> None:
    told = {"name": "head", "initial_lr": 0.1, "lr_scale": 0.5, "layer_id": 3, "foreach": None, "swa_lr": 0.1}
    optimizer = CATALOGUE[name]([{"params": [weight()], **told}])
    assert optimizer.param_groups[0].items() >= told.items()
    copied = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("spaces", "shapes")}
    assert CATALOGUE[name]([copied]).param_groups[0].keys() == optimizer.param_groups[0].keys()


def test_groups_of_a_torch_optimizer_are_taken() -> None:
    groups = torch.optim.AdamW([weight()], lr=0.25, betas=(0.5, 0.75)).param_groups
    group = metrize.AdamW(groups).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.25, (0.5, 0.75), 0.01)


def test_a_group_may_have_a_layout_and_a_norm() -> None:
    kernel, unfold = weight(8, 4, 3, 3), norms.Layout(unfold=True)
    recipe = metrize.Muon([{"params": [kernel], "layout": unfold}]).recipes()[0]
    assert recipe.rule == rules.Steepest(norms.Spectral("muon", "muon", layout=unfold))
    assert metrize.Scion([{"params": [kernel], "norm": "RMS()"}]).recipes()[0].rule == rules.Steepest(norms.RMS())
    with pytest.raises(TypeError, match=r"layout=.*Adam"):
        metrize.Adam([{"params": [kernel], "layout": unfold}])


# What may stand for a recipe


@pytest.mark.parametrize(
    ("told", "right"),
    [
        (str(metrize.SOAP.recipe()), metrize.SOAP.recipe()),
        (repr(metrize.Lion.recipe()), metrize.Lion.recipe()),
        (rules.Lion(), metrize.Recipe(rule=rules.Lion())),
        ("Lion()", metrize.Recipe(rule=rules.Lion())),
        ("Adam", metrize.Adam.recipe()),
        (metrize.SOAP, metrize.SOAP.recipe()),
    ],
    ids=str,
)
def test_a_recipe_may_be_told_in_other_words(told: Any, right: metrize.Recipe) -> None:
    assert metrize.Optimizer([weight()], told).recipes() == [right]
    assert metrize.SGD([{"params": [weight()], "recipe": told}]).recipes() == [right]


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_name_of_an_optimizer_trains_as_it_does(name: str) -> None:
    right = CATALOGUE[name](model(), lr=0.5)
    for told in (name, CATALOGUE[name]):
        optimizer = metrize.Optimizer(model(), told, lr=0.5)
        assert content(optimizer, 0) == content(right, 0)
        optimizer.add_param_group({"params": [("late", weight(8, 8))], "lr": 0.25})
        assert optimizer.param_groups[-1]["lr"] == 0.25


NO_RECIPE = r"a recipe, a rule such as .*, the text of either, or an optimizer"


@pytest.mark.parametrize("told", [3, nn.Linear, torch.optim.AdamW, ["AdamW"], rules.Lion, metrize.Stiefel()], ids=str)
def test_anything_else_is_no_recipe(told: Any) -> None:
    with pytest.raises(TypeError, match=NO_RECIPE):
        metrize.Optimizer([weight()], told)
    with pytest.raises(TypeError, match=NO_RECIPE):
        metrize.AdamW([{"params": [weight()], "recipe": told}])


# Texts


FLAGS = {"fused": True, "foreach": True, "capturable": True, "differentiable": True, "amsgrad": True}


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_of_torch_is_answered_in_one_line(name: str, flag: str) -> None:
    with pytest.raises(TypeError, match=rf"^metrize\.{name} [^\n]*{flag}") as caught:
        CATALOGUE[name]([weight()], **{flag: True})
    assert ("that is metrize.AMSGrad" in str(caught.value)) == (flag == "amsgrad")


@pytest.mark.parametrize(
    ("name", "option", "match"),
    [
        ("SOAP", "precondition_freq", "metrize.SOAP; did you mean 'precondition_frequency'"),
        ("SOAP8bit", "max_precond_dims", "metrize.SOAP8bit; did you mean 'max_precond_dim'"),
        ("Muon", "scal", "metrize.Muon; did you mean 'scale'"),
        ("GaLore", "grwth", "metrize.GaLore; options: .*'?stagger"),
        ("Muon", "ns_steps", "metrize.Muon.*'accuracy'"),
        ("Muon", "adjust_lr_fn", "metrize.Muon.*'scale'"),
        ("Adafactor", "clip_threshold", "metrize.Adafactor.*'clip'"),
        ("GaLore", "update_proj_gap", "metrize.GaLore.*'period'"),
        ("AdamW", "momentum", "'momentum' of metrize.AdamW; options: lr, betas"),
    ],
)
def test_a_slip_is_met_with_the_argument_that_was_meant(name: str, option: str, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        CATALOGUE[name]([weight()], **{option: 1})


# Classes of users


class Mine(metrize.Muon):
    """Makes its own groups, from arguments of its own."""

    def __init__(self, model: nn.Module, config: dict[str, Any], *rest: Any, **options: Any) -> None:
        matrices = [p for p in model.parameters() if p.ndim == 2]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "scale": "adam"}, {"params": vectors, "use_muon": False, "lr": 0.125}]
        super().__init__(groups, config["lr"], **options)


def test_groups_that_a_class_of_a_user_makes_are_read_alike() -> None:
    optimizer = copy.deepcopy(Mine(nn.Linear(4, 4), {"lr": 0.5}, momentum=0.75))
    optimizer.add_param_group({"params": [weight()], "scale": "rms"})
    rules_of_groups = [recipe.rule for recipe in optimizer.recipes()]
    spectral = [rules.Steepest(norms.Spectral(scale, "muon")) for scale in ("adam", "rms")]
    assert rules_of_groups == [spectral[0], rules.Adam(), spectral[1]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.125, 0.5]
    assert optimizer.param_groups[2]["momentum"] == 0.75


def test_a_class_of_a_user_without_a_constructor_keeps_what_it_changes() -> None:
    changed = type("Changed", (metrize.Adam,), {"decay": "decoupled"})
    optimizer = changed([{"params": [weight()], "moments": Dense("bfloat16")}])
    assert optimizer.recipes() == [metrize.Recipe(moments=Dense("bfloat16"))]
