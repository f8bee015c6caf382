"""The OpenFlow fields that matches and actions may name: widths, wire headers and how people write their values.

Names, classes, numbers and prerequisites follow ovs-fields(7), and OpenFlow 1.5.1 §7.2.3 for the basic class. The table's
order is the one in which Open vSwitch dumps matches (``nx_put_raw`` in its lib/nx-match.c): a match encoded in this order
comes back byte for byte.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

import msgspec

_NICIRA = 0x0000
_NXM = 0x0001
_ERICSSON = 0x1000
_BASIC = 0x8000


class Field(msgspec.Struct, frozen=True, eq=False, repr_omit_defaults=True):
    """A field; there is exactly one object of each, in ``FIELDS``, so identity is equality.

    ``order`` is its place in what Open vSwitch dumps, ``size`` the bytes of its value on the wire, ``full`` the mask of all its
    bits, ``header`` and ``masked_header`` what stands before an unmasked and a masked value. ``register`` is N for regN.
    ``needs`` names what a match must hold besides; ``maskable`` tells whether some of its bits may be matched.
    """

    name: str
    bits: int
    order: int
    size: int
    full: int
    header: bytes
    masked_header: bytes
    register: int | None
    needs: str | None
    maskable: bool

    def __repr__(self) -> str:
        return f"FIELDS[{self.name!r}]"

    def __reduce__(self) -> tuple[Callable[[str], Field], tuple[str]]:
        return field, (self.name,)


_REGISTERS = tuple((f"reg{number}", 32, _NXM, number, None, True) for number in range(16))

_TABLE: tuple[tuple[str, int, int, int, str | None, bool], ...] = (
    # name, bits, class, number, needs, maskable
    ("conj_id", 32, _NXM, 37, None, False),
    ("in_port", 32, _BASIC, 0, None, False),
    ("eth_src", 48, _BASIC, 4, None, True),
    ("eth_dst", 48, _BASIC, 3, None, True),
    ("eth_type", 16, _BASIC, 5, None, False),
    ("vlan_vid", 13, _BASIC, 6, None, True),
    ("vlan_pcp", 3, _BASIC, 7, "vlan", False),
    ("ipv4_src", 32, _BASIC, 11, "ipv4", True),
    ("ipv4_dst", 32, _BASIC, 12, "ipv4", True),
    ("ipv6_src", 128, _BASIC, 26, "ipv6", True),
    ("ipv6_dst", 128, _BASIC, 27, "ipv6", True),
    ("ip_frag", 8, _NXM, 26, "ip", True),
    ("ip_dscp", 6, _BASIC, 8, "ip", False),
    ("ip_ecn", 2, _BASIC, 9, "ip", False),
    ("ip_ttl", 8, _NXM, 29, "ip", False),
    ("ip_proto", 8, _BASIC, 10, "ip", False),
    ("tcp_src", 16, _BASIC, 13, "tcp", True),
    ("tcp_dst", 16, _BASIC, 14, "tcp", True),
    ("tcp_flags", 12, _BASIC, 42, "tcp", True),
    ("udp_src", 16, _BASIC, 15, "udp", True),
    ("udp_dst", 16, _BASIC, 16, "udp", True),
    ("sctp_src", 16, _BASIC, 17, "sctp", True),
    ("sctp_dst", 16, _BASIC, 18, "sctp", True),
    ("icmpv4_type", 8, _BASIC, 19, "icmpv4", False),
    ("icmpv4_code", 8, _BASIC, 20, "icmpv4", False),
    ("icmpv6_type", 8, _BASIC, 29, "icmpv6", False),
    ("icmpv6_code", 8, _BASIC, 30, "icmpv6", False),
    ("nd_reserved", 32, _ERICSSON, 1, "nd", False),
    ("nd_target", 128, _BASIC, 31, "nd", True),
    ("nd_options_type", 8, _ERICSSON, 2, "nd", False),
    ("nd_sll", 48, _BASIC, 32, "ns", True),
    ("nd_tll", 48, _BASIC, 33, "na", True),
    ("arp_op", 16, _BASIC, 21, "arp", False),
    ("arp_spa", 32, _BASIC, 22, "arp", True),
    ("arp_tpa", 32, _BASIC, 23, "arp", True),
    ("arp_sha", 48, _BASIC, 24, "arp", True),
    ("arp_tha", 48, _BASIC, 25, "arp", True),
    ("tunnel_id", 64, _BASIC, 38, None, True),
    ("tun_ipv4_src", 32, _NXM, 31, None, True),
    ("tun_ipv4_dst", 32, _NXM, 32, None, True),
    ("tun_ipv6_src", 128, _NXM, 109, None, True),
    ("tun_ipv6_dst", 128, _NXM, 110, None, True),
    *_REGISTERS,
    ("ct_state", 32, _NXM, 105, None, True),
    ("ct_mark", 32, _NXM, 107, None, True),
    ("ct_nw_src", 32, _NXM, 120, "ct_ipv4", True),
    ("ct_ipv6_src", 128, _NXM, 122, "ct_ipv6", True),
    ("ct_nw_dst", 32, _NXM, 121, "ct_ipv4", True),
    ("ct_ipv6_dst", 128, _NXM, 123, "ct_ipv6", True),
    ("ct_nw_proto", 8, _NXM, 119, "ct_ip", False),
    ("ct_tp_src", 16, _NXM, 124, "ct_ports", True),
    ("ct_tp_dst", 16, _NXM, 125, "ct_ports", True),
    ("metadata", 64, _BASIC, 2, None, True),
    # for actions only: registers 12 to 15 in one, and in_port in the form in which it can be written
    ("xxreg3", 128, _NXM, 114, "actions", True),
    ("nxm_in_port", 16, _NICIRA, 0, "actions", False),
)


def _field(order: int, row: tuple[str, int, int, int, str | None, bool]) -> Field:
    name, bits, oxm_class, number, needs, maskable = row
    size = (bits + 7) // 8
    return Field(
        name=name,
        bits=bits,
        order=order,
        size=size,
        full=(1 << bits) - 1,
        header=struct.pack(">HBB", oxm_class, number << 1, size),
        masked_header=struct.pack(">HBB", oxm_class, number << 1 | 1, size * 2),
        register=int(name[3:]) if name.startswith("reg") else None,
        needs=needs,
        maskable=maskable,
    )


FIELDS: Mapping[str, Field] = {row[0]: _field(order, row) for order, row in enumerate(_TABLE)}

_VLAN_PRESENT = 0x1000
_FAMILIES = {32: AF_INET, 128: AF_INET6}
_MAC = re.compile("[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")

_KNOWN = "a ct_state that says that the connection is valid: +trk-inv"

_NEEDS: Mapping[str, tuple[str, Callable[[Mapping[str, tuple[int, int]]], bool]]] = {
    "actions": ("nothing at all: it is for actions only", lambda _: False),
    "vlan": ("vlan_vid with bit 12 set", lambda found: bool(found.get("vlan_vid", (0, 0))[0] & _VLAN_PRESENT)),
    "ip": ("eth_type=0x0800 or 0x86dd", lambda found: _is(found, eth_type=(0x0800, 0x86DD))),
    "ipv4": ("eth_type=0x0800", lambda found: _is(found, eth_type=(0x0800,))),
    "ipv6": ("eth_type=0x86dd", lambda found: _is(found, eth_type=(0x86DD,))),
    "arp": ("eth_type=0x0806", lambda found: _is(found, eth_type=(0x0806,))),
    "tcp": ("eth_type of IP and ip_proto=6", lambda found: _is(found, eth_type=(0x0800, 0x86DD), ip_proto=(6,))),
    "udp": ("eth_type of IP and ip_proto=17", lambda found: _is(found, eth_type=(0x0800, 0x86DD), ip_proto=(17,))),
    "sctp": ("eth_type of IP and ip_proto=132", lambda found: _is(found, eth_type=(0x0800, 0x86DD), ip_proto=(132,))),
    "icmpv4": ("eth_type=0x0800 and ip_proto=1", lambda found: _is(found, eth_type=(0x0800,), ip_proto=(1,))),
    "icmpv6": ("eth_type=0x86dd and ip_proto=58", lambda found: _is(found, eth_type=(0x86DD,), ip_proto=(58,))),
    "ct_ip": (f"eth_type of IP and {_KNOWN}", lambda found: _is_tracked(found, 0x0800, 0x86DD)),
    "ct_ipv4": (f"eth_type=0x0800 and {_KNOWN}", lambda found: _is_tracked(found, 0x0800)),
    "ct_ipv6": (f"eth_type=0x86dd and {_KNOWN}", lambda found: _is_tracked(found, 0x86DD)),
    "ct_ports": (
        f"eth_type of IP, ct_nw_proto and {_KNOWN}",
        lambda found: _is_tracked(found, 0x0800, 0x86DD) and "ct_nw_proto" in found,
    ),
    "nd": ("ICMPv6 with icmpv6_type=135 or 136 and icmpv6_code=0", lambda found: _is_nd(found, 135, 136)),
    "ns": ("ICMPv6 with icmpv6_type=135 and icmpv6_code=0", lambda found: _is_nd(found, 135)),
    "na": ("ICMPv6 with icmpv6_type=136 and icmpv6_code=0", lambda found: _is_nd(found, 136)),
}


def _is(found: Mapping[str, tuple[int, int]], **allowed: tuple[int, ...]) -> bool:
    return not any(name not in found or found[name][0] not in values for name, values in allowed.items())


def _is_tracked(found: Mapping[str, tuple[int, int]], *eth_types: int) -> bool:
    value, mask = found.get("ct_state", (0, 0))
    tracked, invalid = 0x20, 0x10
    return bool(value & tracked and mask & invalid and not value & invalid) and _is(found, eth_type=eth_types)


def _is_nd(found: Mapping[str, tuple[int, int]], *types: int) -> bool:
    return _is(found, eth_type=(0x86DD,), ip_proto=(58,), icmpv6_type=types, icmpv6_code=(0,))


def field(name: str) -> Field:
    """The field of this name. :raises ValueError: there is none."""
    try:
        return FIELDS[name]
    except KeyError:
        raise ValueError(f"{name}: no such field; known are {', '.join(FIELDS)}") from None


DECIDING = frozenset(("eth_type", "vlan_vid", "ip_proto", "icmpv6_type", "icmpv6_code", "ct_state"))
"""The fields whose values decide what other fields a match may hold."""


def check_needs(found: Mapping[str, tuple[int, int]]) -> None:
    """Refuse a match that Open vSwitch would refuse: ``found`` is field name → (value, mask).

    Only the values of ``DECIDING`` fields and whether masks are whole matter.

    :raises ValueError: a field without what it needs, or a mask on a field that takes none; names both.
    """
    for name, (_, mask) in found.items():
        this = FIELDS[name]
        if this.needs is not None:
            text, holds = _NEEDS[this.needs]
            if not holds(found):
                raise ValueError(f"{name}: a match on it must also hold {text}")
        if mask != this.full and not this.maskable:
            raise ValueError(f"{name}: can be matched only as a whole")


def parse(name: str, given: Any) -> tuple[int, int]:
    """The value and mask that ``given`` says for the field.

    :raises ValueError: unknown field, bad text, or a value that doesn't fit; names the field.
    """
    this = field(name)
    if isinstance(given, str):
        value, mask = _parse_text(this, given)
    elif isinstance(given, tuple):
        value, mask = given
    else:
        value, mask = int(given), this.full
    if not 0 <= value <= this.full or not 0 < mask <= this.full or value & ~mask:
        raise ValueError(f"{name}: {given!r} doesn't fit into {this.bits} bits")
    return value, mask


def _parse_text(this: Field, text: str) -> tuple[int, int]:
    try:
        if this.bits == 48:
            value, _, mask = text.partition("/")
            return _mac(value), _mac(mask) if mask else this.full
        if this.bits in _FAMILIES:  # inet_pton is ten times faster than ip_network
            try:
                return int.from_bytes(inet_pton(_FAMILIES[this.bits], text), "big"), this.full
            except OSError:
                pass
        prefix = ip_network(text)
    except ValueError as error:
        raise ValueError(f"{this.name}: {error}") from error
    if prefix.max_prefixlen != this.bits:
        raise ValueError(f"{this.name}: {text} is no address of {this.bits} bits")
    return int(prefix.network_address), int(prefix.netmask)


def _mac(text: str) -> int:
    if _MAC.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no MAC address")
    return int(text.replace(":", ""), 16)
