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
"""Key of the logical switch in which the packet is."""

SOURCE = Bits("reg6", 0, 32)
"""Key of the logical port from which the packet came."""

DESTINATION = Bits("reg7", 0, 32)
"""Key of the logical port to which the packet goes."""

FROM_TUNNEL = Bits("reg0", 0, 1)
"""1 where the packet came from another chassis: it is not sent out to a chassis again."""

SCRATCH = Bits("reg8", 0, 32)
"""Holds a value for a moment within one flow's actions; no table may count on it."""

LAYOUT: tuple[tuple[str, Bits], ...] = (
    ("NETWORK", NETWORK),
    ("SOURCE", SOURCE),
    ("DESTINATION", DESTINATION),
    ("FROM_TUNNEL", FROM_TUNNEL),
    ("SCRATCH", SCRATCH),
)
"""All named bits; ``check`` refuses overlaps."""
