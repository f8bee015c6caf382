"""What a port may get. Packets pass here on their way from the look-up of their destination to its delivery.

What the switch and the controller themselves answer goes straight to ``delivery``, and so does what is for ports elsewhere: their
own chassis look at it.
"""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.apps.base import renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.drops import Drops
from dragonflow.apps.firewall.filter import ALLOWED_FIELDS, GOT, STATE_FIELDS, TRACK_FIELDS, Filter
from dragonflow.apps.firewall.rules import Rules
from dragonflow.controller.view import Me, View
from dragonflow.pipeline import DESTINATION, Fact, Stage, Table, match

_ARP = 0x0806


class Ingress(Filter):
    """Carries out the security groups of this chassis's ports on what they get."""

    name = "ingress"
    begins = GOT
    whose = DESTINATION
    neighbour_discovery = (130, 131, 132, 134, 135, 136, 143)
    dhcp = ((4, 67, 68), (6, 547, 546))

    passed = Table(
        "ingress_passed",
        Stage.INGRESS,
        slot=3,
        purpose="Drop what connection tracking gave up.",
        matches=("ct_state",),
        next=(Delivery.delivery,),
        miss=Drops.received,
    )
    allowed = Table(
        "ingress_allowed",
        Stage.INGRESS,
        slot=2,
        purpose="Drop what no rule allows; remember a new connection. Fragments wait for all of their packet.",
        matches=ALLOWED_FIELDS,
        next=(passed, Delivery.delivery),
        miss=Drops.received,
    )
    state = Table(
        "ingress_state",
        Stage.INGRESS,
        slot=1,
        purpose="Ask the rules by which the packet's connection began, or may begin.",
        matches=STATE_FIELDS,
        next=(allowed, Rules.sends, Rules.gets),
        miss=Drops.received,
    )
    track = Table(
        "ingress",
        Stage.INGRESS,
        purpose="Find the packet's connection, as the port that gets it knows it.",
        matches=(DESTINATION, *TRACK_FIELDS),
        next=(state, allowed, Delivery.delivery),
        miss=Drops.received,
    )

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """Of what isn't IP, ARP and what the operator permits passes: ``guard`` has seen who sent it."""
        yield from super().host(me, view)
        for eth_type in (_ARP, *me.permitted_ethertypes):
            yield self.track.flow(30, match(eth_type=eth_type), goto=self.onward)
