"""The eigenbasis: what must not matter does not, refreshes come when they are due, bad luck harms nothing."""

import contextlib
import io
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import metrize
from metrize import Recipe, parse, rules
from metrize.frames import Eigenbasis, FrameError, eigenbasis
from metrize.linalg.eigenbasis import eigenvectors, highest_precision, renewed
from metrize.moments import Dense, Factored
from metrize.named.soap import SOAP


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def orthogonal(n, seed=0):
    return torch.linalg.qr(drawn(n, n, seed=seed))[0]


def train(optimizer, params, steps, gradient=None):
    """Steps with gradients that depend on the step, and on the place of the parameter."""
    for step in steps:
        for place, p in enumerate(params):
            p.grad = gradient(step) if gradient else drawn(*p.shape, seed=100 * step + place + 1, dtype=p.dtype)
        optimizer.step()


def trained(start, steps, gradient=None, method=SOAP, **options):
    p = torch.nn.Parameter(start.clone())
    optimizer = method([p], **options)
    train(optimizer, [p], range(steps), gradient)
    return p.detach(), optimizer


def momentum(params, **options):
    """A rule that is linear in the gradient, and so the same in every orthonormal basis."""
    recipe = Recipe(frame=Eigenbasis(**options), rule=rules.Momentum())
    return metrize.Optimizer(params, recipe, lr=0.1, momentum=0.9)


# What must not matter


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_step_is_along_the_polar_factor(shape, dtype):
    start, g = torch.zeros(shape, dtype=dtype), drawn(*shape, seed=1, dtype=dtype)
    after, _ = trained(start, 1, lambda step: g, lr=1.0, weight_decay=0.0)
    u, _, vh = torch.linalg.svd(g.double(), full_matrices=False)
    expected = (u @ vh).to(dtype)
    torch.testing.assert_close(-after, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-6)


@pytest.mark.parametrize("options", [{}, {"moments": Factored()}, {"refresh": "eigh"}, {"transport": "hadamard"}])
def test_signs_and_order_of_the_basis_do_not_matter(options):
    frame = {key: options[key] for key in options if key != "moments"}
    recipe = SOAP.recipe(frame=Eigenbasis(period=4, **frame), moments=options.get("moments", Dense()))
    pair = [torch.nn.Parameter(drawn(4, 6)) for _ in range(2)]
    first, second = (metrize.Optimizer([p], recipe, lr=0.1) for p in pair)
    for optimizer, p in ((first, pair[0]), (second, pair[1])):
        train(optimizer, [p], range(6))
    state = second.state[pair[1]]
    for mode in (0, 1):
        size = len(state[f"basis_{mode}"])
        order = torch.randperm(size, generator=torch.Generator().manual_seed(mode))
        signs = torch.ones(size, dtype=torch.float64)
        signs[::2] = -1
        state[f"basis_{mode}"].copy_(state[f"basis_{mode}"][:, order] * signs)
        wide = signs.unsqueeze(1) if mode == 0 else signs
        state["exp_avg"].copy_(state["exp_avg"].index_select(mode, order) * wide)
        if "exp_avg_sq" in state:
            state["exp_avg_sq"].copy_(state["exp_avg_sq"].index_select(mode, order))
        else:
            key = "exp_avg_sq.row" if mode == 0 else "exp_avg_sq.col"
            state[key].copy_(state[key][order])
    for optimizer, p in ((first, pair[0]), (second, pair[1])):
        train(optimizer, [p], range(6, 13))  # over two refreshes
    torch.testing.assert_close(*pair, rtol=0, atol=1e-11)


@pytest.mark.parametrize("faithful", [True, False])
def test_an_orthogonal_change_of_coordinates_commutes_with_the_steps(faithful):
    a, b = orthogonal(4, seed=1), orthogonal(4, seed=2)
    options = {"lr": 0.05, "precondition_frequency": 3, "faithful": faithful}
    for method, limit in ((SOAP, 1e-9), (metrize.Adam, None)):
        told = options if method is SOAP else {"lr": 0.05}
        plain, _ = trained(drawn(4, 4), 12, lambda s: drawn(4, 4, seed=s), method, **told)
        turned, _ = trained(
            a @ drawn(4, 4) @ b.mT,
            12,
            lambda s: a @ drawn(4, 4, seed=s) @ b.mT,
            method,
            **told,
        )
        error = (a @ plain @ b.mT - turned).abs().max()
        assert error < limit if limit else error > 0.1


@pytest.mark.parametrize("shape", [(4, 3), (5,), (), (2, 3, 2)])
def test_without_a_basis_it_is_adam(shape):
    mine, optimizer = trained(drawn(*shape), 6, max_precond_dim=0, lr=0.1, weight_decay=0.0, eps=0.0)
    rival = torch.nn.Parameter(drawn(*shape))
    train(torch.optim.Adam([rival], lr=0.1, betas=(0.95, 0.95), eps=0.0), [rival], range(6))
    torch.testing.assert_close(mine, rival.detach(), rtol=0, atol=1e-12)
    assert set(next(iter(optimizer.state.values()))) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("method", ["qr", "eigh", "thin"])
@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (2, 3, 4), (3, 2, 2, 2)])
def test_a_rule_that_is_linear_does_not_notice_the_basis(shape, method):
    start = drawn(*shape)
    mine = torch.nn.Parameter(start.clone())
    train(momentum([mine], period=2, refresh=method), [mine], range(9))
    plain = torch.nn.Parameter(start.clone())
    train(metrize.SGD([plain], lr=0.1, momentum=0.9), [plain], range(9))
    torch.testing.assert_close(mine, plain, rtol=0, atol=1e-6)  # but for what the first step takes for rounding


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple),
    limit=st.integers(0, 6),
    flags=st.tuples(*[st.booleans()] * 4),
    seed=st.integers(0, 9),
)
def test_any_shape_descends(shape, limit, flags, seed):
    merge, vectors, one_sided, faithful = flags
    frame = Eigenbasis(
        period=2,
        max_precond_dim=limit,
        merge_dims=merge,
        precondition_1d=vectors,
        one_sided=one_sided,
        faithful=faithful,
    )
    recipe = SOAP.recipe(frame=frame)
    p, target = torch.nn.Parameter(drawn(*shape, seed=seed)), drawn(*shape, seed=seed + 1)
    optimizer = metrize.Optimizer([p], recipe, lr=0.02)
    before = (p - target).norm()
    for _ in range(8):
        p.grad = (p - target).detach()
        optimizer.step()
    assert (p - target).norm() < before
    for key, value in optimizer.state[p].items():
        if key.startswith("basis"):
            torch.testing.assert_close(value.mT @ value, torch.eye(len(value), dtype=value.dtype))


def test_channels_last_merges_as_channels_first_of_the_permuted_tensor():
    start, grads = drawn(3, 2, 2, 4), [drawn(3, 2, 2, 4, seed=s) for s in range(9)]
    options = {"merge_dims": True, "max_precond_dim": 8, "precondition_frequency": 2}
    last, _ = trained(start, 9, lambda s: grads[s], data_format="channels_last", **options)
    first, _ = trained(
        start.permute(0, 3, 1, 2).contiguous(), 9, lambda s: grads[s].permute(0, 3, 1, 2).contiguous(), **options
    )
    torch.testing.assert_close(last, first.permute(0, 2, 3, 1), rtol=0, atol=1e-11)


def test_a_batch_gives_the_numbers_of_each_alone():
    many = [torch.nn.Parameter(drawn(4, 3, seed=i)) for i in range(5)]
    together = SOAP(many, precondition_frequency=2, faithful=True)
    train(together, many, range(7))
    for place, p in enumerate(many):
        single, _ = trained(
            drawn(4, 3, seed=place),
            7,
            lambda s, place=place: drawn(4, 3, seed=100 * s + place + 1),
            precondition_frequency=2,
            faithful=True,
        )
        torch.testing.assert_close(p.detach(), single, rtol=0, atol=1e-11)


@pytest.mark.parametrize("faithful", [True, False])
def test_a_late_gradient_has_its_own_count(faithful):
    options = {"precondition_frequency": 3, "faithful": faithful}
    early, late = (torch.nn.Parameter(drawn(4, 4, seed=i)) for i in range(2))
    together = SOAP([early, late], **options)
    alone = torch.nn.Parameter(late.detach().clone())
    single = SOAP([alone], **options)
    single.init_state()
    together.init_state()
    if not faithful:
        single.state[alone]["phase"].copy_(together.state[late]["phase"])
    for step in range(10):
        early.grad = drawn(4, 4, seed=step)
        if step >= 3:
            late.grad = drawn(4, 4, seed=50 + step)
            alone.grad = late.grad.clone()
            single.step()
        together.step()
    torch.testing.assert_close(late, alone, rtol=0, atol=1e-11)


# State


def numbers(p, optimizer):
    """Numbers kept, without the counts."""
    return sum(v.numel() for k, v in optimizer.state[p].items() if k not in ("step", "phase", "failures"))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_state_is_what_the_paper_counts(shape):
    m, n = shape
    counts = {}
    for one_sided, moments in itertools.product((False, True), (Dense(), Factored())):
        p = torch.nn.Parameter(drawn(m, n, dtype=torch.float32))
        optimizer = SOAP([p], one_sided=one_sided, moments=moments)
        train(optimizer, [p], range(2))
        counts[one_sided, moments] = numbers(p, optimizer)
    short = min(m, n)
    assert counts[False, Dense()] == 2 * m**2 + 2 * n**2 + 2 * m * n
    assert counts[True, Dense()] == 2 * short**2 + 2 * m * n
    assert counts[True, Factored()] == 2 * short**2 + m * n + m + n


@pytest.mark.parametrize(
    ("shape", "options", "based"),
    [
        ((4, 6), {"one_sided": True}, {0: 4}),
        ((6, 4), {"one_sided": True}, {1: 4}),
        ((5, 5), {"one_sided": True}, {0: 5}),
        ((3, 5, 2), {"one_sided": True}, {0: 3, 2: 2}),
        ((4, 1, 6), {}, {0: 4, 2: 6}),
        ((4, 6), {"max_precond_dim": 5}, {0: 4}),
        ((4, 3, 2, 2), {"merge_dims": True, "max_precond_dim": 12}, {0: 12, 1: 4}),
        ((4, 2, 2, 3), {"merge_dims": True, "max_precond_dim": 12, "data_format": "channels_last"}, {0: 12, 1: 4}),
        ((6,), {}, {}),
        ((6,), {"precondition_1d": True}, {0: 6}),
        ((1, 6), {"merge_dims": True}, {0: 6}),
        ((0, 6), {}, {}),
        ((), {"precondition_1d": True}, {}),
    ],
)
def test_which_modes_have_a_basis(shape, options, based):
    spec = Eigenbasis(**options).state_spec(torch.Size(shape), torch.float32)
    assert {key: kept for key, (kept, _) in spec.items() if key.startswith("basis")} == {
        f"basis_{mode}": (size, size) for mode, size in based.items()
    }


@pytest.mark.parametrize("moments", [Dense(), Dense("bfloat16"), Factored()])
def test_a_16_bit_parameter_resumes_to_the_bit(moments):
    shapes = ((6, 4), (4, 4), (4, 4), (3,))

    def begin():
        params = [torch.nn.Parameter(drawn(*shape, seed=i, dtype=torch.bfloat16)) for i, shape in enumerate(shapes)]
        return params, SOAP(params, precondition_frequency=3, moments=moments)

    straight, optimizer = begin()
    train(optimizer, straight, range(11))
    half, first = begin()
    train(first, half, range(5))
    file = io.BytesIO()
    torch.save({"params": half, "state": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    resumed, second = begin()
    for p, kept in zip(resumed, saved["params"], strict=True):
        p.data.copy_(kept)
    second.load_state_dict(saved["state"])
    train(second, resumed, range(5, 11))
    for p, q in zip(straight, resumed, strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, second.state[q][key]), key
            if key.startswith(("basis", "factor")):
                assert value.dtype == torch.float32


# Refreshes


def watched(monkeypatch, name="renewed"):
    """Sizes of the bases that are renewed, and whether they changed."""
    calls = []
    real = getattr(eigenbasis, name)

    def watch(factor, basis, *rest):
        found = real(factor, basis, *rest)
        calls.append((len(factor), found is not None))
        return found

    monkeypatch.setattr(eigenbasis, name, watch)
    return calls


@pytest.mark.parametrize("faithful", [False, True])
def test_refreshes_are_spread_over_the_steps(monkeypatch, faithful):
    shapes = [(8, 8)] * 6 + [(8, 4)] * 6 + [(4, 4)] * 8
    params = [torch.nn.Parameter(drawn(*shape, seed=i)) for i, shape in enumerate(shapes)]
    optimizer = SOAP(params, precondition_frequency=10, faithful=faithful)
    train(optimizer, params, range(2))
    calls, work = watched(monkeypatch), []
    for step in range(2, 32):
        calls.clear()
        train(optimizer, params, [step])
        work.append(sum(size**3 for size, _ in calls))
    whole = sum(size**3 for shape in shapes for size in shape)
    assert sum(work) == 3 * whole
    if faithful:
        assert sorted({*work}) == [0, whole]
    else:
        assert max(work) <= 1.3 * whole / 10


def test_settled_bases_are_left_alone(monkeypatch):
    left, right = orthogonal(5, seed=1), orthogonal(4, seed=2)

    def steady(step):
        singular = torch.zeros(5, 4, dtype=torch.float64)
        singular.diagonal().copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]) * (1 + 0.3 * drawn(4, seed=step)))
        return left @ singular @ right.mT

    calls = watched(monkeypatch)
    _, optimizer = trained(drawn(5, 4), 12, steady, precondition_frequency=2, tolerance=0.1)
    kept = next(iter(optimizer.state.values()))
    assert len(calls) >= 10
    assert not any(changed for _, changed in calls)
    calls.clear()
    train(optimizer, list(optimizer.state), range(12, 18))  # gradients of another kind
    assert any(changed for _, changed in calls)
    assert float(kept["failures"]) == 0


@pytest.mark.parametrize("method", ["qr", "eigh", "thin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_basis_stays_orthogonal_over_a_thousand_refreshes(method, dtype):
    generator = torch.Generator().manual_seed(0)
    factor = torch.zeros(12, 12, dtype=dtype)
    basis = torch.eye(12, dtype=dtype)
    for _ in range(1000):
        g = torch.randn(12, 3, generator=generator, dtype=torch.float64).to(dtype)
        factor = 0.9 * factor + 0.1 * g @ g.mT
        found = renewed(factor, basis, method)
        assert found is not None
        basis = found[0]
    assert (basis.mT @ basis - torch.eye(12, dtype=dtype)).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["qr", "eigh", "thin"])
def test_renewals_approach_the_eigenvectors(method):
    values = torch.tensor([9.0, 5.0, 3.0, 1.0, 0.3, 0.1, 0.05, 0.01], dtype=torch.float64)
    q = orthogonal(8)
    factor = q * values @ q.mT
    basis = orthogonal(8, seed=5)
    for _ in range(1 if method == "eigh" else 200):
        found = renewed(factor, basis, method)
        assert found is not None
        basis = found[0]
    turned = basis.mT @ factor @ basis
    leading = 2 if method == "thin" else 8
    torch.testing.assert_close(turned.diagonal()[:leading], values[:leading], rtol=0, atol=1e-9)
    off = turned - torch.diag(turned.diagonal())
    assert off[:leading].abs().max() < 1e-6


def test_ranks_say_which_column_succeeds_which():
    values = torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=torch.float64)
    for method in ("qr", "eigh"):
        found = renewed(torch.diag(values), torch.eye(4, dtype=torch.float64), method)
        assert found is not None
        basis, order = found
        assert order.tolist() == [1, 3, 2, 0]
        torch.testing.assert_close(basis.abs(), torch.eye(4, dtype=torch.float64)[:, order])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_renewals_do_not_depend_on_the_scale(scale):
    g = drawn(6, 4, dtype=torch.float32)
    factor, basis = g @ g.mT, orthogonal(6).float()
    for method, tolerance in itertools.product(("qr", "eigh"), (0.0, 0.1)):
        plain, scaled = (renewed(f, basis, method, tolerance) for f in (factor, factor * scale))
        assert plain is not None
        assert scaled is not None
        assert torch.equal(plain[1], scaled[1])
        turned = (plain[0].mT @ scaled[0]).abs()
        torch.testing.assert_close(turned[:4, :4], torch.eye(4), rtol=0, atol=1e-3)


@pytest.mark.parametrize("transport", ["permutation", "hadamard"])
def test_squares_follow_the_basis(transport):
    frame = Eigenbasis(period=1, transport=transport, refresh="eigh")
    p = torch.nn.Parameter(drawn(4, 5))
    optimizer = metrize.Optimizer([p], SOAP.recipe(frame=frame), lr=0.1)
    train(optimizer, [p], range(3))
    state = optimizer.state[p]
    old = {mode: state[f"basis_{mode}"].clone() for mode in (0, 1)}
    squares = state["exp_avg_sq"].clone()
    group = optimizer.param_groups[0]
    group["betas"] = (0.95, 1 - 1e-16)  # what is kept is all that moves the squares
    train(optimizer, [p], [3])
    moved = state["exp_avg_sq"]
    torch.testing.assert_close(moved.sum(), squares.sum())
    if transport == "permutation":
        torch.testing.assert_close(moved.flatten().sort().values, squares.flatten().sort().values)
    else:
        turn = [(old[mode].mT @ state[f"basis_{mode}"]).square() for mode in (0, 1)]
        torch.testing.assert_close(moved, turn[0].mT @ squares @ turn[1])


def test_products_of_a_refresh_are_exact_whatever_the_user_chose():
    def precisions():
        if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch before 2.9
            return [torch.get_float32_matmul_precision()]
        return [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]

    torch.set_float32_matmul_precision("medium")
    try:
        chosen = precisions()
        with highest_precision():
            assert set(precisions()) <= {"ieee", "highest"}
        with contextlib.suppress(ZeroDivisionError), highest_precision():
            raise ZeroDivisionError
        assert precisions() == chosen
        factor = drawn(300, 300, dtype=torch.float32)
        factor = factor @ factor.mT
        found = renewed(factor, torch.eye(300), "qr")
        assert found is not None
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = renewed(factor, torch.eye(300), "qr")
    assert exact is not None
    assert torch.equal(found[0], exact[0])


# Bad luck


def failing(monkeypatch, name, fails):
    """Make some calls of a decomposition fail; `fails` is asked with the dtype and the number of the call."""
    calls = []
    real = getattr(torch.linalg, name)

    def decompose(a):
        calls.append(a.dtype)
        if fails(a.dtype, len(calls)):
            raise torch.linalg.LinAlgError("bad luck")
        return real(a)

    monkeypatch.setattr(torch.linalg, name, decompose)
    return calls


def test_eigenvectors_are_tried_in_float64_and_with_a_ridge(monkeypatch):
    factor = drawn(5, 5, dtype=torch.float32)
    factor = factor @ factor.mT
    expected = eigenvectors(factor).abs()
    for failures, dtypes in ((1, [torch.float32, torch.float64]), (2, [torch.float32, torch.float64, torch.float64])):
        with monkeypatch.context() as patch:
            calls = failing(patch, "eigh", lambda _, count, n=failures: count <= n)
            torch.testing.assert_close(eigenvectors(factor).abs(), expected, rtol=0, atol=1e-3)
            assert calls == dtypes


def test_eigenvectors_that_are_not_finite_count_as_a_failure(monkeypatch):
    real = torch.linalg.eigh
    nans = torch.full((3, 3), float("nan"))
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: real(a) if a.dtype == torch.float64 else (nans[0], nans))
    found = eigenvectors(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
    torch.testing.assert_close(found.abs(), torch.eye(3)[:, [1, 2, 0]])


@pytest.mark.parametrize("refresh", ["qr", "eigh"])
def test_a_basis_that_cannot_be_renewed_serves_on_and_three_times_is_an_error(monkeypatch, refresh):
    p = torch.nn.Parameter(drawn(4, 3, dtype=torch.float32))
    optimizer = SOAP([("layer.weight", p)], precondition_frequency=1, refresh=refresh)
    train(optimizer, [p], range(4))
    state = optimizer.state[p]
    bases = {key: value.clone() for key, value in state.items() if key.startswith("basis")}
    failing(monkeypatch, refresh, lambda *_: True)
    train(optimizer, [p], range(4, 6))
    assert int(state["failures"]) == 2
    for key, basis in bases.items():
        assert torch.equal(state[key], basis)
    before = p.detach().clone()
    with pytest.raises(FrameError, match=r"'layer.weight'.*three refreshes in a row"):
        train(optimizer, [p], [6])
    assert not torch.equal(p, before)  # the step was taken
    assert int(state["step"]) == 7
    assert all(torch.isfinite(value).all() for value in (p, *state.values()))
    monkeypatch.undo()
    train(optimizer, [p], [7])
    assert int(state["failures"]) == 0


def test_only_the_member_that_fails_is_named(monkeypatch):
    params = [torch.nn.Parameter(drawn(4, 3, seed=i, dtype=torch.float32)) for i in range(3)]
    optimizer = SOAP([(f"layer.{i}", p) for i, p in enumerate(params)], precondition_frequency=1, refresh="qr")
    train(optimizer, params, range(2))
    optimizer.state[params[1]]["factor_0"].fill_(float("nan"))
    train(optimizer, params, range(2, 4))
    assert [int(optimizer.state[p]["failures"]) for p in params] == [0, 2, 0]
    with pytest.raises(FrameError, match=r"'layer.1'"):
        train(optimizer, params, [4])


def test_without_a_first_basis_the_axes_serve(monkeypatch):
    failing(monkeypatch, "eigh", lambda *_: True)
    _, optimizer = trained(drawn(4, 3), 1)
    state = next(iter(optimizer.state.values()))
    assert torch.equal(state["basis_0"], torch.eye(4, dtype=torch.float64))
    assert int(state["failures"]) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_gradient_that_is_not_finite_does_not_poison_the_factors(bad):
    params = [torch.nn.Parameter(drawn(4, 3, seed=i, dtype=torch.float32)) for i in range(2)]
    optimizer = SOAP(params, skip_nonfinite=False, precondition_frequency=2)
    train(optimizer, params, range(3))
    params[0].grad = torch.full((4, 3), bad)
    params[1].grad = drawn(4, 3, dtype=torch.float32)
    optimizer.step()
    for p in params:
        for key, value in optimizer.state[p].items():
            assert not key.startswith(("factor", "basis")) or torch.isfinite(value).all(), key
    assert torch.isfinite(params[1]).all()


@pytest.mark.parametrize("shape", [(4, 3), (3,)])
def test_zero_gradients_move_nothing(shape):
    start = drawn(*shape, dtype=torch.float32)
    for options in ({}, {"faithful": True}, {"eps": 0.0}, {"normalize_grads": True}):
        after, _ = trained(
            start, 5, lambda step: torch.zeros(shape), weight_decay=0.0, precondition_frequency=2, **options
        )
        assert torch.equal(after, start), options


def test_a_first_gradient_of_zero_is_made_up_for():
    zero_first = torch.nn.Parameter(drawn(5, 4))
    optimizer = SOAP([zero_first], precondition_frequency=2, refresh="eigh")
    train(optimizer, [zero_first], range(1), lambda step: torch.zeros(5, 4, dtype=torch.float64))
    train(optimizer, [zero_first], range(1, 5))
    state = optimizer.state[zero_first]
    turned = state["basis_1"].mT @ state["factor_1"] @ state["basis_1"]
    off = turned - torch.diag(turned.diagonal())
    assert off.norm() < 0.5 * turned.norm()


def test_recipes_read_back_and_bad_options_are_refused():
    frame = Eigenbasis(period=5, one_sided=True, refresh="thin", transport="hadamard", tolerance=0.1)
    assert parse(repr(frame)) == frame
    options = (
        {"period": 0},
        {"shampoo_beta": 1.0},
        {"max_precond_dim": -1},
        {"tolerance": -0.1},
        {"refresh": "svd"},
        {"transport": "none"},
        {"data_format": "nchw"},
    )
    for bad in options:
        with pytest.raises(ValueError, match=rf"Eigenbasis\({next(iter(bad))}="):
            Eigenbasis(**bad)
