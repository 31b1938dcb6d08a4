"""Coefficients of odd polynomials that drive singular values to 1, computed and not copied."""

from __future__ import annotations

import functools
import math

Coefficients = tuple[float, float, float]
"""(a, b, c) of the odd polynomial ``p(x) = a x + b x^3 + c x^5``."""


@functools.lru_cache(maxsize=64)
def polar_express(
    steps: int, lower: float = 1e-3, safety: float = 0.02, cushion: float = 0.02
) -> tuple[Coefficients, ...]:
    """The polynomials whose composition comes nearest to 1 on ``[lower, 1]``, one for each Newton-Schulz step.

    Every step takes the odd polynomial of degree 5 that is nearest to 1 on the interval where the singular values are
    by then, which is the best choice for the composition as well.

    Args:
        steps: number of polynomials.
        lower: the smallest singular value that shall reach 1; smaller ones grow too, by the slope at zero.
        safety: all but the last polynomial are read at ``x / (1 + safety)``, so that rounding cannot push a singular
            value out of the interval, where the polynomials overshoot. The input is to be divided by it as well.
        cushion: the fit looks no further down than to this share of the upper end: a little less growth in the first
            steps for much less spread of the singular values.

    Source: arXiv:2505.16932.
    """
    low, high, schedule = lower, 1.0, []
    for step in range(steps):
        p = nearest_to_one(max(low, cushion * high), high)
        if cushion * high > low:  # centre the values on 1 over the whole interval again
            p = scaled(p, 2 / (evaluate(p, low) + evaluate(p, high)))
        if step < steps - 1:
            p = shrunk(p, 1 + safety)
        schedule.append(p)
        low = evaluate(p, low)
        high = 2 - low
    return tuple(schedule)


def nearest_to_one(low: float, high: float) -> Coefficients:
    """The odd polynomial of degree 5 with the smallest largest distance from 1 on ``[low, high]``.

    Remez' exchange: the error has the same size and alternating signs at both ends and at the two extrema between.
    """
    if low / high > 1 - 1e-4:  # near the limit, Newton-Schulz of degree 5, the equations lose their digits
        return shrunk((15 / 8, -10 / 8, 3 / 8), (low + high) / 2)
    left, right, error = (3 * low + high) / 4, (low + 3 * high) / 4, math.inf
    for _ in range(100):
        a, b, c, level = _solve([_equation(x, sign) for x, sign in ((low, 1), (left, -1), (right, 1), (high, -1))])
        root = math.sqrt(9 * b * b - 20 * a * c)
        left, right = math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))
        if abs(error - level) < 1e-15:
            break
        error = level
    return a, b, c


def evaluate(p: Coefficients, x: float) -> float:
    """``p(x)``."""
    return x * (p[0] + x * x * (p[1] + x * x * p[2]))


def scaled(p: Coefficients, factor: float) -> Coefficients:
    """``factor * p(x)``."""
    return p[0] * factor, p[1] * factor, p[2] * factor


def shrunk(p: Coefficients, factor: float) -> Coefficients:
    """``p(x / factor)``."""
    return p[0] / factor, p[1] / factor**3, p[2] / factor**5


def _equation(x: float, sign: int) -> list[float]:
    """``p(x) + sign * error = 1`` as a row of coefficients of (a, b, c, error), and the right side."""
    return [x, x**3, x**5, sign, 1.0]


def _solve(rows: list[list[float]]) -> list[float]:
    """Gauss-Jordan elimination with row pivoting; each row ends with its right side."""
    n = len(rows)
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(n):
            if k != i:
                rows[k] = [value - rows[k][i] * top for value, top in zip(rows[k], rows[i], strict=True)]
    return [row[n] for row in rows]
