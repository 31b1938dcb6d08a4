"""Large tensors go through a step in pieces: the same numbers, and no large temporary."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from methods import KINDS, METHODS, Build, finite, grads
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import metrize
from metrize.moments.stream import Cut, boxes
from metrize.step import assembly, piecewise
from metrize.step.piecewise import Piecewise
from metrize.step.stacked import Stacked

ALONE = {"H-Fac", "H-Fac with signs", "SM3, clipped", "Adam, rank 1 and cover"}
"""Rules that see the whole tensor at once, and storages that see it in two ways."""
SHAPES = [(64, 48), (48, 64), (2, 3, 70), (1, 40, 30), (30, 20, 3, 3), (509,), (31, 37)]
EVERY = pytest.mark.parametrize("name", METHODS)


@contextlib.contextmanager
def pieces(size: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piecewise, "piece_size", lambda device, numel: size)
        yield


@contextlib.contextmanager
def nothing_streams() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "EXECUTORS", tuple(e for e in assembly.EXECUTORS if e is not Piecewise))
        yield


def run(build: Build, shape: tuple[int, ...], dtype: torch.dtype, steps: int = 4) -> tuple[Tensor, metrize.Optimizer]:
    draw = torch.Generator().manual_seed(5)
    p = nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype))
    optimizer = build([p])
    for _ in range(steps):
        p.grad = torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)
        optimizer.step()
    return p.detach(), optimizer


def kind_of(optimizer: metrize.Optimizer) -> type:
    return type((optimizer._buckets or [])[0])


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_pieces_give_the_numbers_of_the_whole(name: str, dtype: torch.dtype) -> None:
    build = METHODS[name]
    for shape in SHAPES:
        with pieces(512):
            mine, streams = run(build, shape, dtype)
        with nothing_streams():
            whole, stacks = run(build, shape, dtype)
        if kind_of(streams) is not Piecewise:
            assert name in ALONE or "dense" in name or len(shape) == 1
            continue
        assert kind_of(stacks) is Stacked
        # averages in 16 bits may fall on the other side of a half
        tight = 8e-3 if dtype == torch.bfloat16 or "bfloat16" in name or "compressed" in name else 1e-6
        tight = 1e-12 if tight == 1e-6 and dtype == torch.float64 else tight
        scale = float(whole.abs().max())
        assert float((mine.double() - whole.double()).abs().max()) <= tight * scale, f"{shape}"


@EVERY
@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_makes_a_nan_in_pieces(name: str, kind: str) -> None:
    params = [nn.Parameter(torch.ones(shape)) for shape in ((16, 12), (5, 8, 3, 3))]
    optimizer = METHODS[name](params)
    with pieces(48):
        for step in range(3):
            for p in params:
                p.grad = grads(tuple(p.shape), kind, step)
            optimizer.step()
    for p in params:
        assert finite(p, *optimizer.state[p].values())


@EVERY
def test_a_parameter_may_change_its_memory_format(name: str) -> None:
    start = torch.randn(6, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    changes, stays = (nn.Parameter(start.clone()) for _ in range(2))
    changes.data = changes.data.to(memory_format=torch.channels_last)
    optimizers = [METHODS[name]([p]) for p in (changes, stays)]
    with pieces(64):
        for step in range(4):
            if step == 2:
                changes.data = changes.data.contiguous()
            changes.grad = stays.grad = grads(tuple(start.shape), "plain", step)
            for optimizer in optimizers:
                optimizer.step()
    rtol = 8e-3 if "bfloat16" in name or "compressed" in name else 1e-5
    torch.testing.assert_close(changes.detach(), stays.detach(), rtol=rtol, atol=1e-7)


@EVERY
def test_what_can_stream_does(name: str) -> None:
    with pieces(512):
        kind = kind_of(run(METHODS[name], (48, 64), torch.float32, 1)[1])
    assert (kind is Stacked) == (name in ALONE)


def peak(optimizer: metrize.Optimizer) -> int:
    """Largest number of bytes of temporaries alive at once in a step."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found,
    ):
        optimizer.step()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2048, 1024), (512, 512, 3, 3)], ids=str)
def test_temporaries_of_a_step_are_less_than_one_copy(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if name in ALONE:
        pytest.skip("sees the whole tensor")
    p = nn.Parameter(torch.ones(shape, dtype=dtype))
    p.grad = torch.ones_like(p)
    optimizer = METHODS[name]([p])
    optimizer.step()
    assert kind_of(optimizer).__name__ in ("Piecewise", "Fused")
    assert peak(optimizer) <= 4 * p.numel()


def test_small_tensors_share_batches_of_bounded_size() -> None:
    params = [nn.Parameter(torch.ones(64, 64)) for _ in range(200)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = metrize.SMMF(params)
    optimizer.step()
    assert peak(optimizer) < 0.9 * sum(4 * p.numel() for p in params)  # 8 copies, if they went all at once


@pytest.mark.parametrize("layout", [(), (1,), (7,), (5, 3), (4, 3, 2), (2, 1, 3, 4), (0, 3)])
@pytest.mark.parametrize("size", [1, 2, 3, 6, 100])
def test_boxes_cover_a_tensor_once(layout: tuple[int, ...], size: int) -> None:
    numbers = torch.arange(torch.Size(layout).numel()).reshape(1, *layout)
    seen = [cut.of(numbers).flatten() for cut in boxes(layout, size)]
    assert torch.equal(torch.cat(seen) if seen else numbers.flatten(), numbers.flatten())
    for cut, part in zip(boxes(layout, size), seen, strict=True):
        assert len(part) <= max(size, 1)
        assert list(part) == list(range(cut.start, cut.stop))


def test_boxes_begin_where_they_may() -> None:
    assert all(cut.start % 8 == 0 for cut in boxes((37, 6), 20, align=8))
    assert boxes((3, 7, 5), 10, align=4) == [Cut((3, 7, 5))]  # 35 numbers behind each place: no multiple of 4


@dataclasses.dataclass(frozen=True)
class HalvedAdam(metrize.rules.Adam):
    """Looks at the whole gradient, and says nothing of passes."""

    def direction(self, coords: Tensor, averages: Any, hyper: Any, metric: Any) -> Tensor:
        return super().direction(coords, averages, hyper, metric) / coords.norm()


def test_a_class_with_a_direction_of_its_own_is_not_taken_for_its_parent() -> None:
    recipe = metrize.Recipe(moments=metrize.Dense("bfloat16"), rule=HalvedAdam())
    with pieces(16):
        assert kind_of(run(lambda p: metrize.Optimizer(p, recipe), (8, 8), torch.float32, 1)[1]) is Stacked
