"""What the way to another VTEP is like: how long an answer takes, and how large packets may be.

The host asks by ICMP echo, unfragmented. The kernel knows what routers on the way have told it (RFC 1191, RFC 8201); where they
tell nothing, sizes are tried (RFC 4821 has the reason: errors get filtered).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from dragonflow.packet.udp import checksum

PATIENCE = 1.0
"""Seconds that an answer may take."""

_TRIES = 2
"""How often a size is tried: one packet may be lost on any way."""

_TOKEN = 8
"""Bytes by which an answer is known for ours."""

_LARGEST = 65_535
_IP_MTU_DISCOVER, _IP_MTU, _IPV6_MTU_DISCOVER, _IPV6_MTU, _IPV6_DONTFRAG = 10, 14, 23, 24, 62
_DO = 2
"""IP_PMTUDISC_DO (ip(7), ipv6(7)); Python's ``socket`` has no names for these."""


@dataclass(frozen=True)
class Path:
    """``rtt`` in seconds, ``mtu`` in bytes of an IP packet; None: nobody answers."""

    rtt: float | None = None
    mtu: int | None = None


@dataclass(frozen=True)
class _Family:
    """What differs between the versions of IP: socket options, header, ICMP types, and what every host must take."""

    family: socket.AddressFamily
    protocol: int
    level: int
    discover: int
    mtu: int
    header: int
    request: int
    reply: int
    least: int


_FAMILIES = {
    4: _Family(socket.AF_INET, socket.IPPROTO_ICMP, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_MTU, 20, 8, 0, 576),
    6: _Family(
        *(
            socket.AF_INET6,
            socket.IPPROTO_ICMPV6,
            socket.IPPROTO_IPV6,
            _IPV6_MTU_DISCOVER,
            _IPV6_MTU,
            40,
            128,
            129,
            1280,
        )
    ),
}


async def measure(here: str, there: str, patience: float = PATIENCE) -> Path:
    """Ask the host at ``there`` from our address ``here``.

    :raises OSError: this host can't ask: no such address of ours, no route, no permission (CAP_NET_RAW).
    """
    family = _FAMILIES[ip_address(there).version]
    with _open(family, here, there) as asking:
        rtt = await _echo(asking, family, family.least, patience)
        if rtt is None:
            return Path()
        return Path(rtt, await _largest(asking, family, min(patience, max(0.1, rtt * 4))))


def _open(family: _Family, here: str, there: str) -> socket.socket:
    asking = socket.socket(family.family, socket.SOCK_RAW, family.protocol)
    try:
        asking.setblocking(False)
        asking.setsockopt(family.level, family.discover, _DO)
        if family.level == socket.IPPROTO_IPV6:
            asking.setsockopt(family.level, _IPV6_DONTFRAG, 1)
        asking.bind((here, 0))
        asking.connect((there, 0))
    except BaseException:
        asking.close()
        raise
    return asking


async def _largest(asking: socket.socket, family: _Family, patience: float) -> int:
    """The largest packet that is answered. What the kernel believes is tried first: mostly it is right."""
    fits, believed = family.least, 0
    while believed != (believed := _believed(asking, family)) and believed > fits:  # an error may have taught it better
        if await _answered(asking, family, believed, patience):
            return believed
    too_large = believed
    while too_large - fits > 1:
        size = (fits + too_large) // 2
        if await _answered(asking, family, size, patience):
            fits = size
        else:
            too_large = size
    return fits


def _believed(asking: socket.socket, family: _Family) -> int:
    return min(asking.getsockopt(family.level, family.mtu), _LARGEST)


async def _answered(asking: socket.socket, family: _Family, size: int, patience: float) -> bool:
    for _ in range(_TRIES):
        if await _echo(asking, family, size, patience) is not None:
            return True
    return False


async def _echo(asking: socket.socket, family: _Family, size: int, patience: float) -> float | None:
    """Send an echo request that makes an IP packet of ``size`` bytes; returns the seconds until it is answered."""
    loop, token = asyncio.get_running_loop(), os.urandom(_TOKEN)
    body = token + bytes(size - family.header - _TOKEN - 8)
    head = struct.pack(">BBHHH", family.request, 0, 0, os.getpid() & 0xFFFF, 0)
    if family.level == socket.IPPROTO_IP:  # of ICMPv6 the kernel makes it
        head = head[:2] + struct.pack(">H", checksum(head + body)) + head[4:]
    began = loop.time()
    with contextlib.suppress(TimeoutError, OSError):  # too large for this host, or somebody on the way said so
        async with asyncio.timeout(patience):
            await loop.sock_sendall(asking, head + body)
            while not _is_answer(await loop.sock_recv(asking, _LARGEST), token, family):
                pass
            return loop.time() - began
    return None


def _is_answer(packet: bytes, token: bytes, family: _Family) -> bool:
    """Raw sockets get the IP header too, but not of IPv6 (raw(7))."""
    start = (packet[0] & 15) * 4 if family.level == socket.IPPROTO_IP else 0
    return packet[start : start + 1] == bytes([family.reply]) and packet[start + 8 :].startswith(token)
