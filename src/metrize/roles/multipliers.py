"""Rules that spare parameters decay, and that scale their learning rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import nn

from metrize.patterns import FACTOR
from metrize.roles.infer import infer
from metrize.roles.role import VECTORS
from metrize.roles.rules import DEFAULTS
from metrize.roles.sandbox import Example

Numbers = dict[str, dict[str, float]]
"""What the rules of an optimizer or of a plan hold: numbers by the parameter's name."""


def no_decay(model: nn.Module, example: Example | None = None) -> Numbers:
    """Rules that spare embeddings, routers, norms, biases and other vectors weight decay.

    Args:
        model: the model.
        example: what one forward pass takes; see `metrize.plan`.
    """
    roles = infer(model, example).roles
    return {
        name: {"weight_decay": 0.0} for name, role in roles.items() if "weight_decay" in DEFAULTS[role.kind].numbers
    }


def layer_decay(model: nn.Module, decay: float) -> Numbers:
    """Rules for learning rates that fall from the last layer to the first: ``lr_mult = decay^(L - l)`` in layer l.

    The layers are the children of the outermost `nn.ModuleList` or `nn.Sequential` of equal modules, one such list
    after the other; what the model defines before them is layer 0, and what it defines behind them layer L, the last.

    Args:
        model: the model, its modules defined in the order in which they are used.
        decay: between 0 and 1; 0.65 to 0.9 are usual in fine-tuning.

    Raises:
        ValueError: decay is out of range, or the model has no list of layers.

    Source: arXiv:1801.06146, arXiv:2003.10555
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay}: above 0 and at most 1")
    layers, depth, depths = _layers(model), 0, {}
    if not layers:
        raise ValueError("no nn.ModuleList and no nn.Sequential of this model holds two layers")
    for name, _ in model.named_parameters():
        inside = next((at for at, layer in enumerate(layers, start=1) if name.startswith(f"{layer}.")), None)
        depth = inside or depth + (depth == len(layers))
        depths[name] = depth
    return {name: {FACTOR: decay ** (max(depths.values()) - depth)} for name, depth in depths.items()}


def _layers(module: nn.Module, prefix: str = "") -> list[str]:
    """The places of the layers of a model, one behind the other."""
    children = [
        (f"{prefix}{name}", child) for name, child in module.named_children() if any(True for _ in child.parameters())
    ]
    listed = isinstance(module, nn.ModuleList | nn.Sequential)
    if listed and len(children) > 1 and len({type(child) for _, child in children}) == 1:
        return [name for name, _ in children]
    found = []
    for name, child in children:
        whole = [name] if listed and any(p.ndim > 1 for p in child.parameters()) else []
        found += _layers(child, f"{name}.") or whole
    return found


def mup(model: nn.Module, base: nn.Module | int, example: Example | None = None) -> Numbers:
    """Rules that carry Adam's learning rates from a narrow model to a wide one: ``lr_mult = base fan-in / fan-in``.

    It holds of every matrix whose inputs grow with the width: hidden ones, heads and experts; embeddings, input layers
    and vectors keep the rate. Only rates are scaled; the variances of the weights at the start, and the multiplier of a
    tied head, are the model's own. Norms of `metrize.plan` and of ``Muon(scale="rms")`` need no such rules.

    Args:
        model: the model that is to be trained.
        base: the same model in the width whose learning rates were tuned (on the meta device, it costs nothing); or
            that width, where all matrices grow with one width, which is then the most frequent of their sides.
        example: what one forward pass takes; see `metrize.plan`.

    Raises:
        ValueError: the base model has no parameter of this name, or a width is below 1.

    Source: arXiv:2203.03466
    """
    if isinstance(base, int) and base < 1:
        raise ValueError(f"base={base}: a width is at least 1")
    wide = _fans_in(model, example)
    if isinstance(base, int):
        ratios = dict.fromkeys(wide, _width(model, wide) / base) if wide else {}
    else:
        narrow = _fans_in(base, example if callable(example) else None)
        for name in wide.keys() - narrow.keys():
            raise ValueError(f"the base model has no matrix {name!r}; build it like the model, of another width")
        ratios = {name: fan_in / narrow[name] for name, fan_in in wide.items()}
    return {name: {FACTOR: 1 / ratio} for name, ratio in ratios.items() if ratio != 1}


def _fans_in(model: nn.Module, example: Example | None) -> dict[str, int]:
    """Of the matrices whose inputs are activations: the numbers that one output sums."""
    roles, shapes = infer(model, example).roles, {name: p.shape for name, p in model.named_parameters()}
    same = {*VECTORS, "embedding", "input", "tied", "elementwise"}
    return {
        name: role.layout.matrix_shapes(shapes[name])[0][2] for name, role in roles.items() if role.kind not in same
    }


def _width(model: nn.Module, names: Iterable[str]) -> int:
    """The most frequent side of the matrices."""
    parameters = dict(model.named_parameters())
    return Counter(side for name in names for side in parameters[name].shape).most_common(1)[0][0]
