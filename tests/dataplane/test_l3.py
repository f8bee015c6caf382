"""Routers on a real Open vSwitch, with packets of real kernels."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis import TestChassis, chassis, inside, loses, neighbour, reaches
from msgspec.structs import replace

from dragonflow.apps.advertisement import Advertisement
from dragonflow.controller.view import View
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import AddressPair, FixedIP, LogicalPort, Route
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


async def told(vm: str, target: str, *options: str) -> str:
    """What a ping is told. It runs beside the loop, for the controller has to answer."""
    return (await asyncio.to_thread(inside, vm, "ping", "-n", "-c", "1", "-W", "2", *options, target)).stdout


async def test_who_sends_what_cannot_be_forwarded_is_told(vswitch: VSwitch) -> None:
    """The hop is seen by traceroutes of both families, at the address of the sender's own network."""
    async with routed(vswitch) as (_, a, _x):
        for target, hop in ((X.ips[0], "10.0.0.1"), (X.ips[1], "fd00::1")):
            shown = await told(a, target, "-t", "1")
            assert re.search(rf"From {hop} .*(Time to live exceeded|Hop limit)", shown), shown
        for target, hop in (("192.0.2.99", "10.0.0.1"), ("2001:db8::99", "fd00::1")):
            shown = await told(a, target)
            assert re.search(rf"From {hop} .*(Net Unreachable|No route)", shown), shown
        for target, hop in (("10.1.0.99", "10.0.0.1"), ("fd01::99", "fd00::1")):
            shown = await told(a, target)
            assert re.search(rf"From {hop} .*(Host Unreachable|Address unreachable)", shown), shown


async def test_who_sends_what_is_too_big_for_the_next_network_is_told_its_mtu(vswitch: VSwitch) -> None:
    async with routed(vswitch) as (here, a, x):
        await here.now(replace(FAR, mtu=1300))
        for target, hop, head in ((X.ips[0], "10.0.0.1", 28), (X.ips[1], "fd00::1", 48)):
            fits, too_much = (("-M", "do", "-s", str(1300 - head + more)) for more in (0, 1))
            assert await asyncio.to_thread(reaches, a, target, *fits)
            shown = await told(a, target, *too_much)
            assert re.search(rf"From {hop} .*(Frag needed|too big).*mtu ?= ?1300", shown), shown
            inside(a, "ip", "route", "flush", "cache")
        assert await asyncio.to_thread(reaches, x, A.ips[0], "-M", "do", "-s", "1272"), "the other way there is room"


async def test_what_is_down_or_missing_closes(vswitch: VSwitch) -> None:
    async with routed(vswitch) as (here, a, _):
        target = X.ips[0]
        assert reaches(a, target)
        for row in (R, IN, OUT, FAR):
            await here.now(replace(row, admin_up=False))
            assert loses(a, target), row
            await here.now(row)
            assert reaches(a, target), row
        for row in (R, OUT, worlds.SUBNETS[2]):
            await here.now(gone=(row,))
            assert loses(a, target), row
            await here.now(row)
            assert reaches(a, target), row


async def test_extra_routes_lead_over_other_routers_and_the_longest_prefix_wins(vswitch: VSwitch) -> None:
    """a -net- r -far- q -third- z; r knows two ways to z's subnet, of which only the longer prefix is right."""
    to_z = (Route("10.2.0.0/24", "10.1.0.2"), Route("10.2.0.0/16", "10.1.0.99"), Route("fd02::/64", "fd01::2"))
    back = (Route("0.0.0.0/0", "10.1.0.1"), Route("::/0", "fd01::1"))
    subnets = (worlds.subnet("t4", "10.2.0.0/24", "third"), worlds.subnet("t6", "fd02::/64", "third"))
    q = (
        worlds.router("q", 2, "far", "third", routes=back),
        worlds.interface("q", 23, FixedIP("far4", "10.1.0.2"), FixedIP("far6", "fd01::2"), net="far"),
        worlds.interface("q", 24, FixedIP("t4", "10.2.0.1"), FixedIP("t6", "fd02::1"), net="third"),
    )
    z = worlds.port("z", 41, net="third", fixed_ips=(FixedIP("t4", "10.2.0.41"), FixedIP("t6", "fd02::29")))
    async with routed(vswitch) as (here, a, _):
        await here.now(THIRD, *subnets, *q, z, replace(R, routes=to_z))
        z_vm = await vm(here, z)
        for target in z.ips:
            assert reaches(a, target), target
            shown = inside(a, "ping", "-n", "-c", "1", target).stdout
            assert "ttl=62" in shown, shown  # two routers on the way
        for target in A.ips:
            assert reaches(z_vm, target), target
        shown = await told(a, z.ips[0], "-t", "2")
        assert "From 10.1.0.2 " in shown, shown
        assert reaches(a, "10.2.0.1"), "the far side of the second router"


async def test_next_hops_of_equal_cost_share_the_connections(vswitch: VSwitch) -> None:
    """Two VMs of ``far`` forward for a prefix behind them. Every connection stays with one, and both get some."""
    behind = (AddressPair("192.0.2.0/24"),)
    hops = [
        worlds.port(name, key, net="far", fixed_ips=(FixedIP("far4", f"10.1.0.{key}"),), address_pairs=behind)
        for name, key in (("h1", 51), ("h2", 52))
    ]
    routes = tuple(Route("192.0.2.0/24", hop.ips[0]) for hop in hops)
    async with routed(vswitch) as (here, a, _):
        await here.now(*hops, replace(R, routes=routes))
        for hop in hops:
            name = await vm(here, hop)
            inside(name, "sh", "-c", "ip link set lo up && ip address add 192.0.2.1/32 dev lo")
        seen = set()
        for source in range(1, 17):
            traced = here.trace(
                f"in_port={here.engine.places['a'].ofport},tcp,dl_src={A.mac},dl_dst={IN.mac},"  # type: ignore[union-attr]
                f"nw_src={A.ips[0]},nw_dst=192.0.2.1,nw_ttl=64,tcp_src={source},tcp_dst=80"
            )
            seen.add(next(hop.id for hop in hops if f"set_field:{hop.mac}->eth_dst" in traced))
        assert seen == {"h1", "h2"}
        assert reaches(a, "192.0.2.1")


async def test_tenants_with_the_same_addresses_do_not_meet(vswitch: VSwitch) -> None:
    """A second pair of networks and a router, with the very same addresses and other VMs."""
    again = {name: f"{name}-2" for name in ("net", "far", "v4", "v6", "far4", "far6")}
    nets = (worlds.network("net-2", 11), worlds.network("far-2", 12))
    subnets = tuple(replace(it, id=again[it.id], network=again[it.network]) for it in worlds.SUBNETS)
    router = worlds.router("r2", 2, "net-2", "far-2")
    interfaces = tuple(
        worlds.interface(
            "r2", 60 + number, *(FixedIP(again[it.subnet], it.ip) for it in each.fixed_ips), net=again[each.network]
        )
        for number, each in enumerate((IN, OUT))
    )
    twin = replace(A, id="a2", key=71, mac="02:00:00:00:01:00", network="net-2")
    async with routed(vswitch) as (here, a, x):
        await here.now(*nets, *subnets, router, *interfaces, twin)
        a2 = await vm(here, twin)
        assert reaches(a2, "10.1.0.1")
        assert reaches(a, X.ips[0])
        assert not reaches(a2, X.ips[0]), "X is the other tenant's"
        assert not reaches(a2, X.ips[1])
        assert reaches(x, A.ips[0])


async def test_a_vm_learns_router_prefix_and_address_from_advertisements(vswitch: VSwitch) -> None:
    """Asked for when its interface comes up, and unasked."""
    told = replace(worlds.SUBNETS[1], ipv6_ra_mode="slaac", ipv6_address_mode="slaac", gateway_ip="fd00::1")
    auto = "fd00::ff:fe00:b"  # what A's MAC makes of the prefix
    slaac = replace(A, fixed_ips=(FixedIP("v6", auto),))

    def up(vm: str, *, asking: bool) -> None:
        inside(vm, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2")
        inside(vm, "sysctl", "-qw", f"net.ipv6.conf.eth0.router_solicitations={3 if asking else 0}")
        inside(vm, "sh", "-c", "ip link set eth0 down && ip link set eth0 up")

    async with chassis(vswitch) as here:
        await here.now(NET, FAR, *worlds.SUBNETS, told, R, IN, OUT, slaac, X)
        a = await here.vm(slaac)
        await vm(here, X)
        up(a, asking=True)
        async with asyncio.timeout(20):
            while auto not in (shown := inside(a, "ip", "-6", "address").stdout) or "tentative" in shown:
                await asyncio.sleep(0.1)
        assert "default via fe80::ff:fe00:15" in inside(a, "ip", "-6", "route").stdout
        assert reaches(a, X.ips[1])
        up(a, asking=False)
        assert auto not in inside(a, "ip", "-6", "address").stdout
        async with asyncio.timeout(20):
            while auto not in inside(a, "ip", "-6", "address").stdout:
                for packet in Advertisement().unasked(View(here.replica, here.engine.places, here.me)):
                    here.switch.send(packet)
                await asyncio.sleep(0.2)
