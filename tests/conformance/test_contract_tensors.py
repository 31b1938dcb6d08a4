"""What every optimizer promises of tensors of every kind, size, dtype and memory layout."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import (
    ALL,
    BOTH,
    DTYPES,
    FP32,
    SPACES,
    Case,
    assert_same_run,
    backward,
    cases,
    checkpoint_of,
    each,
    same_bits,
    set_gradients,
    train,
)
from torch import Tensor, nn

import metrize
from metrize import Stiefel


@each(FP32)
def test_empty_and_scalar_parameters(case: Case) -> None:
    space = {"stiefel": Stiefel()}.get(case.space)
    if space is None:
        params = [nn.Parameter(torch.ones(shape)) for shape in ((0,), (0, 3), (3, 0), (), ())]
    else:
        params = [nn.Parameter(torch.full(shape, 0.5**0.5)) for shape in ((0, 3, 3), (2, 1), (2, 2, 1))]
    if issubclass(metrize.catalogue()[case.method], metrize.Muon):  # whose norms want a matrix with entries
        with pytest.raises(metrize.SpaceError, match=r"'#0 of its group': .* two dimensions at least, and entries"):
            case.optimizer([p for p in params if p.ndim > 1], space=space)
        params = [p for p in params if p.numel()]
    optimizer = case.optimizer(params, space=space)
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in params)
    assert all(torch.isfinite(t).all() for state in optimizer.state.values() for t in state.values())
    assert {float(state["step"]) for state in optimizer.state.values()} == {3.0}
    optimizer.load_state_dict(checkpoint_of(optimizer))


@each(FP32)
def test_a_point_that_could_not_move_is_refused(case: Case) -> None:
    if case.space == "vector":
        pytest.skip("a vector space has more points than one")
    p = nn.Parameter(-torch.ones(1, 1))  # of which the manifold O(1) has two, apart
    with pytest.raises(metrize.SpaceError, match=r"'#0 of its group': .* nothing could be trained"):
        case.optimizer([p], space=Stiefel())


@each(BOTH)
def test_exchanged_memory_is_seen(case: Case) -> None:
    model, optimizer = case.start()
    other, twin = case.start()
    for step in range(4):
        backward(model, step)
        backward(other, step)
        optimizer.step()
        twin.step()
        for p in model.parameters():
            p.data = p.data.clone()
    assert_same_run(model, optimizer, other, twin)


@each(FP32)
@pytest.mark.parametrize("dtype", ["bf16", "fp64"])
@pytest.mark.parametrize("made", ["before", "after"])
def test_a_conversion_before_the_first_step_is_honoured(case: Case, dtype: str, made: str) -> None:
    model = case.model()
    optimizer = case.optimizer(model) if made == "before" else None
    model.to(DTYPES[dtype])
    for name, space in metrize.spaces_of(model).items():  # 24 bits are no point of a manifold in 53
        space.project_(model.get_parameter(name))
    optimizer = optimizer or case.optimizer(model)
    train(model, optimizer, 0, 3)
    state = optimizer.state[model.one.weight]
    compute = torch.float64 if dtype == "fp64" else torch.float32
    stored = torch.bfloat16 if dict(case.options).get("moments") else compute
    for key, value in state.items():
        average = key in ("exp_avg", "exp_avg_sq", "momentum_buffer")
        if (value.ndim and value.is_floating_point()) or key == "step":
            assert value.dtype == (torch.float32 if key == "step" else stored if average else compute)
    assert ("master" in state) == (case.space != "vector" and dtype == "bf16")
    assert all(float(error) < 0.1 for error in metrize.error_on_space(model).values())


@each(FP32)
def test_a_conversion_to_16_bits_between_steps_is_honoured(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    model.bfloat16()
    train(model, optimizer, 2, 5)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {float(state["step"]) for state in optimizer.state.values()} == {5.0}
    assert ("master" in optimizer.state[model.one.weight]) == (case.space != "vector")
    if case.space != "vector":
        for p, state in optimizer.state.items():
            assert "master" not in state or same_bits(state["master"].bfloat16(), p)


@each(BOTH)
def test_a_conversion_to_more_bits_between_steps_is_honoured(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    model.to({"fp32": torch.float64, "bf16": torch.float32}[case.dtype])
    train(model, optimizer, 2, 5)
    assert {float(state["step"]) for state in optimizer.state.values()} == {5.0}
    wide = case.model().to(model.one.weight.dtype)
    if case.space == "vector":
        other = case.optimizer(wide)
        other.load_state_dict(optimizer.state_dict())  # it is a state of the new dtype through and through


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)


def layouts(weight: Tensor) -> dict[str, Tensor]:
    """The same numbers in other strides: dense ones, and one with gaps."""
    weight = weight.detach()
    wide = torch.zeros(*weight.shape[:-1], 2 * weight.shape[-1], dtype=weight.dtype)
    return {
        "channels_last": weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight,
        "transposed": weight.transpose(0, 1).contiguous().transpose(0, 1),
        "gaps": wide[..., ::2].copy_(weight),
    }


@each(cases(spaces=["vector"], dtypes=["fp32", "bf16"]))
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "gaps"])
@pytest.mark.parametrize("of", ["parameter", "gradient", "both"])
def test_memory_layouts_make_no_difference(case: Case, layout: str, of: str) -> None:
    torch.manual_seed(0)
    model = Convolution().to(DTYPES[case.dtype])
    other = copy.deepcopy(model)
    if of != "gradient":
        for layer in (other.one, other.two):
            layer.weight = nn.Parameter(layouts(layer.weight)[layout])
    optimizer, twin = case.optimizer(model), case.optimizer(other)
    for step in range(4):
        set_gradients(model.parameters(), step)
        set_gradients(other.parameters(), step)
        if of != "parameter":
            for layer in (other.one, other.two):
                layer.weight.grad = layouts(layer.weight.grad)[layout]
        optimizer.step()
        twin.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        for key, value in optimizer.state[p].items():
            codes = value.dtype == torch.uint8  # a code may be the next one where a product was rounded otherwise
            torch.testing.assert_close(twin.state[q][key], value, **({"rtol": 0, "atol": 1} if codes else {}))


@each(cases(spaces=["stiefel"], dtypes=["fp32", "bf16"]))
@pytest.mark.parametrize("layout", ["transposed", "gaps"])
def test_memory_layouts_make_no_difference_on_a_manifold(case: Case, layout: str) -> None:
    torch.manual_seed(0)
    points = [torch.linalg.qr(torch.randn(8, 5))[0].to(DTYPES[case.dtype]) for _ in range(3)]
    plain = [nn.Parameter(p.clone()) for p in points]
    strided = [nn.Parameter(layouts(p)[layout]) for p in points]
    optimizer, twin = (case.optimizer(params, space=Stiefel()) for params in (plain, strided))
    for step in range(4):
        set_gradients(plain, step)
        set_gradients(strided, step)
        for p in strided[1:]:
            p.grad = layouts(p.grad)["transposed"]
        optimizer.step()
        twin.step()
    for p, q in zip(plain, strided, strict=True):
        torch.testing.assert_close(p, q)


@each(cases(spaces=["vector"], dtypes=["fp32"]))
def test_a_layout_changed_between_steps_is_seen(case: Case) -> None:
    torch.manual_seed(0)
    model = Convolution()
    other = copy.deepcopy(model)
    optimizer, twin = case.optimizer(model), case.optimizer(other)
    for step in range(4):
        set_gradients(model.parameters(), step)
        set_gradients(other.parameters(), step)
        optimizer.step()
        twin.step()
        if step == 1:
            other.to(memory_format=torch.channels_last)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@each(FP32)
def test_a_gradient_that_is_part_of_a_graph_is_taken_as_numbers(case: Case) -> None:
    model, optimizer = case.start()
    other, twin = copy.deepcopy((model, optimizer))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.grad = torch.ones(p.shape, requires_grad=True) * 2
        q.grad = torch.full(q.shape, 2.0)
    optimizer.step()
    twin.step()
    assert all(p.is_leaf for p in model.parameters())
    assert_same_run(model, optimizer, other, twin)


@each(cases(dtypes=["fp32", "bf16"]))
def test_parameters_may_be_views_of_one_buffer(case: Case) -> None:
    space, dtype = SPACES[case.space], DTYPES[case.dtype]
    start = torch.eye(4, 3, dtype=dtype)
    buffer = torch.cat([torch.full((5,), 7.0, dtype=dtype), start.flatten(), start.flatten(), start.flatten()[:5]])
    views = [nn.Parameter(buffer[5:17].view(4, 3)), nn.Parameter(buffer[17:29].view(4, 3))]
    apart = [nn.Parameter(start.clone()) for _ in views]
    optimizers = [case.optimizer(params, space=space) for params in (views, apart)]
    for step in range(3):
        set_gradients(views, step)
        set_gradients(apart, step)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(views, apart)
    assert same_bits(buffer[:5], torch.full((5,), 7.0, dtype=dtype))
    assert same_bits(buffer[29:], start.flatten()[:5])
    assert same_bits(buffer[5:17].view(4, 3), views[0])


@each(FP32)
def test_an_expanded_gradient_is_read_as_what_it_stands_for(case: Case) -> None:
    model, optimizer = case.start()
    other, twin = copy.deepcopy((model, optimizer))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.grad = torch.ones(()).expand(p.shape)  # as `p.sum().backward()` may leave it
        q.grad = torch.ones(p.shape)
    optimizer.step()
    twin.step()
    assert_same_run(model, optimizer, other, twin)


def test_a_lazily_conjugated_gradient_is_resolved() -> None:
    p = nn.Parameter(torch.randn(5, dtype=torch.complex64))
    q = nn.Parameter(p.detach().clone())
    grad = torch.randn(5, dtype=torch.complex64)
    p.grad, q.grad = grad.conj(), grad.conj().resolve_conj()
    for parameter in (p, q):
        metrize.Adam([parameter], lr=0.1).step()
    assert same_bits(p, q)


@each(ALL)
def test_a_batch_of_many_gives_the_numbers_of_each_alone(case: Case) -> None:
    torch.manual_seed(0)
    space, dtype = SPACES[case.space], DTYPES[case.dtype]
    points = [torch.linalg.qr(torch.randn(6, 4, dtype=torch.float64))[0].to(dtype) for _ in range(72)]
    many = [nn.Parameter(p.clone()) for p in points]
    alone = [nn.Parameter(p.clone()) for p in points[::12]]
    optimizer = case.optimizer(many, space=space)
    if not case.alone:
        pytest.skip("every parameter counts for the step of each")
    if case.space != "vector" and case.method in ("Adam8bit", "Adam4bit"):
        pytest.skip("the rounding of a lift decides between neighbouring codes")
    singles = [case.optimizer([p], space=space) for p in alone]
    optimizer.init_state()
    for p, q, single in zip(many[::12], alone, singles, strict=True):
        single.init_state()
        if "phase" in single.state[q]:  # of a refresh, which is spread over the parameters
            single.state[q]["phase"].copy_(optimizer.state[p]["phase"])
    for step in range(4):
        set_gradients(many, step)
        for p, q in zip(many[::12], alone, strict=True):
            q.grad = p.grad.clone()
        optimizer.step()
        for single in singles:
            single.step()
    for p, q, single in zip(many[::12], alone, singles, strict=True):
        torch.testing.assert_close(p, q)
        for key, value in single.state[q].items():
            rounding = {torch.bfloat16: 1e-2, torch.float32: 1e-4, torch.float64: 1e-10}
            tolerance = {"rtol": rounding.get(value.dtype, 0), "atol": 1e-4}
            torch.testing.assert_close(optimizer.state[p][key], value, **tolerance)
