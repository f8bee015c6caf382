"""What a switch still knows of neighbours in external networks: in its flows a controller that ends leaves what it learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from dragonflow.apps.external import LEARNT
from dragonflow.apps.l3 import L3
from dragonflow.pipeline import NETWORK, set_field
from dragonflow.pipeline.fields import FIELDS
from dragonflow.pipeline.registers import NEXT_HOP
from dragonflow.switch.openflow.encode import encode_actions, table_and_priority
from dragonflow.switch.packet_in import Unreadable, read_fields

_MATCH = 28
"""Where the fields of the match begin in a flow's name."""

_MAC = 6
_SET_MAC = encode_actions(set_field(eth_dst=0))[: 4 + 4]
"""How an action begins that writes the receiver's MAC: the head of the action and that of the field."""


class Recalled(NamedTuple):
    """A neighbour: the key of its network, its address and MAC."""

    network: int
    address: IPv4Address
    mac: bytes


def recall(flows: Mapping[bytes, bytes]) -> Iterator[Recalled]:
    """The neighbours to which flows (name → contents, as read back) lead that ``apps.external`` has made."""
    for name, contents in flows.items():
        if table_and_priority(name) != (L3.neighbours.number, LEARNT):
            continue
        length = int.from_bytes(name[_MATCH - 2 : _MATCH], "big") - 4
        try:
            fields = dict(read_fields(name[_MATCH : _MATCH + length]))
            network, address = fields[FIELDS[NETWORK.field]], fields[FIELDS[NEXT_HOP[0].field]]
        except (Unreadable, KeyError):
            continue
        at = contents.find(_SET_MAC)
        if at >= 0:
            start = at + len(_SET_MAC)
            yield Recalled(network, IPv4Address(address), contents[start : start + _MAC])
