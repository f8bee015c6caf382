"""What a port may send. Packets pass here when ``guard`` has found that they are under the port's own addresses."""

from __future__ import annotations

from dragonflow.apps.drops import Drops
from dragonflow.apps.firewall.filter import ALLOWED_FIELDS, SENT, STATE_FIELDS, TRACK_FIELDS, Filter
from dragonflow.apps.firewall.rules import Rules
from dragonflow.apps.qos import Qos
from dragonflow.pipeline import SOURCE, Stage, Table


class Egress(Filter):
    """Carries out the security groups of this chassis's ports on what they send."""

    name = "egress"
    begins = SENT
    whose = SOURCE
    neighbour_discovery = (130, 131, 132, 133, 135, 136, 143)
    dhcp = ((4, 68, 67), (6, 546, 547))

    passed = Table(
        "egress_passed",
        Stage.EGRESS,
        slot=5,
        purpose="Drop what connection tracking gave up.",
        matches=("ct_state",),
        next=(Qos.sent,),
        miss=Drops.sent,
    )
    allowed = Table(
        "egress_allowed",
        Stage.EGRESS,
        slot=4,
        purpose="Drop what no rule allows; remember a new connection. Fragments wait for all of their packet.",
        matches=ALLOWED_FIELDS,
        next=(passed, Qos.sent),
        miss=Drops.sent,
    )
    state = Table(
        "egress_state",
        Stage.EGRESS,
        slot=3,
        purpose="Ask the rules by which the packet's connection began, or may begin.",
        matches=STATE_FIELDS,
        next=(allowed, Rules.sends, Rules.gets),
        miss=Drops.sent,
    )
    track = Table(
        "egress",
        Stage.EGRESS,
        slot=2,
        purpose="Find the packet's connection, as the port that sends it knows it.",
        matches=(SOURCE, *TRACK_FIELDS),
        next=(state, allowed, Qos.sent),
        miss=Drops.sent,
    )
