"""Where pickles of version 0.1 find the optimizer."""

from metrize.optim.optimizer import Optimizer as Optimizer
