"""Carrying a recipe out: one recipe on one kind of tensor, the journey of a step, and the executors that take it."""
