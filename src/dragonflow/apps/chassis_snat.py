"""A chassis's own address in an external network: its guests without a floating IP leave for that network from here, under it.

::

    out   … ──► departure: the source becomes a number ──► tracked: the address ──► departure ──► neighbours ──► outside
    in    external ──► router ──► tracked: the number ──► router_local: the guest's own ──► router_local ──► routes ──► …

Guests of different tenants may have the same address, and all share the chassis's. So before a packet is tracked its source
becomes the guest's number, an address of 240.0.0.0/4 that holds the port's key (see ``number``) and that no packet outside ever
bears. The connection remembers the number; on the way back it says whose the packet is, and one of the port's routers takes it
on. All this is in one zone for each own address, so that two guests never get the same port of it. The MAC is the chassis's own.

A translation that leaves an address as it is can end Open vSwitch (see ``Translate``); here the source is a number every time.

Whether a packet was translated shows in its address: what comes back from tracking to ``departure`` has no router any more, and
leaves only if it is from the chassis's address. ICMP errors quote what they complain of. Tracking translates the quotation
between the outside and the number, and the controller between the number and the guest's address (``packet.nat``).

By the gateway go, as ever: guests with a forwarded port, for who came in by the gateway has to leave by it; what isn't from a
fixed address of its port; and what other chassis hand over. A router without SNAT, and IPv6, are none of this app's business.

Cost in flows: 8 an own address and network; for each address of a guest here 5 (6 if its network carries less than the external
one), and 4 a router that leads there; and 3 meters a guest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_network
from itertools import groupby
from typing import NamedTuple

from dragonflow.apps.base import App, answers, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.external import External
from dragonflow.apps.l3 import ETHERNET, L3, echo, is_next, served
from dragonflow.apps.resolution import answer_all
from dragonflow.apps.wiring import BACK_TO_SENDER, chassis_mac, own_address, physical_ofport, plugged
from dragonflow.apps.zones import address_zone
from dragonflow.controller.view import View
from dragonflow.model import (
    Chassis,
    FixedIP,
    FloatingIp,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    Subnet,
)
from dragonflow.packet import icmp, nat
from dragonflow.packet.errors import Malformed
from dragonflow.packet.icmp import Complaint
from dragonflow.pipeline import (
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
    Punted,
    PuntKind,
    Resubmit,
    Serve,
    Track,
    Translate,
    Trouble,
    Untrack,
    load,
    match,
    move,
    punt,
    punt_meter,
    set_field,
)
from dragonflow.pipeline.registers import NEXT_HOP, ROUTER

_IPV4 = {"eth_type": 0x0800}
_NOBODY = (ROUTER, 0)
"""Of packets that tracking has had: no router's."""

_TRACKED, _OTHER = 25, 10
"""Priorities of what comes in to the chassis's MAC: to its address, and the rest."""

_ERROR, _OURS, _ECHO, _TOLD_BIG, _TOLD_EXPIRED = 65, 60, 50, 35, 25
"""Priorities of what has come in: ICMP errors to a guest, all else to one, pings of the address, and what goes no further."""

_TRANSLATED, _UNTRANSLATED, _ERROR_OUT, _OUT = 14, 13, 9, 8
"""Priorities of what goes out: after and before it was tracked. The latter come after floating IPs (10), before gateways (7)."""

_PUNTED = (PuntKind.SHARED_ERROR_IN, PuntKind.SHARED_ERROR_OUT, PuntKind.SHARED_UNFORWARDED)
"""What of a guest's the controller has to look at."""

_COMPLAINTS = (Complaint.TIME_EXCEEDED, Complaint.TOO_BIG)
"""By their number in it a flow tells the handler what is wrong with the packet."""

_KEYS, _MOST = 1 << 24, 15
"""Ports with a key below, and so many IPv4 addresses of each, have numbers."""


class ChassisSnat(App):
    """Translates the connections of this chassis's guests to its own addresses in external networks."""

    name = "chassis_snat"

    @renders(LogicalSwitch)
    def network(self, network: LogicalSwitch, view: View) -> Iterator[Fact]:
        """The chassis's address in an external network: who asks for it is answered, and what comes to it is tracked."""
        own = _own(network, view)
        if own is None:
            return
        yield Serve(network.id)
        here, frames, packets = (NETWORK, network.key), {"eth_dst": own.mac}, {**_IPV4, "ipv4_dst": own.address}
        yield from answer_all(External.arrival, network, own.address, own.mac)
        yield External.arrival.flow(_OTHER, match(here, **frames, **_IPV4), load(FROM_TUNNEL, 0), goto=L3.entry)
        forget: tuple[Action, ...] = (load(ROUTER, 0), load(SOURCE, 0), Untrack())
        back = Track(own.zone, L3.local.number, translate=Translate())
        yield L3.entry.flow(_TRACKED, match(here, **frames, **packets), *forget, back)
        yield L3.entry.flow(_OTHER, match(here, **frames))
        pings = match(_NOBODY, here, **packets, ip_proto=1, icmpv4_type=8)
        answer = (*echo(4), move("eth_src", "eth_dst"), *set_field(eth_src=own.mac), *BACK_TO_SENDER)
        yield L3.local.flow(_ECHO, pings, *answer, goto=Delivery.delivery)
        to_it = set_field(eth_dst=own.mac)
        yield L3.neighbours.flow(10, is_next(network.key, own.address), *to_it, Resubmit(L3.entry.number))
        translated = match(_NOBODY, **_IPV4, ipv4_src=own.address)
        yield L3.departure.flow(_TRANSLATED, translated, goto=L3.neighbours)
        yield L3.departure.flow(_UNTRANSLATED, match(_NOBODY))
        yield from _doubts(own, view)

    @renders(LogicalPort, only=lambda _, me: bool(me.snat_addresses))
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The ways of a guest out and back; and a word if Neutron has given an address of the chassis's to somebody."""
        yield from _taken(port, view)
        where = plugged(port, view)
        if where is None:
            return
        yield from (punt_meter(kind, where.ofport) for kind in _PUNTED)
        for _, several in groupby(_ways(port, view), key=lambda way: (way.fixed, way.own.network.id)):
            ways = tuple(several)
            yield from self._inbound(ways[0], where)
            for way in ways:
                yield from self._outbound(way, where)

    def _outbound(self, it: _Way, where: Local) -> Iterator[Fact]:
        own, packets = it.own, {**_IPV4, "ipv4_src": it.fixed.ip}
        guest = (ROUTER, it.router.key), (SOURCE, it.port.key)
        for kind in nat.ERRORS:
            errors = match(*guest, **packets, ip_proto=1, icmpv4_type=kind)
            yield L3.departure.flow(_ERROR_OUT, errors, DecTtl(), *_punt(PuntKind.SHARED_ERROR_OUT, where, it))
        begin = Track(own.zone, L3.departure.number, commit=True, translate=Translate(source=own.address))
        numbered: tuple[Action, ...] = (*set_field(ipv4_src=it.number, eth_src=own.mac), load(ROUTER, 0))
        yield L3.departure.flow(_OUT, match(*guest, **packets), DecTtl(), *numbered, begin)

    def _inbound(self, it: _Way, where: Local) -> Iterator[Fact]:
        own, mtu = it.own, it.inside.mtu
        here, packets = (_NOBODY, (NETWORK, own.network.key)), {**_IPV4, "ipv4_dst": it.number}
        for kind in nat.ERRORS:
            errors = match(*here, **packets, ip_proto=1, icmpv4_type=kind)
            yield L3.local.flow(_ERROR, errors, *_punt(PuntKind.SHARED_ERROR_IN, where, it))
        check = (CheckSize(mtu + ETHERNET, TOO_BIG),) if mtu < own.network.mtu else ()
        enter: tuple[Action, ...] = (load(ROUTER, it.router.key), *check, *set_field(ipv4_dst=it.fixed.ip))
        yield L3.local.flow(_OURS, match(*here, **packets), *enter, Resubmit(L3.local.number))
        # entered: no guest's of this chassis, for it has no source, and with nothing left no other chassis hands it over
        entered, guest = ((ROUTER, it.router.key), (SOURCE, 0)), {**_IPV4, "ipv4_dst": it.fixed.ip}
        tell = _punt(PuntKind.SHARED_UNFORWARDED, where, it, 0)
        yield L3.local.flow(_TOLD_EXPIRED, match(*entered, **guest, ip_ttl=1), *tell)
        if check:
            tell = _punt(PuntKind.SHARED_UNFORWARDED, where, it, 1)
            yield L3.local.flow(_TOLD_BIG, match(*entered, (TOO_BIG, 1), **guest), *tell)

    @answers(PuntKind.SHARED_ERROR_IN)
    def error_in(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Hand the guest an error about what it sent, as if it had sent it under its own address."""
        it = _named(punted, view)
        if it is None:
            return
        with suppress(Malformed):
            frame = nat.translate_inbound(punted.packet, IPv4Address(it.number), IPv4Address(it.fixed.ip))
            bits = load(NETWORK, it.own.network.key), load(ROUTER, it.router.key)
            yield PacketOut(frame, (*bits, Resubmit(L3.local.number)))

    @answers(PuntKind.SHARED_ERROR_OUT)
    def error_out(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Send on a guest's error about what came in, as part of the connection to which that belonged."""
        it = _named(punted, view)
        if it is None:
            return
        with suppress(Malformed):
            frame = nat.translate_outbound(punted.packet, IPv4Address(it.fixed.ip), IPv4Address(it.number))
            hop = load(NEXT_HOP[0], punted.read(NEXT_HOP[0]))
            bits = (load(NETWORK, it.own.network.key), hop, *set_field(eth_src=it.own.mac))
            yield PacketOut(frame, (*bits, Track(it.own.zone, L3.departure.number, translate=Translate())))

    @answers(PuntKind.SHARED_UNFORWARDED)
    def unforwarded(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Tell a sender outside, in the name of the guest, what is wrong with its packet, which is translated already."""
        it, received = _named(punted, view, 1), icmp.read(punted.packet)
        if it is None or received is None:
            return
        told = icmp.complain(received, _COMPLAINTS[punted.data[0]], IPv4Address(it.fixed.ip), it.inside.mtu)
        with suppress(Malformed):
            frame = nat.translate_outbound(told, IPv4Address(it.fixed.ip), IPv4Address(it.number))
            network = load(NETWORK, it.own.network.key)
            yield PacketOut(frame, (network, Track(it.own.zone, L3.entry.number, translate=Translate())))


def nobody_there(punted: Punted, received: icmp.Received, view: View) -> Iterator[PacketOut]:
    """Tell a guest, whose packet has been tracked, from its router's gateway that there is no such host outside.

    The error comes in as one of the connection, which leads to the guest.
    """
    guests = view.where(LogicalPort, chassis=view.me.chassis)
    guest = next((it for it in guests if it.key == punted.read(SOURCE)), None)
    for it in () if guest is None else _ways(guest, view):
        teller = next((ip for ip in it.gateway.ips if ":" not in ip), None)
        if it.own.network.key == punted.read(NETWORK) and it.own.address == str(received.source) and teller is not None:
            told = icmp.complain(received, Complaint.NO_HOST, IPv4Address(teller))
            yield PacketOut(told, (load(NETWORK, it.own.network.key), Resubmit(L3.entry.number)))
            return


class _Own(NamedTuple):
    """An address of the chassis's own: the external network, the MAC that it has there, and its conntrack zone."""

    network: LogicalSwitch
    address: str
    mac: str
    zone: int


class _Way(NamedTuple):
    """A guest's way out: one of its fixed addresses, the number by which that is tracked, and a router that leads there.

    ``gateway`` is the router's port outside, of which only the address is of use: errors may come from there.
    """

    port: LogicalPort
    inside: LogicalSwitch
    fixed: FixedIP
    number: str
    router: LogicalRouter
    gateway: LogicalPort
    own: _Own


class _Exit(NamedTuple):
    """A router that translates, by its interface in a network and its gateway, and the chassis's address where it leads."""

    door: LogicalPort
    router: LogicalRouter
    gateway: LogicalPort
    own: _Own


def number(port: LogicalPort, ip: str) -> str | None:
    """The address of 240.0.0.0/4 that stands for a port's IPv4 address on the way to tracking: 1111, its place, the port's key.

    It is unique on a chassis, and the same as long as the port has this address and those before it. None: there is none.
    """
    ours = [fixed for fixed in port.ips if ":" not in fixed]
    if ip not in ours[:_MOST] or port.key >= _KEYS:
        return None
    return str(IPv4Address(0xF << 28 | ours.index(ip) << 24 | port.key))


def _own(network: LogicalSwitch, view: View) -> _Own | None:
    """The chassis's address in an external network, if it can be used now."""
    address = own_address(network, view.me.snat_addresses, view)
    if address is None or not network.admin_up or physical_ofport(network, view.me.bridge_mappings, view) is None:
        return None
    zone = address_zone(view.me.snat_addresses.index(address))
    return _Own(network, address, chassis_mac(view.me.chassis), zone)


def _ways(port: LogicalPort, view: View) -> Iterator[_Way]:
    """All ways of a guest, for each of its addresses one after the other, sorted by network and router."""
    inside = view.get(LogicalSwitch, port.network)
    doors = view.where(LogicalPort, routed_network=port.network)
    exits = [] if inside is None else [found for door in doors if (found := _exit(door, inside, view)) is not None]
    exits.sort(key=lambda it: (it.own.network.id, it.router.id))
    for fixed in port.fixed_ips:
        inner = number(port, fixed.ip)
        if inner is None or inside is None:
            continue
        for door, router, gateway, own in exits:
            joined = any(fixed.subnet == it.subnet for it in door.fixed_ips)
            if joined and not _is_forwarded(port, fixed, router, view):
                yield _Way(port, inside, fixed, inner, router, gateway, own)


def _exit(door: LogicalPort, inside: LogicalSwitch, view: View) -> _Exit | None:
    """Where the router leads whose interface this is; None if it doesn't translate, or to no address of the chassis's."""
    router = served(door, inside, view)
    if router is None or router.gateway is None or not router.gateway.enable_snat:
        return None
    gateway, outside = view.get(LogicalPort, router.gateway.port), view.get(LogicalSwitch, router.gateway.network)
    if gateway is None or outside is None or served(gateway, outside, view) is None:
        return None
    own = _own(outside, view)
    return None if own is None else _Exit(door, router, gateway, own)


def _is_forwarded(port: LogicalPort, fixed: FixedIP, router: LogicalRouter, view: View) -> bool:
    """Whether connections come in by the router's gateway to this address."""
    floating = view.where(FloatingIp, forwarding_router=router.id)
    return any((each.port, each.ip) == (port.id, fixed.ip) for it in floating for each in it.forwardings)


def _named(punted: Punted, view: View, at: int = 0) -> _Way | None:
    """The way of which a flow tells with a packet, from there on in what it says, if it is still there."""
    network, port, ip = punted.data[at:].decode().split("|")
    row = view.get(LogicalPort, port)
    if row is None or plugged(row, view) is None:
        return None
    return next((it for it in _ways(row, view) if (it.own.network.id, it.fixed.ip) == (network, ip)), None)


def _punt(kind: PuntKind, where: Local, it: _Way, *first: int) -> tuple[Action, ...]:
    """Hand a packet to the controller, as far as the meter lets, with these bytes and what it takes to find the way."""
    name = "|".join((it.own.network.id, it.port.id, it.fixed.ip)).encode()
    return punt(kind, where.ofport, bytes(first) + name)


def _doubts(own: _Own, view: View) -> Iterator[Trouble]:
    """What may be wrong with the address: others who have it, or may get it."""
    name = f"[df] snat_addresses: {own.address}"
    for subnet in view.where(Subnet, network=own.network.id):
        if ip_address(own.address) not in ip_network(subnet.cidr):
            continue
        pools = [(IPv4Address(pool.start), IPv4Address(pool.end)) for pool in subnet.allocation_pools]
        if own.address == subnet.gateway_ip:
            yield Trouble(f"{name} is the gateway's of subnet {subnet.id}")
        if any(first <= IPv4Address(own.address) <= last for first, last in pools):
            yield Trouble(
                f"{name} is in an allocation pool of subnet {subnet.id}: Neutron may give it to somebody else"
            )
    for chassis in view.all(Chassis):
        if chassis.id != view.me.chassis and own.address in chassis.snat_addresses:
            yield Trouble(f"{name} is chassis {chassis.id}'s too")


def _taken(port: LogicalPort, view: View) -> Iterator[Trouble]:
    """An address that Neutron has given to a port in an external network, though the chassis is told that it is its own."""
    for ip in port.ips:
        if ip in view.me.snat_addresses:
            network = view.get(LogicalSwitch, port.network)
            if network is not None and network.external:
                yield Trouble(f"[df] snat_addresses: {ip} is also the address of port {port.id}")
