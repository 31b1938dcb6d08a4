"""Adam with averages of few bits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize.moments import Quantized
from metrize.moments.quantized_codes import Map
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe


class Adam8bit(Optimizer):
    """Adam with averages in 8 bits and a scale for each block (arXiv:2110.02861).

    The step is that of `AdamW`; its averages are rounded after they were used (see `Quantized`). Of N numbers it keeps
    ``2 N + 8 ceil(N / block)`` bytes, or ``8 N`` where N is below `smallest`.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of g and g^2.
        eps: added outside the root.
        weight_decay: decoupled.
        block: numbers that share a scale.
        map: the numbers that codes stand for: ``"dynamic"``, ``"linear"`` or ``"float8"``.
        smallest: tensors with fewer numbers keep their averages in float32.
        whole_blocks: so do tensors whose numbers are no multiple of `block`.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        block: int = 256,
        map: Map = "dynamic",
        smallest: int = 4096,
        whole_blocks: bool = False,
        **options: Any,
    ) -> None:
        recipe = self.recipe(block, map, smallest, whole_blocks)
        super().__init__(params, recipe, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    @staticmethod
    def recipe(block: int = 256, map: Map = "dynamic", smallest: int = 4096, whole_blocks: bool = False) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(moments=Quantized(8, block, map, smallest=smallest, whole_blocks=whole_blocks))


class Adam4bit(Optimizer):
    """Adam with averages in 4 bits and a scale for each block (arXiv:2309.01507).

    As `Adam8bit`, with 16 numbers for each average, none of which is 0 for squares. Of N numbers it keeps
    ``2 ceil(N / 2) + 8 ceil(N / block)`` bytes, or ``8 N`` where N is below `smallest`.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        betas: decay of the averages of g and g^2.
        eps: added outside the root.
        weight_decay: decoupled.
        block: numbers that share a scale, an even number.
        smallest: tensors with fewer numbers keep their averages in float32.
        whole_blocks: so do tensors whose numbers are no multiple of `block`.
        options: ``maximize``, ``skip_nonfinite``.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        ValueError: a number out of range or an unknown option.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        block: int = 128,
        smallest: int = 4096,
        whole_blocks: bool = False,
        **options: Any,
    ) -> None:
        recipe = self.recipe(block, smallest, whole_blocks)
        super().__init__(params, recipe, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    @staticmethod
    def recipe(block: int = 128, smallest: int = 4096, whole_blocks: bool = False) -> Recipe:
        """The five answers of this optimizer."""
        return Recipe(moments=Quantized(4, block, smallest=smallest, whole_blocks=whole_blocks))
