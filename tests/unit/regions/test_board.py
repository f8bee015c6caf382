"""What is worked out once for all workers is what it would be if each worked it out anew."""

from __future__ import annotations

import pytest
from fleet import V4, Fleet

from dragonflow.regions.agreement import agree, related
from dragonflow.regions.board import Board
from dragonflow.regions.claims import lost


@pytest.fixture
def fleet() -> Fleet:
    return Fleet("a", "b", "c", "d")


def test_it_says_what_a_fresh_look_would_say(fleet):
    board = Board(fleet.clouds)
    one, other, third = (fleet.network(name) for name in "abc")

    def check() -> None:
        for name, view in fleet.views().items():
            board.hang(name, view)
            views, agreement, losers = board.look()
            assert agreement == agree(views)
            assert losers == lost(views, agreement)

    check()
    fleet.name_each_other(one, other)
    fleet.port(one, 10)
    check()
    fleet.settle()
    check()
    fleet.change_subnet(other, V4, gateway_ip=None)  # from now on it matters that something is announced
    check()
    del fleet.clouds["b"].all_ports[next(iter(fleet.announced(other).values())).id]
    check()
    fleet.name_each_other(other, third)
    fleet.port(other, 20)
    fleet.port(third, 20, mac_address="02:00:00:00:00:99")
    check()
    fleet.clouds["c"].away = True
    check()


def test_others_hear_of_what_a_region_holds_not_of_what_is_announced_in_it(fleet):
    board = Board(fleet.clouds)
    heard: list[str] = []
    board.listen("a", heard.append)
    one, other = fleet.network("a"), fleet.network("b")
    fleet.name_each_other(one, other)
    fleet.port(one, 10)
    for _ in range(2):
        for name, view in fleet.views().items():
            board.hang(name, view)
    assert heard == ["b", "c", "d"]
    before = board.look()
    fleet.settle()
    board.hang("b", fleet.views()["b"])
    assert heard == ["b", "c", "d"]
    assert board.look().agreement is before.agreement
    assert board.views()["b"].announced
    assert board.views()["b"].ports is before.views["b"].ports
    board.hang("b", None)
    assert heard == ["b", "c", "d", "b"]


def test_a_region_depends_on_those_that_its_networks_hang_together_with(fleet):
    places = [fleet.network(name) for name in "abcd"]
    fleet.name_each_other(places[0], places[1])
    fleet.name_each_other(places[1], places[2])
    fleet.consent(places[3], places[2])
    views = fleet.views()
    found = {name: set(related(name, views, agree(views))) for name in views}
    assert found == {"a": set("abc"), "b": set("abc"), "c": set("abc"), "d": set("cd")}
