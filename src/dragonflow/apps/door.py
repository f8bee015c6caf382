"""Routers on physical networks, for machines there: one chassis answers for a router's interface and takes what is sent to it.

::

    in    external ──► router ──► …                            on the doorkeeper alone
    out   … ──► neighbours ──► controller: who has it?         on each chassis
                    └──► outside ══► bridge

Guests have a router at each chassis; a machine on the physical network must find exactly one. That is the interface's doorkeeper:
of the chassis that are alive, have a way to the physical network, and serve a port behind the router, the one that rendezvous
hashing chooses. Every chassis works it out for itself, of the same rows. The doorkeeper alone uses the interface's MAC on the
physical network, so switches there learn where it is; it announces the interface every ``PERIOD`` seconds, so they learn anew
when another chassis takes over.

What goes out needs no doorkeeper: each chassis finds the machine's MAC by itself (``controller.neighbours``). It asks by its own
MAC: in nobody's name with an ARP probe, in IPv6 as the link-local address of that MAC. An address of the router's in the question
would have the machine answer the router by way of the asker.

Of what can't be forwarded, machines outside are told like guests (``l3.complaints``); the interface stands for all of them.

Cost in flows: 1 a chassis, and 7 a routed or external network on each that follows it, and 2 (IPv6: 1) a gateway that a subnet of
an external one names; on the doorkeeper 9 an interface (3 a gateway), 1 an IPv4 address, and 2 an IPv6 address, the link-local
one of an interface included.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from dragonflow.apps.base import App, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.external import AWAITED, External, Speaker, gateways_of, hearing, keeping
from dragonflow.apps.l3 import L3, complaints, served
from dragonflow.apps.resolution import answer_all
from dragonflow.apps.wiring import (
    addresses,
    chassis_mac,
    is_a_routers,
    keeper,
    link_local,
    own_address,
    physical_ofport,
)
from dragonflow.controller.view import Me, View
from dragonflow.model import LogicalPort, LogicalSwitch
from dragonflow.packet import arp, icmpv6, nd
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    NETWORK,
    SOURCE,
    Action,
    Fact,
    PacketOut,
    PuntKind,
    Resubmit,
    Serve,
    load,
    match,
    punt,
    punt_meter,
)

PERIOD = 5.0
"""Seconds between two announcements of an interface."""

_ARP, _IPV4, _IPV6 = {"eth_type": 0x0806}, {"eth_type": 0x0800}, {"eth_type": 0x86DD}
_REPLY = 2
_ON_LINK = {"ip_ttl": icmpv6.HOP_LIMIT}
"""What of Neighbour Discovery has come from the link itself holds (RFC 4861 §7.1.1)."""

_OTHERS = 5
"""Priority of what wants to be resolved and no guest here has sent: it comes from outside, or by other chassis."""

_UNRESOLVED = 6
"""Priority of packets to somebody of whom nobody knows the MAC yet; between ``External``'s and telling that there is no host."""


class Door(App):
    """Leads between routers and machines on physical networks."""

    name = "door"

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """The way back for answers to questions that came from a physical network."""
        yield from super().host(me, view)
        yield Delivery.delivery.flow(10, match((DESTINATION, 0)), goto=Delivery.outside)

    @renders(LogicalSwitch)
    def network(self, network: LogicalSwitch, view: View) -> Iterator[Fact]:
        """Who there has an address: the controller asks, and hears the answer. Who was asked may ask back."""
        ofport = way(network, view)
        if ofport is None:
            return
        here, own = (NETWORK, network.key), chassis_mac(view.me.chassis)
        for family in (_IPV4, _IPV6):
            yield L3.neighbours.flow(_UNRESOLVED, match(here, **family), goto=L3.unresolved)
        yield punt_meter(PuntKind.NEIGHBOUR_WANTED, ofport)
        ask = punt(PuntKind.NEIGHBOUR_WANTED, ofport, b"")
        yield L3.unresolved.flow(_OTHERS, match(here), *ask)
        yield from hearing(network, own, ofport)
        for gateway in gateways_of(network, view):
            yield from keeping(network, str(gateway), ofport, AWAITED)
        yield from answer_all(External.arrival, network, link_local(own), own, **_ON_LINK)

    @renders(LogicalPort, only=is_a_routers)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The doorkeeper's part: questions for the interface's addresses, and packets to its MAC."""
        network = kept(port, view)
        ofport = None if network is None else way(network, view)
        if network is None or ofport is None:
            return
        yield Serve(port.id)
        if network.external:  # it asks in its own name
            yield from hearing(network, port.mac, ofport)
        for ip in addresses(port):
            only = _ON_LINK if ":" in ip else {}
            yield from answer_all(External.arrival, network, ip, port.mac, nd.ROUTER, **only)
        enter = load(FROM_TUNNEL, 0), load(SOURCE, port.key)
        yield External.arrival.flow(10, match((NETWORK, network.key), eth_dst=port.mac), *enter, goto=L3.entry)
        if port.router is not None:
            yield Delivery.delivery.flow(10, match((DESTINATION, port.key)), goto=Delivery.outside)
            yield from complaints(port, ofport)

    def unasked(self, view: View) -> Iterator[PacketOut]:
        """The announcements of this chassis: to be sent every ``PERIOD`` seconds."""
        for network in networks(view):
            for port in view.where(LogicalPort, routed_network=network.id):
                for frame in claims(port) if kept(port, view) is not None else ():
                    yield PacketOut(frame, to_outside(network))


def claims(port: LogicalPort) -> Iterator[bytes]:
    """The frames that tell a link which addresses the port has."""
    mac = bytes.fromhex(port.mac.replace(":", ""))
    for ip in map(ip_address, addresses(port)):
        yield arp.announcement(mac, ip) if isinstance(ip, IPv4Address) else nd.announcement(mac, ip)


def own_claim(network: LogicalSwitch, view: View) -> Iterator[bytes]:
    """The frame that tells an external network which address the chassis has there, if it has any of its own."""
    address = own_address(network, view.me.snat_addresses, view)
    if address is not None:
        mac = bytes.fromhex(chassis_mac(view.me.chassis).replace(":", ""))
        yield arp.announcement(mac, IPv4Address(address))


def to_outside(network: LogicalSwitch) -> tuple[Action, ...]:
    """What the controller does with a frame that it has made for the network's physical network."""
    return load(NETWORK, network.key), Resubmit(Delivery.outside.number)


def voice(network: LogicalSwitch, version: int, view: View) -> Speaker | None:
    """In whose name this chassis asks for machines on the network by their addresses of an IP version; None if it needs none."""
    if way(network, view) is None:
        return None
    own = chassis_mac(view.me.chassis)
    if version == 6:
        return Speaker(network, own, IPv6Address(link_local(own)))
    return Speaker(network, own, IPv4Address(own_address(network, view.me.snat_addresses, view) or 0))


def voices(view: View) -> Iterator[Speaker]:
    """Those of all networks."""
    for network in networks(view):
        for version in (4, 6):
            if (found := voice(network, version, view)) is not None:
                yield found


def networks(view: View) -> Iterator[LogicalSwitch]:
    """The physical networks in which routers stand."""
    return (network for network in view.all(LogicalSwitch) if way(network, view) is not None)


def way(network: LogicalSwitch, view: View) -> int | None:
    """The OpenFlow port to the network's physical network, if a router stands in it. External ones are known for that alone."""
    ofport = physical_ofport(network, view.me.bridge_mappings, view)
    if ofport is None or not network.admin_up:
        return None
    return ofport if network.external or view.where(LogicalPort, routed_network=network.id) else None


def kept(port: LogicalPort, view: View) -> LogicalSwitch | None:
    """The network in which the port is an interface whose doorkeeper this chassis is, or a gateway that it serves."""
    if not is_a_routers(port, view.me):
        return None
    network = view.get(LogicalSwitch, port.network)
    if network is None or way(network, view) is None or served(port, network, view) is None:
        return None
    return network if keeper(port, network, view, view.me.chassis) == view.me.chassis else None
