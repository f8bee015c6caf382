"""What a port may send. Packets pass here when ``guard`` has found that they are under the port's own addresses."""

from __future__ import annotations

from dragonflow.apps.firewall.filter import ALLOWED_FIELDS, ICMP_FIELDS, RULE_FIELDS, STATE_FIELDS, Filter
from dragonflow.apps.qos import Qos
from dragonflow.pipeline import SOURCE, Stage, Table


class Egress(Filter):
    """Carries out the security groups of this chassis's ports on what they send."""

    name = "egress"
    direction = "egress"
    whose = SOURCE
    neighbour_discovery = (130, 131, 132, 133, 135, 136, 143)
    dhcp = ((4, 68, 67), (6, 546, 547))
    remote = {4: "ipv4_dst", 6: "ipv6_dst"}  # noqa: RUF012 - the base class says what it is

    refused = Table(
        "egress_refused",
        Stage.EGRESS,
        slot=6,
        purpose="Refused: mark a connection that was allowed once, so its other direction ends too.",
        matches=STATE_FIELDS,
    )
    allowed = Table(
        "egress_allowed",
        Stage.EGRESS,
        slot=5,
        purpose="Allowed: remember a new connection.",
        matches=ALLOWED_FIELDS,
        next=(Qos.sent,),
        miss=Qos.sent,
    )
    rules = Table(
        "egress_rules",
        Stage.EGRESS,
        slot=4,
        purpose="Find a rule that lets the port send the packet.",
        matches=(SOURCE, *RULE_FIELDS, *remote.values()),
        next=(allowed, refused),
        miss=refused,
    )
    state = Table(
        "egress_state",
        Stage.EGRESS,
        slot=3,
        purpose="Let pass what answers an allowed connection, or is an error about it.",
        matches=STATE_FIELDS,
        next=(allowed, rules, Qos.sent),
        miss=rules,
    )
    track = Table(
        "egress",
        Stage.EGRESS,
        slot=2,
        purpose="Find the packet's connection, as the port that sends it knows it.",
        matches=(SOURCE, "eth_type", "ip_proto", "udp_src", "udp_dst", *ICMP_FIELDS),
        next=(state, rules, Qos.sent),
    )
