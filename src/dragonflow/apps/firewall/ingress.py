"""What a port may get. Packets pass here on their way from the look-up of their destination to its delivery.

What the switch and the controller themselves answer goes straight to ``delivery``, and so does what is for ports elsewhere: their
own chassis look at it.
"""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.apps.base import renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.firewall.filter import ALLOWED_FIELDS, ICMP_FIELDS, RULE_FIELDS, STATE_FIELDS, Filter
from dragonflow.controller.view import Me, View
from dragonflow.pipeline import DESTINATION, Fact, Stage, Table, match

_ARP = 0x0806


class Ingress(Filter):
    """Carries out the security groups of this chassis's ports on what they get."""

    name = "ingress"
    direction = "ingress"
    whose = DESTINATION
    neighbour_discovery = (130, 131, 132, 134, 135, 136, 143)
    dhcp = ((4, 67, 68), (6, 547, 546))
    remote = {4: "ipv4_src", 6: "ipv6_src"}  # noqa: RUF012 - the base class says what it is

    refused = Table(
        "ingress_refused",
        Stage.INGRESS,
        slot=4,
        purpose="Refused: mark a connection that was allowed once, so its other direction ends too.",
        matches=STATE_FIELDS,
    )
    allowed = Table(
        "ingress_allowed",
        Stage.INGRESS,
        slot=3,
        purpose="Allowed: remember a new connection.",
        matches=ALLOWED_FIELDS,
        next=(Delivery.delivery,),
        miss=Delivery.delivery,
    )
    rules = Table(
        "ingress_rules",
        Stage.INGRESS,
        slot=2,
        purpose="Find a rule that lets the port get the packet.",
        matches=(DESTINATION, *RULE_FIELDS, *remote.values()),
        next=(allowed, refused),
        miss=refused,
    )
    state = Table(
        "ingress_state",
        Stage.INGRESS,
        slot=1,
        purpose="Let pass what answers an allowed connection, or is an error about it.",
        matches=STATE_FIELDS,
        next=(allowed, rules, Delivery.delivery),
        miss=rules,
    )
    track = Table(
        "ingress",
        Stage.INGRESS,
        purpose="Find the packet's connection, as the port that gets it knows it.",
        matches=(DESTINATION, "eth_type", "ip_proto", "udp_src", "udp_dst", *ICMP_FIELDS),
        next=(state, rules, Delivery.delivery),
    )

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """Of what isn't IP, ARP and what the operator permits passes: ``guard`` has seen who sent it."""
        yield from super().host(me, view)
        for eth_type in (_ARP, *me.permitted_ethertypes):
            yield self.track.flow(30, match(eth_type=eth_type), goto=self.onward)
