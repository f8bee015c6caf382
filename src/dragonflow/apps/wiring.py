"""How ports and networks are joined to this chassis: which interface is a port's, whether the port is only prepared here, at what
addresses it is found; which interface leads to a physical network, with which tag, and which chassis speaks for routers there.

A live migration's destination stands in ``LogicalPort.standby`` until Neutron moves the binding. Once the port is plugged there
it is *wired*: what its interface sends is classified, and what other chassis send to it is delivered. The port's place stays
where the guest still runs, so senders of this chassis go on to reach it there; and nothing is flooded to the waiting interface,
whose queue would hand it to the guest when it wakes.

A trunk's child is wired where its parent is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address
from typing import Any, Protocol, TypeVar

from dragonflow.controller.view import View
from dragonflow.model import (
    PHYSICAL_TYPES,
    Alive,
    BridgeMapping,
    Chassis,
    FloatingIp,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    OvsPort,
    station,
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

    def where(self, model: type[M], **condition: str) -> tuple[M, ...]:
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


def addresses(port: LogicalPort) -> tuple[str, ...]:
    """The addresses that the DF DB knows to be the port's: its fixed ones, and of a router's IPv6 interface its link-local one.

    By the latter hosts know the router that advertises itself to them (RFC 4861 §4.2).
    """
    ips = port.ips
    if port.router is not None and any(":" in ip for ip in ips) and (own := link_local(port.mac)) not in ips:
        return (*ips, own)
    return ips


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

    Rendezvous hashing chooses it of those that are alive, have a way there, and a port behind the router: they all follow the
    same rows, and choose alike. One chassis more or less moves only the interfaces that are its own. If none is known to be
    alive, it is one of all of them: leases ran out while the DF DB was away.
    """
    networks, _ = reached((network.id,), world)
    candidates = [
        chassis.id
        for chassis in world.all(Chassis)
        if bridge_of(network, chassis.bridge_mappings) is not None
        and any(world.where(LogicalPort, station=station(each, chassis.id)) for each in sorted(networks))
    ]
    candidates = [it for it in candidates if world.get(Alive, it) is not None] or candidates
    return max(candidates, key=lambda it: blake2b(f"{interface.id}|{it}".encode()).digest(), default=None)


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
