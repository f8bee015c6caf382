"""Routers on a real Open vSwitch, with packets of real kernels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis import TestChassis, chassis, inside, neighbour, reaches

from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import FixedIP, LogicalPort
from dragonflow.pipeline import Distributed
from dragonflow.testing import worlds

NET, FAR, THIRD = worlds.network(), worlds.network("far", 2), worlds.network("third", 3)
NETS = (NET, FAR, *worlds.SUBNETS)
R = worlds.router("r", 1, "net", "far")
IN = worlds.interface("r", 21, FixedIP("v4", "10.0.0.1"), FixedIP("v6", "fd00::1"))
OUT = worlds.interface("r", 22, FixedIP("far4", "10.1.0.1"), FixedIP("far6", "fd01::1"), net="far")
A = worlds.port("a", 11)
X = worlds.port("x", 31, net="far", fixed_ips=(FixedIP("far4", "10.1.0.31"), FixedIP("far6", "fd01::1f")))


async def vm(here: TestChassis, port: LogicalPort, *more: str) -> str:
    """A VM with the port's addresses, and default routes through the first address of each of its subnets."""
    name = await here.vm(port, *(f"{ip}/{64 if ':' in ip else 24}" for ip in (*port.ips, *more)))
    for ip in port.ips:
        if ":" in ip:
            inside(name, "ip", "-6", "route", "add", "default", "via", f"{ip.rpartition(':')[0]}:1")
        else:
            inside(name, "ip", "route", "add", "default", "via", f"{ip.rpartition('.')[0]}.1")
    return name


@asynccontextmanager
async def routed(vswitch: VSwitch) -> AsyncIterator[tuple[TestChassis, str, str]]:
    """Networks ``net`` with VM A and ``far`` with VM X, and a router between them."""
    async with chassis(vswitch) as here:
        await here.now(*NETS, R, IN, OUT, A, X)
        yield here, await vm(here, A), await vm(here, X)


async def test_ports_of_two_networks_reach_each_other_through_a_router(vswitch: VSwitch) -> None:
    async with routed(vswitch) as (here, a, x):
        assert here.engine.places[IN.id] == here.engine.places[OUT.id] == Distributed()
        for vm, targets in ((a, X.ips), (x, A.ips)):
            for target in targets:
                assert reaches(vm, target), target
        shown = inside(a, "ping", "-n", "-c", "1", X.ips[0]).stdout
        assert "ttl=63" in shown, shown  # one router on the way
        shown = inside(a, "ping", "-n", "-c", "1", X.ips[1]).stdout
        assert "ttl=63" in shown, shown
        assert IN.mac in neighbour(a, "10.0.0.1")
        assert "router" in neighbour(a, "fd00::1")


async def test_a_router_answers_pings_to_all_its_addresses(vswitch: VSwitch) -> None:
    async with routed(vswitch) as (_, a, x):
        for vm in (a, x):
            for target in (*IN.ips, *OUT.ips):
                assert reaches(vm, target), target
        assert reaches(a, "fe80::ff:fe00:15%eth0")
        assert reaches(x, "fe80::ff:fe00:16%eth0")
        assert not reaches(a, "10.0.0.99")
        assert not reaches(a, "192.0.2.99")
