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

What goes out needs no doorkeeper: each chassis finds the machine's MAC by itself (``controller.neighbours``). It asks in nobody's
name, with an ARP probe: an address of the router's in the question would have the machine answer the router by way of the asker.

IPv4 only. Cost in flows: 2 a routed network on each chassis that follows it; on the doorkeeper 1 an interface and 1 an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from dragonflow.apps.base import App, renders
from dragonflow.apps.external import External, Speaker, hearing
from dragonflow.apps.l2 import L2
from dragonflow.apps.l3 import L3, served
from dragonflow.apps.resolution import ARP_ANSWER
from dragonflow.apps.wiring import chassis_mac, keeper, link_local, physical_ofport
from dragonflow.controller.view import View
from dragonflow.model import ROUTER_GATEWAY, LogicalPort, LogicalSwitch
from dragonflow.packet import arp
from dragonflow.pipeline import (
    FROM_TUNNEL,
    NETWORK,
    Action,
    ApplyMeter,
    Fact,
    PacketOut,
    Punt,
    PuntKind,
    Resubmit,
    Serve,
    load,
    match,
    move,
    punt_meter,
    set_field,
)
from dragonflow.pipeline.action import FORGET_PORT

PERIOD = 5.0
"""Seconds between two announcements of an interface."""

_ARP, _IPV4, _IPV6 = {"eth_type": 0x0806}, {"eth_type": 0x0800}, {"eth_type": 0x86DD}
_REQUEST, _REPLY = 1, 2

_UNRESOLVED = 6
"""Priority of packets to somebody of whom nobody knows the MAC yet; between ``External``'s and telling that there is no host."""

_RATE, _BURST = 50, 100
"""Packets a second, and at once, whose receivers the controller looks for on each physical network."""


class Door(App):
    """Leads between routers and machines on physical networks."""

    name = "door"

    @renders(LogicalSwitch)
    def network(self, network: LogicalSwitch, view: View) -> Iterator[Fact]:
        """Who there has an address: the controller asks, and hears the answer."""
        ofport = _way(network, view)
        if ofport is None:
            return
        here, own = (NETWORK, network.key), chassis_mac(view.me.chassis)
        wanted = punt_meter(PuntKind.NEIGHBOUR_WANTED, ofport, _RATE, _BURST)
        ask = Punt(PuntKind.NEIGHBOUR_WANTED, network.id.encode())
        yield wanted
        for family in (_IPV4, _IPV6):
            yield L3.neighbours.flow(_UNRESOLVED, match(here, **family), ApplyMeter(wanted.id), ask)
        yield from hearing(network, own, ofport)

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The doorkeeper's part: questions for the interface's addresses, and packets to its MAC."""
        network = _kept(port, view)
        if network is None:
            return
        yield Serve(port.id)
        if network.external and (ofport := _way(network, view)) is not None:  # it asks in its own name
            yield from hearing(network, port.mac, ofport)
        here = (NETWORK, network.key)
        for ip in _ipv4(port):
            asked = match(here, **_ARP, arp_op=_REQUEST, arp_tpa=ip)
            macs: tuple[Action, ...] = (move("eth_src", "eth_dst"), *set_field(eth_src=port.mac))
            yield External.arrival.flow(40, asked, *macs, *ARP_ANSWER, FORGET_PORT, goto=L2.outside)
        yield External.arrival.flow(10, match(here, eth_dst=port.mac), load(FROM_TUNNEL, 0), goto=L3.entry)

    def unasked(self, view: View) -> Iterator[PacketOut]:
        """The announcements of this chassis: to be sent every ``PERIOD`` seconds."""
        for network in _networks(view):
            for port in view.where(LogicalPort, routed_network=network.id):
                for ip in _ipv4(port) if _kept(port, view) is not None else ():
                    frame = arp.announcement(bytes.fromhex(port.mac.replace(":", "")), IPv4Address(ip))
                    yield PacketOut(frame, (load(NETWORK, network.key), Resubmit(L2.outside.number)))


def voice(network: LogicalSwitch, version: int, view: View) -> Speaker | None:
    """In whose name this chassis asks for machines on the network by their addresses of an IP version; None if it needs none."""
    if _way(network, view) is None:
        return None
    own = chassis_mac(view.me.chassis)
    return Speaker(network, own, IPv4Address(0) if version == 4 else IPv6Address(link_local(own)))


def voices(view: View) -> Iterator[Speaker]:
    """Those of all networks."""
    for network in _networks(view):
        for version in (4, 6):
            if (found := voice(network, version, view)) is not None:
                yield found


def _networks(view: View) -> Iterator[LogicalSwitch]:
    return (network for network in view.all(LogicalSwitch) if _way(network, view) is not None)


def _way(network: LogicalSwitch, view: View) -> int | None:
    """The OpenFlow port to the network's physical network, if a router stands in it. External ones are known for that alone."""
    ofport = physical_ofport(network, view.me.bridge_mappings, view)
    if ofport is None or not network.admin_up:
        return None
    return ofport if network.external or view.where(LogicalPort, routed_network=network.id) else None


def _kept(port: LogicalPort, view: View) -> LogicalSwitch | None:
    """The network in which the port is an interface whose doorkeeper this chassis is, or a gateway that it serves."""
    if port.router is None and port.device_owner != ROUTER_GATEWAY:
        return None
    network = view.get(LogicalSwitch, port.network)
    if network is None or _way(network, view) is None or served(port, network, view) is None:
        return None
    return network if keeper(port, network, view, view.me.chassis) == view.me.chassis else None


def _ipv4(port: LogicalPort) -> Iterator[str]:
    return (ip for ip in port.ips if ":" not in ip)
