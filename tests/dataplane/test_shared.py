"""Addresses of allowed address pairs on real Open vSwitches: VMs that share them announce them as keepalived does."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from chassis import inside
from msgspec.structs import replace
from test_dnat import HOSTS, PORTS, Cloud, cloud
from test_provider import Ground, ground  # noqa: F401 - ground is a fixture

from dragonflow.apps.shared import holder_of
from dragonflow.controller import holders
from dragonflow.model import AddressPair, Alive, FixedIP, Holder, Route, RouterGateway, Row
from dragonflow.testing import worlds

VIP, VIP6, VMAC = "10.0.0.99", "fd00::99", "00:00:5e:00:01:07"
PAIRS = (AddressPair(VIP), AddressPair(VIP, VMAC), AddressPair(VIP6), AddressPair("198.51.100.1"))
A, B, C = (replace(port, address_pairs=() if port.id == "b" else PAIRS) for port in PORTS)
X = worlds.port("x", 31, on="h2", net="far", fixed_ips=(FixedIP("far4", "10.1.0.31"), FixedIP("far6", "fd01::1f")))
RESERVED = worlds.port("vip", 99, on=None, fixed_ips=(FixedIP("v4", VIP),), device_owner="Octavia")
FLOATING = "203.0.113.61"
R = worlds.router("r", 1, "net", "far", gateway=RouterGateway("r-ext", "ext"), routes=(Route("198.51.100.0/24", VIP),))
ROWS = (
    *(*HOSTS, *(Alive(id=host.id, since=0.0) for host in HOSTS), worlds.network(), worlds.network("far", 2)),
    *(*worlds.SUBNETS, *worlds.OUTSIDE, R, worlds.gateway("r", 20, FixedIP("ext4", "203.0.113.2"))),
    worlds.interface("r", 21, FixedIP("v4", "10.0.0.1"), FixedIP("v6", "fd00::1")),
    worlds.interface("r", 22, FixedIP("far4", "10.1.0.1"), FixedIP("far6", "fd01::1"), net="far"),
    *(A, B, C, X, RESERVED),
    *worlds.floating("fv", 61, FLOATING, router="r", fixed_port="vip", fixed_ip=VIP),
)

ANNOUNCE = """
import socket, sys, time
address, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
if ":" in address:
    packed = socket.inet_pton(socket.AF_INET6, address)
    everybody = bytes.fromhex("ff020000000000000000000000000001")
    body = bytes.fromhex("20000000") + packed + bytes((2, 1)) + mac
    pseudo = packed + everybody + bytes((0, 0, 0, 4 + len(body), 0, 0, 0, 58)) + bytes((136, 0, 0, 0)) + body
    total = sum(int.from_bytes(pseudo[at:at + 2], "big") for at in range(0, len(pseudo), 2))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = bytes.fromhex("60000000") + (4 + len(body)).to_bytes(2, "big") + bytes((58, 255)) + packed + everybody
    frame = bytes.fromhex("333300000001") + mac + b"\\x86\\xdd" + head + bytes((136, 0)) + total.to_bytes(2, "big") + body
else:
    packed = socket.inet_aton(address)
    frame = b"\\xff" * 6 + mac + bytes.fromhex("0806 0001 0800 06 04 0001") + mac + packed + bytes(6) + packed
for _ in range(int(sys.argv[3])):
    wire.send(frame)
    time.sleep(0.002)
"""
"""Say ``times`` that ``mac`` has the address: a gratuitous ARP, or an unsolicited Neighbour Advertisement."""


COUNT = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
wire.bind(("eth0", 0x0806))
wire.settimeout(3)
print(flush=True)
seen = 0
try:
    while seen < int(sys.argv[2]):
        seen += wire.recv(99)[28:32] == socket.inet_aton(sys.argv[1])
except TimeoutError:
    pass
print(seen)
"""
"""Tell how many ARP packets come of the address, at most so many."""


class Vips(Cloud):
    """The cloud's VMs a and c share addresses; x is in another network behind the router."""

    async def takes(self, vm: str, address: str = VIP, mac: str = "", *, silently: bool = False) -> None:
        """The VM has the address from now on, and says so."""
        family, prefix = ("-6", 64) if ":" in address else ("-4", 24)
        await self.run(vm, "ip", family, "address", "add", f"{address}/{prefix}", "dev", "eth0", "nodad")
        if not silently:
            await self.says(vm, address, mac)

    async def says(self, vm: str, address: str = VIP, mac: str = "", times: int = 1) -> None:
        own = next(port.mac for port in (*PORTS, X) if port.id == vm)
        shown = await self.run(vm, sys.executable, "-c", ANNOUNCE, address, mac or own, str(times))
        assert not shown, shown

    def holder(self, address: str = VIP) -> str | None:
        """The port at which both chassis know the address to be; None if none is known, or they disagree."""
        rows = [holder_of("net", address, here.replica) for here in (self.one, self.two)]
        found = {None if row is None else row.port for row in rows}
        return found.pop() if len(found) == 1 else None

    async def until(self, port: str | None, address: str = VIP) -> None:
        async with asyncio.timeout(30):
            while self.holder(address) != port:
                await asyncio.sleep(0.02)

    async def longest_gap(self, vm: str, target: str, after: Callable[[], Awaitable[None]]) -> float:
        """The longest time in seconds without an answer, from half a second before something happens until 3 s after it."""
        pinging = asyncio.create_task(self.run(vm, "ping", "-n", "-D", "-i", "0.05", "-w", "4", target))
        await asyncio.sleep(0.5)
        await after()
        times = [float(it) for it in re.findall(r"^\[(\d+\.\d+)\] \d+ bytes", await pinging, re.MULTILINE)]
        assert times[-1] - times[0] > 3, times
        return max(later - earlier for earlier, later in pairwise(times))


@asynccontextmanager
async def vips(ground: Ground, *rows: Row) -> AsyncIterator[Vips]:  # noqa: F811
    async with cloud(ground, (*ROWS, *rows)) as made:
        it = Vips(made.one, made.two, made.gateway)
        it.vms = made.vms
        x = await it.two.vm(X, f"{X.ips[0]}/24", f"{X.ips[1]}/64")
        inside(x, "ip", "route", "add", "default", "via", "10.1.0.1")
        inside(x, "ip", "-6", "route", "add", "default", "via", "fd01::1")
        it.vms["x"] = x
        for port in (A, C):  # behind each there is an address to which an extra route leads
            inside(it.vms[port.id], "sh", "-c", "ip link set lo up; ip address add 198.51.100.1/32 dev lo")
            inside(it.vms[port.id], "ip", "address", "add", f"{port.ips[1]}/64", "dev", "eth0", "nodad")
            inside(it.vms[port.id], "ip", "-6", "route", "add", "default", "via", "fd00::1")
        yield it


async def test_routers_and_floating_ips_follow_who_announces_it(ground: Ground) -> None:  # noqa: F811
    async with vips(ground) as it:
        assert not await it.pings("x", VIP)
        await it.takes("a")
        await it.until("a")
        for target in (VIP, "198.51.100.1"):
            assert await it.pings("x", target), target
        assert await it.pings("b", VIP), "in its own network"
        assert await it.pings_soon(it.gateway, FLOATING)
        for vm, here in (("a", it.one), ("c", it.two)):
            async with asyncio.timeout(20):
                while ("port-fv" in here.engine.serving) != (it.holder() == vm):
                    await asyncio.sleep(0.02)

        async def fails_over() -> None:
            inside(it.vms["a"], "ip", "link", "set", "eth0", "down")
            await it.takes("c")

        assert await it.longest_gap("x", VIP, fails_over) < 1
        assert it.holder() == "c"
        assert await it.pings("x", "198.51.100.1")
        assert await it.pings_soon(it.gateway, FLOATING)
        async with asyncio.timeout(20):
            while ("port-fv" in it.one.engine.serving, "port-fv" in it.two.engine.serving) != (False, True):
                await asyncio.sleep(0.02)
        shown = await it.run("c", "ping", "-n", "-c", "1", "-W", "2", "-I", VIP, "192.0.2.9")
        assert " 0% packet loss" in shown, "out by the floating IP: " + shown
        await it.now(gone=tuple(row for row in ROWS if row.id in ("fv", "port-fv")))
        shown = await it.run("c", "ping", "-n", "-c", "1", "-W", "2", "-I", VIP, "192.0.2.9")
        assert " 0% packet loss" in shown, "out under the router's address: " + shown
        await it.now(replace(C, address_pairs=()))
        await it.until(None)
        assert not await it.pings("x", VIP), "it may not have it any more"


async def test_who_has_it_silently_is_found_and_who_has_it_no_more_too(
    ground: Ground,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """IPv6, and IPv4 at a virtual router's MAC."""
    for name, seconds in (("REACHABLE", 1.0), ("VACANT", 1.0)):
        monkeypatch.setattr(holders, name, seconds)
    async with vips(ground) as it:
        await it.takes("a", VIP6, silently=True)
        await it.until("a", VIP6)
        assert await it.pings_soon("x", VIP6)
        await it.takes("c", VIP6)
        await it.until("c", VIP6)
        assert await it.pings("x", VIP6)
        await it.run("c", "ip", "address", "del", f"{VIP6}/64", "dev", "eth0")
        await it.until("a", VIP6)
        assert await it.pings("x", VIP6)
        for command in (
            f"link add vrrp link eth0 address {VMAC} type macvlan mode private",
            f"address add {VIP}/32 dev vrrp",
            "link set vrrp up",
        ):
            assert not await it.run("c", "ip", *command.split())
        await it.run("c", "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.vrrp.rp_filter=0")
        await it.says("c", VIP, VMAC)
        await it.until("c")
        (row,) = (row for row in it.one.replica.all(Holder) if row.address == VIP)
        assert row.mac == VMAC
        assert await it.pings("x", VIP)


async def test_others_can_not_take_it_and_what_is_said_too_often_still_reaches_its_hearers(ground: Ground) -> None:  # noqa: F811
    async with vips(ground) as it:
        await it.takes("a")
        await it.until("a")
        for vm, mac in (("b", ""), ("x", ""), ("c", B.mac)):
            await it.says(vm, VIP, mac)
        await it.says("c", "10.0.0.98")
        command = ("ip", "netns", "exec", it.vms["b"], sys.executable, "-c", COUNT, VIP, "400")
        counting = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert counting.stdout is not None
        await counting.stdout.readline()
        await it.says("a", times=400)
        assert await it.pings("x", VIP)
        told, _ = await asyncio.wait_for(counting.communicate(), 30)
        assert int(told) == 400
        assert [(row.port, row.address) for row in it.one.replica.all(Holder)] == [("a", VIP)]
