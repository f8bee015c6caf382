"""Ask a switch for all that it has, in the form in which the ledger keeps it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence

import msgspec

from dragonflow.switch.openflow.connection import Connection, Disconnected, Refused
from dragonflow.switch.openflow.decode import (
    GroupBytes,
    MeterFigures,
    decode_flows,
    decode_groups,
    decode_meters,
)
from dragonflow.switch.openflow.messages import ask_flows, ask_groups, ask_meters


class Found(msgspec.Struct, frozen=True):
    """All flows (name → contents), groups and meters of a bridge; ``groups`` is None where they were not asked for."""

    flows: Mapping[bytes, bytes]
    groups: Sequence[GroupBytes] | None
    meters: Sequence[MeterFigures]


class GroupsUnreadable(Disconnected):
    """The connection went while groups were read.

    Open vSwitch describes a group of more than 64 KB of buckets (some 1,300 chassis in one flood group) in a message whose length
    wraps around, after which nothing it sends can be read: try again without asking for groups.
    """


async def read_back(connection: Connection, *, with_groups: bool = True) -> Found:
    """Read the bridge. Nobody may change it meanwhile, or what is found never was.

    :raises GroupsUnreadable: the connection went over the groups.
    :raises Disconnected: the connection went.
    :raises Refused: the switch won't tell.
    """
    flows: dict[bytes, bytes] = {}
    for body in await connection.request(ask_flows()):
        flows.update(decode_flows(body))
        await asyncio.sleep(0)  # a dump of 100,000 flows takes long enough to let others in between
    try:
        meters = [meter for body in await connection.request(ask_meters()) for meter in decode_meters(body)]
    except Refused:
        meters = []  # a data path without meters
    return Found(flows, await _groups(connection) if with_groups else None, meters)


async def _groups(connection: Connection) -> list[GroupBytes]:
    try:
        bodies = await connection.request(ask_groups())
        await connection.barrier()  # what follows a broken message shows that it was broken
        return [group for body in bodies for group in decode_groups(body)]
    except (Disconnected, struct.error) as error:
        raise GroupsUnreadable(str(error)) from error
