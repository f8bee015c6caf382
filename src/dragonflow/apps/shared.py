"""Addresses that ports share (allowed address pairs): which port holds one just now, and the way there from other networks.

::

    qos ──► heard ──► resolution        a port that shares addresses says that it has one: the controller hears it
              └─► controller

Of a virtual IP (VRRP, Octavia) Neutron knows who may have it; who does, the guests settle among themselves, and announce it.
The chassis of the one who announces writes a ``Holder`` (``controller.holders``), which leads all routers there at once, and
floating IPs whose fixed address it is (``dnat``).

A row counts only if it is written by the chassis to which Neutron has bound its port, and the port's pairs let it have that
address with that MAC; so a chassis can't lead anything to itself that its own guests may not have. An address that another port
has as its own and that is bound comes before all rows: it is that port's.

Within the network nothing is different: questions for a shared address are flooded (``resolution``), and so are frames to a
pair's MAC (``l2``), so guests meet whoever has it even while the DF DB is away.

Cost: of a port that is here with pairs, in a network in which routers stand, 2 flows and a meter for each prefix in a subnet; on
each chassis that follows the network 1 flow for each address that is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

from dragonflow.apps.base import App, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.external import ADVERTISED
from dragonflow.apps.firewall.ingress import Ingress
from dragonflow.apps.l3 import L3, is_next
from dragonflow.apps.resolution import Resolution
from dragonflow.apps.wiring import World, plugged
from dragonflow.controller.view import View
from dragonflow.model import Holder, LogicalPort, LogicalSwitch, Subnet, place_of
from dragonflow.pipeline import (
    DESTINATION,
    SOURCE,
    Clone,
    Fact,
    Local,
    PuntKind,
    Stage,
    Table,
    Trouble,
    load,
    match,
    punt,
    punt_meter,
    set_field,
)

MOST = 64
"""Addresses that one port may hold at a time, so that no guest fills the DF DB."""

HELD = 9
"""Priority of the way to a shared address: after those of ports that have it as their own, before neighbours that were asked."""

_OWN, _HEARD = 20, 10

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network


class Shared(App):
    """Leads to the addresses of allowed address pairs."""

    name = "shared"

    heard = Table(
        "heard",
        Stage.HEARING,
        purpose="Let the controller hear which of the addresses that it shares with others a port has. All packets go on.",
        matches=(SOURCE, "eth_type", "arp_spa", "ip_proto", "icmpv6_type", "icmpv6_code", "nd_target"),
        next=(Resolution.known,),
        miss=Resolution.known,
    )

    @renders(LogicalPort, only=lambda port, me: bool(port.address_pairs) and port.chassis == me.chassis)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """An ear for what a port that is here says of addresses that it shares; its own are none of them."""
        guest, prefixes = plugged(port, view), tuple(sharing(port, view))
        if guest is None or not prefixes:
            return
        if len(view.where(Holder, port=port.id)) >= MOST:
            yield Trouble(f"port {port.id} holds {MOST} addresses of its allowed address pairs: no more are led to")
        yield punt_meter(PuntKind.ADDRESS_HELD, guest.ofport)
        # A clone, for what the meter drops of it must not be lost to those for whom it is meant.
        hear = Clone(punt(PuntKind.ADDRESS_HELD, guest.ofport, port.id.encode()))
        for prefix in prefixes:
            says = match((SOURCE, port.key), **_says(str(prefix)))
            yield self.heard.flow(_HEARD, says, hear, goto=Resolution.known)
        for ip in port.ips:
            address = ip_address(ip)
            if any(prefix.num_addresses > 1 and address in prefix for prefix in prefixes):
                yield self.heard.flow(_OWN, match((SOURCE, port.key), **_says(ip)), goto=Resolution.known)

    @renders(Holder)
    def holder(self, holder: Holder, view: View) -> Iterator[Fact]:
        """The way from other networks to the address, if this row is the one that counts."""
        network = view.get(LogicalSwitch, holder.network)
        if network is None or not is_routed(network, view):
            return
        if holder_of(holder.network, holder.address, view) != holder:
            return
        port = carrier(holder, view)
        place = None if port is None else view.locality(port.id)
        if port is None or place is None:
            return
        here = is_next(network.key, holder.address)
        way = (*set_field(eth_dst=holder.mac), load(DESTINATION, port.key))
        yield L3.neighbours.flow(
            HELD, here, *way, goto=Ingress.track if isinstance(place, Local) else Delivery.delivery
        )


def is_routed(network: LogicalSwitch, world: World) -> bool:
    """Whether any router leads to the network."""
    return network.admin_up and (network.external or bool(world.where(LogicalPort, routed_network=network.id)))


def sharing(port: LogicalPort, world: World) -> Iterator[Prefix]:
    """The prefixes within which a port may hold addresses to which routers lead: its pairs', as far as subnets have them."""
    network = world.get(LogicalSwitch, port.network)
    if network is None or not is_routed(network, world):
        return
    subnets = [ip_network(subnet.cidr) for subnet in world.where(Subnet, network=port.network)]
    found: dict[Prefix, None] = {}
    for pair in port.address_pairs:
        for subnet in subnets:
            both = _common(_prefix(pair.ip), subnet)
            if both is not None and not (both.num_addresses == 1 and str(both.network_address) in port.ips):
                found[both] = None
    yield from found


def may_hold(port: LogicalPort, address: Address, mac: str) -> bool:
    """Whether the port's pairs let it have an address, which isn't its own, with a MAC."""
    return str(address) not in port.ips and any(
        address in _prefix(pair.ip) and mac == (pair.mac or port.mac) for pair in port.address_pairs
    )


def carrier(holder: Holder, world: World) -> LogicalPort | None:
    """The port that holds the address, if the row counts: see above."""
    port = world.get(LogicalPort, holder.port)
    if port is None or (port.network, port.chassis) != (holder.network, holder.chassis) or not port.admin_up:
        return None
    return port if may_hold(port, ip_address(holder.address), holder.mac) else None


def holder_of(network: str, address: str, world: World) -> Holder | None:
    """The row that says who holds a shared address of a network now; None if nobody is known to."""
    rows = world.where(Holder, place=place_of(network, address))
    counting = (row for row in rows if carrier(row, world) is not None)
    return max(counting, key=lambda row: (row.turn, row.id), default=None)


def is_owned(port: LogicalPort) -> bool:
    """Whether nobody else may hold the port's own addresses: it is bound, or belongs to the network itself.

    Addresses of an unbound port that isn't Neutron's own may be held by others: so the addresses of virtual IPs are reserved.
    """
    return port.chassis is not None or port.device_owner.startswith("network:")


def _says(prefix: str) -> dict[str, object]:
    """What a packet holds whose sender says that it has an address of the prefix."""
    return {**ADVERTISED, "nd_target": prefix} if ":" in prefix else {"eth_type": 0x0806, "arp_spa": prefix}


@lru_cache(maxsize=4096)
def _prefix(text: str) -> Prefix:
    return ip_interface(text).network


def _common(one: Prefix, other: Prefix) -> Prefix | None:
    """The addresses that are in both prefixes: one of them lies within the other, or there are none."""
    if one.version != other.version or not one.overlaps(other):
        return None
    return one if one.prefixlen >= other.prefixlen else other
