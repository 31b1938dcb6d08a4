"""SOAP written out from the paper's text, one tensor at a time, with no thought of speed."""

from __future__ import annotations

import torch


def unfolded(x, mode):
    return x.movedim(mode, 0).reshape(x.shape[mode], -1)


def product(x, matrix, mode):
    return torch.tensordot(x, matrix, dims=([mode], [1])).movedim(-1, mode)


class Oracle:
    """The authors' order of operations; the first call only makes the bases.

    Args:
        start: the parameter, float64.
        dims: the shape whose modes have factors.
        rotated: those modes.
        bases: of the first call, where they are not to be computed.
    """

    def __init__(self, start, dims, rotated, *, lr, betas, f, eps=1e-8, decay=0.01, correct=True, normal=False):
        self.w, self.dims, self.rotated = start.clone(), dims, rotated
        self.lr, (self.b1, self.b2), self.f, self.eps, self.decay = lr, betas, f, eps, decay
        self.correct, self.normal, self.k = correct, normal, 0
        self.m, self.v = torch.zeros(dims, dtype=start.dtype), torch.zeros(dims, dtype=start.dtype)
        self.factors = {i: torch.zeros(dims[i], dims[i], dtype=start.dtype) for i in rotated}
        self.q = {}

    def turn(self, x, bases, back=False):
        for mode, q in bases.items():
            x = product(x, q if back else q.T, mode)
        return x

    def learn(self, g):
        for mode, factor in self.factors.items():
            u = unfolded(g, mode)
            factor.mul_(self.b2).add_(u @ u.T, alpha=1 - self.b2)

    def step(self, grad):
        g = grad.reshape(self.dims)
        if not self.q and self.rotated:
            self.learn(g)
            self.q = {mode: torch.linalg.eigh(factor)[1].flip(1) for mode, factor in self.factors.items()}
            return
        self.k += 1
        turned = self.turn(g, self.q)
        self.m = self.b1 * self.m + (1 - self.b1) * turned
        self.v = self.b2 * self.v + (1 - self.b2) * turned**2
        n = self.turn(self.m / (self.v.sqrt() + self.eps), self.q, back=True)
        if self.normal:
            n = n / (1e-30 + n.square().mean().sqrt())
        rate = self.lr * ((1 - self.b2**self.k) ** 0.5 / (1 - self.b1**self.k) if self.correct else 1)
        self.w = (self.w - rate * n.reshape(self.w.shape)) * (1 - self.lr * self.decay)
        self.learn(g)
        if self.k % self.f == 0:
            self.refresh()

    def refresh(self):
        original = self.turn(self.m, self.q, back=True)
        for mode, factor in self.factors.items():
            q = self.q[mode]
            order = torch.diagonal(q.T @ factor @ q).argsort(descending=True)
            self.v = self.v.index_select(mode, order)
            self.q[mode] = torch.linalg.qr(factor @ q[:, order])[0]
        self.m = self.turn(original, self.q)
