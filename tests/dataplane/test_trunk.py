"""Trunks on a real Open vSwitch, and guests that tag their frames."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from chassis import BRIDGE, TestChassis, chassis, inside, loses, neighbour, reaches
from msgspec.structs import replace
from test_live_migration import SIBLING, TALKER, address, echoes, three

from dragonflow.apps.wiring import wired
from dragonflow.lab import system
from dragonflow.lab.tags import TaggingGuest
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import FixedIP, LogicalPort
from dragonflow.pipeline import Local
from dragonflow.testing import worlds

NET, TAGS = worlds.network(), worlds.network("tags", 3)
SUBNETS = (
    *worlds.SUBNETS[:2],
    worlds.subnet("tags4", "10.3.0.0/24", "tags", gateway_ip="10.3.0.1"),
    worlds.subnet("tags6", "fd03::/64", "tags"),
)
R = worlds.router("r", 1, "net", "tags")
IN = worlds.interface("r", 21, FixedIP("v4", "10.0.0.1"), FixedIP("v6", "fd00::1"))
OUT = worlds.interface("r", 22, FixedIP("tags4", "10.3.0.1"), FixedIP("tags6", "fd03::1"), net="tags")
GROUPS = {"security_groups": (worlds.STATELESS.id,)}  # who answers questions for everybody?
A, P = worlds.port("a", 11, **GROUPS), worlds.port("p", 51, trunk="t", **GROUPS)


_serial = itertools.count()


def tagged(key: int) -> tuple[FixedIP, FixedIP]:
    return FixedIP("tags4", f"10.3.0.{key}"), FixedIP("tags6", f"fd03::{key:x}")


FAR = worlds.child("far", 52, "p", 101, net="tags", mac=P.mac, fixed_ips=tagged(52), **GROUPS)
NEAR = worlds.child("near", 53, "p", 102, **GROUPS)
X = worlds.port("x", 31, net="tags", fixed_ips=tagged(31), **GROUPS)
ROWS = (NET, TAGS, *SUBNETS, R, IN, OUT, A, X, P)


async def plug(here: TestChassis, port: LogicalPort) -> str:
    vm = await here.vm(port, *(f"{ip}/{64 if ':' in ip else 24}" for ip in port.ips))
    give_routes(vm, port)
    return vm


def give_routes(vm: str, port: LogicalPort) -> None:
    for ip in port.ips:
        gateway = f"{ip.rpartition(':')[0]}:1" if ":" in ip else f"{ip.rpartition('.')[0]}.1"
        inside(vm, "ip", *(("-6",) if ":" in ip else ()), "route", "add", "default", "via", gateway)


class Guest:
    """A VM with a trunk: ``of`` are the namespaces of its ports, the parent's and the children's, by id."""

    def __init__(self, here: TestChassis, parent: LogicalPort, *children: LogicalPort) -> None:
        self.here, self.tap, self.of = here, f"tap-{parent.id}", dict[str, str]()
        self._guest = TaggingGuest(here.vswitch, self.tap, {})
        for port in (parent, *children):
            self.add(port)

    def add(self, port: LogicalPort) -> str:
        """A namespace for a port more, which needn't be one that anybody knows."""
        name = self.of[port.id] = f"dfc-{os.getpid()}-{next(_serial)}"
        system.netns_add(name)
        self.here._vms.append(name)
        self._guest.add(port.vlan, name, port.mac)
        system.ip(name, *(f"address add {ip}/{64 if ':' in ip else 24} dev eth0 nodad" for ip in port.ips))
        give_routes(name, port)
        return name

    async def plug(self, port: LogicalPort) -> None:
        """Put the interface on the integration bridge."""
        set_id = ("--", "set", "Interface", self.tap, f"external_ids:iface-id={port.id}")
        self.here.vswitch.vsctl("add-port", BRIDGE, self.tap, *set_id)
        await self.here.until(lambda: self.here.engine.locality(port.id) is not None)


@asynccontextmanager
async def trunk(vswitch: VSwitch, *more: LogicalPort) -> AsyncIterator[tuple[TestChassis, dict[str, str], Guest]]:
    """Two ordinary VMs, one in each network; and a guest with a parent port and a child in each."""
    async with chassis(vswitch) as here:
        await here.now(*ROWS, *more)
        vms = {port.id: await plug(here, port) for port in (A, X)}
        guest = Guest(here, P, FAR, NEAR)
        await guest.plug(P)
        yield here, vms | guest.of, guest


def answering(vm: str) -> set[str]:
    """Who answers a ping to all nodes: the last byte of each link-local address, which follows from the MAC."""
    shown = inside(vm, "ping", "-n", "-c", "2", "-i", "0.3", "-W", "1", "ff02::1%eth0").stdout
    return set(re.findall(r"from fe80::ff:fe00:(\w+)%", shown))


async def detected(vm: str) -> None:
    """Wait until nobody else was found to have the VM's link-local address: before that it neither asks nor answers from it."""
    async with asyncio.timeout(20):
        while inside(vm, "ip", "-6", "address", "show", "dev", "eth0", "tentative").stdout:
            await asyncio.sleep(0.05)


async def test_children_are_ports_as_any_other(vswitch: VSwitch) -> None:
    async with trunk(vswitch, FAR, NEAR) as (here, vms, _):
        assert here.engine.places["far"] == Local(here.engine.places["p"].ofport, 101)  # type: ignore[union-attr]
        for one, target in (("a", P), ("p", A), ("far", X), ("x", FAR), ("a", NEAR), ("near", A)):
            for ip in target.ips:
                assert reaches(vms[one], ip), (one, ip)
        for one, target in (("p", NEAR), ("near", P)):  # two ports behind one OpenFlow port
            for ip in target.ips:
                assert reaches(vms[one], ip), (one, ip)
        assert NEAR.mac in neighbour(vms["p"], NEAR.ips[0])
        for vm in vms.values():
            await detected(vm)
        everybody = {"b", "33", "35"}  # of the network `net`: A, P and NEAR
        for vm in ("a", "p", "near"):
            assert answering(vms[vm]) == everybody, vm
        assert answering(vms["far"]) == answering(vms["x"]) == {"33", "1f"}


async def test_children_are_routed_and_told_what_goes_wrong(vswitch: VSwitch) -> None:
    async with trunk(vswitch, FAR, NEAR) as (_, vms, _guest):
        for one, target in (("far", A), ("a", FAR), ("far", P), ("p", FAR), ("far", NEAR)):
            for ip in target.ips:
                assert reaches(vms[one], ip), (one, ip)
        for gateway in (*OUT.ips, "fe80::ff:fe00:16%eth0"):
            assert reaches(vms["far"], gateway), gateway
        for target, hop in ((A.ips[0], "10.3.0.1"), (A.ips[1], "fd03::1")):
            ping = ("ping", "-n", "-c", "1", "-W", "2", "-t", "1", target)
            shown = (await asyncio.to_thread(inside, vms["far"], *ping)).stdout
            assert f"From {hop}" in shown, shown


async def test_a_child_gets_its_address_by_dhcp(vswitch: VSwitch) -> None:
    async with trunk(vswitch, FAR, NEAR) as (_, vms, _guest):
        inside(vms["far"], "ip", "address", "flush", "dev", "eth0")
        ask = ("udhcpc", "-f", "-n", "-q", "-i", "eth0", "-s", "/bin/true", "-t", "5", "-T", "1")
        done = await asyncio.to_thread(inside, vms["far"], *ask)
        assert FAR.ips[0] in done.stdout + done.stderr, done


async def test_tags_of_nobody_pass_neither_way(vswitch: VSwitch) -> None:
    """A VM that tags its frames itself doesn't get into a child's network through the parent, whose MAC the child shares."""
    async with trunk(vswitch, FAR, NEAR) as (here, vms, guest):
        b = worlds.port("b", 12)
        await here.now(b)
        forger = Guest(here, b, replace(FAR, id="forger", mac=b.mac, fixed_ips=tagged(61)))
        await forger.plug(b)
        fake = forger.of["forger"]
        inside(fake, "ip", "neigh", "replace", FAR.ips[0], "lladdr", FAR.mac, "dev", "eth0")
        tcpdump = ["tcpdump", "-n", "-l", "-c", "1", "-i", "eth0", "ether", "src", b.mac]
        with subprocess.Popen(["ip", "netns", "exec", vms["far"], *tcpdump], stderr=subprocess.DEVNULL) as heard:
            assert not reaches(fake, FAR.ips[0])
            assert heard.poll() is None, "the child heard a frame of the forger's"
            heard.terminate()
        lost = guest.add(worlds.child("lost", 54, "p", 103))
        assert not reaches(lost, A.ips[0])
        assert reaches(vms["p"], A.ips[0])


async def test_children_come_and_go_under_traffic(vswitch: VSwitch) -> None:
    async with trunk(vswitch, NEAR) as (here, vms, _):
        far, near = vms["far"], vms["near"]
        command = ["ip", "netns", "exec", vms["a"], "ping", "-n", "-q", "-i", "0.02", "-w", "60", P.ips[0]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            assert not reaches(far, X.ips[0])
            await here.now(FAR)
            assert reaches(far, X.ips[0])
            await here.now(replace(FAR, vlan=109))
            assert loses(far, X.ips[0])
            await here.now(FAR)
            assert reaches(far, X.ips[0])
            await here.now(gone=(FAR,))
            assert loses(far, X.ips[0])
            assert reaches(near, A.ips[0])
            watch.send_signal(signal.SIGINT)
            said = watch.communicate()[0]
        sent, got = re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0]
        assert int(sent) - int(got) <= 1, said  # the last may be on its way
        await here.now(replace(P, admin_up=False))
        assert {"p", "near"}.isdisjoint(here.engine.places)
        assert loses(near, A.ips[0])
        await here.now(P)
        assert reaches(near, A.ips[0])


FRONT = worlds.network("front", 9)
CARRIER = worlds.port("p", 61, on="h1", net="front", trunk="t", generation=1)
CARRIED = worlds.child("guest", 62, "p", 101, on="h1", generation=1)


@pytest.mark.parametrize(
    ("order", "first"), [(("h1", "h2", "h3"), "p"), (("h3", "h1", "h2"), "guest")], ids=["parent", "child"]
)
async def test_a_child_loses_no_packet_when_its_trunk_moves(order: tuple[str, ...], first: str) -> None:
    """A live migration of the parent, of which the sender's chassis knows nothing. Rows of parent and child come one by one."""
    async with three() as hosts:
        ends = {name: hosts[name] for name in ("h1", "h2")}
        guests = {}
        for standby in ((), ("h2",)):
            rows = replace(CARRIER, standby=standby), replace(CARRIED, standby=standby)
            await hosts["h3"].now(rows[1])
            for name, here in ends.items():
                await here.now(FRONT, *rows)
                if name in ("h1", *standby) and name not in guests:
                    guests[name] = Guest(here, *rows)
                    await guests[name].plug(CARRIER)
        await hosts["h2"].until(lambda: wired(rows[1], "h2", hosts["h2"].replica) is not None)
        old, new = (guests[name].of["guest"] for name in ("h1", "h2"))
        talker = await hosts["h3"].vm(TALKER, address(TALKER))
        sibling = await hosts["h2"].vm(SIBLING, address(SIBLING))
        for one, target in ((talker, SIBLING), (talker, CARRIED), (sibling, CARRIED)):
            assert reaches(one, target.ips[0])  # so that all VTEPs know each other's MACs
        assert (echoes(old) > 0, echoes(new)) == (True, 0)

        ping = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", talker, "ping", "-i", "0.001", "-q", "-w", "30", "-c", "1500", CARRIED.ips[0]),
            stdout=asyncio.subprocess.PIPE,
        )
        moved = [replace(row, chassis="h2", standby=("h1",), generation=2) for row in rows]
        for name in order:
            for row in sorted(moved, key=lambda row: row.id != first):
                if name != "h3" or row.id == "guest":
                    await asyncio.sleep(0.1)
                    await hosts[name].now(row)
        said = (await ping.communicate())[0].decode()
        assert "1500 packets transmitted, 1500 received" in said, said
        assert "duplicates" not in said
        assert echoes(new) > 0
