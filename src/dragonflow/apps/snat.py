"""Routers' gateways: how guests without a floating IP reach out, on the one chassis that speaks for their router there.

::

    out   … ──► departure ──┬─► tracked ──► translated ──► neighbours ──► outside           on the gateway's chassis
                            └─► to the gateway's chassis, as the guest sent it              on any other
          l2_lookup ──► router_local ──► …                                                  as it arrives there
    in    external ──► router: tracked, translated back ──► router_local ──► routes ──► …   on the gateway's chassis

Under SNAT many guests share the gateway's address, so somebody has to remember which connection is whose: connection tracking, in
a zone of the router. That is at one place, the gateway's chassis (``wiring.gateway_chassis``). Others hand it their guests'
packets through a network of the router, to the gateway's MAC, which nobody else has there; that the lifetime is taken from only
where a packet leaves makes one router of the two. A packet that arrived so is never handed on, so two chassis that disagree about
who has the gateway can't play ping-pong.

Where nothing is translated (IPv6, or a router without SNAT) nothing is remembered: each chassis that has a way to the physical
network sends straight there, and only what comes back has to come by the gateway's chassis.

A chassis with an address of its own in the external network needs no other for its own guests: see ``chassis_snat``.

Some ports of a floating IP may be forwarded (Neutron's port forwarding): connections to them begin in the same zone with a new
destination, and are translated back on their way out. So such a floating IP is where its router's gateway is.

What comes out of the zone with another source than an address of the router's, because the router has all the connections that it
may have, or because it belongs to none, is dropped: Open vSwitch lets it pass as it was.

Under a QoS policy (Neutron's ``qos-gateway-ip``) what leaves and comes under the gateway's IPv4 address is limited, without what
goes under floating IPs, those with forwarded ports included, which have limits of their own.

No translation leaves an address as it is: see ``Translate``. So a guest's packet from the gateway's own address is dropped.

Cost in flows: a gateway has 1 an address on each chassis that knows the router and has a way outside; where it is served, 10
more, 1 an address, 1 a network of the router; elsewhere 2. A floating IP with forwarded ports has 10 on the gateway's chassis,
and 1 for each block of ports (or for each port, where the port changes). A bandwidth limit is a meter a direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, NamedTuple

from msgspec.structs import replace

from dragonflow.apps.base import App, answers, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.external import External, hearing
from dragonflow.apps.l2 import L2
from dragonflow.apps.l3 import ETHERNET, L3, echo, is_next, served
from dragonflow.apps.qos import Limits, held, limits
from dragonflow.apps.resolution import answer_all
from dragonflow.apps.tunnel import way_to
from dragonflow.apps.wiring import (
    bridge_of,
    chassis_mac,
    floating_policy,
    gateway_chassis,
    gateway_policy,
    physical_ofport,
)
from dragonflow.apps.zones import router_zone
from dragonflow.controller.view import View
from dragonflow.model import (
    ROUTER_GATEWAY,
    Chassis,
    FloatingIp,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    PortForwarding,
    QosPolicy,
)
from dragonflow.packet import icmp
from dragonflow.packet.icmp import Complaint
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    NETWORK,
    SOURCE,
    TOO_BIG,
    Action,
    CheckSize,
    DecTtl,
    Fact,
    Local,
    PacketOut,
    Place,
    Punted,
    PuntKind,
    Remote,
    Resubmit,
    Serve,
    Table,
    Track,
    Translate,
    Trouble,
    Untrack,
    load,
    match,
    port_masks,
    punt,
    punt_meter,
    set_field,
)
from dragonflow.pipeline.action import FORGET_PORT
from dragonflow.pipeline.registers import ROUTER

_IPV4, _IPV6 = {"eth_type": 0x0800}, {"eth_type": 0x86DD}
_FAMILY = {4: _IPV4, 6: _IPV6}
_PROTOCOLS = {"tcp": (6, "tcp_dst"), "udp": (17, "udp_dst")}

_FORWARDED, _TRACKED, _ROUTED = 30, 25, 10
"""Priorities of what comes in: to a forwarded port, to an address under which connections are translated, and the rest."""

_OWN_ANSWER, _TRANSIT, _FORWARDED_OUT, _UNTRANSLATABLE, _OUT = 12, 11, 9, 8, 7
"""Priorities of what goes out; after those of floating IPs (10), whose guests are others than the router itself."""

_HANDED_OVER = 50
"""Priority of packets that other chassis hand over."""

_LEAVES, _AS_IT_IS = 10, 5
"""Priorities of what leaves under an address of the router's, and, where it translates nothing, of what leaves as it is."""

_OWN, _ECHO = 40, 50
"""Priorities of what is for the router itself (see ``L3``)."""

_TOLD = {Complaint.TIME_EXCEEDED: 25, Complaint.TOO_BIG: 35}
"""Priorities of packets from outside that go no further, of which the sender is told."""

_COMPLAINTS = (*_TOLD, Complaint.NO_HOST)
"""By their number in it a flow tells the handler what is wrong with the packet."""


class _Gateway(NamedTuple):
    """A router's gateway: its port, the external network, and the chassis that serves it."""

    router: LogicalRouter
    port: LogicalPort
    network: LogicalSwitch
    chassis: str
    limits: Limits
    """Of the traffic under its address, on the chassis that serves it."""

    @property
    def zone(self) -> int:
        """The conntrack zone of the router."""
        return router_zone(self.router.key)

    @property
    def translates(self) -> bool:
        """Whether guests without a floating IP share the gateway's IPv4 address."""
        return self.router.gateway is not None and self.router.gateway.enable_snat and self.address is not None

    @property
    def address(self) -> str | None:
        """The IPv4 address that they share."""
        return next((ip for ip in self.port.ips if ":" not in ip), None)


class Snat(App):
    """Serves routers' gateways, and the floating IPs of which single ports are forwarded."""

    name = "snat"
    places = "floating IPs' ports, where the gateway of their router is, if single ports are forwarded"

    @renders(LogicalPort, only=lambda port, _: port.device_owner == ROUTER_GATEWAY)
    def gateway(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The ways out and in by a router's gateway."""
        network, router = view.get(LogicalSwitch, port.network), view.get(LogicalRouter, port.device_id)
        if network is None or not network.admin_up or router is None:  # to others' gateways, ARP and ND lead
            return
        ofport = physical_ofport(network, view.me.bridge_mappings, view)
        it = _gateway(port, network, view)
        here = it is not None and it.chassis == view.me.chassis and ofport is not None
        for ip in port.ips if ofport is not None else ():
            to_it = set_field(eth_dst=port.mac)
            if here:
                yield L3.neighbours.flow(10, is_next(network.key, ip), *to_it, Resubmit(L3.entry.number))
            else:
                yield L3.neighbours.flow(10, is_next(network.key, ip), *to_it, goto=Delivery.outside)
        if it is None:
            if served(port, network, view) is not None and router.interfaces:
                yield Trouble(
                    f"router {router.id} has no gateway: no chassis has both a port behind it and a way outside"
                )
        elif here and ofport is not None:
            yield from self._inbound(it, ofport, view)
            yield from self._outbound(it)
        elif it.chassis != view.me.chassis:
            yield from self._to_chassis(it, ofport, view)

    @renders(FloatingIp)
    def forwarding(self, floating: FloatingIp, view: View) -> Iterator[Fact]:
        """A floating IP of which single ports are forwarded: its place, and where the gateway is, all that makes it work."""
        if not floating.forwardings or floating.fixed_port is not None or floating.router is None:
            return
        router, own = view.get(LogicalRouter, floating.router), view.get(LogicalPort, floating.port)
        network = view.get(LogicalSwitch, floating.network)
        if router is None or router.gateway is None or own is None or network is None:
            return
        port = view.get(LogicalPort, router.gateway.port)
        it = None if port is None or port.network != network.id else _gateway(port, network, view)
        if it is None or not own.admin_up:
            return
        ofport = physical_ofport(network, view.me.bridge_mappings, view)
        here = it.chassis == view.me.chassis
        if ofport is not None:
            yield Place(own.id, Local(ofport) if here else Remote(it.chassis, ofport))
            if not here:
                yield Delivery.delivery.flow(10, match((DESTINATION, own.key), (FROM_TUNNEL, 0)), goto=Delivery.outside)
        if here and ofport is not None:
            yield Serve(own.id)
            yield from self._forward(floating, own, it, ofport, view)
            if not it.translates:
                back = Track(it.zone, L3.translated.number, translate=Translate())
                yield from _answers(floating, it, _Way((DecTtl(), back), None))
        elif not it.translates and (way := _handing_over(it, view)) is not None:
            yield from _answers(floating, it, way)

    def _inbound(self, it: _Gateway, ofport: int, view: View) -> Iterator[Fact]:
        frames, enter = {"eth_dst": it.port.mac}, _entering(it, view)
        yield from (*it.limits.sent, *it.limits.got)
        yield L3.entry.flow(_ROUTED, match((NETWORK, it.network.key), **frames), *enter, goto=L3.local)
        if it.address is not None:
            packets = match((NETWORK, it.network.key), **frames, **_IPV4, ipv4_dst=it.address)
            yield L3.entry.flow(_TRACKED, packets, *held(it.limits.got), *enter, *_tracked(it))
        for inside in _inside(it, view):
            handed_over = match((NETWORK, inside.key), (FROM_TUNNEL, 1), **frames)
            begin = load(FROM_TUNNEL, 0), load(ROUTER, it.router.key), FORGET_PORT
            yield L2.lookup.flow(_HANDED_OVER, handed_over, *begin, Resubmit(L3.local.number))
        yield punt_meter(PuntKind.GATEWAY_UNFORWARDED, ofport)
        outside = (SOURCE, it.port.key)
        for complaint, them in (
            (Complaint.TIME_EXCEEDED, [match(outside, **family, ip_ttl=1) for family in (_IPV4, _IPV6)]),
            (Complaint.TOO_BIG, [match(outside, (TOO_BIG, 1))]),
        ):
            tell = punt(PuntKind.GATEWAY_UNFORWARDED, ofport, _about(it.port, complaint))
            for packet in them:
                yield L3.local.flow(_TOLD[complaint], packet, *tell)

    def _outbound(self, it: _Gateway) -> Iterator[Fact]:
        """Guests' packets, translated or not; the router's own answers; and nothing that came from outside for others there."""
        router, outside = (ROUTER, it.router.key), (SOURCE, it.port.key)
        yield L3.departure.flow(_TRANSIT, match(router, outside))
        for ip in it.port.ips:
            yield _answer(it, ip)
        for family in (_IPV4, _IPV6):
            if family is _IPV4 and it.translates and it.address is not None:
                own = match(router, **_IPV4, ipv4_src=it.address)
                yield L3.departure.flow(_UNTRANSLATABLE, own)
                nat = Track(it.zone, L3.translated.number, commit=True, translate=Translate(source=it.address))
                yield L3.departure.flow(_OUT, match(router, **_IPV4), DecTtl(), nat)
                translated = match(router, **_IPV4, ipv4_src=it.address)
                yield L3.translated.flow(_LEAVES, translated, *held(it.limits.sent), goto=L3.neighbours)
            else:
                yield L3.departure.flow(_OUT, match(router, **family), DecTtl(), goto=L3.neighbours)
                if family is _IPV4:
                    yield L3.translated.flow(_AS_IT_IS, match(router, **family), goto=L3.neighbours)

    def _to_chassis(self, it: _Gateway, ofport: int | None, view: View) -> Iterator[Fact]:
        """On other chassis: straight out where nothing is translated and there is a way, all else to the gateway's chassis."""
        handing_over = _handing_over(it, view)
        for family in (_IPV4, _IPV6):
            packets = match((ROUTER, it.router.key), **family)
            if ofport is not None and not (family is _IPV4 and it.translates):
                yield L3.departure.flow(_OUT, packets, DecTtl(), goto=L3.neighbours)
            elif handing_over is not None:
                yield L3.departure.flow(_OUT, packets, *handing_over.actions, goto=handing_over.goto)
        if handing_over is None:
            yield Trouble(f"router {it.router.id}: no network leads to its gateway's chassis {it.chassis}")

    def _forward(self, floating: FloatingIp, own: LogicalPort, it: _Gateway, ofport: int, view: View) -> Iterator[Fact]:
        policy = floating_policy(floating, it.network)
        bandwidth = limits(own, None if policy is None else view.get(QosPolicy, policy))
        yield from (*bandwidth.sent, *bandwidth.got)
        enter = (*held(bandwidth.got), *_entering(it, view))
        translated = match((ROUTER, it.router.key), **_IPV4, ipv4_src=floating.address)
        yield L3.translated.flow(_LEAVES, translated, *held(bandwidth.sent), goto=L3.neighbours)
        here, frames = (NETWORK, it.network.key), {"eth_dst": own.mac}
        yield from answer_all(External.arrival, it.network, floating.address, own.mac)
        yield External.arrival.flow(10, match(here, **frames), load(FROM_TUNNEL, 0), goto=L3.entry)
        yield from hearing(it.network, own.mac, ofport)
        packets = {**frames, **_IPV4, "ipv4_dst": floating.address}
        yield L3.entry.flow(_ROUTED, match(here, **frames))
        yield L3.entry.flow(_TRACKED, match(here, **packets), *enter, *_tracked(it))
        for each in floating.forwardings:
            if each.protocol not in _PROTOCOLS:
                yield Trouble(f"floating IP {floating.address}: ports of {each.protocol} can't be forwarded")
                continue
            protocol, field = _PROTOCOLS[each.protocol]
            for ports, translate in _translations(each):
                wanted = match(here, **packets, ip_proto=protocol, **{field: ports})
                begin = Track(it.zone, L3.local.number, commit=True, translate=translate)
                yield L3.entry.flow(_FORWARDED, wanted, *enter, Untrack(), begin)
        to_itself = (ROUTER, it.router.key), (SOURCE, it.port.key)
        asks = match(*to_itself, **_IPV4, ip_proto=1, icmpv4_type=8, ipv4_dst=floating.address)
        yield L3.local.flow(_ECHO, asks, *echo(4), goto=L3.routes)
        yield L3.local.flow(_OWN, match(*to_itself, **_IPV4, ipv4_dst=floating.address))
        yield _answer(it, floating.address)

    @answers(PuntKind.GATEWAY_UNFORWARDED)
    def unforwarded(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Tell a sender outside what is wrong with its packet.

        A packet that was translated is complained of as it is inside, by its receiver there: on its way out the complaint is
        translated with what it quotes, as part of the connection. Of others the router complains under its own address.
        """
        port, received = view.get(LogicalPort, punted.data[1:].decode()), icmp.read(punted.packet)
        network = None if port is None else view.get(LogicalSwitch, port.network)
        it = None if port is None or network is None else _gateway(port, network, view)
        if it is None or received is None:
            return
        own = (ip_address(ip) for ip in it.port.ips)
        address = next((ip for ip in own if ip.version == received.version), None)
        if it.translates and received.version == 4:
            address = received.destination
        if address is not None:
            told = icmp.complain(received, _COMPLAINTS[punted.data[0]], address, _least_mtu(it, view) or 0)
            yield PacketOut(told, (load(ROUTER, it.router.key), Resubmit(L3.routes.number)))


def _about(port: LogicalPort, complaint: Complaint) -> bytes:
    """To the handler: what is wrong with a packet, and by which gateway it came."""
    return bytes((_COMPLAINTS.index(complaint),)) + port.id.encode()


def came_by(gateway: LogicalPort, punted: Punted, complaint: Complaint) -> Punted:
    """A packet that came by the gateway, punted for another reason, as if it had been for this one."""
    return replace(punted, kind=PuntKind.GATEWAY_UNFORWARDED, data=_about(gateway, complaint))


class _Way(NamedTuple):
    """What is done with a packet that leaves the router, and where it goes then."""

    actions: tuple[Action, ...]
    goto: Table | None


def _gateway(port: LogicalPort, network: LogicalSwitch, view: View) -> _Gateway | None:
    """The router's gateway, if the port is one that is to be served now, and some chassis can."""
    router = served(port, network, view)
    chassis = None if router is None else gateway_chassis(port, network, view, view.me.chassis)
    if router is None or chassis is None:
        return None
    policy = gateway_policy(router.gateway, network) if chassis == view.me.chassis else None
    bandwidth = limits(port, None if policy is None else view.get(QosPolicy, policy))
    return _Gateway(router, port, network, chassis, bandwidth)


def _handing_over(it: _Gateway, view: View) -> _Way | None:
    """To the gateway's chassis, through the network of the router that takes the largest packets, of those that join the two."""
    chassis = view.get(Chassis, it.chassis)
    if chassis is None or chassis.id == view.me.chassis:
        return None
    to_gateway = set_field(eth_dst=it.port.mac)
    for network in sorted(_inside(it, view), key=lambda network: (-network.mtu, network.id)):
        if (tunnel := way_to(network, chassis, view)) is not None:
            return _Way((*to_gateway, *tunnel), None)
        if bridge_of(network, chassis.bridge_mappings) and physical_ofport(network, view.me.bridge_mappings, view):
            own = set_field(eth_src=chassis_mac(view.me.chassis))
            return _Way((*to_gateway, *own, load(NETWORK, network.key)), Delivery.outside)
    return None


def _inside(it: _Gateway, view: View) -> Iterator[LogicalSwitch]:
    """The networks behind the router, as far as they are known."""
    found = (view.get(LogicalSwitch, interface.network) for interface in it.router.interfaces)
    return (network for network in found if network is not None)


def _entering(it: _Gateway, view: View) -> tuple[Action, ...]:
    """A packet from outside enters the router: what is too big for any network behind it is known before it is translated."""
    mtu = _least_mtu(it, view)
    check = () if mtu is None else (CheckSize(mtu + ETHERNET, TOO_BIG),)
    return (load(ROUTER, it.router.key), load(SOURCE, it.port.key), *check)


def _least_mtu(it: _Gateway, view: View) -> int | None:
    """What all networks behind the router take, if that is less than the external one does."""
    return min((network.mtu for network in _inside(it, view) if network.mtu < it.network.mtu), default=None)


def _tracked(it: _Gateway) -> tuple[Action, ...]:
    """Translate what belongs to a connection. It may have been tracked before: a guest may speak to another by this address."""
    return (Untrack(), Track(it.zone, L3.local.number, translate=Translate()))


def _answer(it: _Gateway, ip: str) -> Fact:
    """What the router answers to somebody outside, under an address of its own."""
    source = "ipv4_src" if ":" not in ip else "ipv6_src"
    family = _FAMILY[4 if ":" not in ip else 6]
    answers = match((ROUTER, it.router.key), (SOURCE, it.port.key), **family, **{source: ip})
    return L3.departure.flow(_OWN_ANSWER, answers, DecTtl(), goto=L3.neighbours)


def _answers(floating: FloatingIp, it: _Gateway, way: _Way) -> Iterator[Fact]:
    """What goes back on connections to forwarded ports, where the router translates nothing else."""
    for protocol, ip in sorted({(each.protocol, each.ip) for each in floating.forwardings}):
        if protocol in _PROTOCOLS:
            number, _ = _PROTOCOLS[protocol]
            packets = match((ROUTER, it.router.key), **_IPV4, ip_proto=number, ipv4_src=ip)
            yield L3.departure.flow(_FORWARDED_OUT, packets, *way.actions, goto=way.goto)


def _translations(forwarding: PortForwarding) -> Iterator[tuple[Any, Translate]]:
    """The ports that are forwarded, as matches (value, or value and mask), and to where each match's are."""
    first, last, ip = forwarding.external_first, forwarding.external_last, forwarding.ip
    if forwarding.internal_first == forwarding.internal_last:
        to = Translate(destination=ip, ports=(forwarding.internal_first, forwarding.internal_first))
        yield from ((ports, to) for ports in port_masks(first, last))
    elif forwarding.internal_first == first:
        yield from ((ports, Translate(destination=ip)) for ports in port_masks(first, last))
    else:
        for number in range(first, last + 1):
            port = forwarding.internal_first + number - first
            yield number, Translate(destination=ip, ports=(port, port))
