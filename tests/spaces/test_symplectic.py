"""The symplectic spaces beyond the golden files and the axioms."""

import copy
import io
import warnings

import pytest
import torch
from samples import CASES, full, gaussian, lifted, moved, push, random_point, some_point, start

import metrize
from metrize import SpaceError, Stiefel, SymplecticGrassmann, SymplecticStiefel
from metrize.linalg.symplectic import (
    adjoint,
    condition,
    condition_bound,
    hamiltonian,
    orthosymplectic_polar,
    quarters,
    symplectic_complement,
    symplectic_residual,
    times_j,
)
from metrize.spaces.symplectic_full import gradient

FULL = SymplecticStiefel(form="full")
LIFT = SymplecticStiefel(form="full", coordinates="lift")
ours = {name: case for name, case in CASES.items() if name.startswith("symplectic")}
every_case = pytest.mark.parametrize(("space", "shape"), ours.values(), ids=ours)


def close(x, y, atol=1e-12):
    torch.testing.assert_close(x, y, rtol=0, atol=atol)


def phi_of(u):
    return quarters(u)[0]


def distance(u, goal):
    return (u - goal).square().sum((-2, -1))


def reconstruction(u, data):
    return (data - u @ (adjoint(u) @ data)).square().mean((-2, -1))


def energy(u, weights):
    """Linear, held by a fourth power of the norm."""
    return (weights * u).sum((-2, -1)) + 0.05 * u.square().square().sum((-2, -1))


PROBLEMS = {"distance": distance, "reconstruction": reconstruction, "energy": energy}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def trained(space, u, loss, steps, dtype=None, noise=0.0, **options):
    """Losses of every step, ``[steps + 1, B]``, and the point and its state at the end."""
    p = torch.nn.Parameter(u.to(dtype or u.dtype, copy=True))
    optimizer = metrize.Adam([p], space=space, **options)
    losses = []
    for k in range(steps):
        value = loss(p)
        (p.grad,) = torch.autograd.grad(value.sum(), p)
        p.grad.add_(gaussian(p.shape, k).to(p.grad), alpha=noise)
        losses.append(value.detach())
        optimizer.step()
    return torch.stack([*losses, loss(p.detach())]), p.detach(), optimizer.state[p]


def problem_of(problem, seed=0, count=200):
    """Random points of the full form, and a loss for each."""
    start_at = torch.stack([some_point(FULL, (8, 4), seed + k) for k in range(20)]).repeat(count // 20, 1, 1)
    data = gaussian((count, 8, 30 if problem is reconstruction else 4), seed + 5)
    return start_at, lambda u: problem(u, data.to(u.dtype))


# --- the orthosymplectic form ---


@pytest.mark.parametrize("second_moment", ["elementwise", "scalar"])
def test_the_default_form_is_stiefel_on_phi(second_moment):
    phi, grads = random_point(Stiefel(), (3, 6, 2)), gaussian((10, 3, 12, 4), 1)
    u = torch.nn.Parameter(torch.zeros(3, 12, 4, dtype=phi.dtype))
    with torch.no_grad():
        quarters(u)[0].copy_(phi)
        quarters(u)[3].copy_(phi)
    p = torch.nn.Parameter(phi.clone())
    options = {"lr": 0.05, "second_moment": second_moment}
    ours, theirs = (metrize.Adam([x], space=s, **options) for x, s in ((u, SymplecticStiefel()), (p, Stiefel())))
    for grad in grads:
        u.grad, p.grad = grad, phi_of(grad) + quarters(grad)[3]
        ours.step()
        theirs.step()
    assert torch.equal(phi_of(u), p)
    kept, same = ours.state[u], theirs.state[p]
    assert kept.keys() == same.keys()
    assert torch.equal(phi_of(kept["exp_avg"]), same["exp_avg"])
    assert kept["exp_avg"].count_nonzero() == same["exp_avg"].count_nonzero()  # nothing is counted twice
    if second_moment == "scalar":
        assert torch.equal(kept["exp_avg_sq"], same["exp_avg_sq"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("space", [SymplecticStiefel(), SymplecticGrassmann()])
def test_its_blocks_stay_equal_and_zero_to_the_last_bit(space, dtype):
    u = torch.nn.Parameter(random_point(space, (12, 6), dtype=dtype))
    optimizer = metrize.Adam([u], lr=0.05, space=space)
    for k in range(50):
        u.grad = gaussian(u.shape, k).to(dtype)
        optimizer.step()
        upper, b, c, lower = quarters(u)
        assert torch.equal(upper, lower)
        assert not b.any()
        assert not c.any()
    assert space.error_of(optimizer.state[u].get("master", u)) < (1e-14 if dtype == torch.float64 else 2e-6)


def test_its_projection_is_the_polar_factor_of_the_mean():
    x = gaussian((3, 8, 4), 1)
    put = SymplecticStiefel().project_(x.clone())
    close(phi_of(put), Stiefel().project_(phi_of(x) + quarters(x)[3]), 1e-14)


def test_only_the_orthosymplectic_form_is_compact():
    for space, _ in ours.values():
        assert space.compact == (not full(space))
    with pytest.warns(UserWarning, match="does nothing here"):
        metrize.Adam([random_point(SymplecticStiefel(), (8, 4))], space=SymplecticStiefel(), weight_decay=0.1)


# --- both ---


@every_case
def test_tall_wide_and_batched_are_the_same_steps(space, shape):
    space, grads = space.replace(polish_every=2), gaussian((5, 2, 8, 4), 7)
    points = torch.stack([some_point(space, (8, 4), k) for k in (1, 2)])

    def steps(at, arrange=lambda x: x):
        p = torch.nn.Parameter(arrange(points[at]).clone())
        optimizer = metrize.Adam([p], lr=0.05, space=space)
        for grad in grads:
            p.grad = arrange(grad[at]).clone()
            optimizer.step()
        return p.detach()

    batch = steps(slice(None))
    close(steps(slice(None), lambda x: x.mT).mT, batch, 1e-11)
    close(torch.stack([steps(0), steps(1)]), batch, 1e-11)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_run_resumes_bit_for_bit(space, shape, dtype):
    def go(p, optimizer, steps):
        for k in steps:
            p.grad = gaussian(p.shape, k).to(dtype)
            optimizer.step()

    def fresh(value):
        p = torch.nn.Parameter(value)
        return p, metrize.Adam([p], lr=0.02, space=space.replace(polish_every=3))

    p, optimizer = fresh(random_point(space, shape, dtype=dtype))
    go(p, optimizer, range(7))
    file = io.BytesIO()
    torch.save({"p": p.detach(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    q, other = fresh(saved["p"])
    other.load_state_dict(saved["optimizer"])
    both = copy.deepcopy([p, optimizer])
    for run in ((p, optimizer), (q, other), both):
        go(*run, range(7, 15))
    for again, state in ((q, other.state[q]), (both[0], both[1].state[both[0]])):
        assert torch.equal(again, p)
        assert all(torch.equal(value, optimizer.state[p][key]) for key, value in state.items())
    assert dtype != torch.bfloat16 or torch.equal(optimizer.state[p]["master"].bfloat16(), p)


@every_case
def test_a_step_of_length_zero_changes_nothing(space, shape):
    p = torch.nn.Parameter(some_point(space, shape))
    before, optimizer = p.detach().clone(), metrize.SGD([p], lr=0.0, momentum=0.9, space=space)
    for k in range(2):
        p.grad = gaussian(shape, k)
        optimizer.step()
    assert torch.equal(p, before)


@every_case
def test_a_16_bit_weight_has_a_master_on_the_space(space, shape):
    p = torch.nn.Parameter(random_point(space, shape, dtype=torch.bfloat16))
    optimizer = metrize.Adam([p], lr=0.01, space=space)
    for k in range(5):
        p.grad = gaussian(shape, k).bfloat16()
        optimizer.step()
    assert space.error_of(optimizer.state[p]["master"]) < 2e-6 < space.error_of(p)


@every_case
def test_a_point_off_the_space_is_refused_by_name(space, shape):
    p = torch.nn.Parameter(gaussian(shape))
    with pytest.raises(SpaceError, match=r"'weight'.*not a point of Symplectic.*project_"):
        metrize.Adam([("weight", p)], space=space).init_state()
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(gaussian(shape))
    metrize.constrain(module, "weight", space)
    assert metrize.error_on_space(module)["weight"] < 1e-13


@pytest.mark.parametrize("form", ["orthosymplectic", "full"])
@pytest.mark.parametrize(
    ("shape", "kind", "options", "said"),
    [
        ((7, 4), SymplecticStiefel, {}, "come in pairs"),
        ((8, 3), SymplecticStiefel, {}, "even sizes"),
        ((4, 8), SymplecticStiefel, {"rows": False}, "rows=True"),
        ((8, 4), SymplecticStiefel, {"rows": True}, "rows=False"),
        ((8,), SymplecticStiefel, {}, "holds matrices"),
        ((8, 0), SymplecticStiefel, {}, "no matrix"),
        ((4, 4), SymplecticGrassmann, {}, "single point"),
    ],
)
def test_shapes_it_cannot_hold_are_refused(shape, kind, options, said, form):
    with pytest.raises(SpaceError, match=said):
        kind(form=form, **options).check(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "compact"}, "form is one of"),
        ({"coordinates": "natural"}, "coordinates is one of"),
        ({"form": "full", "max_step": 1.5}, "below 1.4142"),
        ({"form": "full", "max_step": 0.0}, "above 0"),
        ({"form": "full", "max_condition": 1.0}, "above 1"),
        ({"form": "full", "polish_every": -1}, "number of steps"),
        ({"max_step": 0.1}, "only the full form"),
        ({"coordinates": "lift"}, "only the full form"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    for kind in (SymplecticStiefel, SymplecticGrassmann):
        with pytest.raises(ValueError, match=said):
            kind(**options)


@every_case
def test_an_empty_batch_is_no_trouble(space, shape):
    p = torch.nn.Parameter(torch.zeros(0, *shape))
    p.grad = torch.zeros_like(p)
    metrize.Adam([p], space=space).step()
    assert space.error_of(p) == 0


@pytest.mark.parametrize("space", [SymplecticStiefel(), FULL])
def test_it_may_be_a_part_of_a_product(space):
    product = metrize.Product(space, 8, metrize.Vector())
    p = torch.nn.Parameter(random_point(product, (11, 4)))
    optimizer = metrize.Adam([p], lr=0.05, space=product)
    for k in range(25):
        p.grad = gaussian(p.shape, k)
        optimizer.step()
    assert space.error_of(p[:8]) < 1e-13


# --- the full form ---


@every_problem
@pytest.mark.parametrize(("lr", "steps"), [(1e-3, 10), (3e-2, 1)])
def test_steps_within_the_cap_descend(problem, lr, steps):
    """Adam's first steps, 200 problems; with momentum only small ones are sure to."""
    u, loss = problem_of(problem)
    for space in (FULL, FULL.replace(polish_every=3)):
        losses, _, state = trained(space, u, loss, steps, lr=lr)
        assert (losses.diff(dim=0) < 0).all()
        assert not state["refused_steps"].any()


@every_problem
def test_whole_runs_end_lower(problem):
    u, loss = problem_of(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some meet the limit of the monitor
        losses, end, _ = trained(FULL, u, loss, 300, lr=0.02)
    assert (losses[-1] < losses[0]).all()
    assert (condition([end]) <= 100 + 1e-9).all()


def drift(problem, steps):
    u, loss = problem_of(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        losses, end, state = trained(FULL, u, loss, steps, torch.float32, noise=0.3, lr=0.02)
    section = torch.cat([end, state["section"]], -1).double()
    assert losses[-1].mean() < losses[0].mean()
    assert FULL.error(end.double()).max() <= 1e-5
    across = adjoint(end.double()) @ section[..., 4:]
    assert across.norm(dim=(-2, -1)).max() <= 1e-5
    assert FULL.error(section[..., 4:]).max() <= 2e-5


@every_problem
def test_single_precision_does_not_drift(problem):
    drift(problem, 300)


@pytest.mark.slow
@every_problem
def test_single_precision_does_not_drift_in_5000_steps(problem):
    drift(problem, 5000)


def slopes(space, u, complement, grads):
    """Directional derivatives along the first step of sign descent, to whose scaling Adam's first step comes."""
    state = {"section": complement.clone(), "step": torch.ones(1), "refused_steps": torch.zeros(u.shape[:-2])}
    section, end = space.section_at(u, state), u.clone()
    space.move_(end, -1e-6 * space.lift(u, grads, section).sign(), section, state)
    return (grads * (end - u)).sum((-2, -1))


def test_scaled_steps_along_the_lift_may_ascend_where_the_derivative_does_not():
    """The columns of 300 random symplectic matrices of condition 40, and gradients in random directions."""
    whole = random_point(FULL, (1, 300, 10, 10)) @ torch.matrix_exp(0.7 * hamiltonian(gaussian((1, 300, 10, 10), 1)))
    columns = torch.arange(10).unflatten(0, (2, 5))
    u, complement = whole[..., columns[:, :2].flatten()], whole[..., columns[:, 2:].flatten()]
    assert 30 < condition([whole]).median() < 50
    grads, unlimited = gaussian(u.shape, 2), {"max_condition": 1e9}
    assert (slopes(FULL.replace(**unlimited), u, complement, grads) < 0).all()
    assert (slopes(LIFT.replace(**unlimited), u, complement, grads) > 0).sum() > 30


@pytest.mark.parametrize("seed", range(5))
def test_the_lift_is_that_of_the_riemannian_gradient(seed):
    u, g = some_point(FULL, (8, 4), seed), gaussian((8, 4), seed + 1)
    along = push(LIFT, u, lifted(LIFT, u, g))
    close(along, gradient(u, g), 1e-10)
    d = push(FULL, u, lifted(FULL, u, gaussian((8, 4), seed + 2)))
    ju, inverse = times_j(u), torch.linalg.inv(u.mT @ u)
    project = torch.eye(8, dtype=u.dtype) - ju @ inverse @ ju.mT / 2
    torch.testing.assert_close(torch.trace(along.mT @ project @ d @ inverse), (g * d).sum())


def test_both_coordinates_agree_where_the_section_is_orthonormal():
    u, g = random_point(FULL, (8, 4)), gaussian((8, 4), 1)
    close(lifted(LIFT, u, g), lifted(FULL, u, g))


@pytest.mark.parametrize("space", [FULL, LIFT, SymplecticGrassmann(form="full"), FULL.replace(max_step=1.41)])
def test_a_velocity_is_shortened_to_the_cap(space):
    u, g = some_point(FULL, (8, 4)), gaussian((8, 4), 1)
    space = space.replace(max_condition=1e9)
    coords = lifted(space, u, g)
    unit = coords / space.sq_norm(coords).sqrt()
    end = moved(space, u, 1e6 * unit)
    close(end, moved(space, u, space.max_step * unit), 1e-9)
    assert (end - moved(space, u, 0.9 * space.max_step * unit)).norm() > 1e-3
    assert FULL.error_of(end) < 1e-11


@pytest.mark.parametrize("space", [FULL, SymplecticGrassmann(form="full")])
def test_what_is_no_velocity_of_the_group_is_left_out(space):
    """Not every rule keeps the symmetries of a."""
    u, coords = some_point(FULL, (8, 4)), gaussian((1, 8, 4), 1)
    a, b = coords.tensor_split([4], -2)
    proper = torch.cat([hamiltonian(a) if space == FULL else 0 * a, b], -2)
    scale = 0.4 / space.sq_norm(coords).sqrt()
    close(moved(space, u, coords * scale), moved(space, u, proper * scale))
    assert FULL.error_of(moved(space, u, coords * scale)) < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_the_cayley_transform_exists_up_to_the_cap(seed):
    """The worst case: all of the velocity in one entry of a."""
    a = torch.zeros(4, 4, dtype=torch.float64)
    a[0, 2] = 2**0.5 * 1.41  # an entry of a symmetric block stands alone
    a = torch.stack([a, -a, gaussian((4, 4), seed)])
    a[2] = a[2] - adjoint(a[2])
    a[2] *= 1.41 / FULL.sq_norm(a[2]).sqrt()
    for velocity in a:
        assert torch.linalg.matrix_norm(velocity / 2, 2) < 1
        end = moved(FULL.replace(max_step=1.411, max_condition=1e9), torch.eye(4, dtype=a.dtype), velocity)
        assert FULL.error_of(end) < 1e-10


def test_the_monitor_refuses_counts_and_tells_once():
    u = torch.nn.Parameter(random_point(FULL, (2, 8, 4)))
    before, space = u.detach().clone(), FULL.replace(max_condition=1.05)
    optimizer = metrize.SGD([u], lr=0.1, space=space)
    u.grad = torch.stack([push(FULL, u[0].detach(), gaussian((8, 4), 1)), torch.zeros(8, 4)])
    with pytest.warns(RuntimeWarning, match=r"number of 2\.004 of.*max_condition is 1\.05"):
        optimizer.step()
    close(u.detach(), before)
    optimizer.step()  # which would be an error if it warned
    assert optimizer.state[u]["refused_steps"].tolist() == [2, 0]
    u.grad = u.grad.flip(0)
    with pytest.warns(RuntimeWarning, match="was not taken"):
        optimizer.step()
    assert optimizer.state[u]["refused_steps"].tolist() == [2, 1]


def test_noise_walks_outward_until_the_monitor_stops_it():
    p = torch.nn.Parameter(random_point(FULL, (20, 6, 2), dtype=torch.float32))
    optimizer = metrize.Adam([p], lr=0.05, space=FULL)
    optimizer.init_state()
    refused, section = (optimizer.state[p][key] for key in ("refused_steps", "section"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for k in range(400):
            p.grad = gaussian(p.shape, k).float()
            optimizer.step()
            assert condition([p.detach(), section]).max() < 100.01
    assert (refused > 0).sum() > 5
    assert FULL.error_of(p) <= 1e-5


def test_a_step_out_of_bad_condition_is_taken():
    u = some_point(FULL, (8, 4), 3)
    p = torch.nn.Parameter(u.clone())
    optimizer = metrize.SGD([p], lr=0.01, space=FULL.replace(max_condition=1.01))
    p.grad = 2 * u  # of the squared norm
    optimizer.step()
    assert condition([p.detach()]) < condition([u])
    assert optimizer.state[p]["refused_steps"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_complement_is_symplectic_and_the_shortest(seed):
    u = some_point(FULL, (10, 4), seed)
    toward = gaussian((10, 6), seed)
    up = symplectic_complement(u, toward)
    close(symplectic_residual(up), torch.zeros(6, 6, dtype=u.dtype), 1e-12)
    close(adjoint(u) @ up, torch.zeros(4, 6, dtype=u.dtype), 1e-12)
    assert torch.linalg.matrix_norm(up, 2) <= torch.linalg.matrix_norm(u, 2) + 1e-12
    assert (condition([u, up]) <= 2 * condition([u])).all()
    for k in range(10):
        inside = random_point(FULL, (6, 6), k) if k % 2 else some_point(FULL, (6, 6), k)
        other = up @ inside
        assert other.norm() >= up.norm() - 1e-12
        if k % 2:  # as short, but farther away
            assert (other - toward).norm() >= (up - toward).norm()


def test_an_orthosymplectic_point_has_an_orthosymplectic_section():
    u = SymplecticStiefel().project_(gaussian((2, 10, 4), 1))
    section = start(FULL, u)[1]["section"][0]
    close(section.mT @ section, torch.eye(6, dtype=u.dtype).expand(2, 6, 6))
    assert all(part.abs().max() < 1e-12 for part in quarters(section)[1:3])  # diag(Phi_p, Phi_p)
    close(condition([u, section]), torch.ones(2, dtype=u.dtype))


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_of_the_condition_number(seed):
    square = some_point(FULL, (3, 8, 8), seed)
    assert (condition_bound([square]) >= condition([square]) - 1e-9).all()
    s = 1.0 + seed
    pair = torch.diag(torch.tensor([s, 1, 1, 1 / s, 1, 1], dtype=torch.float64))
    close(condition_bound([pair[:, :2], pair[:, 2:]]), pair[0, 0] ** 2, 1e-9)


@pytest.mark.parametrize("space", [FULL, LIFT])
def test_a_renewed_section_says_the_same_of_averages(space):
    u = some_point(FULL, (2, 8, 4), 2).unsqueeze(0)
    up = symplectic_complement(u, gaussian((8, 4)))
    drifted = up @ some_point(FULL, (2, 4, 4), 5)  # as good a complement, only longer
    state = {"section": drifted.clone(), "step": torch.tensor([20.0])}
    g, v = gaussian((1, 2, 8, 4), 3), gaussian((1, 2, 8, 4), 4)
    old, new = space.section_at(u, {**state, "step": torch.tensor([19.0])}), space.section_at(u, state)
    assert space.turn(old) is None
    assert (state["section"].norm(dim=(-2, -1)) < drifted.norm(dim=(-2, -1))).all()
    old = type(old)(drifted)
    turned = space.turn(new)(space.lift(u, g, old))
    close(turned, space.lift(u, g, new), 1e-10)
    if space.coordinates == "lift":  # velocities
        close(new.complement @ space.turn(new)(v)[..., 4:, :], drifted @ v[..., 4:, :], 1e-10)


def test_a_section_renewed_in_one_matrix_leaves_the_others_alone():
    grads = gaussian((30, 2, 8, 4))

    def run(late):
        p = [torch.nn.Parameter(random_point(FULL, (8, 4), k)) for k in (1, 2)]
        optimizer = metrize.Adam(p, lr=0.02, space=FULL)
        for k, grad in enumerate(grads):
            p[0].grad, p[1].grad = grad[0], None if k < late else grad[1]
            optimizer.step()
        return p[0].detach()

    close(run(0), run(7))


def test_the_condition_of_the_section_follows_that_of_the_point():
    """A section that is only transported drifts: what goes around a loop comes back longer."""
    u, loss = problem_of(distance, count=20)
    renewed, carried = (
        trained(FULL.replace(polish_every=every, max_condition=1e6), u, loss, 600, lr=0.02)[1:] for every in (20, 0)
    )
    for end, state in (renewed, carried):
        state["condition"] = condition([end, state["section"]])
        assert (condition([end]) < 100).all()
    assert (renewed[1]["condition"] < 3 * condition([renewed[0]])).all()
    assert carried[1]["condition"].median() > 2 * renewed[1]["condition"].median()


def test_what_is_nearly_symplectic_is_put_right():
    u = some_point(FULL, (5, 8, 4), 1)
    near = u + 0.02 * gaussian(u.shape, 2)
    put = FULL.project_(near.clone())
    assert FULL.error_of(put) < 1e-13
    assert ((put - u).norm(dim=(-2, -1)) < 5 * (near - u).norm(dim=(-2, -1))).all()
    root = torch.linalg.solve(put[0].mT @ put[0], put[0].mT @ near[0])  # X = U (X^+ X)^(1/2)
    close(root @ root, adjoint(near[0]) @ near[0], 1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e3, 1e30])
def test_anything_else_goes_to_the_nearest_orthosymplectic_matrix(scale):
    x = gaussian((10, 8, 4)) * scale
    put = FULL.project_(x.clone())
    assert FULL.error_of(put) < 1e-13
    close(put.mT @ put, torch.eye(4, dtype=x.dtype).expand(10, 4, 4))
    for k in range(5):
        other = random_point(FULL, (10, 8, 4), k)
        assert ((other - x).norm(dim=(-2, -1)) >= (put - x).norm(dim=(-2, -1)) - 1e-12).all()


def test_random_points_are_uniform_over_the_orthosymplectic_ones():
    u = random_point(FULL, (20_000, 6, 2))
    a, b, c, d = quarters(u)
    close(a, d, 1e-15)
    close(b, -c, 1e-15)
    first = u[..., 0]
    close(first.mean(0), torch.zeros(6, dtype=u.dtype), 0.02)
    close(first.mT @ first / len(u), torch.eye(6, dtype=u.dtype) / 6, 0.02)


def test_weight_decay_in_the_full_form():
    u = some_point(FULL, (8, 4), 3)
    p = torch.nn.Parameter(u.clone())
    optimizer = metrize.AdamW([p], lr=0.01, weight_decay=0.1, space=FULL)
    p.grad = torch.zeros_like(u)
    with pytest.warns(UserWarning, match="decay='l2'"):
        optimizer.step()
    close(p.detach(), u, 1e-13)
    _, end, _ = trained(FULL, u, lambda x: (0 * x).square().sum(), 200, lr=0.01, weight_decay=0.1)
    assert condition([end]) < 1 + 0.1 * (condition([u]) - 1)


# --- subspaces ---


@pytest.mark.parametrize("coordinates", ["derivative", "lift"])
def test_a_loss_of_the_subspace_has_no_derivative_within_it(coordinates):
    space = SymplecticStiefel(form="full", coordinates=coordinates)
    u = some_point(FULL, (8, 4), 1).requires_grad_()
    (grad,) = torch.autograd.grad(reconstruction(u, gaussian((8, 20), 2)), u)
    a, b = lifted(space, u.detach(), grad)[0].tensor_split([4])
    c = lifted(SymplecticGrassmann(form="full", coordinates=coordinates), u.detach(), grad)[0]
    assert not c[:4].any()
    close(c[4:], b, 1e-14)
    if coordinates == "derivative":
        assert a.abs().max() < 1e-13


@pytest.mark.parametrize("form", ["orthosymplectic", "full"])
def test_it_finds_a_symplectic_subspace(form):
    space = SymplecticGrassmann(form=form)
    hidden = SymplecticStiefel().project_(gaussian((10, 4), 1))
    data = hidden @ gaussian((4, 50), 2)
    end = random_point(SymplecticStiefel(), (10, 4), 3)
    for lr in (0.02, 0.001):
        losses, end, _ = trained(space, end, lambda u: reconstruction(u, data), 400, lr=lr)
    assert losses[-1] < 1e-6
    close(end @ adjoint(end), hidden @ adjoint(hidden), 1e-2)


def test_the_group_itself_can_be_trained():
    goal = some_point(FULL, (4, 4), 3)
    losses, end, state = trained(FULL, torch.eye(4, dtype=goal.dtype), lambda u: distance(u, goal), 500, lr=0.02)
    assert losses[-1] < 1e-4
    assert state.keys() == {"step", "exp_avg", "exp_avg_sq", "refused_steps"}
    assert torch.linalg.det(end) == pytest.approx(1)


def test_an_orthosymplectic_polar_factor_commutes_with_j():
    x = orthosymplectic_polar(gaussian((6, 4)))
    close(times_j(x), -times_j(x.mT).mT, 1e-15)
