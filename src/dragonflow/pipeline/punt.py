"""Packets that flows punt to the controller, and packets that it sends: what the apps' handlers take and give.

A punted packet is answered from the replica, off the data path. Without a controller it is lost, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import msgspec

from dragonflow.pipeline.action import CONTROLLER, Action, ApplyMeter, Punt
from dragonflow.pipeline.facts import ALL_PUNTED, Meter
from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.pipeline.registers import Bits


class PuntKind(IntEnum):
    """What a packet is punted for, so which handler answers it (at most 255 kinds)."""

    DHCPV4 = 1
    UNFORWARDED = 16
    ROUTER_SOLICITATION = 17
    DHCPV6 = 2
    FLOATING_ERROR_IN = 32
    FLOATING_ERROR_OUT = 33
    FLOATING_UNFORWARDED = 36
    NEIGHBOUR_WANTED = 34
    NEIGHBOUR_HEARD = 35
    GATEWAY_UNFORWARDED = 37
    NEIGHBOUR_KEPT = 38
    ADDRESS_HELD = 48
    REFUSED_SENT = 56
    REFUSED_RECEIVED = 57
    SHARED_ERROR_IN = 64
    SHARED_ERROR_OUT = 65
    SHARED_UNFORWARDED = 66


class Limit(NamedTuple):
    """``rate`` packets a second, after a burst of ``burst``; ``by`` says who makes the switch punt them, and why."""

    rate: int
    burst: int
    by: str


LIMITS: Mapping[PuntKind, Limit] = {
    PuntKind.DHCPV4: Limit(10, 20, "a guest asks for its address; clients need four packets for one"),
    PuntKind.DHCPV6: Limit(10, 20, "the same in IPv6"),
    PuntKind.ROUTER_SOLICITATION: Limit(1, 4, "a guest, or a machine outside, asks for its routers"),
    PuntKind.UNFORWARDED: Limit(
        20, 40, "a guest, or a machine outside, sends what can't be routed (RFC 1812 §4.3.2.8)"
    ),
    PuntKind.FLOATING_ERROR_IN: Limit(100, 200, "somebody outside complains of what a floating IP's guest has sent"),
    PuntKind.FLOATING_ERROR_OUT: Limit(100, 200, "a guest with a floating IP complains of what has come in"),
    PuntKind.FLOATING_UNFORWARDED: Limit(20, 40, "somebody outside sends a floating IP what can't be forwarded"),
    PuntKind.NEIGHBOUR_WANTED: Limit(20, 40, "a guest's packet goes to a machine outside whose MAC nobody knows"),
    PuntKind.NEIGHBOUR_HEARD: Limit(50, 100, "a machine outside answers a question, or says that it does"),
    PuntKind.NEIGHBOUR_KEPT: Limit(50, 100, "a known neighbour outside answers, or announces itself"),
    PuntKind.GATEWAY_UNFORWARDED: Limit(20, 40, "somebody outside sends a router's gateway what can't be forwarded"),
    PuntKind.ADDRESS_HELD: Limit(50, 100, "a guest with allowed address pairs says that it has one of these addresses"),
    PuntKind.REFUSED_SENT: Limit(10, 20, "a port sends what it may not, while somebody follows that"),
    PuntKind.REFUSED_RECEIVED: Limit(10, 20, "a port is sent what it may not get, while somebody follows that"),
    PuntKind.SHARED_ERROR_IN: Limit(100, 200, "somebody outside complains of what has left under a chassis's address"),
    PuntKind.SHARED_ERROR_OUT: Limit(100, 200, "a guest complains of what has come in under a chassis's address"),
    PuntKind.SHARED_UNFORWARDED: Limit(20, 40, "what comes back under a chassis's address can't be forwarded"),
}
"""How much of each kind one OpenFlow port may have punted: that of the guest whom it concerns, else the way outside.

A guest with nothing but addresses has five of them, together 61 packets a second.
"""

ALL = Meter(ALL_PUNTED, 1000, 1000)
"""Bounds what all ports of a chassis have punted, without a flow that names it; only the controller's copy is dropped. An answer
takes some 0.2 ms."""


class Punted(msgspec.Struct, frozen=True):
    """A packet as it was when a flow punted it.

    ``kind`` and ``data`` are those of the flow's ``Punt``; ``packet`` is the whole Ethernet frame, which nobody has checked yet;
    ``in_port`` is the OpenFlow port from which it came; ``fields`` are the pipeline's fields that were not zero.
    """

    kind: int
    data: bytes
    packet: bytes
    in_port: int
    fields: Mapping[Field, int]

    def read(self, bits: Bits) -> int:
        """The value that the named bits had."""
        return (self.fields.get(FIELDS[bits.field], 0) & bits.mask) >> bits.offset


class PacketOut(msgspec.Struct, frozen=True):
    """A frame to send: the switch does the actions with it as if it had come in at ``in_port``.

    ``Output(port)`` sends it there at once; ``load(…)`` and ``Resubmit(table.number)`` send it through the pipeline from there.
    """

    packet: bytes
    actions: Sequence[Action]
    in_port: int = CONTROLLER


def punt_meter(kind: PuntKind, ofport: int) -> Meter:
    """The meter for what a port of this chassis has punted; each kind and OpenFlow port (16 bits) has its own.

    It must be a fact of its own wherever a flow does what ``punt`` says.
    """
    limit = LIMITS[kind]
    return Meter(kind << 16 | ofport, limit.rate, limit.burst)


def punt(kind: PuntKind, ofport: int, data: bytes) -> tuple[Action, ...]:
    """Send the packet to the controller as far as the port's meter lets, so that no port's flood takes others' time from them.

    What exceeds the meter is dropped, with all that comes after: where a packet goes on, this is done with a ``Clone``.
    """
    return ApplyMeter(punt_meter(kind, ofport).id), Punt(kind, data)
