"""The names of the bits in which tables hand things to each other. Apps know bits by these names only."""

from __future__ import annotations

import msgspec


class Bits(msgspec.Struct, frozen=True):
    """``width`` bits of an OpenFlow field, from bit ``offset`` (0 is the lowest)."""

    field: str
    offset: int
    width: int

    def __post_init__(self) -> None:
        if self.offset < 0 or self.width < 1:
            raise ValueError(f"{self.field}[{self.offset}:{self.width}]: bits must be a range within the field")

    @property
    def mask(self) -> int:
        """The bits as a mask over the whole field."""
        return ((1 << self.width) - 1) << self.offset

    def place(self, value: int) -> int:
        """``value`` shifted to where the bits lie. :raises ValueError: it doesn't fit."""
        if value < 0 or value >> self.width:
            raise ValueError(f"{value} doesn't fit into {self.width} bits of {self.field}")
        return value << self.offset


NETWORK = Bits("metadata", 0, 24)
SOURCE = Bits("reg6", 0, 32)
DESTINATION = Bits("reg7", 0, 32)
FROM_TUNNEL = Bits("reg0", 0, 1)
SCRATCH = Bits("reg8", 0, 32)

LAYOUT: tuple[tuple[str, Bits, str], ...] = (
    ("NETWORK", NETWORK, "key of the logical switch in which the packet is"),
    ("SOURCE", SOURCE, "key of the logical port from which it came; 0 if from another chassis"),
    ("DESTINATION", DESTINATION, "key of the logical port to which it goes"),
    ("FROM_TUNNEL", FROM_TUNNEL, "1 if it came from another chassis; it isn't sent to a chassis again"),
    ("SCRATCH", SCRATCH, "holds a value for a moment within one flow's actions; no table may count on it"),
)
"""All named bits and what they mean; ``check`` refuses overlaps."""
