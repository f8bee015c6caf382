"""Worlds: everything that a controller's flows may depend on, as values. Builders give rows sensible defaults.

A test says which world it is in, not which calls lead there; ``permuted`` tries all ways that do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import permutations
from math import factorial
from random import Random
from typing import Any, TypeVar

import msgspec

from dragonflow.apps.wiring import peer_name, remote_peer_name
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import Me
from dragonflow.metadata.address import INTERFACE
from dragonflow.model import (
    DHCP_PORT,
    EVERY_PORT,
    FLOATING_IP,
    ROUTER_GATEWAY,
    ROUTER_INTERFACE,
    AddressGroup,
    AddressPair,
    Alive,
    BandwidthLimit,
    Binding,
    BridgeMapping,
    Chassis,
    ExternalNetwork,
    FixedIP,
    FloatingIp,
    GroupMember,
    Holder,
    Ipsec,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    Neighbour,
    OvsPort,
    PortForwarding,
    PortStatus,
    QosPolicy,
    RemoteEnd,
    RouterGateway,
    RouterInterface,
    Row,
    SecurityGroup,
    SecurityRule,
    Subnet,
    TunnelState,
    Watched,
    remote_chassis,
)
from dragonflow.model.rows import ROWS

AnyRow = (
    LogicalSwitch
    | Subnet
    | LogicalPort
    | LogicalRouter
    | FloatingIp
    | QosPolicy
    | SecurityGroup
    | AddressGroup
    | GroupMember
    | Binding
    | ExternalNetwork
    | Chassis
    | Alive
    | PortStatus
    | TunnelState
    | Holder
)

T = TypeVar("T")

MAPPINGS = (BridgeMapping("physnet1", "br-ex"),)
ME = Me(chassis="here", tunnel_ip="192.0.2.1", bridge_mappings=MAPPINGS)

OPEN = SecurityGroup(
    id="open",
    rules=tuple(SecurityRule(direction, version) for direction in ("egress", "ingress") for version in (4, 6)),
    revision=1,
)
"""A security group that allows everything: port security holds all the same."""

STATELESS = msgspec.structs.replace(OPEN, id="stateless", stateful=False)
"""Another, without connection tracking: that takes an answer for invalid whose question was for many."""


class World(msgspec.Struct, frozen=True):
    """The rows that a controller follows, what it found out on its host and in external networks, and who it is."""

    me: Me
    rows: tuple[AnyRow, ...] = ()
    ports: tuple[OvsPort, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    ipsec: tuple[Ipsec, ...] = ()
    watched: tuple[Watched, ...] = ()

    @classmethod
    def of(cls, me: Me, *objects: Object) -> World:
        """A world of these objects, in any order."""
        rows = tuple(it for it in objects if isinstance(it, AnyRow))
        ports = tuple(it for it in objects if isinstance(it, OvsPort))
        neighbours = tuple(it for it in objects if isinstance(it, Neighbour))
        ipsec = tuple(it for it in objects if isinstance(it, Ipsec))
        return cls(me, rows, ports, neighbours, ipsec, tuple(it for it in objects if isinstance(it, Watched)))

    @classmethod
    def held_by(cls, replica: Replica, me: Me) -> World:
        """The world as a replica holds it."""
        rows = [row for model in ROWS for row in replica.all(model)]
        found = (it for model in (OvsPort, Neighbour, Ipsec, Watched) for it in replica.all(model))
        return cls.of(me, *rows, *found)

    @property
    def objects(self) -> tuple[Object, ...]:
        """Rows, and what the host found out by itself."""
        return (*self.rows, *self.ports, *self.neighbours, *self.ipsec, *self.watched)


def load(replica: Replica, *objects: Object, revision: int = 1) -> None:
    """Put objects into a replica as news of ``revision``, following their scopes."""
    for it in objects:
        if isinstance(it, OvsPort):
            replica.upsert_port(it)
        elif isinstance(it, Neighbour):
            replica.upsert_neighbour(it)
        elif isinstance(it, Ipsec):
            replica.set_ipsec(it)
        elif isinstance(it, Watched):
            replica.set_watched({it.id, *replica.ids(Watched)})
        elif isinstance(it, Row):
            if it.scope not in replica.scopes:
                replica.reset_scope(it.scope, (), 0)
            replica.upsert(it, revision)


def permuted(states: Iterable[T], limit: int = 120) -> Iterator[Sequence[T]]:
    """Every order of the states: what holds at the end must hold whatever the way.

    If there are more than ``limit``, so many of them, drawn by chance, but the same ones each time.
    """
    states = list(states)
    if factorial(len(states)) <= limit:
        yield from permutations(states)
        return
    chance = Random(0)
    for _ in range(limit):
        chance.shuffle(states)
        yield tuple(states)


def network(name: str = "net", key: int = 1, **fields: Any) -> LogicalSwitch:
    """A Geneve network whose VNI differs from its key."""
    values = {"network_type": "geneve", "segmentation_id": 5000 + key, "mtu": 1442, "revision": 1, **fields}
    return LogicalSwitch(id=name, key=key, **values)


def port(name: str, key: int, on: str | None = "here", net: str = "net", **fields: Any) -> LogicalPort:
    """A port with MAC 02:00:00:00:00:KEY and the addresses 10.0.0.KEY and fd00::KEY, in the group ``OPEN``."""
    values: dict[str, Any] = {
        "mac": f"02:00:00:00:{key >> 8:02x}:{key & 255:02x}",
        "fixed_ips": (FixedIP("v4", f"10.0.{key >> 8}.{key & 255}"), FixedIP("v6", f"fd00::{key:x}")),
        "security_groups": (OPEN.id,),
        "revision": 1,
        **fields,
    }
    return LogicalPort(id=name, key=key, network=net, chassis=on, **values)


def bindings(port: LogicalPort, generation: int = 0) -> tuple[Binding, ...]:
    """What says to which hosts the port is bound, or prepared there."""
    hosts = {port.chassis: True} | {it: False for it in port.standby if it != port.chassis}
    return tuple(
        Binding(id=port.id, host=host, network=port.network, generation=generation, active=active)
        for host, active in hosts.items()
        if host is not None
    )


def members(port: LogicalPort) -> tuple[GroupMember, ...]:
    """What says that the port has its security groups."""
    addresses = tuple(sorted({*port.ips, *(pair.ip for pair in port.address_pairs)}))
    return tuple(
        GroupMember(id=f"{group}/{port.id}", group=group, port=port.id, addresses=addresses)
        for group in port.security_groups
    )


def child(name: str, key: int, of: str, vlan: int, net: str = "net", **fields: Any) -> LogicalPort:
    """A child of the trunk whose parent port is ``of``."""
    return port(name, key, net=net, parent=of, vlan=vlan, **fields)


def subnet(name: str = "v4", cidr: str = "10.0.0.0/16", net: str = "net", **fields: Any) -> Subnet:
    """A subnet with DHCP. ``v4`` and ``v6`` are those of which ``port`` has addresses."""
    return Subnet(**{"id": name, "network": net, "cidr": cidr, "revision": 1, **fields})


def interface(of: str, key: int, *ips: FixedIP, net: str = "net", **fields: Any) -> LogicalPort:
    """The port by which router ``of`` stands in a network, named ROUTER-NETWORK."""
    name = fields.pop("id", f"{of}-{net}")
    values = {"device_owner": ROUTER_INTERFACE, "device_id": of, "fixed_ips": ips, **fields}
    return port(name, key, on=None, net=net, **values)


def router(name: str, key: int, *networks: str, **fields: Any) -> LogicalRouter:
    """A router with an interface (see ``interface``) in each of the networks."""
    interfaces = tuple(RouterInterface(f"{name}-{net}", net) for net in networks)
    return LogicalRouter(**{"id": name, "key": key, "interfaces": interfaces, "revision": 1, **fields})


def gateway(of: str, key: int, *ips: FixedIP, net: str = "ext", **fields: Any) -> LogicalPort:
    """The port by which router ``of`` stands in an external network, named ROUTER-NETWORK."""
    return interface(of, key, *ips, net=net, device_owner=ROUTER_GATEWAY, **fields)


def external(name: str = "ext", key: int = 6, number: int = 200, **fields: Any) -> LogicalSwitch:
    """An external network, which is a VLAN of ``physnet1``."""
    return vlan(name, key, number, external=True, **fields)


def floating(name: str, key: int, ip: str, **fields: Any) -> tuple[FloatingIp, LogicalPort]:
    """A floating IP in the network ``ext``, and its own port, which has the key and is named PORT-NAME."""
    owns = {"device_owner": FLOATING_IP, "device_id": name, "fixed_ips": (FixedIP("ext4", ip),)}
    own = port(f"port-{name}", key, on=None, net="ext", **owns)
    return FloatingIp(**{"id": name, "network": "ext", "address": ip, "port": own.id, "revision": 1, **fields}), own


def neighbour(address: str, mac: str, net: str = "ext") -> Neighbour:
    """Somebody who has answered in a network."""
    return Neighbour(id=f"{net}/{address}", network=net, address=address, mac=mac)


def holder(of: LogicalPort, address: str, turn: int = 1, **fields: Any) -> Holder:
    """The chassis of a port has heard that it holds an address, with its own MAC."""
    chassis = of.chassis or "here"
    values = {"chassis": chassis, "network": of.network, "mac": of.mac, **fields}
    name = Holder.name(values["chassis"], of.id, address)
    return Holder(**{"id": name, "port": of.id, "address": address, "turn": turn, "at": 0.0, **values})


def policy(name: str, **fields: Any) -> QosPolicy:
    """A QoS policy, without rules unless told otherwise."""
    return QosPolicy(**{"id": name, "revision": 1, **fields})


def chassis(name: str, tunnel_ip: str, **fields: Any) -> Chassis:
    """A chassis that offers Geneve."""
    return Chassis(id=name, tunnel_ip=tunnel_ip, **fields)


def tap(of: str, ofport: int | None, **fields: Any) -> OvsPort:
    """The interface of a port, named ``tap-PORT``."""
    return OvsPort(**{"id": f"tap-{of}", "ofport": ofport, "iface_id": of, **fields})


def tunnel_port(encapsulation: str = "geneve", ofport: int | None = 100) -> OvsPort:
    """The tunnel interface that the switch makes for the tunnel app."""
    return OvsPort(id=f"df-{encapsulation}", ofport=ofport, tunnel=f"df-{encapsulation}")


def peer_port(chassis: str, ofport: int | None = 120, **fields: Any) -> OvsPort:
    """The tunnel interface that the switch makes for a BFD session with a chassis."""
    name = peer_name(chassis)
    return OvsPort(**{"id": name, "ofport": ofport, "tunnel": name, **fields})


def remote(name: str, key: int, vtep: str, net: str = "net", **fields: Any) -> LogicalPort:
    """A port of another region. ``RemoteEnd`` has the fields ``encapsulation``, ``vni`` and ``up``."""
    end = {it: fields.pop(it) for it in ("encapsulation", "vni", "up") if it in fields}
    return port(name, key, on=remote_chassis(vtep), net=net, remote=RemoteEnd(region="far", **end), **fields)


def remote_peer_port(
    vtep: str, ofport: int | None = 130, encapsulation: str = "geneve", ipsec: str | None = None, **fields: Any
) -> OvsPort:
    """The tunnel interface that the switch makes for a chassis of another region."""
    name = remote_peer_name(encapsulation, vtep, ipsec)
    return OvsPort(**{"id": name, "ofport": ofport, "tunnel": name, **fields})


def patch_port(bridge: str = "br-ex", ofport: int | None = 110) -> OvsPort:
    """The patch port that the switch makes for the provider app."""
    return OvsPort(id=f"df-int-{bridge}", ofport=ofport, patch=bridge)


def vlan(name: str, key: int, number: int, **fields: Any) -> LogicalSwitch:
    """A network that is a VLAN of ``physnet1``."""
    values = {"network_type": "vlan", "physical_network": "physnet1", "segmentation_id": number, "mtu": 1500, **fields}
    return network(name, key, **values)


def metadata_port(ofport: int | None = 101) -> OvsPort:
    """The host's interface that the switch makes for the metadata app."""
    return OvsPort(id=INTERFACE, ofport=ofport, tunnel=INTERFACE)


# Named states, each on top of the one before where that makes sense

ALONE: tuple[Object, ...] = (network(), port("a", 11), tap("a", 1))
"""A network with one port, plugged in here."""

PAIR: tuple[Object, ...] = (*ALONE, port("b", 12), tap("b", 2))
"""Two ports here."""

ACROSS: tuple[Object, ...] = (*PAIR, chassis("there", "192.0.2.2"), tunnel_port(), port("c", 13, on="there"))
"""A third one on another chassis."""

MIGRATING: tuple[Object, ...] = (*ACROSS, port("d", 14, on="there", standby=("here",)), tap("d", 4))
"""A fourth one is about to move here: it is plugged, but still runs on the other chassis."""

SUBNETS: tuple[Object, ...] = (
    *(subnet("v4", "10.0.0.0/24"), subnet("v6", "fd00::/64")),
    *(subnet("far4", "10.1.0.0/24", "far"), subnet("far6", "fd01::/64", "far")),
)

ROUTED: tuple[Object, ...] = (
    *ACROSS,
    *SUBNETS,
    network("far", 2),
    router("r", 1, "net", "far"),
    interface("r", 21, FixedIP("v4", "10.0.0.1"), FixedIP("v6", "fd00::1")),
    interface("r", 22, FixedIP("far4", "10.1.0.1"), FixedIP("far6", "fd01::1"), net="far"),
    port("x", 31, net="far", on="there", fixed_ips=(FixedIP("far4", "10.1.0.31"), FixedIP("far6", "fd01::1f"))),
)
"""A router joins the network to another, in which there is a port on the other chassis."""

PHYSICAL: tuple[Object, ...] = (
    *PAIR,
    chassis("there", "192.0.2.2", bridge_mappings=MAPPINGS),
    *(tunnel_port(), patch_port(), port("c", 13, on="there")),
    *(vlan("vlan", 4, 100), port("v", 41, net="vlan"), tap("v", 5), port("w", 42, on="there", net="vlan")),
    vlan("flat", 5, 0, network_type="flat", segmentation_id=None),
    port("f", 51, on="there", net="flat"),
)
"""Beside the two ports' network there are a VLAN and a flat one, which the other chassis is on too."""

TRUNKED: tuple[Object, ...] = (
    *ACROSS,
    network("tags", 3),
    port("p", 51, trunk="t"),
    tap("p", 5),
    child("p1", 52, "p", 101, net="tags"),
    child("p2", 53, "p", 102),
    port("q", 54, on="there", trunk="u"),
    child("q1", 55, "q", 101, on="there", net="tags"),
)
"""A trunk here with one child in a network of its own and one in its parent's, and one on the other chassis."""

STRETCHED: tuple[Object, ...] = (
    *ROUTED,
    *(Alive(id="here", since=0.0), remote_peer_port("198.51.100.7")),
    *(remote("s", 61, "198.51.100.7", vni=6001), remote("t", 62, "198.51.100.7", vni=6001)),
    remote("u", 63, "198.51.100.8", vni=6003, port_security=False),
    remote("y", 64, "198.51.100.8", net="far", vni=5001, fixed_ips=(FixedIP("far4", "10.1.0.64"),)),
)
"""Both routed networks have ports in another region, with other VNIs there."""

OUTSIDE: tuple[Object, ...] = (external(), subnet("ext4", "203.0.113.0/24", "ext", gateway_ip="203.0.113.1"))

FLOATING: tuple[Object, ...] = (
    *(network(), subnet("v4", "10.0.0.0/24"), *OUTSIDE),
    *(tunnel_port(), patch_port(), chassis("there", "192.0.2.2", bridge_mappings=MAPPINGS)),
    router("r", 1, "net", gateway=RouterGateway("r-ext", "ext")),
    interface("r", 21, FixedIP("v4", "10.0.0.1")),
    gateway("r", 22, FixedIP("ext4", "203.0.113.2")),
    *(port("a", 11), tap("a", 1), port("c", 13, on="there")),
    *floating("fa", 61, "203.0.113.61", router="r", fixed_port="a", fixed_ip="10.0.0.11"),
    *floating("fc", 63, "203.0.113.63", router="r", fixed_port="c", fixed_ip="10.0.0.13"),
    neighbour("203.0.113.1", "02:ee:00:00:00:01"),
)
"""A router leads to an external network. Two ports have floating IPs there, one of them on the other chassis."""

DOOR: tuple[Object, ...] = (
    *(it for it in PHYSICAL if it.id not in ("flat", "f")),
    *(
        chassis("here", "192.0.2.1", bridge_mappings=MAPPINGS),
        Alive(id="here", since=0.0),
        Alive(id="there", since=0.0),
    ),
    *(subnet("v4", "10.0.0.0/24"), subnet("vlan4", "10.1.0.0/24", "vlan")),
    *(subnet("v6", "fd00::/64"), subnet("vlan6", "fd01::/64", "vlan", ipv6_ra_mode="slaac")),
    router("r", 1, "net", "vlan"),
    interface("r", 21, FixedIP("v4", "10.0.0.1"), FixedIP("v6", "fd00::1")),
    interface("r", 22, FixedIP("vlan4", "10.1.0.1"), FixedIP("vlan6", "fd01::1"), net="vlan"),
    neighbour("10.1.0.99", "02:ee:00:00:00:02", "vlan"),
    neighbour("fd01::99", "02:ee:00:00:00:02", "vlan"),
)
"""A router joins the VLAN to the tunnelled network; a machine on the VLAN is known by both its addresses."""

GATEWAY: tuple[Object, ...] = (
    *(network(), subnet("v4", "10.0.0.0/24"), *OUTSIDE, tunnel_port(), patch_port()),
    *(chassis(name, ip, bridge_mappings=MAPPINGS) for name, ip in (("here", "192.0.2.1"), ("there", "192.0.2.2"))),
    *(Alive(id="here", since=0.0), Alive(id="there", since=0.0)),
    *(port("a", 11), tap("a", 1), port("c", 13, on="there")),
    *(
        row
        for name, key, address in (("r", 1, 2), ("u", 2, 3))
        for row in (
            router(name, key, "net", gateway=RouterGateway(f"{name}-ext", "ext")),
            interface(name, 20 + key, FixedIP("v4", f"10.0.0.{key}")),
            gateway(name, 30 + key, FixedIP("ext4", f"203.0.113.{address}"), FixedIP("ext6", f"fd99::{address}")),
        )
    ),
    subnet("ext6", "fd99::/64", "ext", gateway_ip="fd99::1"),
    *(
        row
        for name, key in (("r", 1), ("u", 2))
        for row in floating(
            f"f{name}",
            70 + key,
            f"203.0.113.{70 + key}",
            router=name,
            forwardings=(
                PortForwarding("tcp", 8080, 8080, "a", "10.0.0.11", 80, 80),
                PortForwarding("udp", 5000, 5002, "c", "10.0.0.13", 6000, 6002),
            ),
        )
    ),
)
"""Two routers lead to an external network, one by this chassis, the other by another; each forwards ports of a floating IP."""

NODE: tuple[Object, ...] = (
    *(
        it
        for it in GATEWAY
        if it.id not in ("a", "tap-a") and it != chassis("here", "192.0.2.1", bridge_mappings=MAPPINGS)
    ),
    chassis("here", "192.0.2.1", bridge_mappings=MAPPINGS, gateway=True),
    port("a", 11, on="there"),
)
"""This chassis is a gateway node and has no ports: it serves both routers."""

OWN: tuple[Object, ...] = (
    *(it for it in GATEWAY if not isinstance(it, Chassis) or it.id != "there"),
    chassis("there", "192.0.2.2", bridge_mappings=MAPPINGS, snat_addresses=("203.0.113.12",)),
    *(network("other", 2), subnet("o4", "10.0.0.0/24", "other")),
    router("q", 3, "other", gateway=RouterGateway("q-ext", "ext")),
    interface("q", 23, FixedIP("o4", "10.0.0.1"), net="other"),
    gateway("q", 33, FixedIP("ext4", "203.0.113.4")),
    *(port("s", 14, net="other", fixed_ips=(FixedIP("o4", "10.0.0.11"),)), tap("s", 3)),
)
"""This chassis and the other have addresses of their own in the external network; two ports here have the same one inside."""

OWNER = msgspec.structs.replace(ME, snat_addresses=("203.0.113.11",))
"""This chassis in that world."""

_PAIRS = (AddressPair("10.0.0.99"), AddressPair("fd00::99"), AddressPair("10.0.0.99", "00:00:5e:00:01:07"))
_SHARING = tuple(port(name, key, on, address_pairs=_PAIRS) for name, key, on in (("a", 11, "here"), ("c", 13, "there")))

SHARED: tuple[Object, ...] = (
    *(it for it in FLOATING if it.id not in ("a", "c", "fa", "fc", "port-fa", "port-fc")),
    *(*_SHARING, subnet("v6", "fd00::/64")),
    port("vip", 99, on=None, fixed_ips=(FixedIP("v4", "10.0.0.99"),)),
    *floating("fv", 61, "203.0.113.61", router="r", fixed_port="vip", fixed_ip="10.0.0.99"),
    *(holder(_SHARING[0], "10.0.0.99", turn=2, mac="00:00:5e:00:01:07"), holder(_SHARING[1], "10.0.0.99")),
    holder(_SHARING[1], "fd00::99"),
)
"""Two ports share addresses, one of which has a floating IP: it is here now, and was on the other chassis; the other is there."""

LIMITED: tuple[Object, ...] = (
    network(qos="silver"),
    policy("silver", egress=BandwidthLimit(1000, 100), ingress=BandwidthLimit(2000, 200)),
    policy("gold", egress=BandwidthLimit(9000, 900), dscp=46),
    *(port("a", 11), tap("a", 1)),
    *(port("b", 12, qos="gold"), tap("b", 2)),
    *(port("p", 51, trunk="t", qos="gold"), tap("p", 5)),
    child("p1", 52, "p", 101),
)
"""Ports with their network's policy and with one of their own; a trunk's parent and child have one each."""

SERVED: tuple[Object, ...] = (
    *PAIR,
    subnet(gateway_ip="10.0.0.1"),
    port("dhcp", 15, on=None, device_owner=DHCP_PORT, fixed_ips=(FixedIP("v4", "10.0.0.2"),)),
)
"""The two ports' network has a subnet with DHCP, and a port for its server."""

_OF_A = (FixedIP("v4", "10.0.0.11"),)

TOLD: tuple[Object, ...] = (
    *(network(), network("other", 2), metadata_port()),
    *(
        port("a", 11, device_id="i"),
        tap("a", 1),
        port("s", 14, net="other", device_id="j", fixed_ips=_OF_A),
        tap("s", 3),
    ),
)
"""Two ports of two networks have the same addresses, and metadata."""

_MEMBERS = (
    port("a", 11, security_groups=("web",), address_pairs=(AddressPair("10.0.0.64/29"),)),
    port("b", 12, security_groups=("web", "db")),
    port("c", 13, on="there", security_groups=("web",)),
    port("e", 14, security_groups=("plain",)),
)

GUARDED: tuple[Object, ...] = (
    *(it for it in ACROSS if it.id not in ("a", "b", "c")),
    *(*_MEMBERS, tap("e", 3)),
    *(binding for it in _MEMBERS for binding in bindings(it) if binding.host == "here"),
    *(it for port in _MEMBERS for it in members(port)),
    SecurityGroup(
        id="web",
        rules=(
            *(SecurityRule("egress", version) for version in (4, 6)),
            SecurityRule("ingress", 4, 6, 80, 83),
            SecurityRule("ingress", 4, 6, 443, 443),
            SecurityRule("ingress", 6, 58, 128, 0, remote_group="web"),
        ),
        revision=1,
    ),
    SecurityGroup(
        id="db",
        rules=(
            SecurityRule("ingress", 4, 6, 5432, 5432, remote_group="web"),
            SecurityRule("ingress", 4, 17, remote_group="web"),
            SecurityRule("ingress", 4, address_group="office"),
            SecurityRule("egress", 4, 17, 53, 53, prefix="192.0.2.0/24"),
        ),
        revision=1,
    ),
    SecurityGroup(
        id="plain",
        stateful=False,
        rules=(SecurityRule("egress", 4), SecurityRule("ingress", 4, 1, 0), SecurityRule("ingress", 4, 17, 53, 53)),
        revision=1,
    ),
    AddressGroup(id="office", addresses=("198.51.100.0/24", "2001:db8::/32"), revision=1),
)
"""Security groups: members here and on the other chassis, one without states, one that names the others and an address group."""

STATES: dict[str, Callable[[], World]] = {
    "alone": lambda: World.of(ME, *ALONE),
    "pair": lambda: World.of(ME, *PAIR),
    "across": lambda: World.of(ME, *ACROSS),
    "served": lambda: World.of(ME, *SERVED),
    "migrating": lambda: World.of(ME, *MIGRATING),
    "told": lambda: World.of(ME, *TOLD),
    "gateway": lambda: World.of(ME, *GATEWAY),
    "node": lambda: World.of(ME, *NODE),
    "own": lambda: World.of(OWNER, *OWN),
    "limited": lambda: World.of(ME, *LIMITED),
    "trunked": lambda: World.of(ME, *TRUNKED),
    "floating": lambda: World.of(ME, *FLOATING),
    "stretched": lambda: World.of(ME, *STRETCHED),
    "shared": lambda: World.of(ME, *SHARED),
    "routed": lambda: World.of(ME, *ROUTED),
    "physical": lambda: World.of(ME, *PHYSICAL),
    "door": lambda: World.of(ME, *DOOR),
    "guarded": lambda: World.of(ME, *GUARDED),
    "watched": lambda: World.of(ME, *GUARDED, Watched(id=EVERY_PORT)),
}
"""Worlds by name."""
