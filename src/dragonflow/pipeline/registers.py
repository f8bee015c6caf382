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
TOO_BIG = Bits("reg0", 1, 1)
LIMITED = Bits("reg0", 2, 1)
ALLOWED = Bits("reg0", 3, 1)
SCRATCH = Bits("reg8", 0, 32)
ROUTER = Bits("reg1", 0, 24)
PATH = Bits("reg2", 0, 16)
ZONE = Bits("reg3", 0, 16)
WHOSE = Bits("reg4", 0, 32)
NEXT_HOP = tuple(Bits(f"reg{number}", 0, 32) for number in range(12, 16))
NEXT_HOP_IPV6 = "xxreg3"
"""The field that all words of ``NEXT_HOP`` make up."""

LAYOUT: tuple[tuple[str, Bits, str], ...] = (
    ("NETWORK", NETWORK, "key of the logical switch in which the packet is"),
    ("SOURCE", SOURCE, "key of the logical port from which it came; 0 if from outside"),
    ("DESTINATION", DESTINATION, "key of the logical port to which it goes"),
    ("FROM_TUNNEL", FROM_TUNNEL, "1 if it came from another chassis or a physical network; it isn't sent out again"),
    ("TOO_BIG", TOO_BIG, "1 if the packet is larger than the network carries into which it was routed"),
    ("LIMITED", LIMITED, "1 if the destination's bandwidth limit has been applied"),
    ("ALLOWED", ALLOWED, "1 if a rule of the security groups that are asked allows the packet's connection"),
    ("ROUTER", ROUTER, "key of the logical router that forwards the packet now"),
    ("PATH", PATH, "which of several next hops of equal cost the packet takes, from 0 on"),
    ("ZONE", ZONE, "conntrack zone of the port whose security groups are asked"),
    ("WHOSE", WHOSE, "key of the logical port whose security groups are asked"),
    *(
        (f"NEXT_HOP_{number}", word, f"word {number} of the address to which the packet goes next" + first)
        for number, (word, first) in enumerate(
            zip(NEXT_HOP, ("; of IPv4 there is only this one", "", "", ""), strict=True)
        )
    ),
    ("SCRATCH", SCRATCH, "holds a value for a moment within one flow's actions; no table may count on it"),
)
"""All named bits and what they mean; ``check`` refuses overlaps."""
