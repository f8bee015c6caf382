"""Router advertisements: how IPv6 hosts learn of their router, its prefixes and how to get addresses (RFC 4861 §4.2, §6.2).

Every chassis tells its own VMs, in the name of the routers that stand in their networks: at once when one asks, and all every
``PERIOD`` seconds. Machines on physical networks are told by the interface's doorkeeper (``door``). A subnet is told of if
Neutron says so (``ipv6_ra_mode``); else a router outside does that. Lifetimes are long, so hosts don't forget their router while
a controller is away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from struct import Struct

from dragonflow.apps.base import App, answers, renders
from dragonflow.apps.door import kept, networks, to_outside, way
from dragonflow.apps.external import External
from dragonflow.apps.l2 import L2, to_port
from dragonflow.apps.l3 import L3, served
from dragonflow.apps.wiring import addresses, is_here, link_local, plugged
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort, LogicalSwitch, Subnet
from dragonflow.packet import icmpv6
from dragonflow.packet.nd import ALL_NODES, ALL_NODES_MAC
from dragonflow.pipeline import (
    NETWORK,
    SOURCE,
    Clone,
    Fact,
    PacketOut,
    Punted,
    PuntKind,
    match,
    punt,
    punt_meter,
)

PERIOD = 60.0
"""Seconds between two unasked advertisements: within that time hosts learn of a router that came after them."""

_SOLICITATION = {"eth_type": 0x86DD, "ip_proto": 58, "icmpv6_type": 133}

_ADVERTISEMENT = 134
_HOP_LIMIT = 64
_ROUTER_LIFETIME, _PREFIX_LIFETIME = 9000, 86400
"""Seconds for which a host may count on the router (the most that RFC 4861 allows), and on a prefix."""

_HEAD = Struct(">BBHII")
_LINK_LAYER = Struct(">BB6s")
_MTU = Struct(">BBHI")
_PREFIX = Struct(">BBBBIII16s")
_RDNSS = Struct(">BBHI")
_MANAGED, _OTHER = 0x80, 0x40
_ON_LINK, _AUTONOMOUS = 0x80, 0x40

_HOW = {"slaac": (0, _AUTONOMOUS), "dhcpv6-stateless": (_OTHER, _AUTONOMOUS), "dhcpv6-stateful": (_MANAGED | _OTHER, 0)}
"""Flags of the advertisement and of the prefix, by Neutron's ``ipv6_ra_mode``."""


class Advertisement(App):
    """Tells hosts of their routers."""

    name = "advertisement"

    @renders(LogicalPort, only=is_here)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Solicitations of a VM here go to the controller, if there is a router to tell of."""
        where, network = plugged(port, view), view.get(LogicalSwitch, port.network)
        if (
            where is None
            or network is None
            or port.router is not None
            or not any(True for _ in _routers(network, view))
        ):
            return
        yield punt_meter(PuntKind.ROUTER_SOLICITATION, where.ofport)
        asks = match((SOURCE, port.key), **_SOLICITATION)
        ask = punt(PuntKind.ROUTER_SOLICITATION, where.ofport, port.id.encode())
        yield L3.entry.flow(20, asks, Clone(ask), goto=L2.lookup)  # others may be routers too

    @renders(LogicalSwitch)
    def network(self, network: LogicalSwitch, view: View) -> Iterator[Fact]:
        """Those of machines outside, too; which of the routers are ours to tell of, the controller knows."""
        ofport = way(network, view)
        if ofport is None or not any(True for _ in _routers(network, view)):
            return
        yield punt_meter(PuntKind.ROUTER_SOLICITATION, ofport)
        asks = match((NETWORK, network.key), **_SOLICITATION, ip_ttl=icmpv6.HOP_LIMIT)
        ask = punt(PuntKind.ROUTER_SOLICITATION, ofport, network.id.encode())
        yield External.arrival.flow(30, asks, Clone(ask), goto=L2.lookup)

    @answers(PuntKind.ROUTER_SOLICITATION)
    def solicited(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Tell the host that asked. What else its question holds is no matter: the answer is for all nodes."""
        name = punted.data.decode()
        port, network = view.get(LogicalPort, name), view.get(LogicalSwitch, name)
        if port is not None:
            yield from self._tell(port, view)
        elif network is not None:
            yield from self._tell_outside(network, view)

    def unasked(self, view: View) -> Iterator[PacketOut]:
        """Tell every VM of this chassis, and the physical networks on which this chassis speaks for a router."""
        for port in view.where(LogicalPort, chassis=view.me.chassis):
            yield from self._tell(port, view)
        for network in networks(view):
            yield from self._tell_outside(network, view)

    @staticmethod
    def _tell(port: LogicalPort, view: View) -> Iterator[PacketOut]:
        where, network = plugged(port, view), view.get(LogicalSwitch, port.network)
        if where is not None and network is not None:
            for interface, subnets in _routers(network, view):
                yield PacketOut(advertise(interface, subnets, network.mtu), to_port(port))

    @staticmethod
    def _tell_outside(network: LogicalSwitch, view: View) -> Iterator[PacketOut]:
        for interface, subnets in _routers(network, view):
            if kept(interface, view) is not None:
                yield PacketOut(advertise(interface, subnets, network.mtu), to_outside(network))


def _routers(network: LogicalSwitch, view: View) -> Iterator[tuple[LogicalPort, Sequence[Subnet]]]:
    """The routers' interfaces in the network that are to be told of, each with its subnets."""
    for interface in view.where(LogicalPort, routed_network=network.id):
        if served(interface, network, view) is None:
            continue
        found = (view.get(Subnet, fixed.subnet) for fixed in interface.fixed_ips)
        subnets = [subnet for subnet in found if subnet is not None and subnet.ipv6_ra_mode in _HOW]
        if subnets:
            yield interface, subnets


def advertise(interface: LogicalPort, subnets: Sequence[Subnet], mtu: int) -> bytes:
    """The frame, from the interface to all nodes of its link. It is a default router if a subnet names it as gateway."""
    ours = set(addresses(interface))
    default = any(subnet.gateway_ip in ours for subnet in subnets)
    flags = 0
    options = [
        _LINK_LAYER.pack(1, 1, bytes.fromhex(interface.mac.replace(":", ""))),
        _MTU.pack(5, 1, 0, mtu),
    ]
    for subnet in subnets:
        how, autonomous = _HOW[subnet.ipv6_ra_mode or ""]
        flags |= how
        prefix = ip_network(subnet.cidr)
        assert isinstance(prefix, IPv6Network)
        lifetimes = (_PREFIX_LIFETIME, _PREFIX_LIFETIME, 0)
        network = prefix.network_address.packed
        options.append(_PREFIX.pack(3, 4, prefix.prefixlen, _ON_LINK | autonomous, *lifetimes, network))
    servers = dict.fromkeys(server for subnet in subnets for server in subnet.dns_nameservers if ":" in server)
    if servers:
        told = b"".join(ip_address(server).packed for server in servers)
        options.append(_RDNSS.pack(25, 1 + 2 * len(servers), 0, _ROUTER_LIFETIME) + told)
    lifetime = _ROUTER_LIFETIME if default else 0
    head = _HEAD.pack(_HOP_LIMIT, flags, lifetime, 0, 0)
    ips = IPv6Address(link_local(interface.mac)).packed, ALL_NODES.packed
    mac = bytes.fromhex(interface.mac.replace(":", ""))
    return icmpv6.write((mac, ALL_NODES_MAC), ips, _ADVERTISEMENT, 0, head + b"".join(options))
