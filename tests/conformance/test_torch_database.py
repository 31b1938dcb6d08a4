"""The checks of torch's own ``test/test_optim.py``, on entries of torch's optimizer database made of ours.

The database is private to torch (``torch.testing._internal``); its test file is not in the wheel, so the methods are
written here after what it checks.
"""
# ruff: noqa: PT009, PT027 - torch's own assertEqual compares nested tensors, and its TestCase is unittest's

from __future__ import annotations

import copy
import io
import itertools
import pickle
from typing import Any

import torch
from database import DATABASE, INTERMEDIATES, MATRICES
from live_bytes import LiveBytes
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import OptimizerInfo, OptimizerInput, TensorTracker, optims
from torch.testing._internal.common_utils import TestCase, parametrize

import metrize


def row(optim_info: OptimizerInfo, entries: int) -> tuple[int, ...]:
    """The shape of a vector, or of the matrix in its place."""
    return (entries, 1) if optim_info.optim_cls in MATRICES else (entries,)


def linear(optim_info: OptimizerInfo, inputs: int = 4, outputs: int = 4) -> nn.Linear:
    """With a bias, if the optimizer takes one."""
    return nn.Linear(inputs, outputs, bias=optim_info.optim_cls not in MATRICES)


def names(optimizer: torch.optim.Optimizer) -> list[str]:
    return [name for group in optimizer.param_groups for name in group["param_names"]]


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


class TestOptimizers(TestCase):
    """Named after the methods of torch's ``TestOptimRenewed``."""

    def inputs(self, info: OptimizerInfo, device: str) -> list[OptimizerInput]:
        return info.optim_inputs_func(device=device)

    @parametrize("with_lrsched", [True, False])
    @parametrize("contiguous", [True, False])
    @optims(DATABASE, dtypes=[torch.float32])
    def test_forloop_goes_right_direction(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo, contiguous: bool, with_lrsched: bool
    ) -> None:
        for constructors in optim_info.scheduler_inputs if with_lrsched else [[]]:
            for optim_input in self.inputs(optim_info, device):  # fresh ones, because schedulers fill a tensor lr
                gap = () if contiguous else (2,)
                shapes = (10, 5), row(optim_info, 10)
                tensors = (torch.randn(*shape, *gap, dtype=dtype) for shape in shapes)
                weight, bias = (Parameter(t if contiguous else t[..., 0]) for t in tensors)
                self._goes_right_direction(
                    optim_info.optim_cls([weight, bias], **optim_input.kwargs), weight, bias, constructors, optim_input
                )

    def _goes_right_direction(
        self, optimizer: Any, weight: Tensor, bias: Tensor, constructors: Any, optim_input: OptimizerInput
    ) -> None:
        schedulers = [constructor(optimizer) for constructor in constructors]
        x = torch.randn(5, dtype=weight.dtype)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (weight.mv(x) + bias.reshape(-1)).pow(2).sum()
            loss.backward()
            return loss.detach()

        initial = closure().item()
        for _ in range(20):
            loss = closure()
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step(*([loss] if isinstance(scheduler, ReduceLROnPlateau) else []))
        if optim_input.kwargs.get("maximize"):
            self.assertGreater(closure().item(), initial)
        else:
            self.assertLess(closure().item(), initial)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_param_group_with_lrscheduler_goes_right_direction(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo
    ) -> None:
        for constructors in optim_info.scheduler_inputs:
            weight, bias = (Parameter(torch.randn(shape, dtype=dtype)) for shape in ((10, 5), row(optim_info, 10)))
            options = self.inputs(optim_info, device)[0].kwargs
            # with d0 lr is a factor on a rate that is found
            lr, other = (1.0, 0.5) if "d0" in options else (0.001, 0.01)
            groups = [{"params": [weight]}, {"params": [bias], "lr": other}]
            optimizer = optim_info.optim_cls(groups, **{**options, "lr": lr})
            self._goes_right_direction(
                optimizer, weight, bias, constructors, OptimizerInput(params=None, kwargs={}, desc="groups")
            )

    @optims(DATABASE, dtypes=[torch.float32])
    def test_tensor_lr(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input, shape in itertools.product(self.inputs(optim_info, device), [(), (1,)]):
            kwargs = {**optim_input.kwargs, "lr": 0.01}
            weight, bias = (Parameter(torch.randn(shape, dtype=dtype)) for shape in ((10, 5), row(optim_info, 10)))
            twins = [Parameter(p.detach().clone()) for p in (weight, bias)]
            lr = torch.full(shape, 0.01, dtype=torch.float64)
            optimizer = optim_info.optim_cls([weight, bias], **{**kwargs, "lr": lr})
            twin = optim_info.optim_cls(twins, **kwargs)
            x = torch.randn(5, dtype=dtype)
            for _ in range(4):
                for o, (w, b) in ((optimizer, (weight, bias)), (twin, twins)):
                    o.zero_grad()
                    (w.mv(x) + b.reshape(-1)).pow(2).sum().backward()
                    o.step()
            self.assertEqual([weight, bias], twins, rtol=1e-6, atol=1e-6)
            self.assertIs(optimizer.param_groups[0]["lr"], lr)
            self.assertEqual(lr, torch.full(shape, 0.01, dtype=torch.float64), rtol=0, atol=0)

    @parametrize("with_lrsched", [True, False])
    @optims(DATABASE, dtypes=[torch.float32])
    def test_tensor_lr_of_a_scheduler(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo, with_lrsched: bool
    ) -> None:
        tracked = TensorTracker({"rtol": 1e-6, "atol": 1e-6})
        x = torch.randn(5, dtype=dtype)
        start = torch.randn(10, 5, dtype=dtype)
        for lr in (0.01, torch.tensor(0.01, dtype=torch.float64)):
            weight = Parameter(start.clone())
            optimizer = optim_info.optim_cls([weight], lr=lr)
            scheduler = StepLR(optimizer, gamma=0.5, step_size=1) if with_lrsched else None
            for _ in range(3):
                optimizer.zero_grad()
                weight.mv(x).pow(2).sum().backward()
                optimizer.step()
                if scheduler:
                    scheduler.step()
                if isinstance(lr, Tensor):
                    tracked.pop_check_set(weight, self)
                else:
                    tracked.add(weight)
        self.assertTrue(tracked.all_popped())

    @optims([info for info in DATABASE if info.supports_complex], dtypes=[torch.complex64])
    def test_complex(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            complex_params = [Parameter(torch.randn(shape, dtype=dtype)) for shape in ((10, 5), row(optim_info, 3))]
            real_params = [Parameter(torch.view_as_real(p.detach()).clone()) for p in complex_params]
            complex_optimizer = optim_info.optim_cls(complex_params, **optim_input.kwargs)
            real_optimizer = optim_info.optim_cls(real_params, **copy.deepcopy(optim_input.kwargs))
            for _ in range(3):
                for p, q in zip(complex_params, real_params, strict=True):
                    p.grad = torch.randn_like(p)
                    q.grad = torch.view_as_real(p.grad).clone()
                complex_optimizer.step()
                real_optimizer.step()
                for p, q in zip(complex_params, real_params, strict=True):
                    self.assertEqual(torch.view_as_real(p), q, rtol=0, atol=0)

    @optims([info for info in DATABASE if info.supports_complex], dtypes=[torch.complex64])
    def test_complex_2d(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            z = Parameter(torch.randn(row(optim_info, 2), dtype=dtype))
            pair = Parameter(torch.view_as_real(z.detach()).clone())
            optimizers = [optim_info.optim_cls([p], **copy.deepcopy(optim_input.kwargs)) for p in (z, pair)]
            for _ in range(5):
                for p, optimizer in zip((z, pair), optimizers, strict=True):
                    optimizer.zero_grad()
                    w = p if p.is_complex() else torch.view_as_complex(p)
                    rosenbrock(w[0], w[1]).abs().sum().mul(1e-3).backward()
                    optimizer.step()
                self.assertEqual(torch.view_as_real(z), pair)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_sparse_is_refused_by_name(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        table = nn.Embedding(5, 3, sparse=True, dtype=dtype)
        head = nn.Linear(3, 1, dtype=dtype)
        optimizer = optim_info.optim_cls([("lm_head", head.weight), ("wte", table.weight)], lr=0.1)
        before = [p.detach().clone() for p in (head.weight, table.weight)]
        head(table(torch.tensor([1, 2]))).sum().backward()
        with self.assertRaisesRegex(TypeError, "'wte' has a sparse gradient"):
            optimizer.step()
        self.assertEqual([head.weight, table.weight], before, rtol=0, atol=0)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_param_groups_lr(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            optim_input.kwargs["lr"] = 0.0  # of the group that does not name one
            optim_input.kwargs["weight_decay"] = 0.0
            outer = [Parameter(torch.randn(shape, dtype=dtype)) for shape in ((10, 5), row(optim_info, 10))]
            frozen = Parameter(torch.randn(3, 4, dtype=dtype))
            before = frozen.detach().clone()
            optimizer = optim_info.optim_cls(
                [{"params": [outer[0]], "lr": 0.01}, {"params": [outer[1]], "lr": 0.02}, {"params": [frozen]}],
                **optim_input.kwargs,
            )
            x = torch.randn(5, dtype=dtype)
            losses = []
            for _ in range(20):
                optimizer.zero_grad()
                loss = (outer[0].mv(x) + outer[1].reshape(-1)).pow(2).sum() + frozen.pow(2).sum()
                loss.backward()
                losses.append(loss.item())
                optimizer.step()
            if optim_input.kwargs.get("maximize"):
                self.assertGreater(losses[-1], losses[0])
            else:
                self.assertLess(losses[-1], losses[0])
            self.assertEqual(frozen, before, rtol=0, atol=0)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_param_groups_weight_decay(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            if optim_info.optim_cls is metrize.Scion and optim_input.kwargs.get("constrained", True):
                continue  # it decays by lr alone
            kwargs = {**optim_input.kwargs, "weight_decay": 0.0, "lr": 0.1, "maximize": False}
            start = torch.randn(10, 5, dtype=dtype)
            decaying, plain = Parameter(start.clone()), Parameter(start.clone())
            groups = [{"params": [decaying], "weight_decay": 0.9}, {"params": [plain]}]
            optimizer = optim_info.optim_cls(groups, **kwargs)
            for p in (decaying, plain):
                p.grad = torch.zeros_like(p)
            for _ in range(2):
                optimizer.step()
            self.assertEqual(plain, start, rtol=0, atol=0)
            self.assertLess(decaying.norm().item(), start.norm().item())

    @optims(DATABASE, dtypes=[torch.float32])
    def test_step_is_noop_when_params_have_no_grad(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo
    ) -> None:
        for optim_input in self.inputs(optim_info, device):
            params = [Parameter(torch.randn(2, 3, dtype=dtype)) for _ in range(2)]
            old = [p.detach().clone() for p in params]
            optimizer = optim_info.optim_cls(params, **optim_input.kwargs)
            self.assertEqual(optimizer.step(lambda: torch.tensor(1.5)), torch.tensor(1.5))
            self.assertEqual(params, old, rtol=0, atol=0)

    @parametrize("kind", ["zero_gradient", "zero_lr", "both"])
    @optims(DATABASE, dtypes=[torch.float32])
    def test_step_is_noop_for_zero_grads(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo, kind: str
    ) -> None:
        for optim_input in self.inputs(optim_info, device):
            if optim_input.kwargs.get("weight_decay") and kind == "zero_gradient":
                continue  # parameters decay without a gradient
            kwargs = {**optim_input.kwargs, **({} if kind == "zero_gradient" else {"lr": 0.0})}
            if optim_info.optim_cls is metrize.Scion and kind == "zero_gradient" and kwargs.get("constrained", True):
                continue  # it decays by lr alone
            if kind == "zero_gradient":
                kwargs["weight_decay"] = 0.0  # which is not the default of all
            param = Parameter(torch.randn(5, 1, dtype=dtype))
            old = param.detach().clone()
            optimizer = optim_info.optim_cls([param], **kwargs)
            for _ in range(2):
                param.grad = torch.randn_like(param) if kind == "zero_lr" else torch.zeros_like(param)
                optimizer.step()
                self.assertEqual(param, old, rtol=0, atol=0)

    def _train(self, model: nn.Module, optimizer: Any, start: int, stop: int) -> None:
        for step in range(start, stop):
            torch.manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(3, 4)).pow(2).sum().backward()
            optimizer.step()

    @parametrize("named_before", [True, False])
    @parametrize("named_after", [True, False])
    @optims(DATABASE, dtypes=[torch.float32])
    def test_state_dict_deterministic(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo, named_before: bool, named_after: bool
    ) -> None:
        if optim_info.optim_cls is metrize.AdamMini and named_before != named_after:
            self.skipTest("its blocks follow from the names")

        def start(named: bool, kwargs: dict[str, Any]) -> tuple[nn.Module, Any]:
            torch.manual_seed(0)
            model = nn.Sequential(linear(optim_info, 4, 5), nn.Tanh(), linear(optim_info, 5, 4))
            params = list(model.named_parameters() if named else model.parameters())
            return model, optim_info.optim_cls([{"params": params[:1]}, {"params": params[1:], "lr": 0.02}], **kwargs)

        for optim_input in self.inputs(optim_info, device):
            kwargs = optim_input.kwargs
            model, optimizer = start(named_before, copy.deepcopy(kwargs))
            self._train(model, optimizer, 0, 3)
            saved = copy.deepcopy(optimizer.state_dict())
            self.assertEqual("param_names" in saved["param_groups"][0], named_before)
            other, resumed = start(named_after, copy.deepcopy(kwargs))
            other.load_state_dict(model.state_dict())
            resumed.load_state_dict(saved)
            self.assertEqual("param_names" in resumed.param_groups[0], named_before or named_after)
            again = resumed.state_dict()
            if named_before == named_after:
                self.assertEqual(again, saved, rtol=0, atol=0)
            self.assertEqual(again["state"], saved["state"], rtol=0, atol=0)
            self._train(model, optimizer, 3, 6)
            self._train(other, resumed, 3, 6)
            self.assertEqual(list(model.parameters()), list(other.parameters()), rtol=0, atol=0)
            self.assertEqual(optimizer.state_dict()["state"], resumed.state_dict()["state"], rtol=0, atol=0)

    @parametrize("named", [True, False])
    @optims(DATABASE, dtypes=[torch.float32])
    def test_save_load_equality_with_weights_only(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo, named: bool
    ) -> None:
        for optim_input in self.inputs(optim_info, device):
            model = linear(optim_info)
            params = model.named_parameters() if named else model.parameters()
            optimizer = optim_info.optim_cls(params, **optim_input.kwargs)
            self._train(model, optimizer, 0, 2)
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            loaded = torch.load(file, weights_only=True)
            self.assertEqual(loaded, optimizer.state_dict(), rtol=0, atol=0)
            params = model.named_parameters() if named else model.parameters()
            fresh = optim_info.optim_cls(params, **{**optim_input.kwargs, "skip_nonfinite": False})
            fresh.load_state_dict(loaded)
            self.assertEqual(fresh.state_dict(), optimizer.state_dict(), rtol=0, atol=0)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_can_load_from_to_named_state_dict(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo
    ) -> None:
        model = linear(optim_info)
        if optim_info.optim_cls is metrize.AdamMini:
            self.skipTest("its blocks follow from the names")
        first, second = model = nn.ParameterList([torch.ones(4, 4), torch.ones(row(optim_info, 4))])
        named = optim_info.optim_cls([("first", first), ("second", second)])
        plain = optim_info.optim_cls(model.parameters())
        renamed = optim_info.optim_cls([("third", first), ("fourth", second)])
        renamed.load_state_dict(plain.state_dict())
        self.assertEqual(names(renamed), ["third", "fourth"])
        plain.load_state_dict(named.state_dict())
        self.assertEqual(names(plain), ["first", "second"])
        with self.assertRaisesRegex(ValueError, "first"):  # torch takes the names of the checkpoint over
            renamed.load_state_dict(named.state_dict())
        self.assertEqual(names(renamed), ["third", "fourth"])

    @parametrize("param_dtype", [torch.bfloat16, torch.float16])
    @optims(DATABASE, dtypes=[torch.float32])
    def test_load_keeps_the_dtype_of_the_state(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo, param_dtype: torch.dtype
    ) -> None:
        for optim_input in self.inputs(optim_info, device):
            model = linear(optim_info).to(param_dtype)
            optimizer = optim_info.optim_cls(model.parameters(), **optim_input.kwargs)
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
            fresh = optim_info.optim_cls(model.parameters(), **{**optim_input.kwargs, "skip_nonfinite": False})
            fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            self.assertEqual(fresh.state_dict(), optimizer.state_dict(), rtol=0, atol=0, exact_dtype=True)
            for p in model.parameters() if optim_info.optim_cls in INTERMEDIATES else ():
                stored = torch.bfloat16 if "Bfloat16" in optim_info.name else torch.float32
                averages = {key: t.dtype for key, t in fresh.state[p].items() if t.shape == p.shape}
                self.assertEqual(set(averages.values()), {stored} if averages else set())
                self.assertEqual(fresh.state[p]["step"].dtype, torch.float32)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_load_nontensor_step(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            params = [Parameter(torch.randn(2, 3, dtype=dtype)) for _ in range(2)]
            for p in params:
                p.grad = torch.rand_like(p)
            optimizer = optim_info.optim_cls(params, **optim_input.kwargs)
            for _ in range(3):
                optimizer.step()
            saved = copy.deepcopy(optimizer.state_dict())
            for state in saved["state"].values():
                state["step"] = state["step"].item()
            optimizer.load_state_dict(saved)
            optimizer.step()
            self.assertEqual([state["step"] for state in optimizer.state.values()], [torch.tensor(4.0)] * 2)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_step_hooks(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        params = [torch.tensor([[1.0, 1.0]], requires_grad=True)]
        optimizer = optim_info.optim_cls(params)
        seen: list[str] = []
        handles = [
            optimizer.register_step_pre_hook(lambda opt, args, kwargs: seen.append("own pre")),
            optimizer.register_step_post_hook(lambda opt, args, kwargs: seen.append("own post")),
            register_optimizer_step_pre_hook(lambda opt, args, kwargs: seen.append("pre")),
            register_optimizer_step_post_hook(lambda opt, args, kwargs: seen.append("post")),
        ]
        try:
            optimizer.step()
            self.assertEqual(seen, ["pre", "own pre", "own post", "post"])
        finally:
            for handle in handles:
                handle.remove()
        optimizer.step()
        self.assertEqual(len(seen), 4)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_step_pre_hook_may_change_the_arguments(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo
    ) -> None:
        optimizer = optim_info.optim_cls([torch.ones(2, 1, requires_grad=True)])
        optimizer.register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: 7.0), {}))
        self.assertEqual(optimizer.step(), 7.0)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_state_dict_hooks(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        param = torch.rand(2, 3, dtype=dtype, requires_grad=True)
        param.grad = torch.rand_like(param)
        optimizer = optim_info.optim_cls([param])
        optimizer.step()
        order: list[str] = []

        def post(opt: Any, saved: dict[str, Any]) -> dict[str, Any]:
            order.append("post")
            return {**saved, "ramen": 7}

        optimizer.register_state_dict_pre_hook(lambda opt: order.append("second"))
        optimizer.register_state_dict_pre_hook(lambda opt: order.append("first"), prepend=True)
        handle = optimizer.register_state_dict_post_hook(post)
        self.assertEqual(optimizer.state_dict()["ramen"], 7)
        self.assertEqual(order, ["first", "second", "post"])
        handle.remove()
        self.assertNotIn("ramen", optimizer.state_dict())

    @optims(DATABASE, dtypes=[torch.float32])
    def test_load_state_dict_hooks(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        param = torch.rand(2, 3, dtype=dtype, requires_grad=True)
        param.grad = torch.rand_like(param)
        optimizer = optim_info.optim_cls([param])
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        order: list[str] = []

        def pre(opt: Any, given: dict[str, Any]) -> dict[str, Any]:
            """A new dict, with another learning rate and other numbers for the parameters."""
            order.append("pre")
            groups = [
                {**group, "lr": 0.123, "params": [i + 10 for i in group["params"]]} for group in given["param_groups"]
            ]
            return {"state": {i + 10: state for i, state in given["state"].items()}, "param_groups": groups}

        def post(opt: Any) -> None:
            order.append("post")
            self.assertEqual(opt.param_groups[0]["lr"], 0.123)
            self.assertEqual(dict(opt.state[param]), saved["state"][0], rtol=0, atol=0)
            opt.state[param]["step"].fill_(41)

        fresh = optim_info.optim_cls([param])
        fresh.register_load_state_dict_pre_hook(lambda opt, given: order.append("second"))
        fresh.register_load_state_dict_pre_hook(pre, prepend=True)
        fresh.register_load_state_dict_post_hook(lambda opt: order.append("last"))
        fresh.register_load_state_dict_post_hook(post, prepend=True)
        fresh.load_state_dict(saved)
        self.assertEqual(order, ["pre", "second", "post", "last"])
        fresh.step()
        self.assertEqual(fresh.state[param]["step"].item(), 42)
        self.assertEqual(len(fresh._optimizer_load_state_dict_pre_hooks), 2)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_load_bf16_state_with_hooks(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        param = torch.rand(2, 3, dtype=torch.bfloat16, requires_grad=True)
        param.grad = torch.rand_like(param)
        optimizer = optim_info.optim_cls([param])
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        dtypes: dict[str, torch.dtype] = {}
        optimizer.register_load_state_dict_post_hook(
            lambda opt: dtypes.update({key: t.dtype for key, t in opt.state[param].items()})
        )
        optimizer.load_state_dict(saved)
        self.assertEqual(dtypes, {key: t.dtype for key, t in saved["state"][0].items()})

    @optims(DATABASE, dtypes=[torch.float32])
    def test_non_empty_state(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            model = linear(optim_info)
            optimizer = optim_info.optim_cls(model.parameters(), **optim_input.kwargs)
            self._train(model, optimizer, 0, 1)
            for state in optimizer.state.values():
                self.assertGreater(len(state), 0)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_empty_grad(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            table = nn.Embedding(5, 0, dtype=dtype)
            before = table.weight.detach().clone()
            if optim_info.optim_cls in {metrize.Scion, *MATRICES}:
                with self.assertRaisesRegex(metrize.SpaceError, "'weight'.* and entries"):
                    optim_info.optim_cls(table.named_parameters(), **optim_input.kwargs)
                continue
            optimizer = optim_info.optim_cls(table.parameters(), **optim_input.kwargs)
            for _ in range(2):
                optimizer.zero_grad()
                table(torch.tensor([1, 2])).sum().backward()
                optimizer.step()
            self.assertEqual(table.weight, before, rtol=0, atol=0)
            self.assertTrue(all(torch.isfinite(t).all() for t in optimizer.state[table.weight].values()))

    @parametrize("how", ["deepcopy", "pickle", "torch_save"])
    @optims(DATABASE, dtypes=[torch.float32])
    def test_copies_go_on_bit_for_bit(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo, how: str
    ) -> None:
        def copied(pair: Any) -> Any:
            if how == "deepcopy":
                return copy.deepcopy(pair)
            if how == "pickle":
                return pickle.loads(pickle.dumps(pair))
            file = io.BytesIO()
            torch.save(pair, file)
            file.seek(0)
            return torch.load(file, weights_only=False)

        for optim_input in self.inputs(optim_info, device):
            model = nn.Sequential(linear(optim_info), linear(optim_info))
            optimizer = optim_info.optim_cls(model.parameters(), **optim_input.kwargs)
            self._train(model, optimizer, 0, 2)
            other, twin = copied((model, optimizer))
            self.assertIs(type(twin), type(optimizer))
            self._train(model, optimizer, 2, 4)
            self._train(other, twin, 2, 4)
            self.assertEqual(list(model.parameters()), list(other.parameters()), rtol=0, atol=0)
            self.assertEqual(optimizer.state_dict(), twin.state_dict(), rtol=0, atol=0)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_deepcopy_copies_all_public_attrs(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            params = [Parameter(torch.randn(2, 3, dtype=dtype)) for _ in range(2)]
            for p in params:
                p.grad = torch.rand_like(p)
            optimizer = optim_info.optim_cls(params, **optim_input.kwargs)
            for _ in range(2):
                optimizer.step()

            def public(o: Any) -> set[str]:
                return {name for name in o.__dict__ if not name.startswith("_")}

            self.assertEqual(public(optimizer), public(copy.deepcopy(optimizer)))
            self.assertEqual(public(optimizer), {"defaults", "state", "param_groups"})

    @optims(DATABASE, dtypes=[torch.float32])
    def test_add_param_group(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            first, second = linear(optim_info), linear(optim_info)
            model = nn.Sequential(first, second)
            optimizer = optim_info.optim_cls(first.parameters(), **optim_input.kwargs)
            self._train(model, optimizer, 0, 2)
            before = second.weight.detach().clone()
            self._train(model, optimizer, 2, 3)
            self.assertEqual(second.weight, before, rtol=0, atol=0)
            optimizer.add_param_group({"params": [second.weight], "weight_decay": 0.05})
            optimizer.zero_grad()
            self._train(model, optimizer, 3, 5)
            self.assertFalse(torch.equal(second.weight, before))
            self.assertEqual(optimizer.param_groups[-1]["weight_decay"], 0.05)
            self.assertEqual(optimizer.state[first.weight]["step"].item(), 5)
            self.assertEqual(optimizer.state[second.weight]["step"].item(), 2)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_param_group_with_tuples_of_names(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
        named = [(f"mlp.{name}", p) for name, p in model.named_parameters()]
        optimizer = optim_info.optim_cls([{"params": named[:2]}])
        optimizer.add_param_group({"params": named[2:]})
        found = [group["param_names"] for group in optimizer.param_groups]
        self.assertEqual(found, [["mlp.0.weight", "mlp.1.weight"], ["mlp.2.weight"]])
        with self.assertRaisesRegex(ValueError, "with/without names"):
            optimizer.add_param_group({"params": [("x", Parameter(torch.ones(3, 1))), Parameter(torch.ones(3, 1))]})
        self._train(model, optimizer, 0, 1)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_closure(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            model = linear(optim_info, 4, 1)
            other = copy.deepcopy(model)
            optimizer = optim_info.optim_cls(model.parameters(), **optim_input.kwargs)
            twin = optim_info.optim_cls(other.parameters(), **copy.deepcopy(optim_input.kwargs))
            x = torch.randn(3, 4)

            def loss_of(module: nn.Module, x: Tensor = x) -> Tensor:
                module.zero_grad()
                loss = module(x).pow(2).sum()
                loss.backward()
                return loss

            with torch.no_grad():  # under which the closure must still record
                returned = optimizer.step(lambda model=model, loss_of=loss_of: loss_of(model))
            expected = loss_of(other)
            twin.step()
            self.assertEqual(returned, expected, rtol=0, atol=0)
            self.assertTrue(returned.requires_grad)
            self.assertEqual(list(model.parameters()), list(other.parameters()), rtol=0, atol=0)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_defaults_and_groups_name_the_same_options(
        self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo
    ) -> None:
        for optim_input in self.inputs(optim_info, device):
            optimizer = optim_info.optim_cls([Parameter(torch.ones(3, 2))], **optim_input.kwargs)
            self.assertEqual(set(optimizer.param_groups[0]), {*optimizer.defaults, "params", "shapes", "spaces"})
            for key in optim_input.kwargs.keys() & optimizer.defaults.keys():
                self.assertEqual(optimizer.param_groups[0][key], optim_input.kwargs[key])

    @optims(DATABASE, dtypes=[torch.float32])
    def test_zero_grad(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        model = linear(optim_info)
        optimizer = optim_info.optim_cls(model.parameters())
        self._train(model, optimizer, 0, 1)
        optimizer.zero_grad(set_to_none=False)
        self.assertEqual(model.weight.grad, torch.zeros(4, 4), rtol=0, atol=0)
        optimizer.zero_grad()
        self.assertIsNone(model.weight.grad)

    @optims(DATABASE, dtypes=[torch.float32])
    def test_mixed_dtypes(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        for optim_input in self.inputs(optim_info, device):
            dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
            dtypes += [torch.complex64, torch.complex128] if optim_info.supports_complex else []
            params = [Parameter(torch.ones(row(optim_info, 3), dtype=t)) for t in dtypes]
            optimizer = optim_info.optim_cls(params, **{**optim_input.kwargs, "lr": 0.1})
            for _ in range(2):
                for p in params:
                    p.grad = torch.full_like(p, 0.5)
                optimizer.step()
            self.assertEqual([p.dtype for p in params], dtypes)
            wanted = [params[2].detach(), params[0].detach().double()]
            self.assertEqual(wanted[0], wanted[1], rtol=1e-2, atol=1e-2)
            self.assertFalse(torch.equal(params[0], torch.ones_like(params[0])))

    @optims([info for info in DATABASE if info.optim_cls in INTERMEDIATES], dtypes=[torch.float32])
    def test_peak_memory(self, device: str, dtype: torch.dtype, optim_info: OptimizerInfo) -> None:
        """New memory alive at once in a step; the state is there already."""
        large = 2**18 + 8  # numbers; updated where they lie
        for optim_input in self.inputs(optim_info, device):
            params = [Parameter(torch.randn(large, dtype=dtype)) for _ in range(4)]
            optimizer = optim_info.optim_cls(params, **optim_input.kwargs)
            for p in params:
                p.grad = torch.randn_like(p)
            optimizer.step()
            with LiveBytes() as live:
                optimizer.step()
            self.assertLessEqual(live.peak, 4 * large * INTERMEDIATES[optim_info.optim_cls] + 4096)
            self.assertEqual(live.now, 0)


instantiate_device_type_tests(TestOptimizers, globals(), only_for=("cpu",))
