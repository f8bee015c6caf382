"""DHCP options for IPv6 by their names and numbers (RFC 8415 and those before and after it), to the bytes that clients get."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address

from dragonflow.packet.dhcp_options import (
    Encoder,
    Options,
    architecture,
    domains,
    guess,
    text,
    time,
)
from dragonflow.packet.dhcpv6 import Code, option

_LARGEST = 0xFFFF
_NTP_ADDRESS = 1
"""The suboption of option 56 that holds a server's address (RFC 5908 §4.1)."""

_ADDRESSES = re.compile(r"\[?[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\]?(\s*,\s*\[?[0-9a-fA-F:.]+\]?)*")


def _addresses(value: str) -> bytes:
    """Addresses, each in brackets or not: dnsmasq wants them."""
    return b"".join(_address(each) for each in value.split(",") if each.strip())


def _address(value: str) -> bytes:
    return IPv6Address(value.strip().removeprefix("[").removesuffix("]")).packed


def _ntp(value: str) -> bytes:
    return b"".join(option(_NTP_ADDRESS, _address(each)) for each in value.split(",") if each.strip())


def _parameters(value: str) -> bytes:
    return b"".join(len(each.encode()).to_bytes(2, "big") + each.encode() for each in value.split(","))


def _guess(value: str) -> bytes:
    if _ADDRESSES.fullmatch(value):
        try:
            return _addresses(value)
        except ValueError:
            pass  # it only looked like addresses, as 01:02:03 does
    return guess(value)


_NAMES: Mapping[str, tuple[int, Encoder]] = {
    "sip-server-domain": (21, domains),
    "sip-server": (22, _addresses),
    "dns-server": (Code.DNS, _addresses),
    "domain-search": (Code.DOMAINS, domains),
    "nis-server": (27, _addresses),
    "nis+-server": (28, _addresses),
    "nis-domain": (29, domains),
    "nis+-domain": (30, domains),
    "sntp-server": (31, _addresses),
    "information-refresh-time": (Code.REFRESH, time),
    "posix-timezone": (41, text),
    "tzdb-timezone": (42, text),
    "ntp-server": (56, _ntp),
    "bootfile-url": (Code.BOOT_FILE, text),
    "bootfile-param": (60, _parameters),
}
_TOLD = frozenset(dict(_NAMES.values()))
_OPTIONS = Options(
    _NAMES,
    numbered={},
    own=frozenset(Code) - _TOLD,
    largest=_LARGEST,
    client_id=Code.CLIENT_ID,
    guess=_guess,
)
parse = lru_cache(maxsize=4096)(_OPTIONS.parse)


def tags(options: Mapping[int, bytes]) -> frozenset[str]:
    """What is known of a client by its options: ``ipxe6``, and ``arch-N`` for its processor architecture (RFC 5970)."""
    ipxe = b"iPXE" in options.get(Code.USER_CLASS, b"")
    return architecture(options.get(Code.CLIENT_ARCH, b"")) | ({"ipxe6"} if ipxe else frozenset())
