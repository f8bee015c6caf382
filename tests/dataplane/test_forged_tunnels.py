"""A guest packs tunnel packets itself and sends them to chassis: whatever key they bear, no other tenant gets what is in them.

The worst place for that: the guest's flat network is the very network in which the VTEPs are, on the same bridge.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from chassis import BRIDGE, TestChassis, chassis, inside, reaches
from underlay import machine

from dragonflow.controller.view import Me
from dragonflow.model import BridgeMapping, FixedIP
from dragonflow.pipeline import Remote
from dragonflow.testing import worlds

MAPPINGS = (BridgeMapping("physnet1", "br-phy"),)
HOSTS = tuple(worlds.chassis(f"h{number}", f"198.18.8.{number}", bridge_mappings=MAPPINGS) for number in (1, 2))
SECRET = worlds.network("net", 1)
FLAT = worlds.vlan("flat", 5, 0, network_type="flat", segmentation_id=None)
S1, S2 = worlds.port("s1", 11, on="h1"), worlds.port("s2", 12, on="h2")
GUEST = worlds.port("g", 77, on="h1", net="flat", fixed_ips=(FixedIP("f4", "198.18.8.77"),))
ROWS = (SECRET, FLAT, *HOSTS, S1, S2, GUEST)

SEND = """
import socket, sys
vtep, port, head, inner = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3]), bytes.fromhex(sys.argv[4])
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(20):
    wire.sendto(head + inner, (vtep, port))
"""
"""Sends 20 datagrams of what a tunnel packet holds after UDP."""


@asynccontextmanager
async def hosts(fabric: str) -> AsyncIterator[list[TestChassis]]:
    async with AsyncExitStack() as stack:
        found = []
        for row in HOSTS:
            switch = stack.enter_context(machine(fabric, row.tunnel_ip))
            found.append(await stack.enter_async_context(chassis(switch, Me.of(row, permitted_ethertypes=(0x1234,)))))
        for it in found:
            await it.now(*ROWS)
        for it, other in zip(found, ("s2", "s1"), strict=True):
            await it.until(lambda it=it, other=other: isinstance(it.engine.locality(other), Remote))  # type: ignore[misc]
        yield found


def dropped(here: TestChassis) -> int:
    """Packets that came from nobody whom the first table knows."""
    lines = here.vswitch.ofctl("dump-flows", BRIDGE, "table=0").splitlines()
    return sum(int(line.split("n_packets=")[1].split(",")[0]) for line in lines if "priority=0" in line)


def received(vm: str) -> int:
    """UDP datagrams that reached the guest, to a socket or not."""
    lines = [
        line.split() for line in inside(vm, "cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Udp:")
    ]
    counted = dict(zip(*lines, strict=True))
    return int(counted["InDatagrams"]) + int(counted["NoPorts"])


def geneve(vni: int) -> str:
    """The header (RFC 8926 §3.4), without options."""
    return bytes((0, 0, 0x65, 0x58)).hex() + (vni << 8).to_bytes(4, "big").hex()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def datagram(to: str, mac: str) -> str:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    return bytes(Ether(src=S2.mac, dst=mac) / IP(src="10.0.0.12", dst=to) / UDP(sport=5, dport=6) / b"forged").hex()


async def test_what_a_guest_packs_itself_reaches_no_other_tenant(fabric: str) -> None:
    async with hosts(fabric) as (h1, h2):
        s1, s2 = await h1.vm(S1, "10.0.0.11/24"), await h2.vm(S2, "10.0.0.12/24")
        guest = await h1.vm(GUEST, "198.18.8.77/24")
        assert await asyncio.to_thread(reaches, s1, "10.0.0.12"), "the tunnel itself works"
        for at, port, vm in ((h1, S1, s1), (h2, S2, s2)):
            vtep = at.me.tunnel_ip
            assert await asyncio.to_thread(reaches, guest, vtep), "nothing but flows is in its way"
            for vni in (SECRET.segmentation_id, 1, 0):
                assert vni is not None
                before, got = dropped(at), received(vm)
                forged = datagram(port.ips[0], port.mac)
                sent = await asyncio.to_thread(
                    inside, guest, sys.executable, "-c", SEND, vtep, "6081", geneve(vni), forged
                )
                assert sent.returncode == 0, sent.stderr
                await asyncio.to_thread(until, lambda at=at, before=before: dropped(at) >= before + 20)
                assert received(vm) == got
        for name, secret in (("198.18.8.2", True), ("198.18.8.1", False), ("198.18.8.77", False)):
            # only another chassis may be the outer source: not this one itself, nor the guest
            entered = h1.trace(
                f"in_port={tunnel(h1)},tun_id={SECRET.segmentation_id},tun_src={name},tun_dst=198.18.8.1,"
                f"dl_dst={S1.mac},dl_type=0x1234"
            )
            assert ("Datapath actions: drop" not in entered) == secret


def tunnel(here: TestChassis) -> int:
    place = here.engine.locality("s2")
    assert isinstance(place, Remote)
    return place.ofport
