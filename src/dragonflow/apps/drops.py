"""What port security and security groups refuse: it ends here, and is told to the controller while somebody wants to see it.

::

    claims, guard, egress … ──► sent_refused        a port may not send it
    ingress …               ──► received_refused    a port may not get it

Here everything is dropped. While somebody follows (``Watched``), a port's packets are told before that: through a meter of the
port and its direction, so no port's flood hides another one's packets, and through one of the chassis, so all of them together
cost the controller little. A flow counts also what its meters keep back. Why it was refused, ``firewall.why`` reads from the
packet as it came here.

Cost: nothing while nobody follows; else of each port that is followed 2 flows and 2 meters, and 1 meter of all.
"""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.apps.base import App, renders
from dragonflow.apps.wiring import is_here, is_secured, wired
from dragonflow.controller.view import View
from dragonflow.model import EVERY_PORT, LogicalPort, Watched
from dragonflow.pipeline import (
    DESTINATION,
    SOURCE,
    ApplyMeter,
    Fact,
    Meter,
    PuntKind,
    Stage,
    Table,
    match,
    punt,
    punt_meter,
)

ALL = Meter(PuntKind.REFUSED_SENT << 16, rate=200, burst=400)
"""Bounds what the controller is told of all ports together. Its number is that of OpenFlow port 0, which no interface has."""


class Drops(App):
    """The end of what is refused."""

    name = "drops"

    sent = Table(
        "sent_refused",
        Stage.EGRESS,
        slot=7,
        purpose="Drop what a port may not send; tell of it first while somebody follows.",
        matches=(SOURCE,),
    )
    received = Table(
        "received_refused",
        Stage.INGRESS,
        slot=7,
        purpose="Drop what a port may not get; tell of it first while somebody follows.",
        matches=(DESTINATION,),
    )

    @renders(LogicalPort, only=is_here)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Tell of what is refused to a port, and from it, if somebody wants to see that."""
        if view.get(Watched, EVERY_PORT) is None and view.get(Watched, port.id) is None:
            return
        ofport = wired(port, view.me.chassis, view)
        if ofport is None or not is_secured(port):
            return
        yield ALL
        for table, whose, kind in (
            (self.sent, SOURCE, PuntKind.REFUSED_SENT),
            (self.received, DESTINATION, PuntKind.REFUSED_RECEIVED),
        ):
            yield punt_meter(kind, ofport)
            own, tell = punt(kind, ofport, port.id.encode())
            yield table.flow(10, match((whose, port.key)), own, ApplyMeter(ALL.id), tell)
