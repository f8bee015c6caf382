"""What ``dragonflow drops`` shows, on a real Open vSwitch, with real packets."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chassis import BRIDGE, TestChassis, chassis, inside
from msgspec.structs import replace
from running import BINDING, DRAGONFLOW, PORT, Host, status_of, until
from running import NET as NETWORK

from dragonflow.apps import drops
from dragonflow.apps.drops import Drops
from dragonflow.apps.firewall.why import RULE_GONE
from dragonflow.controller.drops import Chunk, Drop, Unshown
from dragonflow.lab import system
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import LogicalPort, SecurityGroup, SecurityRule
from dragonflow.pipeline.punt import LIMITS, PuntKind
from dragonflow.testing import worlds

BURST = LIMITS[PuntKind.REFUSED_SENT].burst

NET = worlds.network()
A, B = (worlds.port(name, key, security_groups=("g",)) for name, key in (("a", 11), ("b", 12)))
SENDS = tuple(SecurityRule("egress", version, 17, 1, 7999) for version in (4, 6))
GETS = SecurityRule("ingress", 4, 17, 53, 53)
G = SecurityGroup(id="g", rules=(*SENDS, GETS), revision=1)

SEND = """\
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[4])))
for number in range(int(sys.argv[3])):
    s.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
    if number % 20 == 19: time.sleep(0.01)
"""

FLOOD = 1000

RAW = """\
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(("eth0", 0)); s.send(bytes.fromhex(sys.argv[1]))
"""


class Shown:
    """What a follower was told."""

    def __init__(self) -> None:
        self.drops: list[Drop] = []
        self.unshown: list[Unshown] = []
        self.watching = False
        self._more = asyncio.Event()

    def take(self, chunk: Chunk) -> None:
        self.drops += chunk.drops
        self.unshown += chunk.unshown
        self.watching = chunk.watching
        self._more.set()

    async def until(self, condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(20):
                while not condition():
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"told in vain: {self.drops} {self.unshown}") from None

    def refused(self, port: str) -> int:
        """All packets of the port that this one knows of."""
        return self.shown(port) + sum(it.count for it in self.unshown if it.port == port)

    def shown(self, port: str, to: int | None = None) -> int:
        """Packets of the port that were told, or those to one UDP port."""
        return sum(it.count for it in self.drops if it.port == port and to in (None, it.packet.destination_port))


@asynccontextmanager
async def following(here: TestChassis, port: str | None = None) -> AsyncIterator[Shown]:
    shown = Shown()

    async def follow() -> None:
        async with aclosing(here.drops.follow({"port": port})) as chunks:
            async for chunk in chunks:
                shown.take(chunk)

    task = asyncio.create_task(follow())
    try:
        await shown.until(lambda: shown.watching)
        yield shown
    finally:
        task.cancel()
        await asyncio.wait([task])
        await here.sync()


@asynccontextmanager
async def alive(here: TestChassis) -> AsyncIterator[dict[str, str]]:
    """Both ports plugged, who know each other's MAC, so that nothing but what the test sends is on its way."""
    await here.now(NET, G, A, B)
    vms = {it.id: await here.vm(it, f"{it.ips[0]}/24", f"{it.ips[1]}/64") for it in (A, B)}
    for one, other in ((A, B), (B, A)):
        for ip in other.ips[:2]:
            inside(vms[one.id], "ip", "neigh", "replace", ip, "lladdr", other.mac, "dev", "eth0", "nud", "permanent")
    task = asyncio.create_task(here.live())
    try:
        yield vms
    finally:
        task.cancel()
        await asyncio.wait([task])


def counted(here: TestChassis, port: LogicalPort) -> int:
    """Packets of the port that were refused, as ``ovs-ofctl`` tells it."""
    flows = here.vswitch.ofctl("dump-flows", BRIDGE, f"table={Drops.sent.number},reg6={port.key}")
    (count,) = re.findall(r"n_packets=(\d+)", flows)
    return int(count)


async def send(vm: str, address: str, port: int, count: int = 1, source: int = 5000) -> None:
    code = "python3", "-c", SEND, address, str(port), str(count), str(source)
    done = await asyncio.to_thread(inside, vm, *code)
    assert done.returncode == 0, done.stderr


def told(drops: Iterable[Drop]) -> set[tuple[Any, ...]]:
    return {
        (it.direction, it.port, it.why, it.packet.source, it.packet.destination, it.packet.destination_port)
        for it in drops
    }


async def test_what_is_refused_is_told_with_port_reason_and_tuple_and_only_to_who_asks(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here, alive(here) as vms:
        before = here.flows()
        async with following(here) as shown:
            await send(vms["a"], B.ips[0], 8000)
            await send(vms["a"], B.ips[0], 54)
            await send(vms["a"], B.ips[1], 53)
            spoofed = (
                f"{B.mac} {A.mac} 0800".replace(":", "") + "4500001c00000000401100000a0000630a00000c0001003500080000"
            )
            await asyncio.to_thread(inside, vms["a"], "python3", "-c", RAW, spoofed)
            wanted = {
                ("egress", "a", "no rule", A.ips[0], B.ips[0], 8000),
                ("ingress", "b", "no rule", A.ips[0], B.ips[0], 54),
                ("ingress", "b", "no rule", A.ips[1], B.ips[1], 53),
                ("egress", "a", "spoofed source: address 10.0.0.99 isn't the port's", "10.0.0.99", "10.0.0.12", 53),
            }
            await shown.until(lambda: wanted <= told(shown.drops))
            (first,) = (it for it in shown.drops if it.packet.destination_port == 8000)
            assert (first.packet.protocol, first.packet.source_port, first.count) == (17, 5000, 1)
            assert (first.packet.eth_src, first.packet.eth_dst) == (A.mac, B.mac)
        await here.until(lambda: here.flows() == before)
        assert "meter" not in "".join(it for it in before.splitlines() if f"table={Drops.sent.number}," in it)


async def test_no_flood_hides_what_another_port_is_refused_and_all_are_counted(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here, alive(here) as vms:
        async with following(here) as shown:
            await send(vms["a"], B.ips[0], 8000, FLOOD)
            await send(vms["b"], A.ips[0], 8001, 3)
            # fewer may have been sent than the guest wanted, if the machine is slow: half of them are a flood all the same
            await shown.until(lambda: shown.refused("a") > FLOOD / 2 and shown.shown("b", 8001) == 3)
            assert BURST <= shown.shown("a", 8000) < 3 * BURST
            for port in (A, B):
                await shown.until(lambda port=port: shown.refused(port.id) == counted(here, port))
        async with following(here, "b") as shown:
            await send(vms["a"], B.ips[0], 8000, 5)
            await send(vms["b"], A.ips[0], 8001, 2)
            await shown.until(lambda: shown.shown("b", 8001) == 2)
            assert not shown.refused("a")


async def test_all_ports_together_are_held_to_what_the_chassis_tells(
    vswitch: VSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drops, "ALL", msgspec.structs.replace(drops.ALL, rate=1, burst=5))
    async with chassis(vswitch) as here, alive(here) as vms, following(here) as shown:
        began = time.monotonic()
        for one, other in ((A, B), (B, A)):
            await send(vms[one.id], other.ips[0], 8000, 40)
        for port in (A, B):
            await shown.until(lambda port=port: shown.refused(port.id) == counted(here, port) >= BURST)
        assert 1 <= shown.shown("a") + shown.shown("b") <= 6 + time.monotonic() - began


async def test_a_connection_whose_rule_goes_is_told_both_ways(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here, alive(here) as vms, following(here) as shown:
        await send(vms["a"], B.ips[0], 53)
        await send(vms["b"], A.ips[0], 5000, source=53)
        await here.now(replace(G, rules=SENDS, revision=2))
        await send(vms["a"], B.ips[0], 53, 2)
        await send(vms["b"], A.ips[0], 5000, source=53)
        wanted = {
            ("ingress", "b", RULE_GONE, A.ips[0], B.ips[0], 53),
            ("egress", "b", RULE_GONE, B.ips[0], A.ips[0], 5000),
        }
        await shown.until(lambda: wanted <= told(shown.drops))


def test_the_command_shows_it_and_leaves_nothing_behind(vswitch: VSwitch, tmp_path: Path) -> None:
    host = Host(vswitch, tmp_path)
    host.write(NETWORK, PORT, BINDING)
    vswitch.add_bridge(BRIDGE)
    host.plug()
    assert vswitch.netns is not None
    system.ip(vswitch.netns, "link set vm1 up")
    with host.controller():
        until(lambda: status_of(host) == ("ACTIVE", ""), "ACTIVE")
        flows = host.flows()
        command = [DRAGONFLOW, "drops", "--config-file", str(host.config), "--json", "--port", "p", "--seconds", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as shows:
            assert shows.stdout is not None
            assert json.loads(shows.stdout.readline())["notice"] == "watching"
            frame = f"0200000000ff{PORT.mac}88cc0000".replace(":", "")
            inside(vswitch.netns, "python3", "-c", RAW.replace("eth0", "vm1"), frame)
            said = [json.loads(line) for line in shows.stdout]
        assert shows.returncode == 0
        # the interface also sends what hosts send of their own accord (router solicitations), under another MAC
        (drop,) = (it for it in said if it.get("packet", {}).get("eth_type") == 0x88CC)
        assert (drop["port"], drop["direction"], drop["why"]) == ("p1", "egress", "EtherType 0x88cc isn't permitted")
        until(lambda: host.flows() == flows, "the flows that told to be gone")
