"""External networks: who is there besides our ports, and what comes from there for routers.

::

    physical ──► external ──┬► l2_lookup
                            ├► router            packets to a floating IP that is here
                            └► controller        what neighbours say of their MACs

Of whom a router meets there, above all the subnet's gateway, the DF DB knows nothing. The controller asks by ARP in the name of
who wants to send, and keeps what is answered as ``Neighbour`` (``controller.neighbours``); flows follow from that as from rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.apps.base import App, renders
from dragonflow.apps.l2 import L2
from dragonflow.apps.l3 import L3, is_next
from dragonflow.apps.wiring import physical_ofport
from dragonflow.controller.view import View
from dragonflow.model import LogicalSwitch, Neighbour
from dragonflow.pipeline import (
    NETWORK,
    ApplyMeter,
    Fact,
    Meter,
    Punt,
    PuntKind,
    Stage,
    Table,
    match,
    punt_meter,
    set_field,
)

LEARNT = 8
"""Priority of neighbours that were asked for: who is in the DF DB comes before."""

_RATE, _BURST = 20, 40
"""Answers and announcements a second, and at once, that are listened to of each physical network."""


class External(App):
    """Leads to neighbours in external networks."""

    name = "external"

    arrival = Table(
        "external",
        Stage.CLASSIFICATION,
        slot=4,
        purpose="Pick out of what comes from a physical network: what is for floating IPs that are here, and news of neighbours.",
        matches=(NETWORK, "eth_dst", "eth_type", "arp_op", "arp_spa", "arp_tpa"),
        next=(L3.entry, L2.outside),
        miss=L2.lookup,
    )

    @renders(Neighbour)
    def neighbour(self, neighbour: Neighbour, view: View) -> Iterator[Fact]:
        """The way to it, and an ear for it when it moves to another MAC."""
        network = view.get(LogicalSwitch, neighbour.network)
        if network is None or not network.admin_up:
            return
        ofport = physical_ofport(network, view.me.bridge_mappings, view)
        if ofport is None:
            return
        found = is_next(network.key, neighbour.address)
        yield L3.neighbours.flow(LEARNT, found, *set_field(eth_dst=neighbour.mac), goto=L2.outside)
        meter = heard_meter(ofport)
        yield meter
        announces = {"eth_type": 0x0806, "arp_spa": neighbour.address, "arp_tpa": neighbour.address}
        heard = Punt(PuntKind.NEIGHBOUR_HEARD, network.id.encode())
        yield self.arrival.flow(
            20, match((NETWORK, network.key), **announces), ApplyMeter(meter.id), heard, goto=L2.lookup
        )


def heard_meter(ofport: int) -> Meter:
    """For what the controller hears from a physical network, by the OpenFlow port that leads there."""
    return punt_meter(PuntKind.NEIGHBOUR_HEARD, ofport, _RATE, _BURST)
