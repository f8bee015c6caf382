"""Machines on a physical network that no DF DB knows, and the router that they find there at one of two chassis."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis import TestChassis, inside, reaches
from msgspec.structs import replace
from test_dnat import A, C
from test_provider import (  # noqa: F401 - ground is a fixture
    ROWS,
    SUBNETS,
    T1,
    T2,
    TO_NET,
    TO_VLAN,
    W1,
    W2,
    Ground,
    R,
    address,
    ground,
    hosts,
    keeps,
)
from test_snat import region

from dragonflow.apps.advertisement import Advertisement
from dragonflow.apps.door import Door
from dragonflow.apps.wiring import link_local
from dragonflow.model import Alive, FixedIP, Neighbour
from dragonflow.testing import worlds

ALIVE = {name: Alive(id=name, since=0.0) for name in ("h1", "h2")}
ROUTED = (
    *(replace(it, ipv6_ra_mode="slaac", gateway_ip="fd01::1") if it.id == "s-vlan6" else it for it in SUBNETS),
    *(R, TO_VLAN, TO_NET, W1, W2),
)
ROUTER = link_local(TO_VLAN.mac)


class Cloud:
    """Two chassis, each with a VM on the tunnelled network behind the router; outside a machine on the VLAN."""

    def __init__(self, ground: Ground, one: TestChassis, two: TestChassis, peer: str, vms: list[str]) -> None:  # noqa: F811
        self.ground, self.both, self.peer, self.vms = ground, (one, two), peer, vms

    @property
    def keeper(self) -> TestChassis:
        (found,) = [here for here in self.both if keeps(here)]
        return found

    async def meets(self, vm: str, target: str) -> bool:
        """Beside the loop, for controllers have to answer."""
        return await asyncio.to_thread(reaches, vm, target)

    async def run(self, vm: str, *command: str) -> str:
        done = await asyncio.to_thread(inside, vm, *command)
        return done.stdout + done.stderr

    async def until(self, shown: str, vm: str, *command: str) -> None:
        async with asyncio.timeout(10):
            while shown not in await self.run(vm, *command):
                await asyncio.sleep(0.1)

    def at(self, mac: str) -> str | None:
        """The port of the physical switch at which a MAC is."""
        learnt = (line.split() for line in self.ground.switch.appctl("fdb/show", "physnet1").splitlines()[1:])
        return next((port for port, _, its, _ in learnt if its == mac), None)


@asynccontextmanager
async def cloud(ground: Ground) -> AsyncIterator[Cloud]:  # noqa: F811
    """With its controllers at work. The machine has its way to the router from an advertisement for which it asks."""
    peer = ground.peer("10.1.0.99/24", "fd01::99/64", vlan=100)
    inside(peer, "ip", "route", "add", "default", "via", "10.1.0.1")
    async with hosts(ground) as (one, two), asyncio.TaskGroup() as group:
        vms = []
        for here, mine in ((one, T1), (two, T2)):
            await here.now(*ROUTED, *ALIVE.values())
            vm = await here.vm(mine, *address(mine))
            inside(vm, "ip", "route", "add", "default", "via", "10.0.0.1")
            inside(vm, "ip", "-6", "route", "add", "default", "via", "fd00::1")
            vms.append(vm)
        living = [group.create_task(here.live()) for here in (one, two)]
        it = Cloud(ground, one, two, peer, vms)
        await it.run(peer, sys.executable, "-c", SOLICIT)
        await it.until(f"default via {ROUTER}", peer, "ip", "-6", "route")
        yield it
        for task in living:
            task.cancel()


SOLICIT = """
import socket
wire = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
wire.sendto(bytes((133, *bytes(7))), ("ff02::2", 0, 0, socket.if_nametoindex("eth0")))
"""

ASK = """
import socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
wire.bind(("eth0", 0x0806))
wire.settimeout(1)
mac = wire.getsockname()[4]
wire.send(b"\\xff" * 6 + mac + bytes.fromhex("0806 0001 0800 06 04 0001") + mac + bytes((10, 1, 0, 99, *bytes(6), 10, 1, 0, 1)))
try:
    while answer := wire.recv(99):
        if answer[20:22] == bytes((0, 2)):
            print(answer[22:28].hex(":"))
except TimeoutError:
    pass
"""
"""Ask who has the router's address, and print the MAC of each who answers."""


async def test_it_is_routed_to_by_one_chassis_and_reached_from_all(ground: Ground) -> None:  # noqa: F811
    """It has one router, at one port of its switch, and finds it anew when the doorkeeper dies."""
    async with cloud(ground) as it:
        for port in (T1, T2):
            for target in port.ips:
                assert await it.meets(it.peer, target), (port.id, target)
        for target in ("10.1.0.1", "fd01::1", f"{ROUTER}%eth0"):
            assert await it.meets(it.peer, target), "the router itself"
        for vm in it.vms:
            for target in ("10.1.0.99", "fd01::99"):
                assert await it.meets(vm, target)
            for nobody in ("10.1.0.98", "fd01::98"):
                assert not await it.meets(vm, nobody)
        for target in ("10.1.0.1", "fd01::1", ROUTER):
            assert TO_VLAN.mac in await it.run(it.peer, "ip", "neigh", "show", target)
        assert len((await it.run(it.peer, sys.executable, "-c", ASK)).split()) == 1
        place, first = it.at(TO_VLAN.mac), it.keeper
        assert place is not None
        for here in it.both:
            await here.now(gone=(ALIVE[first.me.chassis],))
        assert it.keeper is not first
        for packet in (*Door().unasked(it.keeper.view()), *Advertisement().unasked(it.keeper.view())):
            it.keeper.switch.send(packet)
        for port in (T1, T2):
            for target in port.ips:
                assert await it.meets(it.peer, target), (port.id, target)
        assert it.at(TO_VLAN.mac) not in (None, place)
        assert list(Advertisement().unasked(first.view())) == list(Door().unasked(first.view())) == []


async def test_it_may_get_another_mac_and_a_controller_that_starts_anew_knows_it(ground: Ground) -> None:  # noqa: F811
    async with cloud(ground) as it:
        assert await it.meets(it.vms[0], "fd01::99")
        assert await it.meets(it.vms[0], "10.1.0.99")
        assert len(it.both[0].replica.all(Neighbour)) == 2
        await it.run(it.peer, "sysctl", "-w", "net.ipv6.conf.eth0.ndisc_notify=1", "net.ipv4.conf.eth0.arp_notify=1")
        await it.run(it.peer, "ip", "link", "set", "eth0", "address", "02:ee:00:00:00:77")
        async with asyncio.timeout(10):
            while {found.mac for found in it.both[0].replica.all(Neighbour)} != {"02:ee:00:00:00:77"}:
                await asyncio.sleep(0.1)
        assert await it.meets(it.vms[0], "fd01::99")
        first = it.both[0]
        await first.sync()
        before = first.flows()
        second = TestChassis(first.vswitch, first.me)
        running = asyncio.create_task(second.switch.run())
        async with asyncio.timeout(20):
            while not (second.switch.connected and second.switch.ovsdb_in_sync):
                await asyncio.sleep(0.05)
        second.load(*ROWS, *ROUTED, *ALIVE.values())
        second.neighbours.begin()
        await second.sync()
        assert second.replica.all(Neighbour) == first.replica.all(Neighbour) != ()
        assert second.flows() == before
        running.cancel()


async def test_it_is_told_what_cannot_be_forwarded(ground: Ground) -> None:  # noqa: F811
    async with cloud(ground) as it:
        for own, last, far, one_hop, expired, host, net in (
            (
                "10.1.0.1",
                "10.0.0.200",
                "198.51.100.1",
                "-t",
                "Time to live exceeded",
                "Host Unreachable",
                "Net Unreachable",
            ),
            ("fd01::1", "fd00::200", "2001:db8::1", "-t", "Hop limit", "Address unreachable", "No route"),
        ):
            guest = T1.ips[":" in own]
            for said, *command in (
                (expired, one_hop, "1", guest),
                (host, last),
                (net, far),
                ("mtu ?= ?1442", "-M", "do", "-s", "1440", guest),
            ):
                shown = await it.run(it.peer, "ping", "-n", "-c", "1", "-W", "2", *command)
                assert f"From {own}" in shown, shown
                assert re.search(said, shown), shown


async def test_who_sends_to_machines_that_are_not_there_is_told(ground: Ground) -> None:  # noqa: F811
    """After the questions for them; the machine outside is told of others, too."""
    async with cloud(ground) as it:
        for vm, target, own, said in (
            (it.vms[0], "10.1.0.98", "10.0.0.1", "Destination Host Unreachable"),
            (it.vms[1], "fd01::98", "fd00::1", "Address unreachable"),
        ):
            shown = await it.run(vm, "ping", "-n", "-c", "1", "-W", "9", target)
            assert re.search(f"From {own} .*{said}", shown), shown


async def test_ipv6_goes_straight_out_from_each_chassis_and_in_by_the_gateways(ground: Ground) -> None:  # noqa: F811
    """Nothing is translated, so each chassis finds its neighbours on the external network by its own MAC."""
    rows = (
        *(
            worlds.subnet("v6", "fd00::/64"),
            worlds.subnet("ext6", "2001:db8:f::/64", "ext", gateway_ip="2001:db8:f::1"),
        ),
        worlds.interface("r", 21, FixedIP("v4", "10.0.0.1"), FixedIP("v6", "fd00::1")),
        worlds.gateway("r", 22, FixedIP("ext4", "203.0.113.2"), FixedIP("ext6", "2001:db8:f::2")),
    )
    async with region(ground, *rows) as it:
        for vm, port in (("a", A), ("c", C)):
            await it.run(vm, "ip", "address", "add", f"{port.ips[1]}/64", "dev", "eth0", "nodad")
            await it.run(vm, "ip", "-6", "route", "add", "default", "via", "fd00::1")
        await it.run(it.gateway, "ip", "address", "add", "2001:db8:f::1/64", "dev", "eth0", "nodad")
        await it.run(it.gateway, "ip", "-6", "route", "add", "fd00::/64", "via", "2001:db8:f::2")
        for vm, port in (("a", A), ("c", C)):
            assert await it.pings_soon(vm, "2001:db8:f::1"), vm
            assert await it.pings_soon(it.gateway, port.ips[1]), vm
        assert await it.pings(it.gateway, "2001:db8:f::2"), "the router itself"
        known = [{found.address for found in here.replica.all(Neighbour)} for here in (it.one, it.two)]
        assert all("2001:db8:f::1" in addresses for addresses in known)
        shown = await it.run(it.gateway, "ping", "-n", "-c", "1", "-W", "2", "-t", "1", C.ips[1])
        assert "From 2001:db8:f::2" in shown, shown
