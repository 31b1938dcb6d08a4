"""One parameter's role, from what its module tells and what a forward pass showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from metrize.norms import Layout
from metrize.roles.modules import Guess
from metrize.roles.reading import reading
from metrize.roles.role import UNKNOWN, Role, solid
from metrize.roles.trace import Trace, Use

_SMALLEST = 4  # a matrix with fewer rows or columns is no map that a spectral norm says anything about
_ROWS = {"lookup": "rows looked up", "place": "rows among the activations", "add": "rows added to activations"}


def settled(name: str, parameter: Tensor, known: Mapping[str, Guess | None], trace: Trace) -> Role:
    """The role of a parameter before its outputs are split.

    Args:
        name: of the parameter.
        parameter: the parameter.
        known: what modules tell of every parameter.
        trace: what the forward pass showed.
    """
    shape, uses = tuple(parameter.shape), trace.uses[name]
    guess = known[name] or observed(shape, _unless_tokens(uses, known))
    role = _refined(name, shape, guess, trace) if uses else because(guess.role, "not used by the example")
    return real(role, parameter)


def observed(shape: tuple[int, ...], uses: Sequence[Use]) -> Guess:
    """The role of a parameter of which no module knows, from its uses alone.

    Args:
        shape: of the parameter.
        uses: of the parameter.
    """
    hows: set[str] = {use.how for use in uses}
    dims = solid(shape)
    if not dims:
        return Guess(Role("scalar", reason="one number"))
    if len(dims) > 1 and hows & {"matrix", "conv"}:
        return _linear_map(shape, uses)
    rows = [text for how, text in _ROWS.items() if how in hows and (how != "add" or len(dims) == 2)]
    if "table" in hows:
        return Guess(Role("elementwise", reason="added to attention scores"))
    if rows and len(shape) > 1 and len(dims) <= 2 and dims[-1] == len(shape) - 1:
        return Guess(Role("embedding", Layout(transposed=True), rows[0]))
    return Guess(_entries(dims, hows))


def wide(role: Role, parameter: Tensor) -> Role:
    """The role, unless it is a hidden matrix with hardly any rows or columns."""
    if role.kind != "hidden" or parameter.ndim < 2:
        return role
    smallest = min(min(sizes[1:]) for sizes in role.layout.matrix_shapes(parameter.shape))
    return role if smallest >= _SMALLEST else Role("elementwise", reason=f"{role.reason}; only {smallest} wide")


def real(role: Role, parameter: Tensor) -> Role:
    """The role, unless the numbers are complex."""
    return Role("elementwise", reason="complex numbers") if parameter.is_complex() else role


def qualified(role: Role, kind: str, reason: str) -> Role:
    """The role as one of another kind, and why."""
    return because(role.replace(kind=kind), reason)


def because(role: Role, reason: str) -> Role:
    """The role with one more reason."""
    return role.replace(reason=f"{role.reason}; {reason}")


def _entries(dims: Sequence[int], hows: set[str]) -> Role:
    """The role of what is neither a linear map nor rows."""
    if "multiply" in hows:
        return Role("gain", reason="multiplied with activations")
    if "add" in hows and len(dims) == 1:
        return Role("bias", reason="added to activations")
    if hows and "other" not in hows:
        return Role("elementwise", reason="used entry by entry")
    return Role("elementwise", reason="a vector" if len(dims) == 1 else UNKNOWN)


def _linear_map(shape: tuple[int, ...], uses: Sequence[Use]) -> Guess:
    layout = reading(shape, uses)
    if layout is None:
        return Guess(Role("elementwise", reason=f"{UNKNOWN}: a matrix that no layout reads"))
    if any(use.how == "lookup" for use in uses):
        return Guess(Role("tied", layout, "looked up and multiplied by"))
    if layout.unfold:
        return Guess(Role("conv", layout, "a kernel"), open=True)
    if len(shape) > 2:
        return Guess(Role("expert", layout, "a bank of matrices"))
    return Guess(Role("hidden", layout, "a factor of products"), open=True)


def _unless_tokens(uses: Sequence[Use], known: Mapping[str, Guess | None]) -> list[Use]:
    """Uses, where a factor that meets a known matrix is what goes in: learned tokens."""
    matrices = {name for name, guess in known.items() if guess and guess.role.kind == "hidden"}
    return [Use("place") if use.beside in matrices else use for use in uses]


def _refined(name: str, shape: tuple[int, ...], known: Guess, trace: Trace) -> Role:
    """What the forward pass adds to what the modules tell."""
    uses, role = trace.uses[name], known.role
    hows: set[str] = {use.how for use in uses}
    if "lookup" in hows and (known.open or (role.kind == "embedding" and "matrix" in hows)):
        return Role("tied", Layout() if role.kind == "embedding" else role.layout, "looked up and multiplied by")
    if role.kind == "embedding" and "table" in hows:
        return Role("elementwise", reason="added to attention scores")
    if not known.open:
        return role
    if role.kind == "hidden":
        role = role.replace(layout=reading(shape, uses) or role.layout)
    return _placed(name, shape, role, trace)


def _placed(name: str, shape: tuple[int, ...], role: Role, trace: Trace) -> Role:
    """Where in the model a matrix stands."""
    narrows = all(outputs <= inputs for _, outputs, inputs in role.layout.matrix_shapes(shape))
    if name in trace.routed and role.kind == "hidden" and narrows:
        return qualified(role, "router", "its outputs are ranked")
    if trace.ends(name):
        return qualified(role, "head", "no matrix follows")
    return role if name in trace.fed else qualified(role, "input", "meets the input")
