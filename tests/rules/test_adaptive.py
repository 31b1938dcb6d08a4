"""What the adaptive family promises beside its reference trajectories."""

from __future__ import annotations

import contextlib
import copy
import math

import pytest
import torch
from torch import nn

import metrize
from metrize import Blocks, Factored, Outer, Recipe, Split, Stiefel, rules, step_sizes
from metrize.frames import Eigenbasis
from metrize.roles import Role

SHAPES = [(6, 4), (5,), (3, 2, 4), ()]


def parameters(shapes=SHAPES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]


def feed(params, step, scale=1.0):
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = (scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)).to(p.dtype)


def train(build, steps=6, shapes=SHAPES, dtype=torch.float64):
    params = parameters(shapes, dtype)
    optimizer = build(params)
    for step in range(steps):
        feed(params, step)
        optimizer.step()
    return [p.detach() for p in params]


def close(first, second, **tolerance):
    torch.testing.assert_close(first, second, **(tolerance or {"atol": 1e-12, "rtol": 0}))


# The counterexample


def play(build, steps=400):
    """``f_t(x) = 3 x`` in every third step and ``-x`` in the others, on [-1, 1]; their sum is least at -1."""
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = build([x])
    for t in range(steps):
        x.grad = torch.full_like(x, -1.0 if t % 3 else 3.0)
        optimizer.step()
        x.data.clamp_(-1, 1)
    return float(x.detach())


def test_adam_goes_to_the_worst_point_and_its_two_repairs_to_the_best():
    betas = (0.0, 0.1)  # 1 / (1 + C^2), C = 3
    adam = Recipe(rule=rules.Adam(bias_correction=False), step_size=step_sizes.Decaying())
    assert play(lambda p: metrize.Optimizer(p, adam, lr=0.5, betas=betas)) > 0.95
    assert play(lambda p: metrize.AMSGrad(p, lr=0.5, betas=betas, form="paper", lr_power=0.5)) < -0.95
    assert play(lambda p: metrize.AdamNC(p, lr=0.5, momentum=0.0)) < -0.95


# Identities


@pytest.fixture
def double():
    """torch keeps the product of NAdam's momenta in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("decoupled", [False, True])
def test_nadam_is_torch_s(decoupled):
    numbers = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.5}
    mine = train(lambda p: metrize.NAdam(p, **numbers, decay="decoupled" if decoupled else "l2"))
    close(mine, train(lambda p: torch.optim.NAdam(p, **numbers, decoupled_weight_decay=decoupled)))


def test_a_constant_look_ahead_has_a_closed_form():
    beta1, beta2 = 0.8, 0.9
    p = parameters([(4,)])[0]
    optimizer = metrize.Optimizer([p], Recipe(rule=rules.Adam(nesterov=True)), lr=0.1, betas=(beta1, beta2), eps=0.0)
    expected, m, v = p.detach().clone(), 0.0, 0.0
    for t in range(1, 6):
        feed([p], t)
        optimizer.step()
        m, v = beta1 * m + (1 - beta1) * p.grad, beta2 * v + (1 - beta2) * p.grad.square()
        ahead = beta1 * m / (1 - beta1 ** (t + 1)) + (1 - beta1) * p.grad / (1 - beta1**t)
        expected -= 0.1 * ahead / (v / (1 - beta2**t)).sqrt()
    close(p.detach(), expected)


def test_an_uncorrected_look_ahead_keeps_nothing():
    rule = rules.Adam(nesterov=True, bias_correction=False)
    p = parameters([(4,)])[0]
    optimizer = metrize.Optimizer([p], Recipe(rule=rule), lr=0.1, betas=(0.8, 0.0), eps=0.0)
    feed([p], 0)
    before = p.detach().clone()
    optimizer.step()
    close(p.detach(), before - 0.1 * (0.8 * 0.2 + 0.2) * p.grad.sign())
    assert set(optimizer.state[p]) == {"step", "exp_avg", "exp_avg_sq"}


def test_adamnc_is_adagrad_with_momentum():
    numbers = {"lr": 0.3, "eps": 0.0}
    close(train(lambda p: metrize.AdamNC(p, momentum=0.0, **numbers)), train(lambda p: metrize.AdaGrad(p, **numbers)))


def test_amsgrad_is_adam_until_the_second_moment_falls():
    def run(build, scale):
        p = parameters([(4,)])[0]
        optimizer = build([p], betas=(0.5, 0.5))
        for step in range(5):
            feed([p], 0, scale**step)
            optimizer.step()
        return p.detach()

    close(run(metrize.AMSGrad, 2.0), run(metrize.Adam, 2.0))
    assert not torch.allclose(run(metrize.AMSGrad, 0.5), run(metrize.Adam, 0.5))


def test_the_outer_product_of_a_matrix_is_the_factored_one():
    def adam(storage):
        return lambda p: metrize.Optimizer(p, Recipe(moments=Split(square=storage), rule=rules.Adam()), lr=0.1)

    close(train(adam(Outer()), shapes=[(6, 4), (5,)]), train(adam(Factored()), shapes=[(6, 4), (5,)]))


def test_one_block_for_each_entry_is_adam():
    adalayer = metrize.Adalayer.recipe(Blocks("rows"))
    numbers = {"lr": 0.1, "betas": (0.8, 0.9)}
    close(
        train(lambda p: metrize.Optimizer(p, adalayer, **numbers), shapes=[(5,), (7, 1)]),
        train(lambda p: metrize.AdamW(p, weight_decay=0.0, **numbers), shapes=[(5,), (7, 1)]),
    )


def test_momentum_without_a_second_moment():
    p = parameters([(4,)])[0]
    optimizer = metrize.Optimizer([p], Recipe(rule=rules.Adam("none")), lr=0.1, betas=(0.9, 0.9))
    feed([p], 0)
    before = p.detach().clone()
    optimizer.step()
    close(p.detach(), before - 0.1 * p.grad)
    assert set(optimizer.state[p]) == {"step", "exp_avg"}


# Storages and coordinates


@pytest.mark.parametrize("rule", [rules.FAdam(), rules.AdaGrad(), rules.FrozenAdam()], ids=str)
@pytest.mark.parametrize("square", [Outer(), Blocks("rows"), Factored()], ids=str)
@pytest.mark.parametrize("shape", [(40, 6), (5, 4, 12)], ids=str)
def test_a_tensor_in_pieces_is_the_tensor_as_a_whole(rule, square, shape, monkeypatch):
    recipe = Recipe(moments=Split(square=square), rule=rule, step_size=step_sizes.Decaying())
    whole = train(lambda p: metrize.Optimizer(p, recipe, lr=0.1), shapes=[shape])
    monkeypatch.setattr("metrize.step.piecewise.piece_size", lambda device, numel: 32)
    close(train(lambda p: metrize.Optimizer(p, recipe, lr=0.1), shapes=[shape]), whole)


def test_the_largest_second_moment_of_a_block():
    p = parameters([(6, 4)])[0]
    optimizer = metrize.AMSGrad([p], lr=0.1, betas=(0.5, 0.5), moments=Split(square=Blocks("rows", 3)))
    seen = []
    for step in range(6):
        feed([p], step)
        optimizer.step()
        seen.append(optimizer.state[p]["exp_avg_sq"].clone())
    close(optimizer.state[p]["max_exp_avg_sq"], torch.stack(seen).amax(0))


def test_the_largest_second_moment_turns_with_the_basis():
    p = parameters([(6, 4)])[0]
    recipe = Recipe(frame=Eigenbasis(period=1), rule=rules.Adam(amsgrad=True))
    optimizer = metrize.Optimizer([p], recipe, lr=0.1, betas=(0.9, 0.5))
    for step in range(8):
        feed([p], step)
        optimizer.step()
        state = optimizer.state[p]
        assert (state["max_exp_avg_sq"] >= state["exp_avg_sq"]).all()


def test_a_second_moment_is_measured_and_then_frozen():
    p, q = parameters([(6, 4), (5,)])
    groups = [{"params": [p]}, {"params": [q], "recipe": Recipe(rule=rules.FrozenAdam(then="averaged"))}]
    optimizer = metrize.Optimizer(groups, Recipe(rule=rules.FrozenAdam()), lr=0.0, freeze_after=3)
    start, squares, kept = p.detach().clone(), 0.0, []
    for step in range(6):
        feed([p, q], step)
        squares = squares + p.grad.square() if step < 3 else squares
        optimizer.step()
        kept.append(optimizer.state[q]["exp_avg_sq"].clone())
    assert torch.equal(p, start)
    close(optimizer.state[p]["exp_avg_sq"], squares / 4)
    assert not torch.equal(kept[3], kept[5])


# FAdam


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-20, 1.0, 1e18, 1e30])
@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("form", ["paper", "published"])
def test_fadam_takes_bounded_steps_whatever_the_size_of_the_gradient(scale, power, form):
    params = parameters(dtype=torch.float32)
    for p in params:
        p.data.mul_(1e3)
    before = [p.detach().clone() for p in params]
    optimizer = metrize.FAdam(params, lr=0.1, weight_decay=0.1, power=power, form=form)
    for step in range(3):
        feed(params, step, scale)
        with contextlib.nullcontext() if scale < 1e14 else pytest.warns(RuntimeWarning, match="too large"):
            optimizer.step()
    for p, start in zip(params, before, strict=True):
        assert torch.isfinite(p).all()
        assert float((p.detach() - start).square().mean().sqrt()) <= 0.1 * (0.1 + 0.19 + 0.271 + 3 * 0.1) + 1e-3
    if scale == 1.0:
        assert not any(torch.equal(p, start) for p, start in zip(params, before, strict=True))


def test_the_first_steps_of_fadam_are_a_warm_up():
    p = parameters([(30, 20)])[0]
    before = p.detach().clone()
    optimizer = metrize.FAdam([p], lr=1.0, weight_decay=0.0)
    feed([p], 0)
    optimizer.step()
    assert float((p.detach() - before).square().mean().sqrt()) == pytest.approx(0.1, rel=1e-6)


def test_natural_decay_without_a_gradient_is_along_the_parameter():
    p = parameters([(5, 3)])[0]
    before = p.detach().clone()
    optimizer = metrize.FAdam([p], lr=0.1, weight_decay=0.5)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    close(p.detach(), before - 0.05 * before / before.square().mean().sqrt())


def test_natural_decay_turns_with_the_coordinates():
    recipe = metrize.FAdam.recipe().replace(frame=Eigenbasis(period=1))
    p = parameters([(5, 5)])[0]  # square: in a null space of the gradient the basis is arbitrary, and p is not 0
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for n in p.shape)
    q = nn.Parameter(left @ p.detach() @ right)
    optimizers = [metrize.Optimizer([x], recipe, lr=0.1, weight_decay=0.5) for x in (p, q)]
    for step in range(4):
        feed([p], step)
        q.grad = left @ p.grad @ right
        for optimizer in optimizers:
            optimizer.step()
    close(q.detach(), left @ p.detach() @ right, atol=1e-9, rtol=0)


def test_natural_decay_means_nothing_on_a_compact_space():
    def run(weight_decay):
        p = nn.Parameter(torch.eye(4, 2, dtype=torch.float64))
        optimizer = metrize.FAdam([p], lr=0.1, space=Stiefel(), weight_decay=weight_decay)
        feed([p], 0)
        optimizer.step()
        feed([p], 1)
        optimizer.step()
        return p.detach()

    with pytest.warns(UserWarning, match="does nothing here"):
        decayed = run(0.5)
    assert torch.equal(decayed, run(0.0))


# Adalayer


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fused = nn.Linear(8, 24, bias=False)
        self.up = nn.Linear(24, 8)
        self.head = nn.Linear(8, 11)

    def forward(self, x):
        y = self.norm(self.embedding(x))
        y = y + self.attention(y, y, y, need_weights=False)[0]
        query, key, value = self.fused(y).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head(y + self.up(mixed.repeat(1, 1, 3)))


def told(optimizer):
    """The recipe and learning rate of each parameter, by name."""
    return {
        name: (recipe, group["lr"])
        for recipe, group in zip(optimizer.recipes(), optimizer.param_groups, strict=True)
        for name in group["param_names"]
    }


def blocks(optimizer):
    return {name: recipe.moments.square for name, (recipe, _) in told(optimizer).items()}


def test_adalayer_gives_each_matrix_one_number_and_each_logit_its_own():
    model = Model()
    of = blocks(metrize.Adalayer(model))
    assert of["head.weight"] == Blocks("rows")
    assert of["attention.in_proj_weight"] == Blocks("rows", 3)
    assert {of[name] for name in ("embedding.weight", "norm.weight", "up.weight", "up.bias", "head.bias")} == {Blocks()}
    assert blocks(metrize.Adalayer(model, head="tensor"))["head.weight"] == Blocks()
    assert blocks(metrize.Adalayer(model, embedding="rows"))["embedding.weight"] == Blocks("rows")


def test_an_example_tells_fused_matrices():
    model = Model()
    assert blocks(metrize.Adalayer(model))["fused.weight"] == Blocks()
    of = blocks(metrize.Adalayer(model, example=torch.zeros(2, 5, dtype=torch.long)))
    assert of["fused.weight"] == Blocks("rows", 3)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({"split": (32, 8, 8)}, Blocks("rows", 6)),  # grouped queries: no block holds rows of two matrices
        ({"split": (1, 1, 1), "outer": 4, "inner": 8}, Blocks("rows", 12)),  # q, k, v of each head in turn
        ({"split": (8, 8, 8), "transposed": True}, Blocks("columns", 3)),
        ({}, Blocks()),
    ],
)
def test_fused_matrices_are_cut_where_they_meet(layout, expected):
    from metrize.named.adalayer import _blocks_of

    assert _blocks_of(Role("hidden", metrize.norms.Layout(**layout)), rows=False) == expected


def test_hidden_matrices_under_plain_momentum_have_a_learning_rate_of_their_own():
    found = told(metrize.Adalayer(Model(), lr=0.01, hidden="sgd", hidden_lr=1.0))
    plain = {name for name, (recipe, lr) in found.items() if recipe.rule == rules.Adam("none")}
    assert plain == {"embedding.weight", "attention.in_proj_weight", "attention.out_proj.weight"} | {
        "fused.weight",
        "up.weight",
    }
    assert {lr for name, (_, lr) in found.items() if name in plain} == {1.0}
    assert {lr for name, (_, lr) in found.items() if name not in plain} == {0.01}


def test_only_hidden_matrices_are_frozen():
    found = told(metrize.Adalayer(Model(), hidden="frozen", embedding="rows", freeze_after=5))
    frozen = {name for name, (recipe, _) in found.items() if recipe.rule.then == "frozen"}
    assert frozen == {"attention.in_proj_weight", "attention.out_proj.weight", "fused.weight", "up.weight"}


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.02},
        {"lr": 0.002, "hidden": "frozen", "freeze_after": 2},
        {"lr": 0.02, "hidden": "sgd", "hidden_lr": 0.3},
    ],
    ids=str,
)
def test_adalayer_learns_and_resumes(options):
    torch.manual_seed(0)
    model = Model()
    optimizer = metrize.Adalayer(model, **options)
    x = torch.randint(11, (8, 5))

    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x).transpose(1, 2), x)
            loss.backward()
            optimizer.step()
        return loss.item()

    first = train(model, optimizer, 1)
    train(model, optimizer, 2)
    other = copy.deepcopy(model)
    twin = metrize.Adalayer(other, **options)
    twin.load_state_dict(optimizer.state_dict())
    last = train(model, optimizer, 60)
    assert last < 0.5 * first
    assert train(other, twin, 60) == last


def test_adalayer_of_parameters_is_one_number_each():
    params = parameters()
    optimizer = metrize.Adalayer([{"params": params[:3]}, {"params": params[3:], "recipe": metrize.Adam.recipe()}])
    feed(params, 0)
    optimizer.step()
    assert [optimizer.state[p]["exp_avg_sq"].shape for p in params] == [(1,), (1,), (1,), ()]


# Refusals


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda p: rules.Adam("scalar", amsgrad=True), "amsgrad=True is about the v of each entry"),
        (lambda p: rules.Adam("all"), "second_moment is one of"),
        (lambda p: rules.FrozenAdam(then="thawed"), "then is one of"),
        (lambda p: rules.FAdam("folk"), "form is one of"),
        (lambda p: step_sizes.Decaying(power=-1.0), "at least 0"),
        (lambda p: metrize.Optimizer(p, Recipe(decay="natural")), "has no natural gradient; use FAdam"),
        (lambda p: metrize.AMSGrad(p, form="folk"), "form is one of 'torch', 'paper'"),
        (lambda p: metrize.NAdam(p, momentum_decay=-1.0), "momentum_decay=-1.0"),
        (lambda p: metrize.FAdam(p, power=0.0), "power=0.0"),
        (lambda p: metrize.FAdam(p, eps2=-1.0), "eps2=-1.0"),
        (lambda p: metrize.FAdam(p, clip=0.0), "clip=0.0"),
        (lambda p: metrize.FAdam(p, betas=(0.9, 1.0)), "betas="),
        (lambda p: metrize.AdaGrad(p, eps=-1.0), "eps=-1.0"),
        (lambda p: metrize.Adalayer(p, hidden="fast"), "hidden is one of"),
        (lambda p: metrize.Adalayer(p, hidden="frozen", freeze_after=0), "freeze_after=0"),
    ],
)
def test_bad_options_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build(parameters())


def test_an_infinite_momentum_decay_travels_in_a_checkpoint(tmp_path):
    p = parameters([(3,)])[0]
    optimizer = metrize.NAdam([p], momentum_decay=math.inf)
    feed([p], 0)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    metrize.NAdam([p]).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
