"""Which interface of this chassis is a port's, whether the port is only prepared here, and at what addresses it is found.

A live migration's destination stands in ``LogicalPort.standby`` until Neutron moves the binding. Once the port is plugged there
it is *wired*: what its interface sends is classified, and what other chassis send to it is delivered. The port's place stays
where the guest still runs, so senders of this chassis go on to reach it there; and nothing is flooded to the waiting interface,
whose queue would hand it to the guest when it wakes.

A trunk's child is wired where its parent is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, Protocol, TypeVar

from dragonflow.model import LogicalPort, LogicalSwitch, OvsPort
from dragonflow.pipeline import DESTINATION, FROM_TUNNEL, SOURCE, Action, load, move
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


def interfaces(port: LogicalPort, world: World) -> Sequence[OvsPort]:
    """The port's interfaces on the integration bridge that have an OpenFlow port, the one to use first."""
    found = [it for it in world.where(OvsPort, iface_id=port.id) if it.ofport is not None and it.ofport > 0]
    return sorted(found, key=lambda it: (it.attached_mac != port.mac, it.ofport))


def qos_policy(port: LogicalPort, network: LogicalSwitch | None) -> str | None:
    """The QoS policy that holds for the port: its own, else its network's. What belongs to the network itself has none."""
    if port.device_owner.startswith("network:"):
        return None
    return port.qos or (None if network is None else network.qos)


def addresses(port: LogicalPort) -> tuple[str, ...]:
    """The addresses that the DF DB knows to be the port's: its fixed ones, and of a router's IPv6 interface its link-local one.

    By the latter hosts know the router that advertises itself to them (RFC 4861 §4.2).
    """
    ips = port.ips
    if port.router is not None and any(":" in ip for ip in ips) and (own := link_local(port.mac)) not in ips:
        return (*ips, own)
    return ips


@lru_cache(maxsize=4096)
def link_local(mac: str) -> str:
    """The link-local IPv6 address that follows from a MAC address (RFC 4291, appendix A). :raises ValueError: it is none."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    interface = bytes((*octets[:3], 0xFF, 0xFE, *octets[3:]))
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + interface))


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
