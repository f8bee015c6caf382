"""Facts → Open vSwitch. ``Switch`` is the door; the rest is how it works:

want ──> ledger (wanted - installed) ──> bundle ──> openflow ──> br-int
            ^                                           │
            └────────────── readback <──────────────────┘
tunnel ports ──> ovsdb ──> on_ports
"""

from dragonflow.switch.bundle import Synced
from dragonflow.switch.ledger import Clash, Degraded, cookie
from dragonflow.switch.openflow import Disconnected
from dragonflow.switch.switch import Switch

__all__ = ["Clash", "Degraded", "Disconnected", "Switch", "Synced", "cookie"]
