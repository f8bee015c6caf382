"""Conntrack zones of a chassis's ports. A zone is a number of 16 bits; ``apps.zones`` says whose the others are."""

from __future__ import annotations

import msgspec

NUMBERS = 0x6000, 0xFEFF
"""The zones that ports may have."""


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """The conntrack zone of port ``id``, which is bound to this chassis or prepared there: no other port has it."""

    id: str
    number: int
