"""Numbers for names: each its own, and always the same for the same names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonflow.model.numbering import Numbering

_names = st.sets(st.sampled_from([f"name{number}" for number in range(12)]))


@given(st.lists(_names, max_size=6), st.sampled_from([12, 13, 64, 1 << 32]))
def test_numbers_are_a_function_of_the_names(history: list[set[str]], size: int) -> None:
    numbering, told, there = Numbering(3, 2 + size), dict[str, int](), set[str]()
    for names in history:
        for name, number in numbering.change(sorted(names - there), there - names).items():
            told.pop(name, None) if number is None else told.update({name: number})
        there = names
    fresh = Numbering(3, 2 + size).change(there)
    assert told == fresh
    assert all(numbering[name] == number for name, number in told.items())
    assert len(set(told.values())) == len(there) == len(told)
    assert all(3 <= number < 3 + size for number in told.values())


def test_more_names_than_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="more names than the 2 numbers"):
        Numbering(1, 2).change(["a", "b", "c"])
