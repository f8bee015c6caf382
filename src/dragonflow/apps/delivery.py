"""The end of each packet's way: out to a port of this chassis, another chassis, or a physical network.

Every kind of destination has an app of its own, which lays its flows into these tables.
"""

from __future__ import annotations

from dragonflow.apps.base import App
from dragonflow.pipeline import DESTINATION, FROM_TUNNEL, NETWORK, SOURCE, Stage, Table
from dragonflow.pipeline.registers import LIMITED


class Delivery(App):
    """The tables; what is for nobody is dropped."""

    name = "delivery"

    outside = Table(
        "outside",
        Stage.DELIVERY,
        slot=1,
        purpose="Send the packet out to its physical network, with the network's tag. None leaves with a tag of its own.",
        matches=(NETWORK, "eth_src", "vlan_vid"),
    )
    delivery = Table(
        "delivery",
        Stage.DELIVERY,
        purpose="Send the packet to its destination: a port of this chassis, another chassis, or a physical network.",
        matches=(DESTINATION, FROM_TUNNEL, LIMITED, SOURCE, "in_port", "vlan_vid"),
        next=(outside,),
    )
