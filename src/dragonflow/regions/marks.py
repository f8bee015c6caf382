"""Marks on networks, as people set and take them: networks found by name, one tag set or taken a network and peer.

A mark is one region's word (see ``consent``), so each step needs the credentials of that region alone. Steps repeat without harm.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from dragonflow.regions.cloud import Network, RegionApi
from dragonflow.regions.consent import Place, peers, tag


class MarkError(Exception):
    """What was asked makes no sense, or not enough of it; the message says what would."""


class Wanted(NamedTuple):
    """A network as somebody wrote it: ``REGION:NETWORK``, by name or id."""

    region: str
    network: str

    def __str__(self) -> str:
        return f"{self.region}:{self.network}"


def wanted(text: str) -> Wanted:
    """:raises MarkError: it is not of the form ``REGION:NETWORK``."""
    region, separator, network = text.partition(":")
    if not (region and separator and network):
        raise MarkError(f"{text!r}: a network is written REGION:NETWORK, by its name or id")
    return Wanted(region, network)


def find(clouds: Mapping[str, RegionApi], given: Wanted) -> Network:
    """The network of that id or name.

    :raises MarkError: the region is not known, or none or several networks fit.
    :raises CloudError: the region didn't answer.
    """
    if given.region not in clouds:
        raise MarkError(f"no region {given.region!r}; clouds.yaml has: {', '.join(clouds) or 'none'}")
    cloud = clouds[given.region]
    found = cloud.networks(id=given.network) if is_id(given.network) else cloud.networks(name=given.network)
    if not found:
        raise MarkError(f"no network {given.network!r} in {given.region}")
    if len(found) > 1:
        ids = ", ".join(each.id for each in found)
        raise MarkError(f"several networks are called {given.network!r} in {given.region}; name one by its id: {ids}")
    return found[0]


def is_id(text: str) -> bool:
    """Whether this is an id as Neutron gives them."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def distinct(places: Sequence[Wanted]) -> None:
    """:raises MarkError: fewer than two regions, or one of them twice: a network stretches over regions, not within one."""
    if len(places) < 2:
        raise MarkError("a stretch needs the networks of two regions at least")
    for one, other in combinations(places, 2):
        if one.region == other.region:
            raise MarkError(f"{one} and {other} are in one region: a network stretches from one region to another")


def join(cloud: RegionApi, place: Place, peer: Place) -> None:
    """Have a network name another one; one that does already is no error.

    :raises MarkError: the peer's region has a name that no tag can hold.
    """
    try:
        mark = tag(peer)
    except ValueError as error:
        raise MarkError(str(error)) from error
    cloud.add_tag(place.network, mark)


def names(network: Network, place: Place) -> bool:
    """Whether a network names another one."""
    return place in peers(network.tags)


def leave(cloud: RegionApi, network: Network, region: str | None = None) -> list[Place]:
    """Have a network name nobody any more, or nobody in one region. Returns whom it named."""
    gone = [peer for peer in peers(network.tags) if region in (None, peer.region)]
    for peer in gone:
        cloud.remove_tag(network.id, tag(peer))
    return gone
