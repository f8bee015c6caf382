"""Who takes part: tags to pairs and back."""

from __future__ import annotations

import pytest

from dragonflow.regions.consent import Pair, Place, check_region, consents, former_mtu, former_mtu_tag, peers, tag

ONE, TWO, THREE = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
A, B, C = Place("a", ONE), Place("b", TWO), Place("c", THREE)


def test_a_pair_is_two_networks_that_name_each_other():
    found = consents({A: [tag(B), "web"], B: [tag(A)]})
    assert found.pairs == {Pair.of(A, B)}
    assert not found.waiting
    assert Pair.of(B, A) == Pair.of(A, B)
    assert Pair.of(A, B).across("a") == B


def test_one_side_alone_waits_also_for_a_network_that_nobody_knows():
    found = consents({A: [tag(B), tag(C)], B: []})
    assert not found.pairs
    assert found.waiting == {(A, B), (A, C)}


def test_three_regions_pair_each_with_each():
    found = consents({A: [tag(B), tag(C)], B: [tag(A), tag(C)], C: [tag(A), tag(B)]})
    assert found.pairs == {Pair.of(A, B), Pair.of(B, C), Pair.of(A, C)}


def test_a_network_of_the_same_region_is_no_peer():
    inside = Place("a", TWO)
    assert consents({A: [tag(inside)], inside: [tag(A)]}) == (frozenset(), frozenset())


@pytest.mark.parametrize(
    "text", ["dragonflow-stretch:b", "dragonflow-stretch::" + ONE, "dragonflow-stretch:b:x", "x", "", former_mtu_tag(9)]
)
def test_what_only_looks_like_a_mark_is_none(text):
    assert not list(peers([text]))


def test_marks_read_as_they_were_written():
    assert list(peers([tag(A)])) == [A]
    assert former_mtu([tag(A), former_mtu_tag(1442), former_mtu_tag(1400), "dragonflow-stretch-mtu:x"]) == 1442
    assert former_mtu([tag(A)]) is None


@pytest.mark.parametrize("name", ["", "a:b", "a,b", "a/b", "a\n", "x" * 200])
def test_a_region_that_no_tag_can_name_is_refused(name):
    with pytest.raises(ValueError, match="can't name a region"):
        check_region(name)
