"""The OpenFlow fields that matches and actions may name: widths, wire headers and how people write their values.

Names, classes and numbers follow ovs-fields(7) and ``lib/mf-field`` of Open vSwitch; OpenFlow 1.5.1 §7.2.3 for the basic class.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import msgspec

_BASIC = 0x8000
_NXM = 0x0001


class Field(msgspec.Struct, frozen=True):
    """A field: ``oxm`` is its class and number (header bits 31…9); ``order`` its place in what Open vSwitch dumps."""

    name: str
    bits: int
    oxm_class: int
    number: int
    order: int

    @property
    def full(self) -> int:
        """The mask that covers every bit."""
        return (1 << self.bits) - 1

    @property
    def size(self) -> int:
        """Bytes of the value on the wire."""
        return (self.bits + 7) // 8


_TABLE: tuple[tuple[str, int, int, int], ...] = (
    ("in_port", 32, _BASIC, 0),
    ("metadata", 64, _BASIC, 2),
    ("tunnel_id", 64, _BASIC, 38),
    ("tun_ipv4_src", 32, _NXM, 31),
    ("tun_ipv4_dst", 32, _NXM, 32),
    ("tun_ipv6_src", 128, _NXM, 109),
    ("tun_ipv6_dst", 128, _NXM, 110),
    *((f"reg{number}", 32, _NXM, number) for number in range(16)),
    ("eth_dst", 48, _BASIC, 3),
    ("eth_src", 48, _BASIC, 4),
    ("eth_type", 16, _BASIC, 5),
    ("vlan_vid", 13, _BASIC, 6),
    ("vlan_pcp", 3, _BASIC, 7),
    ("ip_dscp", 6, _BASIC, 8),
    ("ip_ecn", 2, _BASIC, 9),
    ("ip_proto", 8, _BASIC, 10),
    ("ip_ttl", 8, _NXM, 29),
    ("ipv4_src", 32, _BASIC, 11),
    ("ipv4_dst", 32, _BASIC, 12),
    ("ipv6_src", 128, _BASIC, 26),
    ("ipv6_dst", 128, _BASIC, 27),
    ("icmpv6_type", 8, _BASIC, 29),
    ("icmpv6_code", 8, _BASIC, 30),
    ("nd_target", 128, _BASIC, 31),
    ("nd_sll", 48, _BASIC, 32),
    ("nd_tll", 48, _BASIC, 33),
    ("arp_op", 16, _BASIC, 21),
    ("arp_spa", 32, _BASIC, 22),
    ("arp_tpa", 32, _BASIC, 23),
    ("arp_sha", 48, _BASIC, 24),
    ("arp_tha", 48, _BASIC, 25),
)

FIELDS: dict[str, Field] = {row[0]: Field(*row, order=place) for place, row in enumerate(_TABLE)}

_MACS = {"eth_dst", "eth_src", "nd_sll", "nd_tll", "arp_sha", "arp_tha"}


def parse(name: str, given: Any) -> tuple[int, int]:
    """The value and mask that ``given`` says for the field.

    :raises ValueError: unknown field, bad text, or a value that doesn't fit; names the field.
    """
    field = FIELDS.get(name)
    if field is None:
        raise ValueError(f"{name}: no such field; known are {', '.join(FIELDS)}")
    if isinstance(given, str):
        value, mask = _parse_text(field, given)
    elif isinstance(given, tuple):
        value, mask = given
    else:
        value, mask = int(given), field.full
    if not 0 <= value <= field.full or not 0 < mask <= field.full or value & ~mask:
        raise ValueError(f"{name}: {given!r} doesn't fit into {field.bits} bits")
    return value, mask


def _parse_text(field: Field, text: str) -> tuple[int, int]:
    try:
        if field.name in _MACS:
            value, _, mask = text.partition("/")
            return _mac(value), _mac(mask) if mask else field.full
        prefix = ip_network(text)
    except ValueError as error:
        raise ValueError(f"{field.name}: {error}") from error
    if prefix.max_prefixlen != field.bits:
        raise ValueError(f"{field.name}: {text} is no address of {field.bits} bits")
    return int(prefix.network_address), int(prefix.netmask)


def _mac(text: str) -> int:
    octets = text.split(":")
    if len(octets) != 6 or any(len(octet) != 2 for octet in octets):
        raise ValueError(f"{text!r} is no MAC address")
    return int("".join(octets), 16)
