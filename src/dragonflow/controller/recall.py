"""What a switch still knows of neighbours in external networks: in its flows a controller that ends leaves what it learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from dragonflow.apps.external import LEARNT, next_hop
from dragonflow.apps.l3 import L3
from dragonflow.pipeline import NETWORK, set_field
from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.switch.openflow.decode import Unreadable
from dragonflow.switch.openflow.encode import encode_actions, match_of, table_and_priority
from dragonflow.switch.packet_in import read_fields

_VERSION = {0x0800: 4, 0x86DD: 6}
_MAC = 6
_SET_MAC = encode_actions(set_field(eth_dst=0))[: 4 + 4]
"""How an action begins that writes the receiver's MAC: the head of the action and that of the field."""


class Recalled(NamedTuple):
    """A neighbour: the key of its network, its address and MAC."""

    network: int
    address: IPv4Address | IPv6Address
    mac: bytes


def recall(flows: Mapping[bytes, bytes]) -> Iterator[Recalled]:
    """The neighbours to which flows (name → contents, as read back) lead that ``apps.external`` has made."""
    for name, contents in flows.items():
        if table_and_priority(name) != (L3.neighbours.number, LEARNT):
            continue
        try:
            network, address = _where(dict(read_fields(match_of(name))))
        except (Unreadable, KeyError):
            continue
        at = contents.find(_SET_MAC)
        if at >= 0:
            start = at + len(_SET_MAC)
            yield Recalled(network, address, contents[start : start + _MAC])


def _where(fields: Mapping[Field, int]) -> tuple[int, IPv4Address | IPv6Address]:
    """The network's key, and the next hop there, that a flow matches. :raises KeyError: it doesn't match both."""
    version = _VERSION[fields[FIELDS["eth_type"]]]
    return fields[FIELDS[NETWORK.field]], next_hop(version, lambda word: fields[FIELDS[word.field]])
