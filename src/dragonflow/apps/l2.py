"""Forwarding within a network: unicast by destination MAC, the rest by groups, and delivery to the ports of this chassis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dragonflow.apps.base import App, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.firewall.ingress import Ingress
from dragonflow.apps.wiring import floats_here, standby_ofport
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort, LogicalSwitch
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    NETWORK,
    Action,
    Bits,
    Bucket,
    Fact,
    Group,
    Local,
    Output,
    OutputTo,
    Resubmit,
    Stage,
    Table,
    load,
    match,
)
from dragonflow.pipeline.groups import GroupKind, group_id

_OWN, _PAIR, _MULTICAST, _UNKNOWN = 40, 30, 20, 10

_MULTICAST_BIT = "01:00:00:00:00:00/01:00:00:00:00:00"


class L2(App):
    """Switch within networks.

    A packet is never sent back to its sender: Open vSwitch drops plain output to the port from which it came. (To ports that
    share an interface the app ``trunk`` delivers, and sees to that itself.) One that came from outside (another chassis, a
    physical network) never leaves again, because the groups with ``HERE`` in their name hold local ports alone.

    Unicast to a MAC of nobody goes only to ports that may have any MAC (port security off); for ports with port security, the
    DF DB knows all. A MAC of an allowed address pair may move at any time without notice, so it is flooded.
    """

    name = "l2"

    lookup = Table(
        "l2_lookup",
        Stage.SWITCHING,
        purpose="Find the destination port by MAC; flood what is for many.",
        matches=(NETWORK, FROM_TUNNEL, "eth_dst"),
        next=(Ingress.track, Delivery.delivery),
    )

    @renders(LogicalSwitch)
    def network(self, network: LogicalSwitch, view: View) -> Iterator[Fact]:
        """The flood groups, which the ports fill with buckets, and the flows that lead there."""
        if not network.admin_up:
            return
        for priority, fields, anywhere, here in (
            (_MULTICAST, {"eth_dst": _MULTICAST_BIT}, GroupKind.FLOOD, GroupKind.FLOOD_HERE),
            (_UNKNOWN, {}, GroupKind.UNKNOWN, GroupKind.UNKNOWN_HERE),
        ):
            yield from self._flood(priority, fields, network, anywhere, here)
            yield Group(group_id(anywhere, network.key))
            yield Group(group_id(here, network.key))

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The way to the port, wherever it is, and if it is here its share in the flood groups.

        To a port that is only prepared here, packets from other chassis are delivered: their senders know already that it moved.
        """
        where, network = view.locality(port.id), view.get(LogicalSwitch, port.network)
        standby = standby_ofport(port, view.me.chassis, view)
        if network is None or (where is None and standby is None) or floats_here(port, where):
            return
        yield from self._lookup(port, network, isinstance(where, Local), standby is not None)
        for mac in sorted({pair.mac for pair in port.address_pairs if pair.mac and pair.mac != port.mac}):
            yield from self._flood(_PAIR, {"eth_dst": mac}, network, GroupKind.FLOOD, GroupKind.FLOOD_HERE)
        if standby is not None and not port.trunked:
            yield Delivery.delivery.flow(10, match((DESTINATION, port.key), (FROM_TUNNEL, 1)), Output(standby))
        if not isinstance(where, Local):
            return
        if not port.trunked:
            yield Delivery.delivery.flow(10, match((DESTINATION, port.key)), Output(where.ofport))
        for kind in GroupKind:
            if port.port_security and kind in (GroupKind.UNKNOWN, GroupKind.UNKNOWN_HERE):
                continue
            yield Bucket(
                group_id(kind, network.key), port.key, (load(DESTINATION, port.key), Resubmit(Ingress.track.number))
            )

    def _lookup(self, port: LogicalPort, network: LogicalSwitch, here: bool, prepared: bool) -> Iterator[Fact]:
        """To where the port's security groups are asked, or straight on to the chassis where they will be."""
        which = ((None, here),) if not prepared else ((0, False), (1, True))
        for from_tunnel, asked in which:
            bits = () if from_tunnel is None else ((FROM_TUNNEL, from_tunnel),)
            found = match((NETWORK, network.key), *bits, eth_dst=port.mac)
            goto = Ingress.track if asked else Delivery.delivery
            yield self.lookup.flow(_OWN, found, load(DESTINATION, port.key), goto=goto)

    def _flood(
        self, priority: int, fields: dict[str, Any], network: LogicalSwitch, anywhere: GroupKind, here: GroupKind
    ) -> Iterator[Fact]:
        """Flows to a pair of groups: one for packets from here, one for those from outside."""
        for from_tunnel, kind in ((0, anywhere), (1, here)):
            bits: tuple[tuple[Bits, int], ...] = ((NETWORK, network.key), (FROM_TUNNEL, from_tunnel))
            yield self.lookup.flow(priority, match(*bits, **fields), OutputTo(group_id(kind, network.key)))


def to_port(port: LogicalPort) -> tuple[Action, ...]:
    """What the controller does with a frame that it has made for a port of this chassis."""
    return load(DESTINATION, port.key), Resubmit(Delivery.delivery.number)
