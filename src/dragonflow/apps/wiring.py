"""Which interface of this chassis is a port's, whether the port is only prepared here, and at what addresses it is found;
and which interface leads to a physical network.

A live migration's destination stands in ``LogicalPort.standby`` until Neutron moves the binding. Once the port is plugged there
it is *wired*: what its interface sends is classified, and what other chassis send to it is delivered. The port's place stays
where the guest still runs, so senders of this chassis go on to reach it there; and nothing is flooded to the waiting interface,
whose queue would hand it to the guest when it wakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address
from typing import Any, Protocol, TypeVar

from dragonflow.controller.view import View
from dragonflow.model import PHYSICAL_TYPES, BridgeMapping, LogicalPort, LogicalSwitch, OvsPort
from dragonflow.pipeline import Local, Locality

M = TypeVar("M", bound=Any)


class World(Protocol):
    """What an app's View and the replica have in common."""

    def get(self, model: type[M], id: str) -> M | None:
        """The object, or None."""
        ...

    def where(self, model: type[M], **condition: str) -> tuple[M, ...]:
        """The objects whose indexed field has the given value."""
        ...


def interfaces(port: LogicalPort, world: World) -> Sequence[OvsPort]:
    """The port's interfaces on the integration bridge that have an OpenFlow port, the one to use first."""
    found = [it for it in world.where(OvsPort, iface_id=port.id) if it.ofport is not None and it.ofport > 0]
    return sorted(found, key=lambda it: (it.attached_mac != port.mac, it.ofport))


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


def is_standby(port: LogicalPort, chassis: str) -> bool:
    """Whether ``chassis`` is prepared for the port, which runs elsewhere (or nowhere yet)."""
    return chassis in port.standby and port.chassis != chassis


def standby_ofport(port: LogicalPort, chassis: str, world: World) -> int | None:
    """The OpenFlow port at which a port that is only prepared on ``chassis`` is wired; None if it isn't."""
    if not is_standby(port, chassis) or not port.admin_up:
        return None
    network = world.get(LogicalSwitch, port.network)
    if network is None or not network.admin_up:
        return None
    return next((it.ofport for it in interfaces(port, world)), None)
