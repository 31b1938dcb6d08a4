"""A step has the same bits wherever it is taken: under autocast, other defaults, other precisions of products."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sentences import SPACES
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import metrize
from metrize import Stiefel
from metrize.ambient import neutral, users_precision

PRODUCTS = {
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.baddbmm,
    torch.addmm,
    torch.einsum,
    torch.tensordot,
    torch.mv,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    Tensor.mm,
    Tensor.bmm,
    Tensor.mv,
}


class RoundedProducts(TorchFunctionMode):
    """What tensor cores do with float32 where the user allows it: operands of products lose 13 bits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS and torch.get_float32_matmul_precision() != "highest":
            args = tuple(map(_rounded, args))
        return func(*args, **(kwargs or {}))


def _rounded(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return value
    return (value.contiguous().view(torch.int32) & -(2**13)).view(torch.float32).view(value.shape)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def rough_products(precision: str) -> Iterator[None]:
    torch.set_float32_matmul_precision(precision)
    try:
        with RoundedProducts():
            yield
    finally:
        torch.set_float32_matmul_precision("highest")


def settable() -> contextlib.AbstractContextManager[None]:
    """Where torch's flags may be set one by one, which its own test utilities forbid once they are imported."""
    return torch.backends.__allow_nonbracketed_mutation()  # type: ignore[no-any-return,attr-defined]


@contextlib.contextmanager
def setting(place: Any, name: str, value: Any) -> Iterator[None]:
    """The newer ways to say the same, of which `get_float32_matmul_precision` knows nothing."""
    before = getattr(place, name)
    with settable():
        setattr(place, name, value)
        try:
            yield
        finally:
            setattr(place, name, before)


@contextlib.contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast of another device": lambda: torch.autocast("cuda", dtype=torch.float16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "gradients": torch.enable_grad,
    "deterministic": deterministic,
    "high": lambda: rough_products("high"),
    "medium": lambda: rough_products("medium"),
    "default device": default_device,
    "inference": torch.inference_mode,
}
BY_BACKEND = hasattr(torch.backends, "fp32_precision")  # torch before 2.9 has one precision for all
if BY_BACKEND:
    SURROUNDINGS["tf32 of one backend"] = lambda: setting(torch.backends.cuda.matmul, "fp32_precision", "tf32")
    SURROUNDINGS["bf16 of the host"] = lambda: setting(torch.backends.mkldnn, "fp32_precision", "bf16")
EACH = pytest.mark.parametrize("around", SURROUNDINGS)
# are made for products of little precision
_NEWTON_SCHULZ = ("Muon", "NorMuon", "AdaMuon", "COAPMuon", "FreeMuon", "Scion")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of autocast without CUDA, and of low ranks
        yield


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 12, dtype=torch.float32),
        nn.LayerNorm(12, dtype=torch.float32),
        nn.Linear(12, 4, dtype=torch.float32),
    )


def bits(build: Callable[[nn.Module], metrize.Optimizer], surroundings: Any) -> list[Tensor]:
    net = model().to("cpu")
    grads = [
        [torch.randn(p.shape, generator=torch.Generator().manual_seed(s)) for p in net.parameters()] for s in range(3)
    ]
    with surroundings:
        optimizer = build(net)
        optimizer.init_state()
        for step in grads:
            for p, grad in zip(net.parameters(), step, strict=True):
                p.grad = grad.clone()
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        for p, grad in zip(net.parameters(), grads[0], strict=True):
            p.grad = grad.clone()
        optimizer.step()
    kept = [value for p in net.parameters() for value in optimizer.state[p].values()]
    return [p.detach() for p in net.parameters()] + kept


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Tensor]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: bits(cls, contextlib.nullcontext()) for name, cls in metrize.catalogue().items()}


@EACH
def test_every_optimizer(around: str, expected: dict[str, list[Tensor]]) -> None:
    for name, cls in metrize.catalogue().items():
        if name in _NEWTON_SCHULZ and around in ("high", "medium"):
            continue
        found = bits(cls, SURROUNDINGS[around]())
        assert all(map(torch.equal, found, expected[name])), name


@EACH
def test_every_space(around: str) -> None:
    for space in SPACES:
        ends = []
        for surroundings in (contextlib.nullcontext(), SURROUNDINGS[around]()):
            start = torch.empty(8, 4, dtype=torch.float32, device="cpu")
            layer = nn.Linear(4, 8, bias=False, dtype=torch.float32, device="cpu")
            with surroundings:
                space.random_(start, torch.Generator("cpu").manual_seed(1))
                layer.weight.data.copy_(start)
                metrize.constrain(layer, "weight", space)
                space.project_(layer.weight.data)
                error = metrize.error_on_space(layer)["weight"]
                layer.weight.grad = start.mul(2).add(1)
                length = metrize.clip_lift_norm_(layer, 0.5)
                optimizer = metrize.AdamW(layer, lr=0.05)
                for _ in range(3):
                    layer.weight.grad = start.mul(2).add(1)
                    optimizer.step()
            assert float(error) <= 1e-6
            assert space.flat or float(metrize.error_on_space(layer)["weight"]) <= 2e-6
            ends.append([layer.weight.detach().clone(), error, length])
        assert all(map(torch.equal, *ends)), space


_CALLS: dict[str, Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    "inner": lambda space, y, z, v: space.inner(y, v, v),
    "dist": lambda space, y, z, v: space.dist(y, z),
    "tangent": lambda space, y, z, v: space.tangent(y, z),
    "exp": lambda space, y, z, v: space.exp(y, v / 8),
    "retract": lambda space, y, z, v: space.retract(y, v / 8),
    "log": lambda space, y, z, v: space.log(y, z),
    "transport": lambda space, y, z, v: space.transport(y, z, v),
}


@EACH
def test_every_function_of_every_space(around: str) -> None:
    seen = set()
    for space in SPACES:
        y, z = (space.random_(torch.empty(8, 4), torch.Generator().manual_seed(i)) for i in (1, 2))
        for name, call in _CALLS.items():
            with contextlib.suppress(metrize.SpaceError):  # it has no such function
                expected = call(space, y, z, space.tangent(y, z))
                with SURROUNDINGS[around]():
                    found = call(space, y, z, space.tangent(y, z))
                assert torch.equal(found, expected), (space, name)
                seen.add(name)
    assert seen == set(_CALLS)


def test_losses_of_points_compile_in_one_piece_also_under_autocast() -> None:
    for space in (metrize.Lorentz(), metrize.PoincareBall()):
        y, z = (space.random_(torch.empty(8, 4), torch.Generator().manual_seed(i)) for i in (1, 2))
        dist = torch.compile(space.dist, backend="eager", fullgraph=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(dist(y, z), space.dist(y, z))


@pytest.mark.parametrize("around", ["autocast", "float64", "medium"])
def test_steps_inside_of_backward(around: str) -> None:
    for name in ("SOAP", "SMMF", "Adafactor", "DistributedShampoo"):
        ends = []
        for surroundings in (contextlib.nullcontext(), SURROUNDINGS[around]()):
            net = model()
            handle = metrize.InBackward(metrize.catalogue()[name](net))
            for step in range(3):
                loss = torch.stack([((step + 1) * p.square()).sum() for p in net.parameters()]).sum()
                with surroundings if step == 1 else contextlib.nullcontext():
                    loss.backward()
            handle.remove()
            ends.append([p.detach() for p in net.parameters()])
        assert all(map(torch.equal, *ends)), name


def test_the_emulation_is_felt_where_nothing_guards() -> None:
    a = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    with rough_products("medium"):
        assert not torch.equal(a @ a, (a.double() @ a.double()).float())
        assert not torch.equal(torch.mm(a, a), (a.double() @ a.double()).float())


def test_the_surroundings_are_as_they_were() -> None:
    p = nn.Parameter(Stiefel().random_(torch.empty(8, 4), torch.Generator().manual_seed(1)))
    optimizer = metrize.Adam([p], space=Stiefel())
    p.grad = torch.ones(8, 4)
    with rough_products("medium"), torch.autocast("cpu", dtype=torch.bfloat16), default_dtype(torch.float64):
        optimizer.step()
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64


def _precisions() -> list[str]:
    b = torch.backends
    places: list[Any] = [b, b.mkldnn, b.cuda.matmul, b.mkldnn.matmul]
    return [place.fp32_precision for place in places]


@pytest.fixture
def _precisions_of_torch() -> Iterator[None]:
    before = _precisions()
    with settable():
        yield
        torch.set_float32_matmul_precision("highest")
        b = torch.backends
        for place, precision in zip((b, b.mkldnn, b.cuda.matmul, b.mkldnn.matmul), before, strict=True):
            place.fp32_precision = precision  # type: ignore[attr-defined]


@pytest.mark.skipif(not BY_BACKEND, reason="this torch has one precision for all backends")
@pytest.mark.usefixtures("_precisions_of_torch")
def test_every_way_to_set_a_precision_is_put_back() -> None:
    set_up: list[Callable[[], Any]] = [
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(torch.backends, "fp32_precision", "tf32"),
        lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "none"),
        lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    ]
    for choose in set_up:
        choose()
        before = _precisions()
        with contextlib.suppress(ZeroDivisionError), neutral():
            assert torch.get_float32_matmul_precision() == "highest"
            assert set(_precisions()[2:]) == {"ieee"}
            raise ZeroDivisionError
        assert _precisions() == before


def test_threads_that_step_together_put_the_precision_back() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with neutral():
            inside.set()
            leave.wait(10)

    with rough_products("high"):
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(10)
        with neutral():
            leave.set()
            thread.join()
            with users_precision():
                assert torch.get_float32_matmul_precision() == "high"
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"


def test_a_closure_keeps_the_users_surroundings() -> None:
    p, seen = nn.Parameter(torch.ones(3)), []
    optimizer = metrize.AdamW([p])

    def closure() -> float:
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_default_dtype(), torch.is_grad_enabled()))
        p.grad = torch.ones(3, dtype=torch.float32)
        return 0.0

    with torch.autocast("cpu", dtype=torch.bfloat16), default_dtype(torch.float64):
        optimizer.step(closure)
    assert seen == [(True, torch.float64, True)]


def test_newton_schulz_is_in_the_users_precision() -> None:
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    ends = []
    for surroundings in (contextlib.nullcontext(), rough_products("medium")):
        p = nn.Parameter(torch.zeros(6, 9))
        optimizer = metrize.Muon([p])
        p.grad = x.clone()
        with surroundings:
            optimizer.step()
        ends.append(p.detach().clone())
    assert not torch.equal(*ends)
    assert torch.allclose(*ends, atol=1e-3)
