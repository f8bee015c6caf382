"""External networks: who is there besides our ports, and what comes from there for routers.

::

    physical ──► external ──┬► l2_lookup
                            ├► router            packets to a floating IP that is here
                            └► controller        what neighbours say of their MACs

Of whom a router meets there, above all the subnet's gateway, the DF DB knows nothing. The controller asks (``Speaker``) and keeps
what is answered as ``Neighbour`` (``controller.neighbours``); flows follow from that as from rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

from dragonflow.apps.base import App, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.l2 import L2
from dragonflow.apps.l3 import L3, is_next
from dragonflow.apps.resolution import Resolution
from dragonflow.apps.wiring import physical_ofport
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort, LogicalSwitch, Neighbour, Subnet
from dragonflow.packet import arp, nd
from dragonflow.pipeline import (
    NETWORK,
    Bits,
    Clone,
    Fact,
    PuntKind,
    Stage,
    Table,
    match,
    punt,
    punt_meter,
    set_field,
)
from dragonflow.pipeline.registers import NEXT_HOP

LEARNT = 8
"""Priority of neighbours that were asked for: who is in the DF DB comes before."""

_KEPT, AWAITED = 44, 46
"""Priorities of what known neighbours, and gateways, say of themselves: after questions for what is here (60), before what
anybody answers (40)."""

ADVERTISED = {"eth_type": 0x86DD, "ip_proto": 58, "icmpv6_type": 136, "icmpv6_code": 0}
"""What a Neighbour Advertisement holds."""


class Speaker(NamedTuple):
    """In whose name the controller may ask for neighbours in a network, of the address's family.

    It is a floating IP that is here, or nobody (IPv4's 0.0.0.0: an ARP probe), or a MAC's own link-local IPv6 address.
    """

    network: LogicalSwitch
    mac: str
    address: IPv4Address | IPv6Address

    @property
    def mac_bytes(self) -> bytes:
        """The MAC as it stands in frames."""
        return bytes.fromhex(self.mac.replace(":", ""))

    def asks(self, target: IPv4Address | IPv6Address, to: bytes | None = None) -> bytes:
        """The frame that asks who has ``target``, of the MAC ``to`` alone or of all. :raises TypeError: not of one family."""
        if isinstance(self.address, IPv4Address) and isinstance(target, IPv4Address):
            return arp.request(self.mac_bytes, self.address, target, to or arp.BROADCAST)
        if isinstance(self.address, IPv6Address) and isinstance(target, IPv6Address):
            return nd.solicitation(self.mac_bytes, self.address, target, to)
        raise TypeError(f"{self.address} can't ask for {target}")


class External(App):
    """Leads to neighbours in external networks."""

    name = "external"

    arrival = Table(
        "external",
        Stage.CLASSIFICATION,
        slot=4,
        purpose="Pick out of what comes from a physical network: what is for floating IPs that are here, and news of neighbours.",
        matches=(
            NETWORK,
            "eth_dst",
            "eth_type",
            "arp_op",
            "arp_spa",
            "arp_tpa",
            "ip_proto",
            "icmpv6_type",
            "icmpv6_code",
            "ip_ttl",
            "ipv6_src",
            "nd_target",
        ),
        next=(Resolution.answer, L3.entry, Delivery.outside),
        miss=L2.lookup,
    )

    @renders(Neighbour)
    def neighbour(self, neighbour: Neighbour, view: View) -> Iterator[Fact]:
        """The way to it, and an ear for it when it moves to another MAC."""
        network = view.get(LogicalSwitch, neighbour.network)
        if network is None or not network.admin_up:
            return
        ofport = physical_ofport(network, view.me.bridge_mappings, view)
        if ofport is None:
            return
        found = is_next(network.key, neighbour.address)
        yield L3.neighbours.flow(LEARNT, found, *set_field(eth_dst=neighbour.mac), goto=Delivery.outside)
        yield from keeping(network, neighbour.address, ofport)


def keeping(network: LogicalSwitch, ip: str, ofport: int, priority: int = _KEPT) -> Iterator[Fact]:
    """The controller hears what one who is known, or awaited, says of its address: answers, and what it tells all.

    That has a meter of its own: answers that nobody asked for, of which anybody can send as many as it likes, mustn't keep it
    from being heard. It may be for others too, so it goes on.
    """
    yield punt_meter(PuntKind.NEIGHBOUR_KEPT, ofport)
    hear = Clone(punt(PuntKind.NEIGHBOUR_KEPT, ofport, network.id.encode()))
    for says in _says(ip):
        yield External.arrival.flow(priority, match((NETWORK, network.key), **says), hear, goto=L2.lookup)


def _says(ip: str) -> Iterator[dict[str, Any]]:
    """What it holds when somebody answers for the address, or tells all that it has it (RFC 5227 §3, RFC 4861 §7.2.6)."""
    if ":" in ip:
        yield {**ADVERTISED, "nd_target": ip}
    else:
        yield {"eth_type": 0x0806, "arp_op": 2, "arp_spa": ip}
        yield {"eth_type": 0x0806, "arp_op": 1, "arp_spa": ip, "arp_tpa": ip}


def gateways_of(network: LogicalSwitch, view: View) -> Iterator[IPv4Address | IPv6Address]:
    """The gateways of an external network's subnets: neighbours that are sure to be wanted. Of other networks, none."""
    subnets = view.where(Subnet, network=network.id) if network.external else ()
    return (ip_address(subnet.gateway_ip) for subnet in subnets if subnet.gateway_ip is not None)


def next_hop(version: int, read: Callable[[Bits], int]) -> IPv4Address | IPv6Address:
    """The address to which a packet goes next, whose words in ``NEXT_HOP`` are ``read``."""
    if version == 4:
        return IPv4Address(read(NEXT_HOP[0]))
    return IPv6Address(b"".join(read(word).to_bytes(4, "big") for word in NEXT_HOP))


def speakers(view: View) -> Iterator[Speaker]:
    """The floating IPs and gateways of routers that are here: in their names this chassis asks for IPv4 neighbours."""
    return (found for port in sorted(view.serving) if (found := speaker(port, view)) is not None)


def speaker(port: str, view: View) -> Speaker | None:
    """The port of a floating IP or gateway as one who asks, if it is here."""
    row = view.get(LogicalPort, port) if port in view.serving else None
    network = None if row is None else view.get(LogicalSwitch, row.network)
    if row is None or network is None or not network.external:
        return None
    address = next((ip for ip in row.ips if ":" not in ip), None)
    return None if address is None else Speaker(network, row.mac, IPv4Address(address))


def hearing(network: LogicalSwitch, mac: str, ofport: int) -> Iterator[Fact]:
    """The controller hears the answers to what was asked with this MAC."""
    yield punt_meter(PuntKind.NEIGHBOUR_HEARD, ofport)
    hear = punt(PuntKind.NEIGHBOUR_HEARD, ofport, network.id.encode())
    for answer in ({"eth_type": 0x0806, "arp_op": 2}, ADVERTISED):
        answers = match((NETWORK, network.key), eth_dst=mac, **answer)
        yield External.arrival.flow(40, answers, *hear)
