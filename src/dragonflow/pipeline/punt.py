"""Packets that flows punt to the controller, and packets that it sends: what the apps' handlers take and give.

A punted packet is answered from the replica, off the data path. Without a controller it is lost, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import msgspec

from dragonflow.pipeline.action import CONTROLLER, Action
from dragonflow.pipeline.facts import Meter
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
    ADDRESS_HELD = 48
    REFUSED_SENT = 56
    REFUSED_RECEIVED = 57
    SHARED_ERROR_IN = 64
    SHARED_ERROR_OUT = 65
    SHARED_UNFORWARDED = 66


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


def punt_meter(kind: PuntKind, ofport: int, rate: int, burst: int) -> Meter:
    """The meter for what a port of this chassis has punted; each kind and OpenFlow port (16 bits) has its own.

    Put ``ApplyMeter(meter.id)`` before the flow's ``Punt``, so that no port's flood takes the controller's time from the others.
    """
    return Meter(kind << 16 | ofport, rate, burst)
