"""Packets as bytes: what apps read of guests' packets and what they answer. Pure functions, no I/O, nothing of the pipeline.

Whatever a reader is given, it returns a value or raises ``Malformed``.
"""

from dragonflow.packet.errors import Malformed

__all__ = ["Malformed"]
