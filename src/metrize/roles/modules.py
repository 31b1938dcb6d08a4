"""What the type of a module tells about its parameters; no data is needed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import ParametrizationList

from metrize.norms import Layout
from metrize.roles.role import Role


@dataclasses.dataclass(frozen=True)
class Guess:
    """A role as far as the module's type tells it.

    Args:
        role: the role.
        open: a matrix that may turn out to be the input layer, the head or a router, which no type tells.
    """

    role: Role
    open: bool = False


@dataclasses.dataclass(frozen=True)
class Place:
    """A parameter where it is registered.

    Args:
        path: names from the root, such as ``("h", "0", "attn", "weight")``.
        owners: the modules along the path, the root first.
        parameter: the parameter.
    """

    path: tuple[str, ...]
    owners: tuple[nn.Module, ...]
    parameter: Tensor

    @property
    def module(self) -> nn.Module:
        return self.owners[-1]

    @property
    def name(self) -> str:
        return self.path[-1]


def guesses(model: nn.Module) -> dict[str, Guess | None]:
    """A guess for every registered name, those of tied parameters too; None where no rule knows."""
    heads = _declared_heads(model)
    found = {".".join(place.path): guess(place) for place in _places(model, (), (model,))}
    for name, known in found.items():
        if known and known.open and name in heads:
            found[name] = Guess(Role("head", known.role.layout, "declared output embeddings"))
    return found


def guess(place: Place) -> Guess | None:
    """The answer of the first rule that knows the place."""
    answers = (rule(place) for rule in _RULES)
    return next((answer for answer in answers if answer is not None), None)


def _places(module: nn.Module, path: tuple[str, ...], owners: tuple[nn.Module, ...]) -> Iterator[Place]:
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield Place((*path, name), owners, parameter)
    for name, child in module._modules.items():
        if child is not None and child not in owners:  # a module may hold its parent
            yield from _places(child, (*path, name), (*owners, child))


def _declared_heads(model: nn.Module) -> set[str]:
    """Weights of the output embeddings that models of transformers declare."""
    heads: set[str] = set()
    for path, module in model.named_modules():
        declared = getattr(module, "get_output_embeddings", None)
        head = declared() if callable(declared) else None
        weight = getattr(head, "weight", None)
        if weight is not None:
            heads |= {f"{path}.{name}".lstrip(".") for name, p in _named(module) if p is weight}
    return heads


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return module.named_parameters(remove_duplicate=False)


def _low_rank(place: Place) -> Guess | None:
    """Factors of adapters, whether a module or a bare parameter."""
    found = [match for name in place.path if (match := _FACTOR.fullmatch(name))]
    if not found or place.parameter.ndim != 2:
        return None
    kind = "lora-a" if found[0][1] in ("A", "down") else "lora-b"
    return Guess(Role(kind, reason=f"{found[0][0]} of a low-rank adapter"))


def _parametrized(place: Place) -> Guess | None:
    """A tensor that the model sees through `torch.nn.utils.parametrize`."""
    if not isinstance(place.module, ParametrizationList):
        return None
    kinds = [type(parametrization).__name__ for parametrization in place.module]
    host = Place((*place.path[:-3], place.path[-2]), place.owners[:-2], place.parameter)
    if kinds == ["_WeightNorm"] and place.name == "original0":
        return Guess(Role("gain", reason="lengths of a weight norm"))
    if kinds in (["_WeightNorm"], ["_SpectralNorm"]):
        return guess(host)
    return Guess(Role("elementwise", reason=f"seen through {', '.join(kinds)}"))


def _old_weight_norm(place: Place) -> Guess | None:
    """The hooks of torch before there were parametrizations."""
    if place.name == "weight_g":
        return Guess(Role("gain", reason="lengths of a weight norm"))
    if place.name in ("weight_v", "weight_orig"):
        return guess(dataclasses.replace(place, path=(*place.path[:-1], "weight")))
    return None


def _experts(place: Place) -> Guess | None:
    """Banks of experts of transformers, which say on the module how they are stored."""
    marks = ("has_gate", "is_transposed", "is_concatenated")
    if not all(hasattr(place.module, mark) for mark in marks) or place.parameter.ndim != 3:
        return None
    transposed = bool(place.module.is_transposed)
    layout = Layout(transposed=transposed)
    if place.module.has_gate and place.name.startswith("gate_up"):
        half = place.parameter.shape[-1 if transposed else -2] // 2
        pattern = {"split": (half, half)} if place.module.is_concatenated else {"split": (1, 1), "outer": half}
        layout = layout.replace(**pattern)
    return Guess(Role("expert", layout, "bank of experts, as its module says"))


def _router(place: Place) -> Guess | None:
    names = [type(owner).__name__ for owner in place.owners]
    routers = [name for name in names if name.endswith(("Router", "TopKGate"))]
    shape = place.parameter.shape
    if not routers or len(shape) != 2 or shape[0] > shape[1] or isinstance(place.module, nn.Embedding):
        return None
    return Guess(Role("router", reason=routers[-1]))


def _vector(place: Place) -> Guess | None:
    """Biases go by that name everywhere."""
    if re.search(r"(^|_)bias$", place.name):
        return Guess(Role("bias", reason=f"bias of {_type(place)}"))
    if place.parameter.numel() == 1 and place.parameter.ndim < 2:
        return Guess(Role("scalar", reason="one number"))
    return None


def _norm(place: Place) -> Guess | None:
    if not _is_norm(place.module):
        return None
    kind = {"weight": "gain", "bias": "bias"}.get(place.name)
    return Guess(Role(kind, reason=_type(place))) if kind else None


def _is_norm(module: nn.Module) -> bool:
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)):
        return True
    own = [p for p in module.parameters() if p is not None]
    return bool(re.search(r"Norm\w{0,2}$", type(module).__name__)) and all(p.ndim <= 1 for p in own)


def _attention(place: Place) -> Guess | None:
    """`nn.MultiheadAttention`, whose inner calls no trace of its arguments tells apart."""
    if isinstance(place.module, NonDynamicallyQuantizableLinear) and place.name == "weight":
        return Guess(Role("hidden", reason="output projection of attention"))
    if not isinstance(place.module, nn.MultiheadAttention):
        return None
    if place.name == "in_proj_weight":
        third = place.parameter.shape[0] // 3
        return Guess(Role("hidden", Layout(split=(third, third, third)), "queries, keys, values of attention"))
    if place.name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        return Guess(Role("hidden", reason="projection of attention"))
    if place.name in ("bias_k", "bias_v"):
        return Guess(Role("embedding", Layout(transposed=True), "a token among the keys and values"))
    return None


def _recurrent(place: Place) -> Guess | None:
    if not isinstance(place.module, (nn.RNNBase, nn.RNNCellBase)):
        return None
    if not place.name.startswith("weight"):
        return Guess(Role("bias", reason=f"bias of {_type(place)}"))
    gates = place.parameter.shape[0] // place.module.hidden_size
    if place.name.startswith("weight_hr") or gates == 1:
        return Guess(Role("recurrent", reason=_type(place)))
    layout = Layout(split=(place.module.hidden_size,) * gates)
    return Guess(Role("recurrent", layout, f"{gates} gates of {_type(place)}"))


def _convolution(place: Place) -> Guess | None:
    module = place.module
    if not isinstance(module, _ConvNd) or place.name != "weight":
        return None
    transposed = isinstance(module, _ConvTransposeNd)
    layout = Layout(unfold=True, groups=module.groups, transposed=transposed)
    return Guess(Role("conv", layout, _type(place)), open=True)


def _dense(place: Place) -> Guess | None:
    module, name = place.module, _type(place)
    if place.name != "weight":
        return None
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        padding = "" if module.padding_idx is None else f", row {module.padding_idx} is padding"
        return Guess(Role("embedding", Layout(transposed=True), name + padding))
    if isinstance(module, nn.Bilinear):
        return Guess(Role("bilinear", Layout(unfold=True), name))
    if isinstance(module, nn.Linear):
        return Guess(Role("hidden", reason=name), open=True)
    if name == "Conv1D" and hasattr(module, "nf"):  # of transformers: a linear layer that stores inputs first
        return Guess(Role("hidden", Layout(transposed=True), name), open=True)
    return None


def _slope(place: Place) -> Guess | None:
    return Guess(Role("gain", reason="slopes of PReLU")) if isinstance(place.module, nn.PReLU) else None


def _type(place: Place) -> str:
    return type(place.module).__name__.removeprefix("Parametrized").removeprefix("NonDynamicallyQuantizable")


_FACTOR = re.compile(r"lora_(?:embedding_)?(A|B|down|up)")
_RULES: tuple[Callable[[Place], Guess | None], ...] = (
    _parametrized,
    _old_weight_norm,
    _low_rank,
    _experts,
    _router,
    _recurrent,
    _attention,
    _vector,
    _norm,
    _slope,
    _convolution,
    _dense,
)
"""The first that knows answers."""
