"""The way to another host is measured as it is: by routers that say what doesn't fit, and through links that swallow it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from dragonflow.lab import system

_serial = itertools.count()

_ASK = """
import asyncio, sys
from dragonflow.controller.underlay import measure
path = asyncio.run(measure(*sys.argv[1:], patience=0.5))
print(path.rtt is not None and path.rtt < 0.5, path.mtu)
"""


@pytest.fixture
def host() -> Iterator[Callable[[], str]]:
    """Makes namespaces."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made: list[str] = []

    def make() -> str:
        made.append(f"dfw-{os.getpid()}-{next(_serial)}")
        system.netns_add(made[-1])
        return made[-1]

    try:
        yield make
    finally:
        for name in made:
            system.netns_delete(name)


def asked(netns: str, here: str, there: str) -> str:
    command = ["ip", "netns", "exec", netns, sys.executable, "-c", _ASK, here, there]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def link(one: str, other: str, name: str, mtus: tuple[int, int]) -> None:
    system.ip(one, f"link add {name} mtu {mtus[0]} type veth peer name {name} mtu {mtus[1]} netns {other}")
    for netns in (one, other):
        system.ip(netns, f"link set {name} up")


ADDRESSES = {4: ("10.9.0.1", "10.9.0.2", "10.9.1.2", "10.9.1.1"), 6: ("fd09::1", "fd09::2", "fd09:1::2", "fd09:1::1")}


@pytest.mark.parametrize("version", [4, 6])
def test_a_router_tells_what_fits_through_its_next_link(host: Callable[[], str], version: int) -> None:
    here, router, there = host(), host(), host()
    link(here, router, "near", (1500, 1500))
    link(router, there, "far", (1400, 1400))
    ours, near, far, theirs = ADDRESSES[version]
    length, option = (24, "") if version == 4 else (64, "nodad")
    system.sysctl(router, {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"})
    system.ip(here, f"address add {ours}/{length} dev near {option}", f"route add default via {near}")
    system.ip(router, f"address add {near}/{length} dev near {option}", f"address add {far}/{length} dev far {option}")
    system.ip(there, f"address add {theirs}/{length} dev far {option}", f"route add default via {far}")
    assert any(system.pings(here, theirs) for _ in range(10)), "the router's own addresses need a moment"
    assert asked(here, ours, theirs) == "True 1400"


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_swallowed_on_the_way_is_found_out_by_trying(host: Callable[[], str], version: int) -> None:
    """A veth swallows what its other end can't take; that one has room for a VLAN tag besides (4 bytes)."""
    here, there = host(), host()
    link(here, there, "near", (1500, 1377))
    ours, theirs, *_ = ADDRESSES[version]
    length, option = (24, "") if version == 4 else (64, "nodad")
    system.ip(here, f"address add {ours}/{length} dev near {option}")
    system.ip(there, f"address add {theirs}/{length} dev near {option}")
    assert asked(here, ours, theirs) == "True 1381"
    assert asked(here, ours, ADDRESSES[version][1][:-1] + "9") == "False None", "nobody is there"
