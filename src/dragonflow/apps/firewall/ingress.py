"""What a port may get. Packets pass here on their way from the look-up of their destination to its delivery.

What the switch and the controller themselves answer goes straight to ``delivery``, and so does what is for ports elsewhere: their
own chassis look at it.
"""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.apps.base import renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.drops import Drops
from dragonflow.apps.firewall.filter import GOT, Filter, chain
from dragonflow.controller.view import Me, View
from dragonflow.pipeline import DESTINATION, Fact, Stage, match

_ARP = 0x0806


class Ingress(Filter):
    """Carries out the security groups of this chassis's ports on what they get."""

    name = "ingress"
    begins = GOT
    whose = DESTINATION
    neighbour_discovery = (130, 131, 132, 134, 135, 136, 143)
    dhcp = ((4, 67, 68), (6, 547, 546))

    track, state, allowed, passed = chain(
        name,
        Stage.INGRESS,
        first=0,
        whose=whose,
        who="the port that gets it",
        onward=Delivery.delivery,
        refused=Drops.received,
    )

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """Of what isn't IP, ARP and what the operator permits passes: ``guard`` has seen who sent it."""
        yield from super().host(me, view)
        for eth_type in (_ARP, *me.permitted_ethertypes):
            yield self.track.flow(30, match(eth_type=eth_type), goto=self.onward)
