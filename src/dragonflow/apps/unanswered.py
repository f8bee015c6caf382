"""Hosts on physical networks that don't answer: who sent them a packet is told (RFC 1812 §5.2.7.1, RFC 4443 §3.1 code 3).

The packet has been routed, and waited for its next hop's MAC in vain (``controller.neighbours``). Its sender may be a guest or,
through a router's interface or gateway, somebody outside; under a translation the sender shows only once that is undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address

from dragonflow.apps.chassis_snat import nobody_there
from dragonflow.apps.l3 import L3, came_from
from dragonflow.apps.snat import Snat, came_by
from dragonflow.controller.view import View
from dragonflow.model import FloatingIp, LogicalPort, LogicalRouter, LogicalSwitch
from dragonflow.packet import icmp, nat
from dragonflow.packet.errors import Malformed
from dragonflow.packet.icmp import Complaint
from dragonflow.pipeline import NETWORK, SOURCE, PacketOut, Punted, Resubmit, load
from dragonflow.pipeline.registers import ROUTER


def tell(punted: Punted, view: View) -> Iterator[PacketOut]:
    """Tell the sender of a packet, as it was when it was to leave for its next hop, that there is no such host."""
    received = icmp.read(punted.packet)
    if received is None:
        return
    if punted.read(ROUTER) == 0:  # it was tracked since
        yield from nobody_there(punted, received, view)
    router = next(iter(view.where(LogicalRouter, key=punted.read(ROUTER))), None)
    if router is None:
        return
    gateway = None if router.gateway is None else view.get(LogicalPort, router.gateway.port)
    sender = _sender(punted.read(SOURCE), router, gateway, view)
    if gateway is not None and (found := _under(str(received.source), gateway, sender, view)) is not None:
        yield from _translated(received, router, gateway, found, view)
    elif sender is None:
        return
    elif sender is gateway:
        yield from Snat().unforwarded(came_by(sender, punted, Complaint.NO_HOST), view)
    else:
        yield from L3().unforwarded(came_from(sender, punted, Complaint.NO_HOST), view)


def _sender(key: int, router: LogicalRouter, gateway: LogicalPort | None, view: View) -> LogicalPort | None:
    """The port from which it came: the router's own, or a guest of this chassis."""
    its = (view.get(LogicalPort, interface.port) for interface in router.interfaces)
    candidates = (gateway, *its, *view.where(LogicalPort, chassis=view.me.chassis))
    return next((it for it in candidates if it is not None and it.key == key), None)


def _under(
    source: str, gateway: LogicalPort, sender: LogicalPort | None, view: View
) -> LogicalPort | FloatingIp | None:
    """Whose address the packet's sender has by translation: the gateway's, or a floating IP's; None if it has its own."""
    if ":" not in source and source in gateway.ips:
        return gateway
    floating = () if sender is None else view.where(FloatingIp, fixed_port=sender.id)
    return next((it for it in floating if it.address == source), None)


def _translated(
    received: icmp.Received, router: LogicalRouter, gateway: LogicalPort, under: LogicalPort | FloatingIp, view: View
) -> Iterator[PacketOut]:
    """Under the gateway's address the error comes in as one of the connection, which leads to the guest."""
    own, outside = next((ip for ip in gateway.ips if ":" not in ip), None), view.get(LogicalSwitch, gateway.network)
    if own is None or outside is None:
        return
    told, here = icmp.complain(received, Complaint.NO_HOST, IPv4Address(own)), load(NETWORK, outside.key)
    if isinstance(under, LogicalPort):
        yield PacketOut(told, (here, Resubmit(L3.entry.number)))
    elif under.fixed_ip is not None:
        with suppress(Malformed):
            frame = nat.translate_inbound(told, IPv4Address(under.address), IPv4Address(under.fixed_ip))
            yield PacketOut(frame, (here, load(ROUTER, router.key), Resubmit(L3.local.number)))
