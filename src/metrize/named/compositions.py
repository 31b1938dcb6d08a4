"""Sentences of parts from different papers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize import frames, step_sizes
from metrize.decay import Decay
from metrize.moments import Moments, Quantized
from metrize.moments.quantized_codes import Map
from metrize.named.muon import Muon
from metrize.named.prodigy import Prodigy
from metrize.named.smmf import SMMF
from metrize.named.soap import SOAP
from metrize.norms import Spectral
from metrize.optim.groups import Params
from metrize.recipe import Recipe
from metrize.spaces import Grassmann, Space, Stiefel


class StiefelSMMF(SMMF):
    """Adam on the Stiefel manifold in about an eighth of a byte for each parameter: `SMMF` on `Stiefel`.

    The averages of the lifted gradient ``(A, B)`` are kept as matrices of rank 1 and signs at one bit each. What is
    read back has lost the skew symmetry of A, so the point moves along the nearest velocity that has it,
    ``A <- (A - A^T) / 2``. The section adds n bytes of signs to a point of n columns.

    Args:
        params: parameters, named parameters or groups; all are points of the space. In a model with other parameters,
            declare the space of each (`metrize.constrain`) and take `SMMF`.
        lr: learning rate.
        space: of every parameter.
        options: other arguments of `SMMF`.

    Raises:
        SpaceError: a parameter the space cannot hold or that is off it, by name.
        ValueError: a number out of range or an unknown option.

    Source: arXiv:2305.16901, arXiv:2412.08894; their composition is ours.
    """

    def __init__(self, params: Params, lr: float | Tensor = 1e-3, *, space: Space = Stiefel(), **options: Any) -> None:
        super().__init__(params, lr, space=space, **options)

    @staticmethod
    def recipe(vectors: Any = "matrix", decay: Decay = "decoupled", space: Space | None = Stiefel()) -> Recipe:
        """The five answers of this optimizer."""
        return SMMF.recipe(vectors, decay, space)


class GrassmannSOAP(SOAP):
    """SOAP on the Grassmann manifold: the eigenbasis of the block B, which is all there is of a horizontal gradient.

    ``B = Yp^T G``, ``B' = Q_L^T B Q_R`` with the eigenvectors of the averages of ``B B^T`` and ``B^T B``, then Adam's
    step of B' and back. Where the section changes its axes, the basis turns with them, and no average changes.

    Args:
        params: parameters, named parameters or groups; all are points of the space. In a model with other parameters,
            declare the space of each (`metrize.constrain`) and take `SOAP`.
        lr: learning rate.
        space: of every parameter.
        options: other arguments of `SOAP`; there is no weight decay, since the norm of a point is constant.

    Raises:
        SpaceError: a parameter the space cannot hold or that is off it, by name.
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) a factor could not be decomposed in three refreshes in a row, by name.

    Source: arXiv:2305.16901, arXiv:2409.11321; their composition is ours.
    """

    def __init__(
        self, params: Params, lr: float | Tensor = 3e-3, *, space: Space = Grassmann(), **options: Any
    ) -> None:
        super().__init__(params, lr, space=space, **{"weight_decay": 0.0, **options})

    @staticmethod
    def recipe(space: Space | None = Grassmann(), *parts: Any, **options: Any) -> Recipe:
        """The five answers of this optimizer."""
        return SOAP.recipe(space, *parts, **options)


class SOAP8bit(SOAP):
    """SOAP with Adam's averages in 8 bits and a scale for each block: `SOAP` in `Quantized` storage.

    In the eigenbasis the averages are rounded after they were used. Those of squares differ there by more than the
    codes of one block can tell, so that they have a map none of whose numbers is 0 (``Quantized(squares="linear")``):
    a denominator that was rounded to 0 makes a step too long. Of a matrix of N numbers it keeps ``2 N + 8 ceil(N /
    block)`` bytes of averages in place of 8 N; factors and bases stay in float32, and `one_sided` leaves out the
    larger ones.

    Args:
        params: a module, parameters, named parameters or groups.
        lr: learning rate.
        block: numbers that share a scale.
        map: the numbers that codes of the average of g' stand for: ``"dynamic"``, ``"linear"`` or ``"float8"``.
        smallest: tensors with fewer numbers keep their averages in float32.
        options: other arguments of `SOAP`.

    Raises:
        SpaceError: a parameter that is off its declared space, by name.
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) a factor could not be decomposed in three refreshes in a row, by name.

    Source: arXiv:2409.11321, arXiv:2110.02861; their composition is ours.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 3e-3,
        *,
        block: int = 256,
        map: Map = "dynamic",
        smallest: int = 4096,
        **options: Any,
    ) -> None:
        moments = Quantized(8, block, map, "linear", smallest=smallest)
        super().__init__(params, lr, **{"moments": moments, **options})

    @staticmethod
    def recipe(
        space: Space | None = None,
        frame: frames.Eigenbasis = frames.Eigenbasis(shampoo_beta=-1),
        moments: Moments = Quantized(squares="linear"),
        *rest: Any,
    ) -> Recipe:
        """The five answers of this optimizer."""
        return SOAP.recipe(space, frame, moments, *rest)


class COAPMuon(Muon):
    """Muon whose momentum is kept and orthogonalized in a subspace that follows the gradient.

    ``A = G Q``, ``m <- b m + (1 - b) A``, ``u = b m + (1 - b) A``, ``p <- (1 - lr weight_decay) p - lr f polar(u) Q^T``
    with the Q of `metrize.frames.COAP`: the step is the polar factor within the subspace, of `rank` singular values 1
    and all others 0. A matrix ``m x n`` with m >= n keeps ``(m + n) rank`` numbers in place of m n, and the polar
    factor of an ``m x rank`` matrix costs less than that of the whole. f is that of the smaller matrix.

    Args:
        params: as for `Muon`: a module, or parameters that are matrices.
        lr: length of the step of a matrix.
        rank: of every matrix; None: its shorter side divided by `ratio`.
        ratio: see `rank`.
        period: steps between two changes of the basis.
        reproject: recompute the basis from scratch at every `reproject`-th change.
        options: other arguments of `Muon`.

    Raises:
        SpaceError: a parameter that is no matrix, by name.
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) three gradients in a row that no basis could be made of, by the parameter's name.

    Source: arXiv:2412.00071, https://kellerjordan.github.io/posts/muon; their composition is ours.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.02,
        *,
        rank: int | None = None,
        ratio: float = 2.0,
        period: int = 32,
        reproject: int = 5,
        **options: Any,
    ) -> None:
        frame = frames.COAP(rank=rank, ratio=ratio, period=period, reproject=reproject)
        super().__init__(params, lr, **{"frame": frame, **options})

    @staticmethod
    def recipe(norm: Spectral = Spectral("muon", "muon"), frame: frames.Frame = frames.COAP(), *rest: Any) -> Recipe:
        """The five answers of this optimizer, about a matrix."""
        return Muon.recipe(norm, frame, *rest)


class FreeMuon(Muon):
    """Muon that finds its own learning rate: Prodigy's escape velocity in the spectral norm.

    ``p <- p - d f polar(u)`` for matrices and Adam's step with the rate d for everything else, where d grows from `d0`
    until the weights leave the region in which the loss is linear. One d serves the whole model: it is measured in the
    largest of the norms of all tensors, ``d >= sum <g, p0 - p> / sum ||s||_dual``, whose dual is nuclear for matrices
    and l1 for the rest.

    Args:
        params: as for `Muon`: a module, or parameters that are matrices.
        lr: a factor on the rate that is found, for schedules; leave it at 1.
        d0: the first estimate.
        d_coef: factor on the estimate.
        growth_rate: largest growth of d in one step; None: unlimited.
        scale: f; ``"adam"`` makes steps of matrices as large as Adam's, so that one d suits both.
        rest: numbers of Prodigy's Adam for everything else, over ``betas=(0.9, 0.999), eps=1e-8``.
        options: other arguments of `Muon`.

    Raises:
        SpaceError: a parameter that is no matrix or does not live in a vector space, by name.
        ValueError: a number out of range or an unknown option.

    Source: arXiv:2306.06101, https://kellerjordan.github.io/posts/muon; their composition is ours.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        *,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float | None = None,
        scale: Any = "adam",
        rest: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        found = step_sizes.Prodigy(d0=d0, d_coef=d_coef, growth_rate=growth_rate)
        adam = {"recipe": Prodigy.recipe(found), "lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, **(rest or {})}
        super().__init__(params, lr, scale=scale, rest=adam, **{"step_size": found, **options})

    @staticmethod
    def recipe(
        norm: Spectral = Spectral("adam", "muon"),
        frame: frames.Frame = frames.Identity(),
        step_size: step_sizes.StepSize = step_sizes.Prodigy(),
    ) -> Recipe:
        """The five answers of this optimizer, about a matrix."""
        return Muon.recipe(norm, frame, step_size)
