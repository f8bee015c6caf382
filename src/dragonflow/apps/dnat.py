"""Floating IPs: an address of an external network for one of a guest's own, translated one to one on the guest's chassis.

::

    in    external ──► router: destination becomes the fixed address ──► router_local ──► routes ──► …      to the guest
    out   … ──► routes ──► departure: source becomes the floating address ──► neighbours ──► outside        to the network

Each packet is translated by itself. No connection is tracked, so nothing can run full, and packets may take any way back. The
MAC is that of the floating IP's own port; wherever the floating IP is, and nowhere else, it is answered for, and frames to it are
taken. Two floating IPs reach each other by these addresses too: from ``neighbours`` the packet goes back to ``router``.

ICMP errors quote the packet that they complain of, which flows can't translate: the controller does (``packet.nat``). It tells
senders outside, too, that a packet is too big for the guest's network, or has no lifetime left: from the floating IP.

A floating IP may stand for an unbound port, which only reserves an address that guests share (``shared``): then its guest is the
one who holds the address, and it moves with that.

Cost: 15 flows and 5 meters on the guest's chassis, and a meter a direction under a QoS policy; 1 flow on each other chassis that
knows the guest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from typing import NamedTuple

from dragonflow.apps.base import App, answers, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.external import External
from dragonflow.apps.l3 import ETHERNET, L3
from dragonflow.apps.qos import Limits, held, limits
from dragonflow.apps.resolution import answer_all
from dragonflow.apps.shared import carrier, holder_of, is_owned
from dragonflow.apps.wiring import World, bridge_of, floating_policy, physical_ofport
from dragonflow.controller.view import View
from dragonflow.model import Chassis, FloatingIp, LogicalPort, LogicalRouter, LogicalSwitch, QosPolicy
from dragonflow.packet import icmp, nat
from dragonflow.packet.errors import Malformed
from dragonflow.packet.icmp import Complaint
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    NETWORK,
    SOURCE,
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
    Trouble,
    load,
    match,
    punt,
    punt_meter,
    set_field,
)
from dragonflow.pipeline.registers import NEXT_HOP, ROUTER, TOO_BIG

_ARP, _IPV4 = {"eth_type": 0x0806}, {"eth_type": 0x0800}
_REPLY = 2

_ERROR, _OURS, _OTHER = 40, 30, 10
"""Priorities of what comes in: ICMP errors, packets to the floating IP, and the rest to its MAC."""

_ERROR_OUT, _OURS_OUT = 15, 10
"""Priorities of what goes out: ICMP errors, and all else. What is too big to leave comes before both (see ``L3``)."""

_UNRESOLVED = 7
"""Priority of packets to somebody of whom nobody knows the MAC yet: after ``External``'s, before those of no floating IP."""

_PUNTED = (
    PuntKind.FLOATING_ERROR_IN,
    PuntKind.FLOATING_ERROR_OUT,
    PuntKind.FLOATING_UNFORWARDED,
    PuntKind.NEIGHBOUR_WANTED,
    PuntKind.NEIGHBOUR_HEARD,
)
"""What the controller has to look at, each as far as a meter of the guest's interface lets."""

_TOLD = {Complaint.TIME_EXCEEDED: 25, Complaint.TOO_BIG: 35}
"""Priorities of packets that go no further, of which the sender is told."""

_COMPLAINTS = tuple(_TOLD)
"""By their number in it a flow tells the handler what is wrong with the packet."""


class Dnat(App):
    """Serves the floating IPs of this chassis's guests."""

    name = "dnat"
    places = "floating IPs' ports, where the port is that they stand for"
    follows = ("classification", "tunnel", "regions", "provider")

    @renders(FloatingIp)
    def floating(self, floating: FloatingIp, view: View) -> Iterator[Fact]:
        """Its place, and if that is here all that makes it work."""
        it = _served(floating, view)
        if it is None:
            return
        ofport, where = physical_ofport(it.network, view.me.bridge_mappings, view), view.locality(it.guest.id)
        if isinstance(where, Remote):
            chassis = view.get(Chassis, where.chassis)
            if (
                ofport is not None
                and chassis is not None
                and bridge_of(it.network, chassis.bridge_mappings) is not None
            ):
                yield Place(it.own.id, Remote(chassis.id, ofport))
                yield Delivery.delivery.flow(
                    10, match((DESTINATION, it.own.key), (FROM_TUNNEL, 0)), goto=Delivery.outside
                )
        elif isinstance(where, Local):
            if ofport is None:
                reason = f"this chassis has no way to physical network {it.network.physical_network}"
                yield Trouble(f"floating IP {it.address} doesn't work: {reason}")
                return
            yield Place(it.own.id, where)
            yield Serve(it.own.id)
            yield from (punt_meter(kind, where.ofport) for kind in _PUNTED)
            yield from (*it.limits.sent, *it.limits.got)
            yield from self._resolution(it, where)
            yield from self._inbound(it, where)
            yield from self._outbound(it, where)

    def _resolution(self, it: _Served, where: Local) -> Iterator[Fact]:
        """Questions for the address, from the physical network (others: ``Resolution``), and answers to our own questions."""
        here = (NETWORK, it.network.key)
        yield from answer_all(External.arrival, it.network, it.address, it.own.mac)
        answered = match(here, eth_dst=it.own.mac, **_ARP, arp_op=_REPLY)
        yield External.arrival.flow(40, answered, *_punt(PuntKind.NEIGHBOUR_HEARD, where, it.network.id))
        yield External.arrival.flow(10, match(here, eth_dst=it.own.mac), goto=L3.entry)

    def _inbound(self, it: _Served, where: Local) -> Iterator[Fact]:
        frames = {"eth_dst": it.own.mac}
        packets = {**frames, **_IPV4, "ipv4_dst": it.address}
        here = (NETWORK, it.network.key)
        for kind in nat.ERRORS:
            errors = match(here, **packets, ip_proto=1, icmpv4_type=kind)
            yield L3.entry.flow(_ERROR, errors, *_punt(PuntKind.FLOATING_ERROR_IN, where, it.id))
        enter: tuple[Action, ...] = (load(ROUTER, it.router.key), load(SOURCE, it.own.key))
        check = () if it.mtu is None else (CheckSize(it.mtu + ETHERNET, TOO_BIG),)
        fixed = set_field(ipv4_dst=it.fixed_ip)
        yield L3.entry.flow(_OURS, match(here, **packets), *held(it.limits.got), *enter, *check, *fixed, goto=L3.local)
        yield L3.entry.flow(_OTHER, match(here, **frames))
        for complaint, packet in (
            (Complaint.TIME_EXCEEDED, match((SOURCE, it.own.key), **_IPV4, ip_ttl=1)),
            (Complaint.TOO_BIG, match((SOURCE, it.own.key), (TOO_BIG, 1))),
        ):
            tell = _punt(PuntKind.FLOATING_UNFORWARDED, where, it.id, _COMPLAINTS.index(complaint))
            yield L3.local.flow(_TOLD[complaint], packet, *tell)

    def _outbound(self, it: _Served, where: Local) -> Iterator[Fact]:
        packets = {**_IPV4, "ipv4_src": it.fixed_ip}
        guest = (ROUTER, it.router.key), (SOURCE, it.guest.key)
        for kind in nat.ERRORS:
            errors = match(*guest, **packets, ip_proto=1, icmpv4_type=kind)
            yield L3.departure.flow(_ERROR_OUT, errors, DecTtl(), *_punt(PuntKind.FLOATING_ERROR_OUT, where, it.id))
        leave: tuple[Action, ...] = (DecTtl(), *set_field(ipv4_src=it.address, eth_src=it.own.mac))
        yield L3.departure.flow(_OURS_OUT, match(*guest, **packets), *held(it.limits.sent), *leave, goto=L3.neighbours)
        unresolved = match((NETWORK, it.network.key), (SOURCE, it.guest.key), **_IPV4, ipv4_src=it.address)
        yield L3.neighbours.flow(_UNRESOLVED, unresolved, *_punt(PuntKind.NEIGHBOUR_WANTED, where, it.own.id))

    @answers(PuntKind.FLOATING_ERROR_IN)
    def error_in(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Hand the guest an error about what it sent, as if it had sent it under its own address."""
        it = _named(punted, view)
        if it is None:
            return
        with suppress(Malformed):
            frame = nat.translate_inbound(punted.packet, IPv4Address(it.address), IPv4Address(it.fixed_ip))
            bits = load(NETWORK, it.network.key), load(ROUTER, it.router.key)
            yield PacketOut(frame, (*bits, Resubmit(L3.local.number)))

    @answers(PuntKind.FLOATING_UNFORWARDED)
    def unforwarded(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Tell a sender outside, in the name of the floating IP, what is wrong with its packet, which is translated already."""
        it, received = _named(punted, view, 1), icmp.read(punted.packet)
        if it is None or received is None:
            return
        fixed = IPv4Address(it.fixed_ip)
        told = icmp.complain(received, _COMPLAINTS[punted.data[0]], fixed, it.mtu or 0)
        with suppress(Malformed):
            frame = nat.translate_outbound(told, fixed, IPv4Address(it.address))
            yield PacketOut(frame, (load(NETWORK, it.network.key), Resubmit(L3.entry.number)))

    @answers(PuntKind.FLOATING_ERROR_OUT)
    def error_out(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Send on a guest's error about what came in, as if that had come to the floating IP."""
        it = _named(punted, view)
        if it is None:
            return
        with suppress(Malformed):
            frame = nat.translate_outbound(punted.packet, IPv4Address(it.fixed_ip), IPv4Address(it.address))
            bits = load(NETWORK, it.network.key), load(SOURCE, it.guest.key)
            hop = load(NEXT_HOP[0], punted.read(NEXT_HOP[0]))
            yield PacketOut(frame, (*bits, hop, *set_field(eth_src=it.own.mac), Resubmit(L3.neighbours.number)))


class _Served(NamedTuple):
    """A floating IP and what it needs: the port of its guest, its own, their router, and its network."""

    id: str
    address: str
    fixed_ip: str
    guest: LogicalPort
    own: LogicalPort
    router: LogicalRouter
    network: LogicalSwitch
    mtu: int | None
    """What the guest's network takes, if that is less than the external one's."""
    limits: Limits


def _named(punted: Punted, view: View, at: int = 0) -> _Served | None:
    """The floating IP that a flow names with the packet, from there on in what it says, if it is still served."""
    floating = view.get(FloatingIp, punted.data[at:].decode())
    return None if floating is None else _served(floating, view)


def _served(floating: FloatingIp, view: View) -> _Served | None:
    """All that a floating IP needs to work, if it is there and switched on."""
    if floating.fixed_port is None or floating.fixed_ip is None or floating.router is None:
        return None
    fixed, own = view.get(LogicalPort, floating.fixed_port), view.get(LogicalPort, floating.port)
    router, network = view.get(LogicalRouter, floating.router), view.get(LogicalSwitch, floating.network)
    if fixed is None or own is None or router is None or network is None:
        return None
    if floating.fixed_ip not in fixed.ips or not (own.admin_up and router.admin_up and network.admin_up):
        return None
    if router.gateway is None or router.gateway.network != network.id:
        return None
    if not any(interface.network == fixed.network for interface in router.interfaces):
        return None
    inside = view.get(LogicalSwitch, fixed.network)
    mtu = inside.mtu if inside is not None and inside.mtu < network.mtu else None
    policy = floating_policy(floating, network)
    bandwidth = limits(own, None if policy is None else view.get(QosPolicy, policy))
    guest = guest_of(fixed, floating.fixed_ip, view)
    return _Served(floating.id, floating.address, floating.fixed_ip, guest, own, router, network, mtu, bandwidth)


def guest_of(fixed: LogicalPort, address: str, world: World) -> LogicalPort:
    """The port at which packets to a floating IP's fixed address arrive: usually the one that it stands for.

    If that only reserves the address, it is the one that holds it just now, as one of those that share it.
    """
    holder = None if is_owned(fixed) else holder_of(fixed.network, address, world)
    return fixed if holder is None else carrier(holder, world) or fixed


def _punt(kind: PuntKind, where: Local, name: str, *first: int) -> tuple[Action, ...]:
    """Hand a packet to the controller, as far as the meter lets, with these bytes and the name of what it is about."""
    return punt(kind, where.ofport, bytes(first) + name.encode())
