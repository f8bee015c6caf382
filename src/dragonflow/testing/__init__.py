"""Helpers for tests and for the lab, shipped with the rest: named worlds, permutations and the oracle."""
