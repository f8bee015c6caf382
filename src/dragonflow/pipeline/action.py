"""What a flow does with a packet. Each action is a value; ``switch.openflow`` knows how it looks on the wire."""

from __future__ import annotations

from typing import Any

import msgspec

from dragonflow.pipeline.fields import FIELDS, Field, parse
from dragonflow.pipeline.registers import Bits

IN_PORT = 0xFFFFFFF8
"""The port from which the packet came (OFPP_IN_PORT); plain output to that port is dropped by the switch."""

CONTROLLER = 0xFFFFFFFD
"""Where packets come from that the controller makes (OFPP_CONTROLLER)."""


class Output(msgspec.Struct, frozen=True):
    """Send to an OpenFlow port."""

    port: int


class OutputTo(msgspec.Struct, frozen=True):
    """Run the group's buckets."""

    group: int


class SetField(msgspec.Struct, frozen=True):
    """Write a field, or the masked bits of it."""

    field: Field
    value: int
    mask: int | None = None


class Move(msgspec.Struct, frozen=True):
    """Copy ``width`` bits from one field to another (NXAST_REG_MOVE)."""

    source: Field
    source_offset: int
    target: Field
    target_offset: int
    width: int


class PushVlan(msgspec.Struct, frozen=True):
    """Add an outer 802.1Q tag; set ``vlan_vid`` (with bit 12, OFPVID_PRESENT) next."""

    ethertype: int = 0x8100


class PopVlan(msgspec.Struct, frozen=True):
    """Remove the outer 802.1Q tag."""


class Resubmit(msgspec.Struct, frozen=True):
    """Look the packet up in another table and come back (NXAST_RESUBMIT_TABLE); allowed in group buckets."""

    table: int


class ApplyMeter(msgspec.Struct, frozen=True):
    """Drop the packet if it exceeds the meter; the meter must be a fact of its own."""

    meter: int


class Punt(msgspec.Struct, frozen=True):
    """Send the packet as it is now to the controller, for the handler of this ``kind`` (one of ``punt.PuntKind``).

    ``data`` is what the handler should know, such as the id of the port. It is the flow's own word, not the packet's.
    """

    kind: int
    data: bytes = b""


class DecTtl(msgspec.Struct, frozen=True):
    """Take one from the TTL or hop limit. Tables before see to it that there is more than one left."""


class Spread(msgspec.Struct, frozen=True):
    """Write into ``target`` which of ``paths`` ways (0 … paths-1) a packet takes (NXAST_MULTIPATH, modulo_n).

    All packets of a TCP connection take the same, both ways, and so do all others between two addresses, fragments too (the hash
    is ``symmetric_l3l4``).
    """

    target: Bits
    paths: int


class CheckSize(msgspec.Struct, frozen=True):
    """Write into the bit ``target`` whether the frame is larger than ``most`` bytes (NXAST_CHECK_PKT_LARGER)."""

    most: int
    target: Bits


class Clone(msgspec.Struct, frozen=True):
    """Do these actions with a copy (NXAST_CLONE): if a meter in it drops the copy, what comes afterwards is still done.

    In a group that matters: the buckets are done one after the other with one packet.
    """

    actions: tuple[Action, ...]


class Translate(msgspec.Struct, frozen=True):
    """How ``Track`` translates a connection's IPv4 addresses (NXAST_NAT).

    A new connection's ``source`` or ``destination`` address becomes the given one. A new destination port comes from
    ``ports`` (first and last); without it ports stay, but for a source port that would clash. With neither address only
    connections that are translated already are, in both directions, with the ICMP errors that belong to them.

    The address must not be the one that the packet has: Open vSwitch 3.1 in user space ends itself when a TCP connection under
    such a translation is made again right after its close (lib/conntrack.c:1063).
    """

    source: str | None = None
    destination: str | None = None
    ports: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.source is not None and self.destination is not None:
            raise ValueError("a connection is translated by its source or by its destination")
        if self.ports is not None and self.destination is None:
            raise ValueError("ports are those of a new destination")


class Track(msgspec.Struct, frozen=True):
    """Find the packet's connection in ``zone`` (1 … 65535) and go on in table number ``table`` (NXAST_CT); None: go on as it is.

    The zone may stand in named bits (16 of them). With ``commit`` a connection that isn't known begins; ``mark`` is written into
    it then (``ct_mark``), known or not. With ``force`` one that is known, but began on the other side, is forgotten first.
    ``helper`` is the port of a protocol whose connections announce others, which are related to them then: 21 (FTP) or 69
    (TFTP).
    """

    zone: int | Bits
    table: int | None
    commit: bool = False
    force: bool = False
    translate: Translate | None = None
    mark: int | None = None
    helper: int | None = None

    def __post_init__(self) -> None:
        if not self.commit and (self.force or self.mark is not None or self.helper is not None):
            raise ValueError("a connection is forced, is marked and gets a helper where it is committed")
        if self.translate is not None and (self.mark is not None or isinstance(self.zone, Bits)):
            raise ValueError("where connections are translated the zone is a number, and none is marked")


class Untrack(msgspec.Struct, frozen=True):
    """Forget which connection the packet belonged to, before it is looked for anew (NXAST_CT_CLEAR)."""


Action = (
    Output
    | OutputTo
    | SetField
    | Move
    | PushVlan
    | PopVlan
    | Resubmit
    | ApplyMeter
    | DecTtl
    | Spread
    | CheckSize
    | Punt
    | Clone
    | Track
    | Untrack
)


def set_field(**fields: Any) -> tuple[SetField, ...]:
    """``set_field(eth_src="fa:…", arp_op=2)``: one action a field, in the order given."""
    actions = []
    for name, given in fields.items():
        value, mask = parse(name, given)
        actions.append(SetField(FIELDS[name], value, None if mask == FIELDS[name].full else mask))
    return tuple(actions)


def load(bits: Bits, value: int) -> SetField:
    """Write a value into named bits and leave the others."""
    field = FIELDS[bits.field]
    return SetField(field, bits.place(value), None if bits.mask == field.full else bits.mask)


def move(source: str, target: str) -> Move:
    """Copy a whole field into another of the same width."""
    width = FIELDS[source].bits
    if width != FIELDS[target].bits:
        raise ValueError(f"{source} has {width} bits, {target} has {FIELDS[target].bits}")
    return Move(FIELDS[source], 0, FIELDS[target], 0, width)


FORGET_PORT = SetField(FIELDS["nxm_in_port"], 0xFFFF)
"""From here on the packet counts as come in by no port (OFPP_NONE), so it may also go out where it came in."""
