"""The plan: defaults by role, the user's word above them, groups for the optimizer, and what is refused."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

import metrize
from metrize import Recipe, Role, Stiefel
from metrize.norms import RMS, Layout, RowNorm, SignHead, Spectral
from metrize.roles import KINDS
from metrize.roles.rules import DEFAULTS
from metrize.rules import Adam, Momentum, Steepest

TOKENS = torch.tensor([[1, 5, 2, 7], [3, 0, 9, 9]])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        return x + self.out(nn.functional.scaled_dot_product_attention(query, key, value))


class Model(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 10, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_defaults():
    plan = metrize.plan(Model(), TOKENS)
    fused = Layout(split=(8, 8, 8))
    assert plan["blocks.1.qkv.weight"].role == Role("hidden", fused)
    assert plan["blocks.1.qkv.weight"].recipe == Recipe(rule=Steepest(norm=Spectral(layout=fused)))
    assert plan["blocks.1.out.weight"].recipe == Recipe(rule=Steepest(norm=Spectral()))
    assert plan["head.weight"].recipe == Recipe(rule=Steepest(norm=SignHead()))
    assert plan["blocks.1.norm.weight"].recipe == Recipe(rule=Adam())
    decays = {name for name, row in plan.items() if row.numbers.get("weight_decay") != 0}
    assert decays == {name for name in plan if re.search(r"(qkv|out|head)\.weight", name)}
    assert DEFAULTS.keys() == KINDS.keys()


def test_every_parameter_is_in_one_group():
    model = Model(tied=True)
    groups = metrize.plan(model, TOKENS).groups()
    named = [pair for group in groups for pair in group["params"]]
    assert sorted(name for name, _ in named) == sorted(name for name, _ in model.named_parameters())
    assert {id(p) for _, p in named} == {id(p) for p in model.parameters()}
    assert len(named) == len({id(p) for _, p in named})
    recipes = [(repr(group["recipe"]), group.get("weight_decay")) for group in groups]
    assert len(recipes) == len(set(recipes))


def test_a_tied_weight_is_one_row_with_the_head_s_rule_and_two_names():
    plan = metrize.plan(Model(tied=True), TOKENS)
    assert "head.weight" not in list(plan)
    row = plan["head.weight"]
    assert row is plan["embedding.weight"]
    assert row.names == ("embedding.weight", "head.weight")
    assert row.role.kind == "tied"
    assert row.recipe == plan["embedding.weight"].recipe == Recipe(rule=Steepest(norm=SignHead()))


def test_one_optimizer_trains_the_whole_model():
    torch.manual_seed(0)
    model = Model(tied=True)
    optimizer = metrize.Optimizer(metrize.plan(model, TOKENS).groups(), lr=0.05)
    before = copy.deepcopy(model.state_dict())
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.roll(1).flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_user_s_word():
    rules = {
        "*.bias": "Momentum()",
        "blocks.0.out.weight": Recipe(rule=Steepest(norm=RowNorm())),
        "blocks.1.qkv.weight": Steepest(norm=Spectral("adam")),
        "blocks.2.qkv.weight": Role("hidden", Layout(split=(12, 12))),
        "head.weight": {"recipe": "Steepest(norm=RowNorm())", "radius": 3.0, "lr": 0.1},
        "embedding.weight": None,
    }
    plan = metrize.plan(Model(), TOKENS, rules=rules)
    assert plan["blocks.0.norm.bias"].recipe == Recipe(rule=Momentum())
    assert plan["blocks.0.norm.bias"].numbers == {"weight_decay": 0.0}  # a vector stays one
    assert plan["blocks.0.out.weight"].recipe == Recipe(rule=Steepest(norm=RowNorm()))
    split = Layout(split=(8, 8, 8))
    assert plan["blocks.1.qkv.weight"].recipe == Recipe(rule=Steepest(norm=Spectral("adam", layout=split)))
    halves = Layout(split=(12, 12))
    assert plan["blocks.2.qkv.weight"].recipe == Recipe(rule=Steepest(norm=Spectral(layout=halves)))
    assert plan["head.weight"].numbers == {"radius": 3.0, "lr": 0.1}
    assert plan["embedding.weight"].recipe is None
    assert plan["head.weight"].role.reason.endswith("as told for 'head.weight'")
    names = [name for group in plan.groups() for name, _ in group["params"]]
    assert "embedding.weight" not in names
    (head,) = (group for group in plan.groups() if group["params"][0][0] == "head.weight")
    assert (head["radius"], head["lr"]) == (3.0, 0.1)


def test_a_layout_that_the_user_names_is_kept():
    own = Layout(split=(8, 16))
    plan = metrize.plan(Model(), TOKENS, rules={"*.qkv.weight": Steepest(norm=Spectral(layout=own))})
    assert plan["blocks.0.qkv.weight"].recipe.rule.norm.layout == own


def test_answers_for_a_role():
    plan = metrize.plan(Model(), TOKENS, roles={"embedding": "Steepest(norm=ColumnNorm())", "hidden": "Adam()"})
    assert plan["embedding.weight"].recipe.rule.norm.layout == Layout(transposed=True)
    assert plan["blocks.0.qkv.weight"].recipe == Recipe(rule=Adam())
    assert plan["head.weight"].recipe == Recipe(rule=Steepest(norm=SignHead()))


def test_patterns_reach_a_tied_weight_by_any_name():
    plan = metrize.plan(Model(tied=True), TOKENS, rules={"head.*": "Steepest(norm=RowNorm())"})
    assert plan["embedding.weight"].recipe.rule.norm == RowNorm()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"blocks.*.attn.weight": "Adam()"}, r"'blocks\.\*\.attn\.weight' matches no parameter"),
        ({"head.wieght": "Adam()"}, "'head.wieght' matches no parameter; did you mean 'head.weight'?"),
        (
            {"*.weight": "Adam()", "head.*": "Momentum()"},
            r"'head.weight' is matched by '\*\.weight' and by 'head\.\*', which say different things; make one of them "
            r"narrower, or leave one out and set plan\['head.weight'\] afterwards",
        ),
        ({"head.weight": "Adma()"}, "unknown part 'Adma' in 'Adma\\(\\)'; did you mean 'Adam'?"),
        ({"head.weight": {"recipe": None, "radius": 2.0}}, '"recipe" is a recipe, a rule, or the text of either'),
        ({"*.norm.bias": Steepest(norm=Spectral())}, r"parameter 'blocks.0.norm.bias', bias: .*two dimensions"),
        ({"head.weight": Role("hidden", Layout(split=(3, 3)))}, r"parameter 'head.weight', hidden: .*10 outputs"),
        ({"head.weight": "Role(kind='haed')"}, "kind is one of"),
    ],
)
def test_rules_that_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        metrize.plan(Model(), TOKENS, rules=rules)


def test_answers_that_are_none():
    with pytest.raises(TypeError, match=r"RMS\(.*\) is no recipe, no rule and no role"):
        metrize.plan(Model(), TOKENS, rules={"head.weight": RMS()})
    with pytest.raises(ValueError, match=r"roles=\{'haed': ...\}: a role is one of"):
        metrize.plan(Model(), TOKENS, roles={"haed": "Adam()"})
    with pytest.raises(ValueError, match="trained with a recipe and not with a role"):
        metrize.plan(Model(), TOKENS, roles={"head": Role("hidden")})


def test_two_patterns_may_agree():
    plan = metrize.plan(Model(), TOKENS, rules={"*.bias": "Momentum()", "blocks.*bias": Recipe(rule=Momentum())})
    assert plan["blocks.0.norm.bias"].recipe == Recipe(rule=Momentum())


def test_a_plan_is_edited_by_name():
    plan = metrize.plan(Model(tied=True), TOKENS)
    digest = plan.hash
    plan["head.weight"] = "Adam()"
    assert plan["embedding.weight"].recipe == Recipe(rule=Adam())
    assert plan["embedding.weight"].role.reason.endswith("; as told")
    assert plan.hash != digest
    with pytest.raises(KeyError, match=r"no parameter 'head.weigth'; did you mean 'head.weight'\?"):
        plan["head.weigth"] = None
    with pytest.raises(ValueError, match=r"'blocks.0.norm.bias', head"):
        plan["blocks.0.norm.bias"] = Role("head")
    assert plan["blocks.0.norm.bias"].role.kind == "bias"  # as it was


def test_the_hash_knows_names_roles_and_recipes_and_no_reasons():
    one, other = metrize.plan(Model(), TOKENS), metrize.plan(Model(), TOKENS)
    assert one.hash == other.hash
    assert {group["plan"] for group in one.groups()} == {one.hash}
    other["head.weight"] = one["head.weight"].role
    assert other.hash == one.hash
    other["head.weight"] = Role("hidden")
    assert other.hash != one.hash
    assert metrize.plan(Model(tied=True), TOKENS).hash != one.hash


def test_groups_are_of_the_parameters_that_the_model_has_now():
    """Frameworks exchange parameters when they wrap a model."""
    model = Model()
    plan = metrize.plan(model, TOKENS)
    model.head.weight = nn.Parameter(torch.ones(10, 8))
    assert any(p is model.head.weight for group in plan.groups() for _, p in group["params"])
    del model.head
    with pytest.raises(ValueError, match=r"no parameter 'head.weight' any more"):
        plan.groups()


def test_frozen_parameters_are_listed_and_wait():
    model = Model()
    model.embedding.weight.requires_grad_(False)
    plan = metrize.plan(model, TOKENS)
    assert plan["embedding.weight"].frozen
    assert "frozen" in str(plan)
    optimizer = metrize.Optimizer(plan.groups(), lr=0.1)
    before = model.embedding.weight.clone()
    model(TOKENS).sum().backward()
    optimizer.step()
    assert torch.equal(model.embedding.weight, before)
    assert not optimizer.state[model.embedding.weight]


def test_a_declared_space_is_honoured():
    model = Model()
    metrize.constrain(model.blocks[0].out, "weight", Stiefel())
    plan = metrize.plan(model, TOKENS)
    row = plan["blocks.0.out.weight"]
    assert row.recipe == Recipe()
    assert row.role.reason.endswith("lives on Stiefel()")
    optimizer = metrize.Optimizer(plan.groups(), lr=0.1)
    model(TOKENS).square().sum().backward()
    optimizer.step()
    assert metrize.error_on_space(model)["blocks.0.out.weight"] < 1e-5


def test_numbers_that_no_optimizer_trains_are_left_out():
    model = nn.Linear(8, 8)
    model.codes = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
    plan = metrize.plan(model, torch.ones(2, 8))
    assert plan["codes"].recipe is None
    assert [name for group in plan.groups() for name, _ in group["params"]] == ["weight", "bias"]


def test_what_is_refused():
    model = nn.Module()
    model.flat = nn.Parameter(torch.zeros(100))
    model.flat._fsdp_flattened = True  # as torch's older sharding wrapper marks its pieces
    with pytest.raises(ValueError, match=r"'flat' is a flat piece.*plan before sharding"):
        metrize.plan(model)
    model = nn.Module()
    model.table = nn.Parameter(torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match=r"'table' is stored as torch.sparse_coo; make it dense, or freeze it"):
        metrize.plan(model)


def test_the_unknown_is_trained_entry_by_entry_with_a_warning():
    model = nn.Linear(8, 8)
    model.mystery = nn.Parameter(torch.ones(5, 5))
    with pytest.warns(UserWarning, match=r"no rule knows mystery: .*rules=\{'mystery': \.\.\.\}"):
        plan = metrize.plan(model, torch.ones(2, 8))
    assert plan["mystery"].recipe == Recipe(rule=Adam())
    assert plan.unused == ("mystery",)
    metrize.plan(model, torch.ones(2, 8), rules={"mystery": "Adam()"})  # told, so no warning


def test_without_an_example_the_ends_are_guessed_and_said_so():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    plan = metrize.plan(model)
    assert [plan[f"{i}.weight"].role.kind for i in (0, 2, 4)] == ["input", "hidden", "head"]
    assert plan.notes == ("without an example, 0.weight for the input and 4.weight for the head is a guess",)
    assert plan.notes[0] in str(plan)
    trunk = metrize.plan(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2))
    assert {row.role.kind for row in trunk.rows} == {"hidden", "bias", "gain"}


def test_the_table():
    plan = metrize.plan(Model(tied=True), TOKENS, rules={"blocks.0.out.weight": None})
    lines = [re.split(r"\s{2,}", line) for line in str(plan).splitlines()]
    assert lines[0] == ["parameter", "shape", "role", "read as", "trained by", "why"]
    table = {line[0]: line[1:] for line in lines[2:]}
    assert table["blocks.*.qkv.weight"] == [
        "x3",
        "24 x 8",
        "hidden",
        "split=(8, 8, 8)",
        "Steepest(norm=Spectral())",
        "Linear; fused projections of attention",
    ]
    assert table["blocks.{1..2}.out.weight"][:3] == ["x2", "8 x 8", "hidden"]
    assert table["blocks.0.out.weight"][2:4] == ["left out", "Linear; as told for 'blocks.0.out.weight'"]
    assert "Adam(), weight_decay=0" in table["blocks.*.norm.bias"]
    assert len(table) == 6 + 1
