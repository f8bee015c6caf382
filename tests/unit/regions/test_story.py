"""The demo's verdict and its drawing, on stories that are told here."""

from __future__ import annotations

from itertools import permutations
from xml.etree import ElementTree

import pytest

from dragonflow.lab.scenario import FAMILIES, IPV4, IPV6
from dragonflow.lab.state import Vm
from dragonflow.lab.stretched import Guest, Moved, Reached, Side, Story, failures
from dragonflow.lab.stretched_drawing import draw

ONE, TWO = "region1", "region2"
HOSTS = {ONE: [("host1", "198.18.1.1"), ("host2", "198.18.1.2")], TWO: [("host1", "198.18.2.1")]}


def guest(name: str, region: str) -> Guest:
    vm = Vm("p", region, "host1", "n", "02:00:00:00:00:01", (), "tap", 0.0)
    return Guest(name, region, "host1", "p", {IPV4: "10.20.0.10", IPV6: "fd20::a"}, vm, "ACTIVE", 0.3)


@pytest.fixture
def story() -> Story:
    """All as it should be."""
    guests = [guest("ada", ONE), guest("ben", ONE), guest("cleo", TWO)]

    def reached(stretched: bool) -> Reached:
        return {
            (source.name, target.name, version): stretched or source.region == target.region
            for source, target in permutations(guests, 2)
            for version in FAMILIES
        }

    return Story(
        sides=[Side(ONE, "x", 22), Side(TWO, "y", 33)],
        guests=guests,
        apart=reached(False),
        joined=reached(True),
        left=reached(False),
        joined_after=2.0,
        left_after=1.0,
        moved=Moved("ada", "host1", "host2", "cleo", 0.4, 0.5, 200),
    )


def test_a_good_story_has_no_failures_and_a_drawing(story: Story) -> None:
    assert failures(story) == []
    texts = [element.text for element in ElementTree.fromstring(draw(HOSTS, story, 0)).iter() if element.text]
    for expected in ("all as it should be", "blue: VNI 22", "blue: VNI 33", "ada", "moved, from host1", "198.18.2.1"):
        assert expected in texts


def test_what_goes_wrong_is_told(story: Story) -> None:
    story.joined["ada", "cleo", IPV6] = False
    story.left["cleo", "ben", IPV4] = True
    story.joined_after = None
    story.guests[0].active, story.guests[0].status = None, "DOWN"
    story.moved = Moved("ada", "host1", "host2", "cleo", 0.4, 9.0, 200)
    story.remains = ["region1: port p"]
    told = "\n".join(failures(story))
    for expected in (
        "joined, ada does not reach cleo by IPv6",
        "after one side has left, cleo reaches ben by IPv4",
        "not every port of the other region was ACTIVE",
        "ada: its port is DOWN, not ACTIVE",
        "ada did not answer for 9.00 s",
        "left behind: region1: port p",
    ):
        assert expected in told
    assert "6 not as it should be" in draw(HOSTS, story, 6)
