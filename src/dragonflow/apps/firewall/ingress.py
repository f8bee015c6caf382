"""What a port may get. Packets pass here on their way from the look-up of their destination to its delivery.

What the switch and the controller themselves answer goes straight to ``delivery``.
"""

from __future__ import annotations

from dragonflow.apps.delivery import Delivery
from dragonflow.apps.firewall.filter import ICMP_FIELDS, RULE_FIELDS, STATE_FIELDS, Filter
from dragonflow.pipeline import DESTINATION, Stage, Table


class Ingress(Filter):
    """Carries out the security groups of this chassis's ports on what they get."""

    name = "ingress"
    direction = "ingress"
    whose = DESTINATION
    remote = {4: "ipv4_src", 6: "ipv6_src"}  # noqa: RUF012 - the base class says what it is

    refused = Table(
        "ingress_refused",
        Stage.INGRESS,
        slot=4,
        purpose="Refused: mark a connection that was allowed once, so its other direction ends too.",
        matches=(DESTINATION, *STATE_FIELDS),
    )
    allowed = Table(
        "ingress_allowed",
        Stage.INGRESS,
        slot=3,
        purpose="Allowed: remember a new connection.",
        matches=(DESTINATION, *STATE_FIELDS),
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
        next=(allowed, rules),
        miss=rules,
    )
    track = Table(
        "ingress",
        Stage.INGRESS,
        purpose="Find the packet's connection, as the port that gets it knows it.",
        matches=(DESTINATION, "eth_type", "ip_proto", *ICMP_FIELDS),
        next=(state, rules, Delivery.delivery),
        miss=Delivery.delivery,
    )
