"""Kernels x cases: what to run, what came out, and the grid of it."""
