"""Counts of the prefix cache are told once each."""

from semievol_ray.engines.prefixes import Prefixes


def test_counts_are_taken_once_and_grow_again() -> None:
    prefixes = Prefixes()
    prefixes.add(100, 0)
    prefixes.add(100, 64)
    assert prefixes.taken() == (200, 64)
    assert prefixes.taken() == (0, 0)
    prefixes.add(10, 0)
    assert prefixes.taken() == (10, 0)
