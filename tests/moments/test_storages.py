"""What storages promise for tensors of any shape, and what they keep."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import KINDS, METHODS, Build, finite, grads
from torch import Tensor, nn

import metrize
from metrize import Blocks, Cover, Dense, Factored, RankOne, Split
from metrize.memory import KNOWN, predict
from metrize.moments import Slot

SHAPES = [(), (1,), (7,), (97,), (12, 1), (1, 9), (3, 5), (8, 6), (2, 3, 4), (5, 1, 7), (4, 3, 3, 3), (6, 5, 1, 1)]
SHAPES += [(2, 1, 3, 2, 2), (0,), (3, 0)]
EVERY = pytest.mark.parametrize("build", METHODS.values(), ids=METHODS)


@EVERY
@pytest.mark.parametrize("kind", KINDS)
def test_no_shape_and_no_gradient_makes_a_nan(build: Build, kind: str) -> None:
    params = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = build(params)
    for step in range(4):
        for p in params:
            p.grad = grads(tuple(p.shape), kind, step)
        optimizer.step()
    for p in params:
        assert finite(p, *optimizer.state[p].values()), f"{kind} gradients of shape {tuple(p.shape)}"
        assert kind != "zero" or bool((p == 1).all()) or optimizer.param_groups[0]["weight_decay"]


@EVERY
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(shape=st.lists(st.sampled_from([1, 2, 3, 4, 7]), max_size=5).map(tuple), step=st.integers(0, 50))
def test_any_shape_takes_steps_of_a_sane_length(build: Build, shape: tuple[int, ...], step: int) -> None:
    p = nn.Parameter(torch.ones(shape))
    optimizer = build([p])
    lr = float(optimizer.param_groups[0]["lr"])
    for t in range(3):
        before = p.detach().clone()
        p.grad = grads(shape, "plain", step + t)
        optimizer.step()
        assert finite(p)
        rms = float((p.detach() - before).square().mean().sqrt())
        assert rms <= 100 * lr + 0.1 * lr * float(before.square().mean().sqrt())


@pytest.mark.parametrize("name", METHODS)
def test_the_memory_format_of_a_parameter_does_not_matter(name: str) -> None:
    build = METHODS[name]
    start = torch.randn(6, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    plain = nn.Parameter(start.clone())
    last = nn.Parameter(start.clone().to(memory_format=torch.channels_last))
    mixed = nn.Parameter(start.clone())
    optimizers = [build([p]) for p in (plain, last, mixed)]
    for step in range(3):
        plain.grad = grads(tuple(start.shape), "plain", step)
        last.grad = plain.grad.to(memory_format=torch.channels_last)
        mixed.grad = last.grad
        for optimizer in optimizers:
            optimizer.step()
    assert last.is_contiguous(memory_format=torch.channels_last)
    rtol = 8e-3 if "bfloat16" in name or "compressed" in name else 1e-5  # sums in another order are rounded otherwise
    torch.testing.assert_close(last.detach(), plain.detach(), rtol=rtol, atol=1e-7)
    torch.testing.assert_close(mixed.detach(), plain.detach(), rtol=rtol, atol=1e-7)


@EVERY
def test_a_batch_of_equal_tensors_is_each_of_them_alone(build: Build) -> None:
    def run(shared: bool) -> list[Tensor]:
        params = [nn.Parameter(torch.full((6, 5), 1.0 + i)) for i in range(3)]
        optimizers = [build(params)] if shared else [build([p]) for p in params]
        for step in range(5):
            for i, p in enumerate(params):
                late = i == 1 and step < 2  # its count of steps is its own
                p.grad = None if late else grads((6, 5), "plain", 10 * i + step)
            for optimizer in optimizers:
                optimizer.step()
        return [p.detach() for p in params]

    for mine, alone in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(mine, alone, rtol=2e-6, atol=1e-7)


def test_the_relative_step_follows_its_schedule() -> None:
    """A parameter that is zero moves by the least size; the first steps by the bound, later ones by 1 / sqrt(t)."""

    def moved(steps: int, **options: Any) -> list[float]:
        p = nn.Parameter(torch.zeros(4, 4))
        optimizer = metrize.Adafactor([p], eps=(1e-30, 0.01), **options)
        sizes = []
        for _ in range(steps):
            before = p.detach().clone()
            p.grad = torch.ones(4, 4)
            optimizer.step()
            sizes.append(float((p.detach() - before).abs().mean()))
        return sizes

    assert moved(1)[0] == pytest.approx(0.01 * 0.01)
    assert moved(1, lr=0.5)[0] == pytest.approx(0.5 * 0.01)
    assert moved(2, lr=2.0, relative_step=True) == pytest.approx([0.01, 0.01 / 2**0.5])
    assert moved(2, lr=2.0, relative_step=True, scale_parameter=False) == pytest.approx([1.0, 1 / 2**0.5])
    assert moved(2, warmup_init=True) == pytest.approx([1e-8, 2e-8])
    assert moved(2, lr=0.0) == [0.0, 0.0]


# Checkpoints


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_is_the_straight_run_bit_for_bit(build: Build, dtype: torch.dtype) -> None:
    shapes = [(), (7,), (6, 5), (6, 5), (4, 3, 3, 3)]

    def start() -> list[nn.Parameter]:
        draw = torch.Generator().manual_seed(3)
        return [nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for shape in shapes]

    def train(params: list[nn.Parameter], optimizer: metrize.Optimizer, steps: range) -> None:
        for step in steps:
            for i, p in enumerate(params):
                p.grad = grads(tuple(p.shape), "plain", 100 * i + step).to(dtype)
            optimizer.step()

    straight = start()
    first = build(straight)
    train(straight, first, range(3))
    file = io.BytesIO()
    torch.save({"params": [p.detach() for p in straight], "optimizer": first.state_dict()}, file)
    train(straight, first, range(3, 8))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = [nn.Parameter(p) for p in saved["params"]]
    second = build(resumed)
    second.load_state_dict(saved["optimizer"])
    kept = [[(key, value.dtype, value.shape) for key, value in first.state[p].items()] for p in straight]
    assert [[(key, v.dtype, v.shape) for key, v in second.state[p].items()] for p in resumed] == kept
    assert metrize.state_bytes(second) == metrize.state_bytes(first)
    train(resumed, second, range(3, 8))
    for mine, theirs in zip(straight, resumed, strict=True):
        assert torch.equal(mine, theirs)
        for key, value in first.state[mine].items():
            assert torch.equal(value, second.state[theirs][key]), key


# Bytes


@pytest.mark.parametrize("name", ["ResNet-18", "ViT-S/16", "GPT-2 small", "LLaMA-60M", "LLaMA-7B"])
def test_bytes_of_factored_averages(name: str) -> None:
    """The formulas of the papers: rows and columns of the last two dimensions, vectors as they are."""

    def parts(shape: tuple[int, ...]) -> tuple[int, int]:
        count = math.prod(shape)
        return count, count // shape[-1] + count // shape[-2] if len(shape) > 1 else count

    shapes = KNOWN[name]()
    whole, factored = (sum(column) for column in zip(*map(parts, shapes), strict=True))
    vectors = sum(math.prod(shape) for shape in shapes if len(shape) < 2)
    told = {
        metrize.Adafactor: factored,
        lambda p: metrize.Adafactor(p, momentum=0.9): factored + whole,
        lambda p: metrize.CAME(p, dims="last"): whole + 2 * factored - vectors,
        lambda p: metrize.SM3(p, momentum=0.0): sum(sum(shape) for shape in shapes),
    }
    for method, numbers in told.items():
        assert predict(shapes, method).state == 4 * (numbers + len(shapes))


def kept(moments: metrize.moments.Moments, shape: tuple[int, ...], kind: Any) -> dict[str, tuple[int, ...]]:
    storage = moments.of(torch.Size(shape), kind)
    return {key: size for key, (size, _) in storage.state_spec("a", torch.Size(shape), torch.float32, kind).items()}


def test_what_is_kept_of_a_convolution() -> None:
    shape = (64, 32, 3, 5)
    assert kept(Factored(), shape, "square") == {"a.row": (64, 3, 5), "a.col": (32, 3, 5)}
    assert kept(Factored("last"), shape, "square") == {"a.row": (64, 32, 3), "a.col": (64, 32, 5)}
    assert kept(Factored(min_size=33), shape, "square") == kept(Dense(), shape, "square") == {"a": shape}
    assert kept(RankOne(), shape, "linear") == {"a.row": (192,), "a.col": (160,), "a.sign": (3840,)}
    assert kept(RankOne(), shape, "square") == {"a.row": (192,), "a.col": (160,)}
    assert kept(Cover(), shape, "square") == {"a.0": (64,), "a.1": (32,), "a.2": (3,), "a.3": (5,)}
    assert kept(Blocks(), shape, "square") == {"a": (1,)}
    assert kept(Blocks("rows"), shape, "square") == {"a": (64,)}
    assert kept(Blocks("rows", 4), shape, "square") == {"a": (4,)}
    assert kept(Blocks("columns"), shape, "square") == {"a": (32,)}
    assert kept(Split(RankOne(), Cover()), shape, "linear") == kept(RankOne(), shape, "linear")
    assert kept(Split(RankOne(), Cover()), shape, "square") == kept(Cover(), shape, "square")
    for moments in (Factored(), Cover(), Blocks()):
        assert kept(moments, shape, "linear") == {"a": shape}


# Storages


def slot(shape: tuple[int, ...], kind: Any) -> Slot:
    return Slot("a", kind, torch.Size(shape), torch.float64, lambda stack: stack)


def fresh(moments: metrize.moments.Moments, at: Slot, batch: int) -> dict[str, Tensor]:
    spec = moments.state_spec(at.name, at.shape, at.dtype, at.kind)
    return {key: torch.zeros(batch, *size, dtype=dtype) for key, (size, dtype) in spec.items()}


@pytest.mark.parametrize("moments", [Factored(), Factored("last"), Cover(), Cover("I"), RankOne()], ids=str)
def test_squares_of_rank_one_are_kept_exactly(moments: metrize.moments.Moments) -> None:
    """Up to the largest number of the slices, which is what a cover keeps."""
    rows, cols = torch.arange(1.0, 9).double(), torch.arange(1.0, 7).double()
    value = torch.outer(rows, cols)[None].sqrt()
    at = slot((8, 6), "square")
    state = fresh(moments, at, 1)
    for _ in range(2):
        used = moments.update(at, state, value, 0.5, 0.5)
    average = 0.75 * value.square()
    wanted = torch.minimum(average.amax(1, keepdim=True), average.amax(2, keepdim=True))
    exact = average if not isinstance(moments, Cover) else wanted
    torch.testing.assert_close(moments.read(at, state), exact)
    if moments != Cover():
        torch.testing.assert_close(used, exact)


@pytest.mark.parametrize("moments", [Factored(), Cover(), RankOne(), Blocks("rows", 4)], ids=str)
def test_what_is_written_twice_stays(moments: metrize.moments.Moments) -> None:
    at = slot((8, 6), "square")
    state = fresh(moments, at, 2)
    moments.write(at, state, torch.rand(2, 8, 6, generator=torch.Generator().manual_seed(0)).double())
    once = moments.read(at, state).clone()
    moments.write(at, state, once)
    torch.testing.assert_close(moments.read(at, state), once)


@pytest.mark.parametrize("shape", [(5,), (6, 4), (3, 4, 5)])
def test_signs_outlive_compression(shape: tuple[int, ...]) -> None:
    at = slot(shape, "linear")
    state = fresh(RankOne(), at, 1)
    value = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1)).double()
    RankOne().write(at, state, value)
    assert torch.equal(RankOne().read(at, state) > 0, value > 0)


def test_a_cover_is_never_below_the_sum_of_squares() -> None:
    """Claim 2 of the paper, in both variants; II is the tighter one."""
    at = slot((5, 4, 3), "square")
    states = {moments: fresh(moments, at, 1) for moments in (Cover("II"), Cover("I"))}
    total = torch.zeros(1, 5, 4, 3).double()
    for step in range(6):
        value = torch.randn(1, 5, 4, 3, generator=torch.Generator().manual_seed(step)).double()
        total += value.square()
        tight, loose = (m.update(at, state, value, 1.0, 1.0) for m, state in states.items())
        assert bool((tight >= total - 1e-12).all())
        assert bool((loose >= tight - 1e-12).all())


def test_means_of_blocks() -> None:
    value = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    square = value.square()
    told = {
        Blocks(): square.mean().expand(1, 6, 4),
        Blocks("rows"): square.mean(2, keepdim=True).expand(1, 6, 4),
        Blocks("columns"): square.mean(1, keepdim=True).expand(1, 6, 4),
        Blocks("rows", 3): square.view(1, 3, 8).mean(2).repeat_interleave(2, 1)[..., None].expand(1, 6, 4),
    }
    for moments, wanted in told.items():
        at = slot((6, 4), "square")
        state = fresh(moments, at, 1)
        torch.testing.assert_close(moments.update(at, state, value, 0.0, 1.0), wanted)
        torch.testing.assert_close(moments.read(at, state), wanted)


# Refusals


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Factored("first"), "dims='first'.*'largest', 'last'"),
        (lambda: Factored(min_size=0), "min_size=0"),
        (lambda: Factored(floor=-1.0), "floor=-1.0"),
        (lambda: RankOne("sparse"), "vectors='sparse'"),
        (lambda: Cover("III"), "variant='III'"),
        (lambda: Blocks("heads"), "by='heads'"),
        (lambda: Blocks("rows", 0), "count=0"),
        (lambda: Blocks("tensor", 2), "count=2"),
        (lambda: metrize.step_sizes.Relative("linear"), "schedule='linear'"),
        (lambda: metrize.step_sizes.Relative(least=0.0), "least=0.0"),
        (lambda: Whole("median"), "second_moment='median'"),
        (lambda: Whole(floor="none"), "floor='none'"),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


Whole = metrize.rules.Whitened


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda p: metrize.SMMF(p, momentum=1.0), "momentum=1.0"),
        (lambda p: metrize.SMMF(p, growth_rate=1.5), "growth_rate=1.5"),
        (lambda p: metrize.SMMF(p, decay_rate=0.5), "decay_rate=0.5"),
        (lambda p: metrize.CAME(p, betas=(0.9, 0.99)), r"betas=\(0.9, 0.99\)"),
        (lambda p: metrize.CAME(p, eps=(0.0, 1e-16)), r"eps=\(0.0, 1e-16\)"),
        (lambda p: metrize.SM3(p, momentum=-0.1), "momentum=-0.1"),
        (lambda p: metrize.Adafactor(p, clip=0.0), "clip=0.0"),
        (lambda p: metrize.Adafactor(p, decay_rate=0.8), "decay_rate=0.8"),
        (lambda p: metrize.Adafactor(p, dialect="t2t"), "dialect='t2t'.*'hf', 'fairseq', 'torch', 'optax'"),
        (lambda p: metrize.Adafactor(p, 1e-3, warmup_init=True), "warmup_init=True with lr=0.001"),
        (lambda p: metrize.HFac(p, betas=(0.9, 1.0)), r"betas=\(0.9, 1.0\)"),
        (lambda p: metrize.Adam([("qkv", p[0])], moments=Blocks("rows", 3)), "'qkv'.*the 8 rows .* not 3 equal blocks"),
        (lambda p: metrize.AdamMini([("q_proj.weight", p[0])], head_dim=3), "'q_proj.weight' has 8 rows.*head_dim=3"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(build: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build([nn.Parameter(torch.ones(8, 4))])


@pytest.mark.parametrize("name", ["SMMF", "Adafactor", "CAME", "SM3", "AdamMini", "Adam4bit"])
def test_a_point_of_a_manifold_stays_there_and_goes_down(name: str) -> None:
    """Rows and columns know nothing of the symmetries of a skew block; the space takes the nearest velocity."""
    generator = torch.Generator().manual_seed(0)
    space, options = metrize.Stiefel(polish_every=0), {"smallest": 0, "block": 4} if name == "Adam4bit" else {}
    start, goal = (space.random_(torch.empty(6, 3), generator) for _ in range(2))
    p = nn.Parameter(start)
    optimizer = metrize.catalogue()[name]([{"params": [("wo", p)], "space": space}], lr=0.03, **options)
    losses = []
    for _ in range(40):
        losses.append((p.detach() - goal).square().sum())
        p.grad = 2 * (p.detach() - goal)
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert space.error_of(p) < 1e-5


def test_a_rule_that_mixes_coordinates_is_refused_on_a_manifold() -> None:
    p = nn.Parameter(torch.eye(6, 3))
    with pytest.raises(metrize.SpaceError, match=r"'w'.*is for tensors in a vector space.*Stiefel"):
        metrize.HFac([{"params": [("w", p)], "space": metrize.Stiefel()}])


# Adam-mini


def test_blocks_by_name() -> None:
    shapes = {
        "embed.weight": (20, 8),
        "layers.0.q_proj.weight": (8, 8),
        "layers.0.v_proj.weight": (4, 8),
        "layers.0.mlp.up.weight": (16, 8),
        "layers.0.mlp.up.bias": (16,),
        "layers.0.qkv.weight": (24, 8),
        "layers.0.norm.weight": (8,),
        "conv.weight": (4, 3, 3, 3),
    }
    named = [(name, nn.Parameter(torch.ones(shape))) for name, shape in shapes.items()]
    blocks = {"*.qkv.weight": Blocks("rows", 3)}
    optimizer = metrize.AdamMini(named, weight_decay=0.1, head_dim=2, blocks=blocks)
    optimizer.init_state()
    numbers = {name: optimizer.state[p]["exp_avg_sq"].numel() for name, p in named}
    assert list(numbers.values()) == [20, 4, 4, 16, 16, 3, 1, 1]
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["param_names"]}
    assert {name for name, decay in decays.items() if decay == 0} == {"layers.0.mlp.up.bias", "layers.0.norm.weight"}
