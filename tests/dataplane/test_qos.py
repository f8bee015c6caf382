"""QoS policies on a real Open vSwitch: how much gets through, and with which mark.

A sender offers several times what it may; what arrives is compared with the limit over the time that the sender took, or with
what arrived under another limit.
"""

from __future__ import annotations

import asyncio
import subprocess

from chassis import TestChassis, chassis, inside, reaches
from msgspec.structs import replace

from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import BandwidthLimit
from dragonflow.testing import worlds

NET, A, B, C = worlds.network(), worlds.port("a", 11), worlds.port("b", 12), worlds.port("c", 13)
LIMIT = BandwidthLimit(2000, 200)
DOUBLE = BandwidthLimit(4000, 400)

FRAME = 1042
"""Bytes of a frame with 1000 bytes of UDP in IPv4."""

RECEIVE = """\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
s.bind(("", 5000)); s.settimeout(10); print("ready", flush=True); count = 0
try:
    while True:
        s.recv(2000); count += 1; s.settimeout(0.5)
except TimeoutError:
    print(count)
"""
SEND = """\
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
began = time.monotonic(); count = 0
while (now := time.monotonic() - began) < 1:
    if count < 3000 * now:
        s.sendto(bytes(1000), (sys.argv[1], 5000)); count += 1
    else:
        time.sleep(0.0005)
print(count, now)
"""


async def send(sender: str, receiver: str, to: str) -> tuple[int, int, float]:
    """Send some 24 Mbit/s for a second: frames sent, frames received, seconds taken."""
    listen = ["ip", "netns", "exec", receiver, "python3", "-c", RECEIVE]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        done = await asyncio.to_thread(inside, sender, "python3", "-c", SEND, to)
        sent, seconds = done.stdout.split()
        return int(sent), int(listener.stdout.readline()), float(seconds)


def share(limit: BandwidthLimit, measured: tuple[int, int, float]) -> float:
    """What arrived, as a share of what the limit lets through in that time. More than twice as much must have been offered."""
    sent, received, seconds = measured
    allowed = (limit.rate * seconds + limit.burst) * 1000
    assert sent * FRAME * 8 > 2 * allowed, measured
    return received * FRAME * 8 / allowed


async def ready(here: TestChassis) -> dict[str, str]:
    await here.now(NET, A, B, C)
    vms = {port.id: await here.vm(port, *(f"{ip}/24" for ip in port.ips[:1])) for port in (A, B, C)}
    for port in (B, C):
        assert reaches(vms["a"], port.ips[0])
    return vms


async def test_limits_hold_in_their_direction_and_change_at_once(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here:
        vms = await ready(here)
        policy = worlds.policy("gold", egress=LIMIT)
        sent, received, _ = await send(vms["a"], vms["b"], B.ips[0])
        assert received > 0.7 * sent, "no policy, no limit"
        await here.now(policy, replace(A, qos="gold"))
        assert 0.6 < share(LIMIT, await send(vms["a"], vms["b"], B.ips[0])) < 1.15
        sent, received, _ = await send(vms["b"], vms["a"], A.ips[0])
        assert received > 0.7 * sent, "the other direction"
        await here.now(replace(policy, egress=DOUBLE))
        assert 0.6 < share(DOUBLE, await send(vms["a"], vms["b"], B.ips[0])) < 1.15
        await here.now(replace(policy, egress=None, ingress=LIMIT))
        sent, received, _ = await send(vms["a"], vms["b"], B.ips[0])
        assert received > 0.7 * sent
        assert 0.6 < share(LIMIT, await send(vms["b"], vms["a"], A.ips[0])) < 1.15


async def test_what_a_limited_port_does_not_get_others_do(vswitch: VSwitch) -> None:
    """Broadcasts: a group's buckets are done one after the other, and that of the limited port comes first."""
    async with chassis(vswitch) as here:
        vms = await ready(here)
        await here.now(worlds.policy("gold", ingress=LIMIT), replace(B, qos="gold"))
        listen = ["ip", "netns", "exec", vms["c"], "python3", "-c", RECEIVE]
        with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            measured = await send(vms["a"], vms["b"], "10.0.0.255")
            assert 0.6 < share(LIMIT, measured) < 1.15
            assert int(other.stdout.readline()) > 0.7 * measured[0]


async def test_ports_that_share_a_policy_have_a_limit_each(vswitch: VSwitch) -> None:
    """Their network's: two send to a third at the same time, and each gets through what it may."""
    async with chassis(vswitch) as here:
        vms = await ready(here)
        await here.now(worlds.policy("gold", egress=LIMIT), replace(NET, qos="gold"))
        shares = await asyncio.gather(send(vms["a"], vms["b"], B.ips[0]), send(vms["c"], vms["a"], A.ips[0]))
        assert all(0.6 < share(LIMIT, each) < 1.15 for each in shares), shares
        await here.now(replace(A, qos="free"), worlds.policy("free"))
        sent, received, _ = await send(vms["a"], vms["b"], B.ips[0])
        assert received > 0.7 * sent, "its own policy, which limits nothing"


async def test_packets_are_marked_in_both_families(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here:
        await here.now(NET, B, worlds.policy("gold", dscp=46), replace(A, qos="gold"))
        a, b = [await here.vm(port, *(f"{ip}/{64 if ':' in ip else 24}" for ip in port.ips)) for port in (A, B)]
        for ip, seen in zip(B.ips, ("tos 0xb8", "class 0xb8"), strict=True):
            assert reaches(a, ip)
            dump = ["tcpdump", "-n", "-v", "-l", "-c1", "-i", "eth0", f"ether src {A.mac} and dst host {ip}"]
            with subprocess.Popen(
                ["ip", "netns", "exec", b, *dump], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as heard:
                assert heard.stderr is not None
                assert "listening" in heard.stderr.readline()
                assert reaches(a, ip)
                assert seen in heard.communicate(timeout=10)[0]
