"""What a port may send. Packets pass here when ``guard`` has found that they are under the port's own addresses."""

from __future__ import annotations

from dragonflow.apps.drops import Drops
from dragonflow.apps.firewall.filter import SENT, Filter, chain
from dragonflow.apps.qos import Qos
from dragonflow.pipeline import SOURCE, Stage


class Egress(Filter):
    """Carries out the security groups of this chassis's ports on what they send."""

    name = "egress"
    begins = SENT
    whose = SOURCE
    neighbour_discovery = (130, 131, 132, 133, 135, 136, 143)
    dhcp = ((4, 68, 67), (6, 546, 547))

    track, state, allowed, passed = chain(
        name,
        Stage.EGRESS,
        first=2,
        whose=whose,
        who="the port that sends it",
        onward=Qos.sent,
        refused=Drops.sent,
    )
