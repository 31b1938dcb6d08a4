"""The Stiefel manifold beyond the golden files: shapes, sections, precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import metrize
from metrize import SpaceError, Stiefel
from metrize.spaces.sections import ClosedForm, dense_complement, random_complement


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_point(space, shape, dtype=torch.float64, seed=0):
    return space.project_(torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype))


def orthonormal(shape, seed=0):
    return torch.linalg.qr(torch.randn(shape, generator=generator(seed), dtype=torch.float64))[0].contiguous()


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 3), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_the_closed_form_section_is_an_orthonormal_complement(n, extra, batch, seed):
    y = orthonormal((batch, n + extra, n) if batch else (n + extra, n), seed)
    if seed % 3 == 0:
        y = -y  # meets the pivots that need a negative sign
    whole = torch.cat([y, dense_complement(y)], -1)
    eye = torch.eye(n + extra, dtype=torch.float64).expand(whole.shape)
    torch.testing.assert_close(whole.mT @ whole, eye, rtol=0, atol=1e-12)
    g = torch.randn(y.shape, generator=generator(seed + 1), dtype=torch.float64)
    section = ClosedForm.at(y, y.new_ones(y.shape[-1]))
    torch.testing.assert_close(section.pull(g), whole[..., n:].mT @ g, rtol=0, atol=1e-12)
    b = g[..., n:, :]
    torch.testing.assert_close(section.push(b), whole[..., n:] @ b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", ["identity", "minus identity", "lower", "signs"])
def test_the_closed_form_section_at_special_points(start):
    eye = torch.eye(9, dtype=torch.float64)
    points = {"identity": eye[:, :4], "minus identity": -eye[:, :4], "lower": eye[:, 5:], "signs": eye[:, :4].clone()}
    y = points[start]
    if start == "signs":
        y[:, 1] *= -1
    whole = torch.cat([y, dense_complement(y)], -1)
    torch.testing.assert_close(whole.mT @ whole, eye, rtol=0, atol=1e-14)


def test_the_random_complement_is_a_function_of_its_generator():
    y = orthonormal((9, 3))
    first, again = random_complement(y, generator(4)), random_complement(y, generator(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_complement(y, generator(5)))
    torch.testing.assert_close(y.mT @ first, torch.zeros(3, 6, dtype=torch.float64), rtol=0, atol=1e-14)


SHAPES = {
    "tall": ((12, 5), Stiefel()),
    "wide": ((5, 12), Stiefel()),
    "square": ((6, 6), Stiefel()),
    "unit column": ((9, 1), Stiefel()),
    "unit row": ((1, 9), Stiefel()),
    "batch": ((2, 3, 8, 3), Stiefel()),
    "fused": ((12, 9), Stiefel(blocks=4)),
    "fused batch": ((2, 12, 9), Stiefel(blocks=4)),
    "square by rows": ((6, 6), Stiefel(rows=True)),
    "convolution": ((4, 2, 3, 3), Stiefel()),
}


@pytest.mark.parametrize("retraction", ["cayley", "geodesic"])
@pytest.mark.parametrize("section", ["closed-form", "transported", "redrawn"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_descends_and_stays(name, section, retraction):
    shape, space = SHAPES[name]
    space = space.replace(section=section, retraction=retraction)
    p = torch.nn.Parameter(random_point(space, shape, torch.float32))
    target = random_point(space, shape, torch.float32, seed=1)
    optimizer = metrize.Adam([p], lr=0.02, space=space)
    losses = []
    for _ in range(60):
        loss = (p - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert space.error_of(p) < 1e-5
    assert losses[-1] < 0.5 * losses[0] or losses[0] < 1e-6 or name in ("square", "square by rows")
    assert losses[-1] <= losses[0]


def test_tall_wide_fused_and_batched_are_the_same_steps():
    points = orthonormal((4, 9, 3))
    grads = torch.randn(5, 4, 9, 3, generator=generator(7), dtype=torch.float64)
    layouts = {
        "batch": (points, Stiefel(), lambda x: x),
        "wide": (points.mT.contiguous(), Stiefel(), lambda x: x.mT),
        "fused": (points.mT.reshape(12, 9), Stiefel(blocks=4), lambda x: x.mT.reshape(12, 9)),
    }
    results = {}
    for name, (start, space, arrange) in layouts.items():
        p = torch.nn.Parameter(start.clone())
        optimizer = metrize.Adam([p], lr=0.05, space=space)
        for grad in grads:
            p.grad = arrange(grad).contiguous()
            optimizer.step()
        results[name] = p.detach() if name == "batch" else p.detach().reshape(4, 3, 9).mT
    each = []
    for i in range(4):
        p = torch.nn.Parameter(points[i].clone())
        optimizer = metrize.Adam([p], lr=0.05, space=Stiefel())
        for grad in grads:
            p.grad = grad[i]
            optimizer.step()
        each.append(p.detach())
    results["one by one"] = torch.stack(each)
    for result in results.values():
        torch.testing.assert_close(result, results["batch"], rtol=0, atol=1e-13)


def test_the_scalar_second_moment_does_not_depend_on_the_section():
    start, turn = orthonormal((7, 2)), orthonormal((5, 5), seed=3)
    grads = torch.randn(6, 7, 2, generator=generator(1), dtype=torch.float64)
    results = {}
    for second_moment in ("scalar", "elementwise"):
        for turned in (False, True):
            p = torch.nn.Parameter(start.clone())
            space = Stiefel(section="transported")
            optimizer = metrize.Adam([p], lr=0.05, space=space, second_moment=second_moment)
            optimizer.init_state()
            if turned:
                optimizer.state[p]["section"].copy_(optimizer.state[p]["section"] @ turn)
            for grad in grads:
                p.grad = grad
                optimizer.step()
            results[second_moment, turned] = p.detach()
    torch.testing.assert_close(results["scalar", False], results["scalar", True], rtol=0, atol=1e-12)
    assert (results["elementwise", False] - results["elementwise", True]).norm() > 1e-3


def test_the_first_step_turns_every_free_coordinate_by_the_learning_rate():
    p = torch.nn.Parameter(orthonormal((49, 7)))
    space = Stiefel(retraction="geodesic")
    before = p.detach().clone()
    p.grad = torch.randn(49, 7, generator=generator(2), dtype=torch.float64)
    for second_moment in ("elementwise", "scalar"):
        q = torch.nn.Parameter(before.clone())
        q.grad = p.grad
        metrize.Adam([q], lr=1e-3, space=space, second_moment=second_moment).step()
        tangent = (q.detach() - before) / 1e-3
        a = before.mT @ tangent
        length = torch.sqrt(tangent.square().sum() - a.square().sum() / 2)  # canonical metric
        assert length.item() == pytest.approx(math.sqrt(space.dim(p.shape)), rel=1e-2)


def test_cayley_and_geodesic_agree_to_second_order():
    start, grad = orthonormal((8, 3)), torch.randn(8, 3, generator=generator(5), dtype=torch.float64)
    gaps = []
    for lr in (2e-2, 1e-2):
        ends = []
        for retraction in ("cayley", "geodesic"):
            p = torch.nn.Parameter(start.clone())
            p.grad = grad
            metrize.SGD([p], lr=lr, space=Stiefel(retraction=retraction)).step()
            ends.append(p.detach())
        gaps.append((ends[0] - ends[1]).norm())
    assert gaps[0] / gaps[1] == pytest.approx(8, rel=0.1)  # they part at the third order


@pytest.mark.parametrize("section", ["closed-form", "transported"])
@pytest.mark.parametrize("shape", [(4, 3), (5, 3), (5, 2), (8, 3), (20, 3)])
def test_momentum_does_not_stall_where_a_sign_of_the_section_changes(section, shape):
    space, draw = Stiefel(section=section), generator()
    p = torch.nn.Parameter(space.project_(torch.randn(100, *shape, generator=draw, dtype=torch.float64)))
    target = torch.randn(100, *shape, generator=draw, dtype=torch.float64) * math.sqrt(20 / shape[0])
    optimizer = metrize.SGD([p], lr=0.02, momentum=0.9, space=space)
    for _ in range(300):
        p.grad = 2 * (p.detach() - target)
        optimizer.step()
    best = space.project_(target.clone())
    gaps = ((p.detach() - target).square() - (best - target).square()).sum((-2, -1))
    assert gaps.max() < 1e-2


def test_a_turn_of_the_section_keeps_the_tangent_vector():
    near = 0.2 * torch.randn(6, 9, 4, generator=generator(), dtype=torch.float64) - torch.eye(9, 4, dtype=torch.float64)
    y, b = Stiefel().project(near), torch.randn(6, 9, 4, generator=generator(1), dtype=torch.float64)
    section = ClosedForm.at(y, y.new_ones(6, 4))
    assert (section.signs < 0).any()
    turned = section.turn(b)
    torch.testing.assert_close(turned[:, :4], b[:, :4], rtol=0, atol=0)
    torch.testing.assert_close(section.push(turned[:, 4:]), section.before.push(b[:, 4:]), rtol=0, atol=1e-11)


def drift(dtype, steps, matrices, every):
    space = Stiefel()
    p = torch.nn.Parameter(random_point(space, (matrices, 49, 7), torch.float32).to(dtype))
    optimizer = metrize.Adam([p], lr=1e-3, betas=(0.9, 0.99), space=space)
    worst, noise = 0.0, generator(9)
    for step in range(steps):
        p.grad = torch.randn(p.shape, generator=noise).to(dtype)
        optimizer.step()
        if step % every == 0 or step == steps - 1:
            kept = optimizer.state[p].get("master", p.detach())
            worst = max(worst, float(space.error_of(kept)) if dtype == torch.float32 else 0.0)
    return worst, float(space.error_of(optimizer.state[p].get("master", p.detach())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_does_not_leave_the_manifold(dtype):
    worst, last = drift(dtype, 1000, 2, 1)
    assert worst <= 1e-6
    assert last <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_does_not_leave_the_manifold_in_fifteen_thousand_steps(dtype):
    worst, last = drift(dtype, 15_000, 8, 1)
    assert worst <= 1e-6
    assert last <= 1e-6


def test_a_written_bf16_parameter_counts_and_finds_back():
    space = Stiefel()
    p = torch.nn.Parameter(random_point(space, (20, 4), torch.float32).bfloat16())
    other = random_point(space, (20, 4), torch.float32, seed=8).bfloat16()
    optimizer = metrize.Adam([p], lr=1e-3, space=Stiefel(polish_every=5))
    for step in range(12):
        if step == 3:
            with torch.no_grad():
                p.copy_(other)
        p.grad = torch.randn(p.shape, generator=generator(step)).bfloat16()
        optimizer.step()
    assert (p.detach().float() - other.float()).norm() < 0.2
    assert space.error_of(optimizer.state[p]["master"]) < 1e-4


@pytest.mark.parametrize("section", ["closed-form", "transported"])
def test_a_weight_written_between_steps_is_looked_at_again(section):
    space = Stiefel(section=section)
    layer = metrize.constrain(torch.nn.Linear(9, 3, bias=False), "weight", space)
    optimizer = metrize.Adam(layer, lr=0.01)

    def step(seed):
        layer.weight.grad = torch.randn(3, 9, generator=generator(seed))
        optimizer.step()

    step(0)
    with torch.no_grad():
        layer.weight.copy_(random_point(space, (3, 9), torch.float32, seed=5))
    for seed in range(1, 4):
        step(seed)
    assert space.error_of(layer.weight) < 1e-6
    with torch.no_grad():
        layer.weight.mul_(2)
    before = layer.weight.detach().clone()
    with pytest.raises(SpaceError, match=r"'weight'.*not a point of"):
        step(4)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retraction": "qr"}, "retraction"),
        ({"section": "random"}, "section"),
        ({"blocks": 0}, "blocks"),
        ({"polish_every": -1}, "polish_every"),
    ],
)
def test_unknown_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Stiefel(**options)


@pytest.mark.parametrize(
    ("shape", "space"),
    [((5,), Stiefel()), ((5, 3), Stiefel(rows=True)), ((3, 5), Stiefel(rows=False)), ((5, 4), Stiefel(blocks=2)),
     ((0, 3), Stiefel()), ((3, 0), Stiefel())],
)  # fmt: skip
def test_shapes_it_cannot_hold_are_refused(shape, space):
    with pytest.raises(SpaceError):
        space.check(torch.zeros(shape))


def test_an_empty_batch_is_no_trouble():
    p = torch.nn.Parameter(torch.zeros(0, 6, 3))
    p.grad = torch.zeros(0, 6, 3)
    metrize.Adam([p], space=Stiefel()).step()
    assert Stiefel().error_of(p) == 0


def test_adam_needs_no_eps_on_a_manifold():
    p = torch.nn.Parameter(orthonormal((9, 3)))
    optimizer = metrize.Adam([p], lr=0.01, eps=0.0, space=Stiefel())
    p.grad = torch.randn(9, 3, generator=generator(), dtype=torch.float64)
    optimizer.step()
    assert torch.isfinite(p).all()
    assert Stiefel().error_of(p) < 1e-12
