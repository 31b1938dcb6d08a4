"""Groups by role, for optimizers that treat the tensors of a model differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from metrize.optim.groups import Params, named_members
from metrize.roles import Role, by_shapes, infer
from metrize.roles.sandbox import Example
from metrize.spaces.declare import naming

Entry = Tensor | tuple[str, Tensor]
Options = Callable[[Role], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class ByRole:
    """Makes parameter groups with the options that each role asks for.

    Args:
        options: of a group with parameters of this role.
        role_of: the role of a parameter that comes without its module, among all that come with it; None: its group has
            no options of its own.
        example: what one forward pass of a module takes, for roles that are known better; see `metrize.plan`.
    """

    options: Options
    role_of: Callable[[Tensor, list[Tensor]], Role] | None = None
    example: Example | None = None

    def of_shapes(self, entries: list[tuple[str, Tensor]]) -> list[dict[str, Any]]:
        """The groups of tensors of which nothing but shapes is known, as `metrize.roles.by_shapes` guesses roles."""
        return _grouped(list(zip(entries, by_shapes([p.shape for _, p in entries]), strict=True)), self.options)

    def __call__(self, params: Params) -> Any:
        """The groups of a module, or of a list of parameters, named or not."""
        if isinstance(params, nn.Module):
            roles = infer(params, self.example).roles
            return _grouped([(entry, roles[entry[0]]) for entry in named_members(params)], self.options)
        entries: list[Any] = list(params)
        return entries if self.role_of is None else _grouped(_with_roles(entries, self.role_of), self.options)


def _with_roles(entries: list[Any], role_of: Callable[[Tensor, list[Tensor]], Role]) -> list[tuple[Entry, Role]]:
    among = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
    found: list[tuple[Entry, Role]] = []
    for at, entry in enumerate(entries):
        name, parameter = entry if isinstance(entry, tuple) else (f"#{at} of its group", entry)
        with naming(name):
            found.append((entry, role_of(parameter, among)))
    return found


def _grouped(found: list[tuple[Entry, Role]], options: Options) -> list[dict[str, Any]]:
    groups: dict[Role, dict[str, Any]] = {}
    for entry, role in found:
        groups.setdefault(role, {"params": [], **options(role)})["params"].append(entry)
    return list(groups.values())
