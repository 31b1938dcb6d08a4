"""Torch's contract: an optimizer, its parameter groups, its checkpoints, and what is measured around a step."""
