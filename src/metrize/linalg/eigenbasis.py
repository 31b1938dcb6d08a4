"""Eigenvectors of symmetric matrices: a decomposition that survives bad luck, and cheap renewals of a basis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # public, but not exported
Method = Literal["qr", "eigh", "thin"]
_RIDGE = 1e-6
_SHARE = 4  # a thin renewal iterates with one column in so many


def renewed(factor: Tensor, basis: Tensor, method: Method, tolerance: float = 0.0) -> tuple[Tensor, Tensor] | None:
    """Bring a basis nearer to the eigenvectors of a factor that changed.

    With ``e = diag(Q^T L Q)``, and the columns of Q in the order of falling e: ``"qr"`` is one step of orthogonal
    iteration, ``qr(L Q)``; ``"eigh"`` the eigenvectors themselves; ``"thin"`` iterates with the leading quarter of the
    columns as they stand and lets the others follow. (A polar factor would not do: that of L Q is Q again.)

    Args:
        factor: L, ``[d, d]``, positive semidefinite.
        basis: Q, ``[d, d]``, orthogonal.
        method: how.
        tolerance: a basis with ``||offdiag(Q^T L Q)||_F <= tolerance ||L||_F`` stays.

    Returns:
        the new basis, and ``[d]``, which of the old columns each of the new ones succeeds in rank; None where the basis
        stays.

    Raises:
        LinAlgError: the factor cannot be decomposed.
    """
    factor = _scaled(factor)
    size = len(basis)
    leading = max(1, size // _SHARE) if method == "thin" else size
    with highest_precision():
        images = factor @ (basis if tolerance else basis[:, :leading])
        values = torch.linalg.vecdot(basis[:, : images.shape[1]], images, dim=0)
        if tolerance and _settled(factor, values, tolerance):
            return None
        if method == "thin":
            return _thin(basis, images[:, :leading]), torch.arange(size, device=basis.device)
        order = values.argsort(descending=True, stable=True)
        new = torch.linalg.qr(images[:, order]).Q if method == "qr" else eigenvectors(factor)
    return new, order


def eigenvectors(factor: Tensor) -> Tensor:
    """Eigenvectors ``[d, d]``, in columns, of a symmetric ``[d, d]``, in the order of falling eigenvalues.

    Raises:
        LinAlgError: there are none to be had.
    """
    return eigh(_scaled(factor))[1].flip(-1)


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors, with a second and a third attempt where the first fails.

    What LAPACK gives up on, or what comes back with a NaN, is tried again in float64, and then with a ridge of 1e-6 of
    the mean eigenvalue.

    Args:
        matrix: ``[d, d]``, symmetric.

    Raises:
        LinAlgError: all three failed, or the matrix is not finite.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise LinAlgError("the matrix holds numbers that are not finite")
    for attempt in _attempts(matrix):
        with contextlib.suppress(LinAlgError):
            values, vectors = torch.linalg.eigh(attempt)
            if bool(torch.isfinite(vectors).all()):
                return values.to(matrix.dtype), vectors.to(matrix.dtype)
    raise LinAlgError("no eigenvectors were found, in float64 and with a ridge neither")


def _attempts(matrix: Tensor) -> Iterator[Tensor]:
    yield matrix
    wide = matrix.double()
    yield wide
    yield wide + torch.eye(len(wide), dtype=wide.dtype, device=wide.device) * (_RIDGE * wide.diagonal().mean())


@contextlib.contextmanager
def highest_precision() -> Iterator[None]:
    """Matrix products in full float32 whatever the user chose; TF32 gives small eigenvalues a wrong order."""
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn]
    places = [getattr(place, "matmul", place) for place in places]
    places = [place for place in places if hasattr(place, "fp32_precision")]  # torch before 2.9 has none
    legacy = None if places else torch.get_float32_matmul_precision()
    before = [place.fp32_precision for place in places]
    try:
        _choose(places, ["ieee"] * len(places), legacy and "highest")
        yield
    finally:
        _choose(places, before, legacy)


def _choose(places: list[Any], precisions: list[str], legacy: str | None) -> None:
    for place, precision in zip(places, precisions, strict=True):
        place.fp32_precision = precision
    if legacy is not None:
        torch.set_float32_matmul_precision(legacy)


def _scaled(factor: Tensor) -> Tensor:
    """The factor over its largest entry, so that squares neither overflow nor vanish.

    Raises:
        LinAlgError: it is not finite.
    """
    largest = factor.abs().amax()
    if not bool(torch.isfinite(largest)):
        raise LinAlgError("the factor holds numbers that are not finite")
    return factor / largest.clamp(min=torch.finfo(factor.dtype).tiny)


def _settled(factor: Tensor, values: Tensor, tolerance: float) -> bool:
    """``||offdiag(Q^T L Q)||`` is what ``diag(Q^T L Q)`` lacks of ``||L||``, since Q is orthogonal."""
    whole = factor.square().sum()
    return bool(whole - values.square().sum() <= tolerance**2 * whole)


def _thin(basis: Tensor, images: Tensor) -> Tensor:
    """The QR step of a few columns, carried out on all of them by its reflectors."""
    reflectors, tau = torch.geqrf(basis.mT @ images)
    return torch.ormqr(reflectors, tau, basis, left=False)
