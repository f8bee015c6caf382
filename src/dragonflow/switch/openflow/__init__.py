"""OpenFlow 1.5 as far as Dragonflow speaks it: our own codec and connection, because flow programming speed is what counts.

``encode`` and ``decode`` are exact inverses with Open vSwitch in between; ``messages`` are what changes or asks a switch.
"""

from dragonflow.switch.openflow.connection import Connection, Disconnected, Refused
from dragonflow.switch.openflow.errors import OpenFlowError

__all__ = ["Connection", "Disconnected", "OpenFlowError", "Refused"]
