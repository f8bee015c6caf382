"""Networks that span chassis: one flow-based tunnel port per encapsulation, and the ways to and from other chassis.

The encapsulation is the network's own type, the VNI its segmentation id; both chassis must offer it. Only packets from the
VTEP of a known chassis are let in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address
from typing import Any

from dragonflow.apps.base import App, renders
from dragonflow.apps.classification import Classification
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.l2 import L2
from dragonflow.apps.wiring import is_elsewhere
from dragonflow.controller.view import Me, View
from dragonflow.model import TUNNEL_TYPES, Chassis, LogicalPort, LogicalSwitch, OvsPort
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    NETWORK,
    Action,
    Bucket,
    Fact,
    Output,
    Place,
    Remote,
    Trouble,
    TunnelPort,
    load,
    match,
    set_field,
)
from dragonflow.pipeline.groups import GroupKind, group_id

_CHASSIS_BUCKETS = 1 << 30
"""From here on a bucket's id stands for a chassis; below, for a port."""


class Tunnel(App):
    """Sends to and receives from other chassis of the region."""

    name = "tunnel"
    places = "ports of other chassis that are reached by a tunnel"

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """The tunnel ports themselves."""
        yield from super().host(me, view)
        for encapsulation in me.tunnel_types:
            yield TunnelPort(tunnel_name(encapsulation), encapsulation, me.tunnel_ip)

    @renders(Chassis)
    def chassis(self, chassis: Chassis, view: View) -> Iterator[Fact]:
        """Let in what comes from the chassis's VTEP."""
        if not _is_peer(chassis, view.me):
            return
        for encapsulation in view.me.tunnel_types:
            ofport = tunnel_ofport(encapsulation, view)
            if ofport is not None and encapsulation in chassis.tunnel_types:
                source = tunnel_address("src", chassis.tunnel_ip)
                yield Classification.ports.flow(10, match(in_port=ofport, **source), goto=Classification.tunnelled)

    @renders(LogicalSwitch)
    def network(self, network: LogicalSwitch, view: View) -> Iterator[Fact]:
        """Say by the VNI that a packet is in this network."""
        if network.network_type in TUNNEL_TYPES and network.network_type not in view.me.tunnel_types:
            yield Trouble(f"this chassis doesn't offer {network.network_type}: network {network.id} ends here")
        ofport = tunnel_ofport(network.network_type, view)
        if ofport is None or network.segmentation_id is None or not network.admin_up:
            return
        yield Classification.tunnelled.flow(
            10,
            match(in_port=ofport, tunnel_id=network.segmentation_id),
            load(NETWORK, network.key),
            load(FROM_TUNNEL, 1),
            goto=L2.lookup,
        )

    @renders(LogicalPort, only=is_elsewhere)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Place the ports of other chassis and send to them; their chassis gets a copy of what is flooded."""
        if port.chassis is None or port.chassis == view.me.chassis or not port.admin_up:
            return
        network, chassis = view.get(LogicalSwitch, port.network), view.get(Chassis, port.chassis)
        if network is None or network.segmentation_id is None or not network.admin_up or chassis is None:
            return
        ofport = tunnel_ofport(network.network_type, view)
        if ofport is None or not _is_peer(chassis, view.me):
            return
        if network.network_type not in chassis.tunnel_types:
            yield Trouble(f"chassis {chassis.id} doesn't offer {network.network_type} for network {network.id}")
            return
        yield Place(port.id, behind(chassis.id, ofport, chassis.tunnel_ip))
        sending = send(network.segmentation_id, chassis.tunnel_ip, ofport)
        yield Delivery.delivery.flow(10, match((DESTINATION, port.key), (FROM_TUNNEL, 0)), *sending)
        yield Bucket(group_id(GroupKind.FLOOD, network.key), chassis_bucket(chassis.id), sending)
        if not port.port_security:
            yield Bucket(group_id(GroupKind.UNKNOWN, network.key), chassis_bucket(chassis.id), sending)


def tunnel_name(encapsulation: str) -> str:
    """The name of the interface on the integration bridge."""
    return f"df-{encapsulation}"


def way_to(network: LogicalSwitch, chassis: Chassis, view: View) -> tuple[Action, ...] | None:
    """What sends a packet of the network to another chassis; None if no tunnel of the network's type joins the two."""
    ofport = tunnel_ofport(network.network_type, view)
    if ofport is None or network.segmentation_id is None or not network.admin_up or not _is_peer(chassis, view.me):
        return None
    if network.network_type not in chassis.tunnel_types:
        return None
    return send(network.segmentation_id, chassis.tunnel_ip, ofport)


def tunnel_ofport(encapsulation: str, view: View) -> int | None:
    """The OpenFlow port of this chassis's tunnel port; None if it doesn't offer the encapsulation or has no port yet."""
    if encapsulation not in TUNNEL_TYPES or encapsulation not in view.me.tunnel_types:
        return None
    return ofport_of(tunnel_name(encapsulation), view)


def ofport_of(name: str, view: View) -> int | None:
    """The OpenFlow port of a tunnel interface of ours; None while it has none."""
    interface = view.get(OvsPort, name)
    if interface is None or interface.tunnel is None or interface.ofport is None or interface.ofport <= 0:
        return None
    return interface.ofport


def _is_peer(chassis: Chassis, me: Me) -> bool:
    """Whether packets can be sent there: another chassis, at another address of the same family."""
    if chassis.id == me.chassis:
        return False
    return can_reach(me.tunnel_ip, chassis.tunnel_ip)


# Few chassis and networks, many ports: what depends on the former alone is computed once and shared by the latter.


@lru_cache(maxsize=4096)
def can_reach(here: str, there: str) -> bool:
    """Whether a tunnel can lead from one VTEP to the other. :raises ValueError: one isn't an address."""
    one, other = ip_address(here), ip_address(there)
    return one.version == other.version and one != other


@lru_cache(maxsize=4096)
def behind(chassis: str, ofport: int, vtep: str) -> Remote:
    """The place of ports on another chassis."""
    return Remote(chassis, ofport, vtep)


@lru_cache(maxsize=4096)
def send(vni: int, vtep: str, ofport: int) -> tuple[Action, ...]:
    """What sends a packet to a VTEP, which knows its network by the VNI."""
    return (*set_field(tunnel_id=vni, **tunnel_address("dst", vtep)), Output(ofport))


def tunnel_address(end: str, address: str) -> dict[str, Any]:
    """The field of a packet's tunnel, ``src`` or ``dst``, that holds an address of this family, with the address."""
    family = "ipv6" if ":" in address else "ipv4"
    return {f"tun_{family}_{end}": address}


@lru_cache(maxsize=4096)
def chassis_bucket(chassis: str) -> int:
    """A number for the chassis. Of 1,000 chassis, two share one with a probability of 1 : 2,000; the ledger reports that."""
    return _CHASSIS_BUCKETS | int.from_bytes(blake2b(chassis.encode(), digest_size=4).digest(), "big") >> 2
