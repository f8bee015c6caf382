"""A guest moves between two chassis while a third one talks to it: real packets, at 1 ms.

Both guests are awake all the time, so whatever is lost or doubled is the network's doing and not the hypervisor's.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import permutations

import msgspec
import pytest
from chassis import BRIDGE, TestChassis, chassis, inside, reaches
from underlay import machine

from dragonflow.apps.resolution import Resolution
from dragonflow.controller.report import claims
from dragonflow.controller.view import Me
from dragonflow.lab import system
from dragonflow.model import Binding, LogicalPort
from dragonflow.pipeline import Local, Remote
from dragonflow.testing import worlds

NET = worlds.network()
GUEST = worlds.port("guest", 11, on="h1", generation=1)
PREPARED = msgspec.structs.replace(GUEST, standby=("h2",))
MOVED = msgspec.structs.replace(GUEST, chassis="h2", standby=("h1",), generation=2)
DONE = msgspec.structs.replace(MOVED, standby=())
TALKER = worlds.port("talker", 12, on="h3")
SIBLING = worlds.port("sibling", 13, on="h2")
HOSTS = {"h1": "198.18.9.1", "h2": "198.18.9.2", "h3": "198.18.9.3"}
CHASSIS = tuple(worlds.chassis(name, vtep) for name, vtep in HOSTS.items())

_serial = itertools.count()


@asynccontextmanager
async def three() -> AsyncIterator[dict[str, TestChassis]]:
    """Three chassis on one fabric, all rows but the guest's known to each."""
    fabric = f"dfm-{os.getpid()}-{next(_serial)}"
    async with AsyncExitStack() as stack:
        system.netns_add(fabric)
        stack.callback(system.netns_delete, fabric)
        system.ip(fabric, "link add fabric type bridge", "link set fabric mtu 9000 up")
        found = {}
        for name, vtep in HOSTS.items():
            switch = stack.enter_context(machine(fabric, vtep))
            found[name] = await stack.enter_async_context(chassis(switch, Me(chassis=name, tunnel_ip=vtep)))
        for it in found.values():
            await it.now(NET, *CHASSIS, TALKER, SIBLING)
        for it in found.values():
            await it.until(partial(knows_tunnel, it))
        yield found


def address(port: LogicalPort) -> str:
    return f"{port.ips[0]}/24"


def echoes(vm: str) -> int:
    """Echo requests that the guest has got."""
    heads, values = (
        line.split() for line in inside(vm, "cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Icmp:")
    )
    return int(values[heads.index("InEchos")])


def has_got(count: int, *guests: str) -> bool:
    return sum(map(echoes, guests)) > count


def knows_tunnel(here: TestChassis) -> bool:
    return any(isinstance(place, Remote) for place in here.engine.places.values())


def said(here: TestChassis) -> str | None:
    claim = claims(here.me, here.replica, here.engine.locality).get("guest")
    return None if claim is None else claim.status


@pytest.mark.parametrize("order", list(permutations(HOSTS))[::2], ids="-".join)
async def test_no_packet_is_lost_or_doubled_by_a_live_migration(order: tuple[str, ...]) -> None:
    async with three() as hosts:
        for here in hosts.values():
            await here.now(GUEST)
        await hosts["h1"].now(Binding(id="guest", host="h1", network="net", generation=1))
        old = await hosts["h1"].vm(GUEST, address(GUEST))
        talker = await hosts["h3"].vm(TALKER, address(TALKER))
        sibling = await hosts["h2"].vm(SIBLING, address(SIBLING))

        for here in hosts.values():
            await here.now(PREPARED)
        await hosts["h2"].now(Binding(id="guest", host="h2", network="net", generation=1, active=False))
        assert said(hosts["h2"]) == "DOWN"
        new = await hosts["h2"].vm(PREPARED, address(GUEST))
        await hosts["h2"].until(lambda: said(hosts["h2"]) == "ACTIVE")
        assert isinstance(hosts["h2"].engine.places["guest"], Remote)
        assert inside(sibling, "ping", "-c", "3", "-i", "0.1", "-W", "2", GUEST.ips[0]).returncode == 0
        assert echoes(old) > 0
        assert echoes(new) == 0
        # so that all VTEPs know each other's MACs: Open vSwitch in user space drops the packet for which it asks
        assert reaches(talker, SIBLING.ips[0])
        assert reaches(talker, GUEST.ips[0])

        ping = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", talker, "ping", "-i", "0.001", "-q", "-w", "30", "-c", "1500", GUEST.ips[0]),
            stdout=asyncio.subprocess.PIPE,
        )
        start = echoes(old)
        await _until(lambda: echoes(old) > start + 100)
        for name in order:
            before = echoes(old) + echoes(new)
            await hosts[name].now(MOVED)
            await _until(partial(has_got, before + 50, old, new))
        output, _ = await ping.communicate()
        text = output.decode()
        found = re.search(r"(\d+) packets transmitted, (\d+) received(.*),", text)
        assert found is not None, text
        assert int(found[1]) - int(found[2]) == 0, text
        assert "duplicates" not in text

        assert isinstance(hosts["h2"].engine.locality("guest"), Local)
        assert all(isinstance(hosts[name].engine.places["guest"], Remote) for name in ("h1", "h3"))
        for here in hosts.values():
            await here.now(DONE)
        before = echoes(old)
        for vm in (talker, sibling):
            assert inside(vm, "ping", "-c", "3", "-i", "0.1", "-W", "2", GUEST.ips[0]).returncode == 0
        assert echoes(old) == before


def ofport_of(here: TestChassis, port: str) -> int:
    return int(here.vswitch.vsctl("--bare", "--columns=ofport", "find", "Interface", f"external_ids:iface-id={port}"))


async def test_a_guest_that_wakes_before_the_binding_moves_may_announce_itself() -> None:
    """Its announcement is spread, not answered in the name of whom the DF DB still sees elsewhere; nor is it flooded back."""
    async with three() as hosts:
        here = hosts["h2"]
        await here.now(PREPARED, Binding(id="guest", host="h2", network="net", generation=1, active=False))
        await here.vm(PREPARED, address(GUEST))
        await here.until(lambda: said(here) == "ACTIVE")
        ofport = ofport_of(here, "guest")
        ip, mac = GUEST.ips[0], GUEST.mac
        announcement = f"arp,arp_op=1,dl_src={mac},dl_dst=ff:ff:ff:ff:ff:ff,arp_sha={mac},arp_spa={ip},arp_tpa={ip}"
        trace = here.trace(f"in_port={ofport},{announcement}")
        assert f"\n{Resolution.answer.number}. " not in trace
        tunnel = here.engine.places["talker"]
        assert isinstance(tunnel, Remote)
        assert "set_field:198.18.9.3->tun_dst" in trace
        assert "set_field:198.18.9.1->tun_dst" in trace
        flooded = f"in_port={tunnel.ofport},tun_id=5001,tun_src=198.18.9.3,tun_dst=198.18.9.2,{announcement}"
        assert f"output:{ofport}" not in here.trace(flooded)
        assert BRIDGE in trace


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
