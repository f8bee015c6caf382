"""What routers advertise to IPv6 hosts, as scapy reads it."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether

from dragonflow.apps.advertisement import advertise
from dragonflow.apps.wiring import link_local
from dragonflow.model import FixedIP
from dragonflow.testing import worlds

INTERFACE = worlds.interface("r", 21, FixedIP("v6", "fd00::1"))


def advertised(mode: str, **fields: object) -> Ether:
    subnet = worlds.subnet("v6", "fd00::/64", **{"ipv6_ra_mode": mode, "gateway_ip": "fd00::1", **fields})
    return Ether(advertise(INTERFACE, [subnet], 1442))


@pytest.mark.parametrize(
    ("mode", "managed", "other", "autonomous"),
    [("slaac", 0, 0, 1), ("dhcpv6-stateless", 0, 1, 1), ("dhcpv6-stateful", 1, 1, 0)],
)
def test_flags_say_how_to_get_an_address(mode: str, managed: int, other: int, autonomous: int) -> None:
    told = advertised(mode)
    assert (told.src, told.dst) == (INTERFACE.mac, "33:33:00:00:00:01")
    assert (told[IPv6].src, told[IPv6].dst, told[IPv6].hlim) == (link_local(INTERFACE.mac), "ff02::1", 255)
    assert (managed, other) == (told[ICMPv6ND_RA].M, told[ICMPv6ND_RA].O)
    prefix = told[ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("fd00::", 64, 1, autonomous)
    assert told[ICMPv6NDOptSrcLLAddr].lladdr == INTERFACE.mac
    assert told[ICMPv6NDOptMTU].mtu == 1442
    again = told.copy()
    del again[ICMPv6ND_RA].cksum
    assert bytes(again) == bytes(told), "the checksum is right"


def test_only_the_gateway_is_a_default_router() -> None:
    assert advertised("slaac")[ICMPv6ND_RA].routerlifetime == 9000
    assert advertised("slaac", gateway_ip=link_local(INTERFACE.mac))[ICMPv6ND_RA].routerlifetime == 9000
    assert advertised("slaac", gateway_ip="fd00::2")[ICMPv6ND_RA].routerlifetime == 0
    assert advertised("slaac", gateway_ip=None)[ICMPv6ND_RA].routerlifetime == 0


def test_name_servers_are_told_once() -> None:
    told = advertised("slaac", dns_nameservers=("2001:db8::53", "192.0.2.53", "2001:db8::53"))
    assert told[ICMPv6NDOptRDNSS].dns == ["2001:db8::53"]
    assert ICMPv6NDOptRDNSS not in advertised("slaac")
