"""Routing, on the chassis where a packet starts.

A router has no place of its own: each chassis that has a port behind it does its work, as if it had one in the rack. A packet to
the MAC of one of its interfaces is routed where its sender is, and leaves for the destination's chassis as a packet of the
destination's network, so nobody on its way has to know of routers.

::

    router ──► router_local ──► routes ──┬─────────────────────────► neighbours ──► l2_lookup
    (whose     (echo requests,   (longest ├► paths (ECMP) ──────────►  │  (MAC of the next hop)
     MAC?)      lifetime)         prefix) └► departure (whose address?)│
                                             to an external network;   └► router again, if the next hop is another router
                                             by way of its chassis,
                                             if another has the gateway

Cost in flows, of which a change of one port touches only its own: an interface has 1, 2 an address, 1 a subnet, and 2 for its
link-local address if it has IPv6; an extra route has 1, with n > 1 next hops 1 + n; and each port of a routed network has 1 an
address, if it is on this chassis 8 more.

What can't be forwarded goes to the controller, no more than a few a second of each port, which tells the sender (``icmp``). A
packet that is too big for the network into which it is routed is not cut in pieces, even where IPv4 would have it: its sender is
told the MTU and sends smaller ones from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from msgspec.structs import replace

from dragonflow.apps.base import App, answers, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.firewall.ingress import Ingress
from dragonflow.apps.l2 import L2
from dragonflow.apps.wiring import BACK_TO_SENDER, addresses, floats_here, plugged
from dragonflow.controller.view import Me, View
from dragonflow.model import ROUTER_GATEWAY, LogicalPort, LogicalRouter, LogicalSwitch, Subnet
from dragonflow.packet import icmp
from dragonflow.packet.icmp import Complaint
from dragonflow.pipeline import (
    NETWORK,
    SOURCE,
    TOO_BIG,
    Action,
    CheckSize,
    DecTtl,
    Distributed,
    Fact,
    Match,
    Move,
    PacketOut,
    Place,
    Punted,
    PuntKind,
    Resubmit,
    Spread,
    Stage,
    Table,
    Trouble,
    load,
    match,
    move,
    punt,
    punt_meter,
    set_field,
)
from dragonflow.pipeline.action import FORGET_PORT
from dragonflow.pipeline.registers import NEXT_HOP, NEXT_HOP_IPV6, PATH, ROUTER

_IPV4, _IPV6 = {"eth_type": 0x0800}, {"eth_type": 0x86DD}
_ECHO_REQUEST = {4: {**_IPV4, "ip_proto": 1, "icmpv4_type": 8}, 6: {**_IPV6, "ip_proto": 58, "icmpv6_type": 128}}
_ECHO_REPLY = {4: {"icmpv4_type": 0}, 6: {"icmpv6_type": 129}}
_ADDRESS = {4: ("ipv4_src", "ipv4_dst"), 6: ("ipv6_src", "ipv6_dst")}
_SCRATCH = {4: NEXT_HOP[0].field, 6: NEXT_HOP_IPV6}

_NEVER_ROUTED = (
    *({**_IPV4, "ipv4_dst": prefix} for prefix in ("224.0.0.0/3", "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8")),
    *({**_IPV6, "ipv6_dst": prefix} for prefix in ("ff00::/8", "fe80::/10", "::/127")),
)
"""Multicast and broadcast, loopback, link-local and unspecified destinations (RFC 1812 §5.3.7, RFC 4291 §2.5)."""

_LIFETIME = 255
"""TTL or hop limit of what a router sends itself."""

ETHERNET = 14
"""Bytes of a frame's head: they don't count against the MTU."""

_ECHO, _OWN, _MARTIAN, _TOLD_EXPIRED, _EXPIRED, _FORWARD = 50, 40, 30, 25, 20, 10
_NOWHERE, _DEFAULT, _ROUTES = 1, 2, 3
"""Priorities of routes: packets to nowhere, the way through the gateway, and from where on longer prefixes count more."""

_UNKNOWN, _NEXT, _BIG, _TOLD_BIG = 5, 10, 20, 25

_GUESTS = 10
"""Priority of what guests here want to be resolved, before what others do (see ``door``)."""

_COMPLAINTS = tuple(Complaint)
"""By their number in it a flow tells the handler what is wrong with the packet."""

Prefix = IPv4Network | IPv6Network

_ANYWHERE: dict[int, Prefix] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


class _Exit(NamedTuple):
    """A subnet to which a router is connected: by which MAC, in which network (its key).

    ``mtu`` is set if packets from the router's other networks may be larger than it; ``gateway`` says that it is outside.
    """

    prefix: Prefix
    network: int
    mac: str
    mtu: int | None
    gateway: bool


class L3(App):
    """Routers between networks, distributed over all chassis.

    What is missing, or administratively down, closes: the MAC of an interface whose router isn't known, or is down, takes packets
    and drops them.
    """

    name = "l3"
    places = "interfaces and gateways of routers"

    unresolved = Table(
        "unresolved",
        Stage.ROUTING,
        slot=7,
        purpose="Have the controller look for the next hop's MAC, as far as the sender may.",
        matches=(SOURCE, NETWORK),
    )
    neighbours = Table(
        "neighbours",
        Stage.ROUTING,
        slot=6,
        purpose="Find the MAC of the next hop and hand the packet to its network.",
        matches=(NETWORK, SOURCE, TOO_BIG, "eth_type", "ipv4_src", *NEXT_HOP),
        next=(unresolved, L2.lookup, Delivery.outside, Ingress.track, Delivery.delivery),
    )
    translated = Table(
        "translated",
        Stage.ROUTING,
        slot=5,
        purpose="Let what leaves under an address of its router's pass, as far as the bandwidth limit goes.",
        matches=(ROUTER, "eth_type", "ipv4_src"),
        next=(neighbours,),
    )
    departure = Table(
        "departure",
        Stage.ROUTING,
        slot=4,
        purpose="Find the address under which a packet leaves for an external network, or who sees to that.",
        matches=(ROUTER, SOURCE, TOO_BIG, "eth_type", "ip_proto", "ipv4_src", "ipv6_src", "icmpv4_type"),
        next=(translated, neighbours, Delivery.outside),
    )
    paths = Table(
        "paths",
        Stage.ROUTING,
        slot=3,
        purpose="Take the next hop that was chosen among several of equal cost.",
        matches=(ROUTER, PATH, "eth_type", "ipv4_dst", "ipv6_dst"),
        next=(departure, neighbours),
    )
    routes = Table(
        "routes",
        Stage.ROUTING,
        slot=2,
        purpose="Find the longest prefix of the router's routes: which network comes next, and which address in it.",
        matches=(ROUTER, SOURCE, "eth_type", "ipv4_dst", "ipv6_dst"),
        next=(paths, departure, neighbours),
    )
    local = Table(
        "router_local",
        Stage.ROUTING,
        slot=1,
        purpose="Answer pings of the router's own addresses; drop what may not be routed, or has no lifetime left.",
        matches=(
            ROUTER,
            NETWORK,
            SOURCE,
            "eth_type",
            "ip_proto",
            "icmpv4_type",
            "icmpv6_type",
            "ipv4_dst",
            "ipv6_dst",
            "ip_ttl",
            TOO_BIG,
        ),
        next=(routes, Delivery.delivery),
    )
    entry = Table(
        "router",
        Stage.ROUTING,
        purpose="Pick out packets to the MAC of a router's interface.",
        matches=(
            *(NETWORK, SOURCE, "eth_dst", "eth_type", "ip_proto", "icmpv4_type", "icmpv6_type", "ipv4_dst"),
            *("tcp_dst", "udp_dst"),
        ),
        next=(local,),
        miss=L2.lookup,
    )

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """What is the same for all routers."""
        yield from super().host(me, view)
        for fields in _NEVER_ROUTED:
            yield self.local.flow(_MARTIAN, match(**fields))
        for family in (_IPV4, _IPV6):
            for lifetime in (0, 1):
                yield self.local.flow(_EXPIRED, match(**family, ip_ttl=lifetime))
            yield self.local.flow(_FORWARD, match(**family), goto=self.routes)
        for table in (self.departure, self.neighbours):
            yield table.flow(_BIG, match((TOO_BIG, 1)))

    @renders(LogicalRouter)
    def router(self, router: LogicalRouter, view: View) -> Iterator[Fact]:
        """The extra routes. A next hop that lies in no connected subnet waits until it does."""
        if not router.admin_up or not router.routes:
            return
        known = [interface.port for interface in router.interfaces]
        if router.gateway is not None:
            known.append(router.gateway.port)
        ports = [view.get(LogicalPort, port) for port in known]
        exits = [way for port in ports if port is not None for way in _exits(port, view)]
        hops: dict[Prefix, list[tuple[_Exit, str]]] = {}
        for route in router.routes:
            prefix, hop = ip_network(route.destination, strict=False), ip_address(route.nexthop)
            way = next((way for way in exits if hop in way.prefix), None)
            if prefix.version != hop.version or (way is None and None not in ports):
                yield Trouble(
                    f"route to {route.destination}: {route.nexthop} is in no subnet that the router is connected to"
                )
            elif way is not None:
                hops.setdefault(prefix, []).append((way, str(hop)))
        for prefix, ways in hops.items():
            priority, here = _ROUTES + 2 * prefix.prefixlen, _to(router.key, prefix)
            if len(ways) == 1:
                ((way, address),) = ways
                yield self.routes.flow(priority, here, *_leave(way, address), goto=self._beyond(way))
                continue
            yield self.routes.flow(priority, here, Spread(PATH, len(ways)), goto=self.paths)
            for number, (way, address) in enumerate(ways):
                chosen = _to(router.key, prefix, number)
                yield self.paths.flow(priority, chosen, *_leave(way, address), goto=self._beyond(way))

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The work of an interface (and its place) or a gateway; and for any port of a routed network, how routers find it."""
        network = view.get(LogicalSwitch, port.network)
        if network is None:
            return
        if port.router is not None:
            yield from self._interface(port, network, view)
        elif port.device_owner == ROUTER_GATEWAY:
            yield from self._gateway(port, network, view)
            return
        if not (network.external or view.where(LogicalPort, routed_network=port.network)):
            return
        where = view.locality(port.id)
        if where is None:
            return
        last: tuple[Action, ...] = set_field(eth_dst=port.mac)
        goto: Table | None = L2.lookup
        if port.router is not None or floats_here(
            port, where
        ):  # another router's, or a floating IP's: it goes on routing
            last, goto = (*last, Resubmit(self.entry.number)), None
        for ip in port.ips:
            yield self.neighbours.flow(_NEXT, is_next(network.key, ip), *last, goto=goto)
        if (guest := plugged(port, view)) is not None:
            yield from complaints(port, guest.ofport)
            yield from self._wanting(port, guest.ofport)

    @answers(PuntKind.UNFORWARDED)
    def unforwarded(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Tell the sender, from the interface at which the packet came, by the way on which an answer of a port's would go.

        One who is outside, behind a router's interface, is told by the router's own routes.
        """
        complaint, sender = _COMPLAINTS[punted.data[0]], view.get(LogicalPort, punted.data[1:].decode())
        received = icmp.read(punted.packet)
        network = None if sender is None else view.get(LogicalSwitch, sender.network)
        if received is None or sender is None or network is None:
            return
        router = next(iter(view.where(LogicalRouter, key=punted.read(ROUTER))), None)
        ports = (view.get(LogicalPort, interface.port) for interface in (() if router is None else router.interfaces))
        port = next((it for it in ports if it is not None and _mac(it) == received.eth_dst), None)
        address = None if port is None else _answering(port, received.source, view)
        if address is None:
            return
        mtu = 0
        if complaint is Complaint.TOO_BIG:
            entered = view.where(LogicalSwitch, key=punted.read(NETWORK))  # it has left the sender's network already
            mtu = next((it.mtu for it in entered), network.mtu)
        if punted.read(NETWORK) != network.key:
            received = received._replace(eth_src=_mac(sender))
        back = load(NETWORK, network.key), load(SOURCE, sender.key), Resubmit(self.entry.number)
        if sender.router is not None and router is not None:
            back = load(NETWORK, network.key), load(ROUTER, router.key), Resubmit(self.local.number)
        yield PacketOut(icmp.complain(received, complaint, address, mtu), back)

    def _interface(self, port: LogicalPort, network: LogicalSwitch, view: View) -> Iterator[Fact]:
        ours = match((NETWORK, network.key), eth_dst=port.mac)
        router = served(port, network, view)
        if router is None:
            yield self.entry.flow(10, ours)
            return
        yield Place(port.id, Distributed())
        yield self.entry.flow(10, ours, load(ROUTER, router.key), goto=self.local)
        yield from self._own_addresses(port, network, router)
        yield from self._connected_routes(port, network, router, view)

    def _gateway(self, port: LogicalPort, network: LogicalSwitch, view: View) -> Iterator[Fact]:
        """Its place; the ways into the external network, and through it to all others; its addresses, for the router's guests.

        What else arrives at them from inside goes on: it may be for a connection that is translated (see ``snat``).
        """
        router = served(port, network, view)
        if router is None:
            return
        yield Place(port.id, Distributed())
        yield from self._own_addresses(port, network, router)
        yield from self._connected_routes(port, network, router, view)
        hops: dict[int, tuple[_Exit, str]] = {}
        for way, subnet in _connected(port, network, router, view):
            if subnet.gateway_ip is not None:
                hops.setdefault(way.prefix.version, (way, subnet.gateway_ip))
        for version, (way, hop) in hops.items():
            anywhere = _to(router.key, _ANYWHERE[version])
            yield self.routes.flow(_DEFAULT, anywhere, *_leave(way, hop), goto=self.departure)

    def _wanting(self, port: LogicalPort, ofport: int) -> Iterator[Fact]:
        """A guest's packets to machines outside of which nobody knows the MAC; ``door`` sends them here."""
        yield punt_meter(PuntKind.NEIGHBOUR_WANTED, ofport)
        wants = punt(PuntKind.NEIGHBOUR_WANTED, ofport, b"")
        yield self.unresolved.flow(_GUESTS, match((SOURCE, port.key)), *wants)

    def _own_addresses(self, port: LogicalPort, network: LogicalSwitch, router: LogicalRouter) -> Iterator[Fact]:
        """Answer pings of the port's addresses; other packets for them end here."""
        for ip in addresses(port):
            version = ip_address(ip).version
            destination = {_ADDRESS[version][1]: ip}
            if version == 6 and ip_address(ip).is_link_local:
                here, back, goto = (NETWORK, network.key), _straight_back(port.mac), Delivery.delivery
            else:
                here, back, goto = (ROUTER, router.key), (), self.routes
            asks = match(here, **_ECHO_REQUEST[version], **destination)
            yield self.local.flow(_ECHO, asks, *echo(version), *back, goto=goto)
            family = _IPV4 if version == 4 else _IPV6
            outside = ((SOURCE, port.key),) if port.device_owner == ROUTER_GATEWAY else ()
            yield self.local.flow(_OWN, match(here, *outside, **family, **destination))

    def _connected_routes(
        self, port: LogicalPort, network: LogicalSwitch, router: LogicalRouter, view: View
    ) -> Iterator[Fact]:
        for way, _ in _connected(port, network, router, view):
            priority = _ROUTES + 2 * way.prefix.prefixlen + 1
            yield self.routes.flow(priority, _to(router.key, way.prefix), *_leave(way), goto=self._beyond(way))

    def _beyond(self, way: _Exit) -> Table:
        """Where packets go from the routes: who leaves for an external network needs an address there first."""
        return self.departure if way.gateway else self.neighbours


def complaints(port: LogicalPort, ofport: int) -> Iterator[Fact]:
    """What can't be forwarded of what comes from the port, by ``ofport``: hand it to the controller, which tells the sender."""
    yield punt_meter(PuntKind.UNFORWARDED, ofport)
    source = SOURCE, port.key
    tell = {it: punt(PuntKind.UNFORWARDED, ofport, _about(port, it)) for it in Complaint}
    for family in (_IPV4, _IPV6):
        expired = match(source, **family, ip_ttl=1)
        yield L3.local.flow(_TOLD_EXPIRED, expired, *tell[Complaint.TIME_EXCEEDED])
    yield L3.routes.flow(_NOWHERE, match(source), *tell[Complaint.NO_ROUTE])
    yield L3.departure.flow(_UNKNOWN, match(source), *tell[Complaint.NO_ROUTE])
    yield L3.neighbours.flow(_UNKNOWN, match(source), *tell[Complaint.NO_HOST])
    for table in (L3.departure, L3.neighbours):
        yield table.flow(_TOLD_BIG, match(source, (TOO_BIG, 1)), *tell[Complaint.TOO_BIG])


def served(port: LogicalPort, network: LogicalSwitch, view: View) -> LogicalRouter | None:
    """The router that the interface, or gateway, is to serve now: both know each other, and all is switched on."""
    router = view.get(LogicalRouter, port.device_id)
    if router is None or not (router.admin_up and port.admin_up and network.admin_up):
        return None
    if router.gateway is not None and router.gateway.port == port.id:
        return router
    return router if any(interface.port == port.id for interface in router.interfaces) else None


def _exits(port: LogicalPort, view: View) -> Iterator[_Exit]:
    network = view.get(LogicalSwitch, port.network)
    router = None if network is None else served(port, network, view)
    if network is not None and router is not None:
        yield from (way for way, _ in _connected(port, network, router, view))


def _connected(
    port: LogicalPort, network: LogicalSwitch, router: LogicalRouter, view: View
) -> Iterator[tuple[_Exit, Subnet]]:
    """The subnets to which an interface, or gateway, connects its router."""
    found = {fixed.subnet: view.get(Subnet, fixed.subnet) for fixed in port.fixed_ips}
    joined = (view.get(LogicalSwitch, interface.network) for interface in router.interfaces)
    mtu = network.mtu if any(other is not None and other.mtu > network.mtu for other in joined) else None
    for subnet in found.values():
        if subnet is not None:
            outside = port.device_owner == ROUTER_GATEWAY
            yield _Exit(ip_network(subnet.cidr), network.key, port.mac, mtu, outside), subnet


def _mac(port: LogicalPort) -> bytes:
    return bytes.fromhex(port.mac.replace(":", ""))


def _answering(port: LogicalPort, asker: icmp.Address, view: View) -> icmp.Address | None:
    """The interface's address in the asker's own subnet; if there is none, its first of that family."""
    found: icmp.Address | None = None
    for fixed in port.fixed_ips:
        address, subnet = ip_address(fixed.ip), view.get(Subnet, fixed.subnet)
        if address.version != asker.version:
            continue
        if subnet is not None and asker in ip_network(subnet.cidr):
            return address
        found = found or address
    return found


def _to(router: int, prefix: Prefix, path: int | None = None) -> Match:
    """Packets that a router has for a prefix; of several paths those that take this one."""
    fields: dict[str, Any] = dict(_IPV4 if prefix.version == 4 else _IPV6)
    if prefix.prefixlen:
        fields[_ADDRESS[prefix.version][1]] = str(prefix)
    return match((ROUTER, router), *(() if path is None else ((PATH, path),)), **fields)


def is_next(network: int, ip: str) -> Match:
    """Packets that go to this address of the network next."""
    packed = ip_address(ip).packed
    words = zip(NEXT_HOP, (int.from_bytes(packed[at : at + 4], "big") for at in range(0, len(packed), 4)), strict=False)
    return match((NETWORK, network), *words, **(_IPV4 if len(packed) == 4 else _IPV6))


def _leave(way: _Exit, next_hop: str | None = None) -> tuple[Action, ...]:
    """Go over into the network of the exit, towards the next hop, or towards the destination itself.

    To an external network it may have to leave from another chassis. Where it leaves, its lifetime is taken from.
    """
    version = way.prefix.version
    check = () if way.mtu is None else (CheckSize(way.mtu + ETHERNET, TOO_BIG),)
    over: tuple[Action, ...] = (
        *check,
        *(() if way.gateway else (DecTtl(),)),
        load(NETWORK, way.network),
        *set_field(eth_src=way.mac),
        FORGET_PORT,
    )
    if next_hop is None:
        return (*over, move(_ADDRESS[version][1], _SCRATCH[version]))
    return (*over, *set_field(**{_SCRATCH[version]: int(ip_address(next_hop))}))


def _about(port: LogicalPort, complaint: Complaint) -> bytes:
    """To the handler: what is wrong with a packet, and whose it is."""
    return bytes((_COMPLAINTS.index(complaint),)) + port.id.encode()


def came_from(sender: LogicalPort, punted: Punted, complaint: Complaint) -> Punted:
    """A packet of the sender's, punted for another reason, as if it had been for this one."""
    return replace(punted, kind=PuntKind.UNFORWARDED, data=_about(sender, complaint))


@lru_cache(maxsize=2)
def echo(version: int) -> tuple[Action, ...]:
    """Turn an echo request into its reply (RFC 792, RFC 4443 §4.2)."""
    source, destination = _ADDRESS[version]
    spare = _SCRATCH[version]
    swapped: tuple[Move, ...] = (move(source, spare), move(destination, source), move(spare, destination))
    return (*swapped, *set_field(**_ECHO_REPLY[version], ip_ttl=_LIFETIME))


def _straight_back(mac: str) -> tuple[Action, ...]:
    """To the sender in the same network: link-local addresses mean nothing to routes."""
    return (move("eth_src", "eth_dst"), *set_field(eth_src=mac), *BACK_TO_SENDER)
