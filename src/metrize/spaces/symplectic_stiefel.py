"""The symplectic Stiefel manifold."""

from __future__ import annotations

import dataclasses

from metrize.spaces.orthonormal import Orthonormal
from metrize.spaces.stiefel import Stiefel
from metrize.spaces.symplectic import Symplectic


@dataclasses.dataclass(frozen=True)
class SymplecticStiefel(Symplectic):
    """Symplectic Stiefel manifold ``{U : U^T J U = J}`` of ``2N x 2n`` matrices, ``J = [[0, I], [-I, 0]]``.

    Rows and columns are ordered positions first, then momenta. The default form keeps ``U = diag(Phi, Phi)`` with Phi
    on `Stiefel`: a compact space, as well behaved as that, whose gradient is ``G11 + G22``. The full form holds every
    symplectic matrix. That space is not compact and training on it can be very unstable, so the full form has
    safeguards: a cap on the step, a monitor of the condition number, and a polish against rounding. It keeps a section
    Up (``2N x 2(N - n)`` numbers) that follows the point.

    Args:
        form: ``"orthosymplectic"``: points are ``diag(Phi, Phi)``; ``"full"``: any symplectic matrix.
        rows: True: the transpose of each matrix is the point; False: the matrix itself; None: whichever is tall.
        coordinates: of a gradient, in the full form. ``"derivative"``: ``a = U^T G - (U^T G)^+``, ``b = Up^T G``, along
            which scaled steps descend; ``"lift"``: ``a = U^+ D``, ``b = Up^+ D`` of the Riemannian gradient
            ``D = G U^T U + J U G^T J U``, where only unscaled steps are sure to.
        max_step: full form: longest velocity, in ``sqrt(||a||_F^2 / 2 + ||b||_F^2)``; longer ones are shortened. Below
            ``sqrt(2)`` the Cayley transform always exists.
        max_condition: full form: a step that would take the condition number of ``[U, Up]`` beyond this, and make it
            worse, is not taken; it is counted in the state's ``refused_steps``.
        polish_every: steps between two Newton steps that remove rounding, and in the full form between two renewals of
            Up, of least norm for its point; 0 never does either.

    Raises:
        ValueError: an unknown option, a number out of range, or an option of the full form without it.
        SpaceError: (when used) a tensor that is not a batch of such matrices.

    Source: arXiv:2305.16901; Riemannian gradient and Cayley retraction of arXiv:2108.12447; derivative coordinates,
    increment form, completion and monitor are ours.
    """

    def _twin(self) -> Orthonormal:
        return Stiefel(rows=False, polish_every=self.polish_every)
