"""Parameters that are DTensors: who steps what, what crosses processes, and what checkpoints hold.

Arithmetic runs on local tensors only; a DTensor is a container of parameters and of saved state.
"""

from metrize.sharding.border import agreed, published, taken_over
from metrize.sharding.engine import Sharded
from metrize.sharding.members import Member, members

__all__ = ["Member", "Sharded", "agreed", "members", "published", "taken_over"]
