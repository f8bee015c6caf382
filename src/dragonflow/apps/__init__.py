"""The features, in the order in which they render: those that place ports stand before those that read places."""

from dragonflow.apps.advertisement import Advertisement
from dragonflow.apps.base import App
from dragonflow.apps.bfd import Bfd
from dragonflow.apps.chassis_snat import ChassisSnat
from dragonflow.apps.classification import Classification
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.dhcp import Dhcp
from dragonflow.apps.dnat import Dnat
from dragonflow.apps.door import Door
from dragonflow.apps.drops import Drops
from dragonflow.apps.external import External
from dragonflow.apps.firewall.egress import Egress
from dragonflow.apps.firewall.guard import Guard
from dragonflow.apps.firewall.ingress import Ingress
from dragonflow.apps.firewall.rules import Rules
from dragonflow.apps.l2 import L2
from dragonflow.apps.l3 import L3
from dragonflow.apps.metadata import Metadata
from dragonflow.apps.provider import Provider
from dragonflow.apps.punts import Punts
from dragonflow.apps.qos import Qos
from dragonflow.apps.regions import Regions
from dragonflow.apps.resolution import Resolution
from dragonflow.apps.shared import Shared
from dragonflow.apps.snat import Snat
from dragonflow.apps.trunk import Trunk
from dragonflow.apps.tunnel import Tunnel
from dragonflow.pipeline.check import check

APPS: tuple[App, ...] = (
    Classification(),
    Trunk(),
    Tunnel(),
    Regions(),
    Bfd(),
    Provider(),
    Dnat(),
    Snat(),
    ChassisSnat(),
    Dhcp(),
    Metadata(),
    L3(),
    Advertisement(),
    Resolution(),
    Shared(),
    External(),
    Door(),
    L2(),
    Delivery(),
    Qos(),
    Ingress(),
    Egress(),
    Guard(),
    Rules(),
    Drops(),
    Punts(),
)
check(APPS)

__all__ = ["APPS", "App"]
