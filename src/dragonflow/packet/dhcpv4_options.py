"""DHCP options for IPv4 by their names and numbers (RFC 2132 and those after it), to the bytes that clients get."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from dragonflow.packet.dhcp_options import (
    Encoder,
    Options,
    architecture,
    domains,
    guess,
    number,
    text,
    time,
)
from dragonflow.packet.dhcpv4 import Code

NEXT_SERVER = 256
"""Stands for the header's field siaddr where option numbers stand: dnsmasq calls it ``server-ip-address``."""

_QUADS = re.compile(r"\d+(\.\d+){3}(\s*,\s*\d+(\.\d+){3})*")


def _addresses(value: str) -> bytes:
    return b"".join(IPv4Address(each.strip()).packed for each in value.split(",") if each.strip())


def _address(value: str) -> bytes:
    return IPv4Address(value).packed


def _signed(value: str) -> bytes:
    return struct.pack(">i", int(value, 0))


def _counted(value: str) -> bytes:
    return b"".join(bytes((len(each.encode()),)) + each.encode() for each in value.split(","))


def routes(pairs: Iterable[tuple[IPv4Network, IPv4Address]]) -> bytes:
    """Classless static routes: destination and router of each (RFC 3442)."""
    return b"".join(
        bytes((net.prefixlen,)) + net.network_address.packed[: (net.prefixlen + 7) // 8] + router.packed
        for net, router in pairs
    )


def _routes(value: str) -> bytes:
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if len(parts) % 2:
        raise ValueError("routes are pairs: destination,router")
    return routes(
        (IPv4Network(net, strict=False), IPv4Address(router))
        for net, router in zip(parts[::2], parts[1::2], strict=True)
    )


def _guess(value: str) -> bytes:
    return _addresses(value) if _QUADS.fullmatch(value) else guess(value)


_NAMES: Mapping[str, tuple[int, Encoder]] = {
    "netmask": (1, _address),
    "time-offset": (2, _signed),
    "router": (3, _addresses),
    "dns-server": (6, _addresses),
    "log-server": (7, _addresses),
    "lpr-server": (9, _addresses),
    "hostname": (12, text),
    "boot-file-size": (13, number(2)),
    "domain-name": (15, text),
    "swap-server": (16, _address),
    "root-path": (17, text),
    "extension-path": (18, text),
    "ip-forward-enable": (19, number(1)),
    "non-local-source-routing": (20, number(1)),
    "policy-filter": (21, _addresses),
    "max-datagram-reassembly": (22, number(2)),
    "default-ttl": (23, number(1)),
    "mtu": (26, number(2)),
    "all-subnets-local": (27, number(1)),
    "broadcast": (28, _address),
    "router-discovery": (31, number(1)),
    "router-solicitation": (32, _address),
    "static-route": (33, _addresses),
    "trailer-encapsulation": (34, number(1)),
    "arp-timeout": (35, number(4)),
    "ethernet-encap": (36, number(1)),
    "tcp-ttl": (37, number(1)),
    "tcp-keepalive": (38, number(4)),
    "nis-domain": (40, text),
    "nis-server": (41, _addresses),
    "ntp-server": (42, _addresses),
    "netbios-ns": (44, _addresses),
    "netbios-dd": (45, _addresses),
    "netbios-nodetype": (46, number(1)),
    "netbios-scope": (47, text),
    "x-windows-fs": (48, _addresses),
    "x-windows-dm": (49, _addresses),
    "lease-time": (51, time),
    "T1": (58, time),
    "T2": (59, time),
    "vendor-class": (60, text),
    "nis+-domain": (64, text),
    "nis+-server": (65, _addresses),
    "tftp-server": (66, text),
    "bootfile-name": (67, text),
    "mobile-ip-home": (68, _addresses),
    "smtp-server": (69, _addresses),
    "pop3-server": (70, _addresses),
    "nntp-server": (71, _addresses),
    "irc-server": (74, _addresses),
    "user-class": (77, _counted),
    "posix-timezone": (100, text),
    "tzdb-timezone": (101, text),
    "domain-search": (119, domains),
    "classless-static-route": (121, _routes),
    "tftp-server-address": (150, _addresses),
    "server-ip-address": (NEXT_SERVER, _address),
    str(int(Code.END)): (NEXT_SERVER, _address),  # dnsmasq takes the end for it
}

_OWN = frozenset(
    (
        Code.PAD,
        Code.END,
        Code.REQUESTED,
        Code.OVERLOAD,
        Code.KIND,
        Code.SERVER,
        Code.PARAMETERS,
        Code.LONGEST,
        Code.RELAY,
    )
)
_OPTIONS = Options(
    _NAMES,
    numbered={Code.MICROSOFT_ROUTES: _routes},
    own=_OWN,
    largest=NEXT_SERVER,
    client_id=Code.CLIENT_ID,
    guess=_guess,
)
parse = lru_cache(maxsize=4096)(_OPTIONS.parse)


def tags(options: Mapping[int, bytes]) -> frozenset[str]:
    """What is known of a client by its options: ``ipxe``, and ``arch-N`` for its processor architecture (RFC 4578)."""
    ipxe = Code.ETHERBOOT in options or b"iPXE" in options.get(Code.USER_CLASS, b"")
    return architecture(options.get(Code.CLIENT_ARCH, b"")) | ({"ipxe"} if ipxe else frozenset())
