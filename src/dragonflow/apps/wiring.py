"""How ports and networks are joined to this chassis: which interface is a port's, whether the port is only prepared here, at what
addresses it is found; which interface leads to a physical network, with which tag, and which chassis speaks for routers there.

A live migration's destination stands in ``LogicalPort.standby`` until Neutron moves the binding. Once the port is plugged there
it is *wired*: what its interface sends is classified, and what other chassis send to it is delivered. The port's place stays
where the guest still runs, so senders of this chassis go on to reach it there; and nothing is flooded to the waiting interface,
whose queue would hand it to the guest when it wakes.

A trunk's child is wired where its parent is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Protocol, TypeVar

from dragonflow.controller.view import Me, View
from dragonflow.model import (
    GATEWAY_NODE,
    PHYSICAL_TYPES,
    ROUTER_GATEWAY,
    Alive,
    BridgeMapping,
    Chassis,
    FloatingIp,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    OvsPort,
    Presence,
    RemoteEnd,
    RouterGateway,
    Subnet,
    remote_vtep,
)
from dragonflow.pipeline import DESTINATION, FROM_TUNNEL, SOURCE, Action, Local, Locality, load, move
from dragonflow.pipeline.action import FORGET_PORT

M = TypeVar("M", bound=Any)

BACK_TO_SENDER: tuple[Action, ...] = (
    move(SOURCE.field, DESTINATION.field),
    load(FROM_TUNNEL, 1),
    FORGET_PORT,
)
"""Before the way to ``delivery``: an answer that the switch made goes to the port that asked, wherever it is wired here."""


class World(Protocol):
    """What an app's View and the replica have in common."""

    def get(self, model: type[M], id: str) -> M | None:
        """The object, or None."""
        ...

    def where(self, model: type[M], **condition: str | int) -> tuple[M, ...]:
        """The objects whose indexed field has the given value."""
        ...

    def all(self, model: type[M]) -> Sequence[M]:
        """All objects of a kind."""
        ...


def interfaces(port: LogicalPort, world: World) -> Sequence[OvsPort]:
    """The port's interfaces on the integration bridge that have an OpenFlow port, the one to use first."""
    found = [it for it in world.where(OvsPort, iface_id=port.id) if it.ofport is not None and it.ofport > 0]
    return sorted(found, key=lambda it: (it.attached_mac != port.mac, it.ofport))


def qos_policy(port: LogicalPort, network: LogicalSwitch | None) -> str | None:
    """The QoS policy that holds for the port: its own, else its network's. What belongs to the network itself has none."""
    if port.device_owner.startswith("network:"):
        return None
    return port.qos or (None if network is None else network.qos)


def floating_policy(floating: FloatingIp, network: LogicalSwitch | None) -> str | None:
    """The QoS policy that holds for the floating IP: its own, else its external network's."""
    return floating.qos or (None if network is None else network.qos)


def gateway_policy(gateway: RouterGateway | None, network: LogicalSwitch | None) -> str | None:
    """The QoS policy that holds for what leaves and comes under a router's address: its own, else its external network's."""
    return None if gateway is None else gateway.qos or (None if network is None else network.qos)


def addresses(port: LogicalPort) -> tuple[str, ...]:
    """The addresses that the DF DB knows to be the port's: its fixed ones, and of a router's IPv6 interface its link-local one.

    By the latter hosts know the router that advertises itself to them (RFC 4861 §4.2).
    """
    ips = port.ips
    if port.router is not None and any(":" in ip for ip in ips) and (own := link_local(port.mac)) not in ips:
        return (*ips, own)
    return ips


def is_here(port: LogicalPort, me: Me) -> bool:
    """Whether Neutron has the port on this chassis, or this one is prepared for it."""
    return port.chassis == me.chassis or me.chassis in port.standby


def is_elsewhere(port: LogicalPort, me: Me) -> bool:
    """Whether Neutron has the port on another chassis of this region."""
    return port.chassis is not None and port.chassis != me.chassis and not is_of_other_region(port, me)


def is_of_other_region(port: LogicalPort, _me: Me) -> bool:
    """Whether the port is one of another region."""
    return remote_vtep(port.chassis) is not None


def is_a_routers(port: LogicalPort, _me: Me) -> bool:
    """Whether a router stands in a network by the port: as its interface, or its gateway."""
    return port.router is not None or port.device_owner == ROUTER_GATEWAY


def plugged(port: LogicalPort, view: View) -> Local | None:
    """The port's place, if a guest of this chassis is plugged there. Behind a floating IP's port there is none of its own."""
    where = view.locality(port.id)
    return where if isinstance(where, Local) and not port.is_floating else None


def floats_here(port: LogicalPort, where: Locality | None) -> bool:
    """Whether it is a floating IP's port, which is at ``where``, and that is here: then this chassis itself speaks for it."""
    return port.is_floating and isinstance(where, Local)


@lru_cache(maxsize=4096)
def link_local(mac: str) -> str:
    """The link-local IPv6 address that follows from a MAC address (RFC 4291, appendix A). :raises ValueError: it is none."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    interface = bytes((*octets[:3], 0xFF, 0xFE, *octets[3:]))
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + interface))


def patch_name(bridge: str) -> str:
    """The name of the patch port on the integration bridge that leads to a physical network's bridge."""
    return f"df-int-{bridge}"


def bridge_of(network: LogicalSwitch, mappings: Sequence[BridgeMapping]) -> str | None:
    """The bridge through which a network of a physical type is reached; None if no mapping says so."""
    names = (it.bridge for it in mappings if it.physical_network == network.physical_network)
    return next(names, None) if network.network_type in PHYSICAL_TYPES else None


def physical_ofport(network: LogicalSwitch, mappings: Sequence[BridgeMapping], world: World) -> int | None:
    """The OpenFlow port by which packets get to the network's physical network, and come from it; None if there is none now."""
    bridge = bridge_of(network, mappings)
    return None if bridge is None else patch_ofport(bridge, world)


def patch_ofport(bridge: str, world: World) -> int | None:
    """The OpenFlow port that leads to a physical network's bridge; None if there is none now."""
    interface = world.get(OvsPort, patch_name(bridge))
    if interface is None or interface.patch is None or interface.ofport is None or interface.ofport <= 0:
        return None
    return interface.ofport


MOST_NODES = 3
"""Gateway nodes that follow a router so that they could serve its gateway: enough to lose two at once, and the work is shared."""

UNTAGGED, TAGGED = 0, 0x1000
"""``vlan_vid`` of a packet without a tag (OFPVID_NONE), and the bit that one with a tag has set (OFPVID_PRESENT)."""


def tag_of(network: LogicalSwitch) -> int | None:
    """What ``vlan_vid`` is of a network's packets on its physical network; None if it has none there."""
    if network.network_type == "flat":
        return UNTAGGED
    if network.network_type != "vlan" or network.segmentation_id is None:
        return None
    return TAGGED | network.segmentation_id


@lru_cache(maxsize=4096)
def chassis_mac(chassis: str) -> str:
    """The MAC by which a physical network knows a chassis: made of its name, locally administered (IEEE 802, "AAI" quadrant).

    Of 1,000 chassis, two share one with a probability of 1 : 2,000,000.
    """
    return (b"\x02" + blake2b(chassis.encode(), digest_size=5).digest()).hex(":")


def own_address(network: LogicalSwitch, addresses: Sequence[str], world: World) -> str | None:
    """Of a chassis's own ``addresses`` the first that lies in a subnet of the external network."""
    if not (addresses and network.external):
        return None
    subnets = [ip_network(it.cidr) for it in world.where(Subnet, network=network.id)]
    return next((it for it in addresses if any(ip_address(it) in subnet for subnet in subnets)), None)


def reached(networks: Iterable[str], world: World) -> tuple[set[str], dict[str, LogicalRouter | None]]:
    """The networks that routers join to these, themselves among them; and the routers, as far as they are known."""
    found, routers = set(networks), dict[str, LogicalRouter | None]()
    left = list(found)
    while left:
        for port in world.where(LogicalPort, routed_network=left.pop()):
            if port.device_id in routers:
                continue
            router = routers[port.device_id] = world.get(LogicalRouter, port.device_id)
            for interface in () if router is None else router.interfaces:
                if interface.network not in found:
                    found.add(interface.network)
                    left.append(interface.network)
    return found, routers


def doorkeeper(interface: LogicalPort, network: LogicalSwitch, world: World) -> str | None:
    """The one chassis that uses the MAC of a router's interface on the network's physical network.

    The best of those that are alive, have a way there, and a port behind the router: they all follow the same rows, and choose
    alike. If none is known to be alive, it is one of all of them: leases ran out while the DF DB was away.
    """
    candidates = _ranked(interface.id, _with_a_way(network, _behind((network.id,), world), world))
    return _first_alive(candidates, world)


def keeper(port: LogicalPort, network: LogicalSwitch, world: World, me: str | None = None) -> str | None:
    """The one chassis that uses the MAC of a router's interface, or gateway, on the network's physical network."""
    if port.device_owner == ROUTER_GATEWAY:
        return gateway_chassis(port, network, world, me)
    return doorkeeper(port, network, world)


def gateway_candidates(gateway_port: LogicalPort, network: LogicalSwitch, world: World) -> tuple[str, ...]:
    """The chassis that could serve a router's gateway in the external ``network``, the one to be preferred first.

    If there are gateway nodes with a way there, it is the best of these (see ``gateways``). Else it is all chassis with a way
    there and a port behind the router, whether they live or not: this changes only with what is bound.
    """
    if nodes := _gateway_nodes(network, world):
        return _best(gateway_port.id, nodes, _alive(nodes, world))
    return _ranked(gateway_port.id, _with_a_way(network, _servers(gateway_port.device_id, world), world))


def gateways(chassis: str, network: LogicalSwitch, world: World) -> Iterator[LogicalPort]:
    """The gateways in the external ``network`` that ``chassis`` could serve, being a gateway node; none if it isn't one."""
    nodes = _gateway_nodes(network, world)
    alive = _alive(nodes, world)
    for port in world.where(LogicalPort, gateway_network=network.id) if chassis in nodes else ():
        if chassis in _best(port.id, nodes, alive):
            yield port


def gateway_chassis(
    gateway_port: LogicalPort, network: LogicalSwitch, world: World, me: str | None = None
) -> str | None:
    """The chassis that serves a router's gateway, as far as chassis ``me`` can tell (None: as far as the rows tell).

    The first candidate whose data path is heard, or which is alive where nothing is heard either way. A chassis that hears others
    counts itself among those that are heard. If nobody is known to live, it is the first of whom nobody knows that it is dead:
    leases ran out while the DF DB was away, and failing static is better than nobody. None if there is no candidate.
    """
    candidates = gateway_candidates(gateway_port, network, world)
    known = {it: heard(it, world) for it in candidates if it != me}
    if me in candidates and any(known.values()):
        known[me] = True
    lives = (it for it in candidates if (known[it] if known.get(it) is not None else world.get(Alive, it) is not None))
    maybe = (it for it in candidates if known.get(it) is not False)
    return next(lives, None) or next(maybe, None) or (candidates[0] if candidates else None)


def heard(chassis: str, world: World) -> bool | None:
    """Whether the data path of another chassis is heard here: what this one's BFD session with it says (RFC 5880).

    False: it was heard and fell silent. None: there is no session, or it has never come up; then ``Alive`` must do.
    """
    return session(peer_name(chassis), world)


def session(interface: str, world: World) -> bool | None:
    """What the BFD session says that an interface of ours has, see ``heard``."""
    found = world.get(OvsPort, interface)
    if found is None or not is_peer_port(found) or found.bfd is None:
        return None
    return found.bfd == "up"


_PEER, REMOTE_PEER = "df-b", "df-r"
"""How the names of interfaces to peers begin, here and in other regions, and no other names of ours."""


@lru_cache(maxsize=4096)
def peer_name(chassis: str) -> str:
    """The name of the tunnel interface that leads to one chassis alone; interfaces have at most 15 characters.

    Of 1,000 chassis, two share one with a probability of 1 : 2,000,000; the ledger reports that.
    """
    return _PEER + blake2b(chassis.encode(), digest_size=5).hexdigest()


@lru_cache(maxsize=4096)
def remote_peer_name(encapsulation: str, vtep: str, ipsec: str | None = None) -> str:
    """The name of the tunnel interface that leads to one chassis of another region; the same holds.

    One that is encrypted otherwise is another one: what was heard in clear says nothing of it.
    """
    about = "|".join(filter(None, (encapsulation, vtep, ipsec)))
    return REMOTE_PEER + blake2b(about.encode(), digest_size=5).hexdigest()


def is_peer_port(interface: OvsPort) -> bool:
    """Whether it is an interface of ours that leads to one chassis alone, with a BFD session."""
    return interface.tunnel is not None and interface.id.startswith((_PEER, REMOTE_PEER))


def sessions(router: LogicalRouter, chassis: str, world: World) -> tuple[str, ...]:
    """With whom ``chassis`` has a BFD session for the router's sake: with two of its gateway's candidates, in order.

    The first candidate serves, the second takes over. So everybody behind the router, and every other candidate, listens to both,
    and they to everybody.
    """
    if router.gateway is None:
        return ()
    port, network = world.get(LogicalPort, router.gateway.port), world.get(LogicalSwitch, router.gateway.network)
    if port is None or network is None:
        return ()
    candidates = gateway_candidates(port, network, world)
    listeners, first = {*_servers(router.id, world), *candidates}, set(candidates[:2])
    if chassis not in listeners:
        return ()
    return tuple(sorted((listeners if chassis in first else first) - {chassis}))


def remote_end(port: LogicalPort, network: LogicalSwitch) -> tuple[str, int | None]:
    """By what encapsulation and VNI the region of a port of another one knows its network."""
    there = port.remote or RemoteEnd()
    return there.encapsulation or network.network_type, there.vni or network.segmentation_id


def remote_server(port: LogicalPort, world: World) -> str | None:
    """The one chassis that says of a port of another region that it is reached: one of those with ports of its network.

    The best that is alive; all that can be it follow the network, and choose alike. None if nobody here needs the port.
    """
    presence = world.get(Presence, port.network)
    return None if presence is None else _first_alive(_ranked(port.id, _in_order(presence.chassis)), world)


def is_remote_server(chassis: str, port: LogicalPort, world: World) -> bool:
    """Whether ``chassis`` is the ``remote_server`` of the port, at the cost of a few hashes where it isn't.

    It isn't if anybody better is alive, whoever that is. Each port has the others looked at from another one on, so that not all
    ports rest on the life of the same chassis.
    """
    presence = world.get(Presence, port.network)
    if presence is None or chassis not in presence.chassis:
        return False
    others, own = _in_order(presence.chassis), _rank(port.id, chassis)
    first = port.key % len(others)
    better = (it for it in (*others[first:], *others[:first]) if _rank(port.id, it) > own)
    return not any(world.get(Alive, it) is not None for it in better) and remote_server(port, world) == chassis


@lru_cache(maxsize=1 << 10)
def _in_order(chassis: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(chassis))


def _first_alive(candidates: Sequence[str], world: World) -> str | None:
    """The first that is known to be alive; if none is, the first of all. None if there is no candidate."""
    alive = (it for it in candidates if world.get(Alive, it) is not None)
    return next(alive, candidates[0] if candidates else None)


def _servers(router: str, world: World) -> frozenset[str]:
    """The chassis with a port in any network that the router joins: they know the router, for they route there."""
    row = world.get(LogicalRouter, router)
    return frozenset() if row is None else _behind((it.network for it in row.interfaces), world)


def _behind(networks: Iterable[str], world: World) -> frozenset[str]:
    """The chassis with a port in one of these networks, or in one that routers join to them."""
    found = (world.get(Presence, network) for network in reached(networks, world)[0])
    return frozenset[str]().union(*(it.chassis for it in found if it is not None))


def _with_a_way(network: LogicalSwitch, chassis: Iterable[str], world: World) -> tuple[str, ...]:
    """Those chassis that map the network's physical network."""
    rows = (world.get(Chassis, it) for it in chassis)
    return tuple(it.id for it in rows if it is not None and bridge_of(network, it.bridge_mappings) is not None)


def _gateway_nodes(network: LogicalSwitch, world: World) -> tuple[str, ...]:
    return _with_a_way(network, (it.id for it in world.where(Chassis, role=GATEWAY_NODE)), world)


def _alive(chassis: Iterable[str], world: World) -> tuple[str, ...]:
    return tuple(it for it in chassis if world.get(Alive, it) is not None)


def _best(gateway: str, nodes: tuple[str, ...], alive: tuple[str, ...]) -> tuple[str, ...]:
    """The first ``MOST_NODES`` of the nodes, and the first so many that are alive: no rack that fails takes a gateway along."""
    wanted = {*_ranked(gateway, nodes)[:MOST_NODES], *_ranked(gateway, alive)[:MOST_NODES]}
    return tuple(it for it in _ranked(gateway, nodes) if it in wanted)


@lru_cache(maxsize=1 << 14)
def _ranked(for_whom: str, chassis: tuple[str, ...]) -> tuple[str, ...]:
    """The chassis in the order in which rendezvous hashing prefers them. One more or less leaves the others' order as it is."""
    return tuple(sorted(chassis, key=lambda it: _rank(for_whom, it), reverse=True))


def _rank(for_whom: str, chassis: str) -> bytes:
    """Whoever has the greatest is preferred. Controllers of all versions must agree on it."""
    return blake2b(f"{for_whom}|{chassis}".encode()).digest()


def is_secured(port: LogicalPort) -> bool:
    """Whether security groups and port security hold for the port. Neutron trusts what belongs to itself."""
    return port.port_security and not port.device_owner.startswith(("network:", "neutron:"))


def is_standby(port: LogicalPort, chassis: str) -> bool:
    """Whether ``chassis`` is prepared for the port, which runs elsewhere (or nowhere yet)."""
    return chassis in port.standby and port.chassis != chassis


def wired(port: LogicalPort, chassis: str, world: World) -> int | None:
    """The OpenFlow port at which ``chassis`` has the port, be it bound there or only prepared; None if it has it nowhere."""
    if not (port.chassis == chassis or is_standby(port, chassis)) or not port.admin_up:
        return None
    network = world.get(LogicalSwitch, port.network)
    if network is None or not network.admin_up:
        return None
    if port.parent is not None:
        parent = world.get(LogicalPort, port.parent)
        return None if parent is None or parent.parent is not None else wired(parent, chassis, world)
    return next((it.ofport for it in interfaces(port, world)), None)


def standby_ofport(port: LogicalPort, chassis: str, world: World) -> int | None:
    """The OpenFlow port at which a port that is only prepared on ``chassis`` is wired; None if it isn't."""
    return wired(port, chassis, world) if is_standby(port, chassis) else None
