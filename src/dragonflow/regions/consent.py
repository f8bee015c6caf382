"""Consent to stretch a network is mutual naming, by tags on the networks themselves.

Network ``N_a`` of region ``a`` and ``N_b`` of region ``b`` are one stretched network while ``N_a`` bears the tag
``dragonflow-stretch:b:<id of N_b>`` and ``N_b`` bears ``dragonflow-stretch:a:<id of N_a>``. Each tag is the word of those who may
tag that network, and of nobody else; taking one away ends the stretch. ``openstack network set --tag …`` suffices. Regions are
called as in the orchestrator's configuration.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

_STRETCH = "dragonflow-stretch:"
_FORMER_MTU = "dragonflow-stretch-mtu:"

TAG_LENGTH = 255
"""Characters that Neutron allows a tag (``neutron.extensions.tagging.MAX_TAG_LEN``)."""


class Place(NamedTuple):
    """A network, and the region in which it lies."""

    region: str
    network: str

    def __str__(self) -> str:
        return f"{self.region}:{self.network}"


class Pair(NamedTuple):
    """Two networks in two regions, the one whose region comes first in the alphabet first: so each pair has one name."""

    one: Place
    other: Place

    @classmethod
    def of(cls, one: Place, other: Place) -> Pair:
        """The pair of both, in whichever order they are given."""
        return cls(*sorted((one, other)))

    def across(self, region: str) -> Place:
        """The side that is not in this region."""
        return self.other if self.one.region == region else self.one

    def __str__(self) -> str:
        return f"{self.one} - {self.other}"


class Consents(NamedTuple):
    """What the tags of all networks come to."""

    pairs: frozenset[Pair]
    """Both sides have named each other."""
    waiting: frozenset[tuple[Place, Place]]
    """The first has named the second, which (as far as its region is known) has not named it."""


def tag(peer: Place) -> str:
    """The tag by which a network names ``peer``. :raises ValueError: the region's name can't stand in a tag."""
    check_region(peer.region)
    return f"{_STRETCH}{peer.region}:{peer.network}"


def check_region(name: str) -> None:
    """:raises ValueError: a region of this name could not be named in a tag; the message says why."""
    room = TAG_LENGTH - len(f"{_STRETCH}:{uuid.UUID(int=0)}")
    if not name or ":" in name or "," in name or "/" in name or not name.isprintable() or len(name) > room:
        raise ValueError(f"{name!r} can't name a region: 1 to {room} printable characters without ':', ',' and '/'")


def peers(tags: Iterable[str]) -> Iterator[Place]:
    """Whom a network names. Tags that only look alike are not ours to judge, and left out."""
    for each in tags:
        if each.startswith(_STRETCH) and (peer := _peer(each)) is not None:
            yield peer


def consents(tags: Mapping[Place, Iterable[str]]) -> Consents:
    """Who takes part with whom, from the tags of all networks of the regions that are known."""
    named = {place: {peer for peer in peers(each) if peer.region != place.region} for place, each in tags.items()}
    pairs, waiting = set(), set()
    for place, wanted in named.items():
        for peer in wanted:
            if place in named.get(peer, ()):
                pairs.add(Pair.of(place, peer))
            else:
                waiting.add((place, peer))
    return Consents(frozenset(pairs), frozenset(waiting))


def former_mtu_tag(mtu: int) -> str:
    """The tag in which a network's own MTU is kept while it is lowered."""
    return f"{_FORMER_MTU}{mtu}"


def former_mtu(tags: Iterable[str]) -> int | None:
    """The MTU that a network had before it was lowered; None if it was not. Of several the largest."""
    found = [each.removeprefix(_FORMER_MTU) for each in tags if each.startswith(_FORMER_MTU)]
    return max((int(each) for each in found if each.isascii() and each.isdecimal()), default=None)


def former_mtu_tags(tags: Iterable[str]) -> list[str]:
    """Those tags of a network that keep a former MTU, readable or not."""
    return sorted(each for each in tags if each.startswith(_FORMER_MTU))


@lru_cache(maxsize=1 << 16)  # the same tags are read again and again
def _peer(text: str) -> Place | None:
    region, _, network = text.removeprefix(_STRETCH).partition(":")
    try:
        check_region(region)
    except ValueError:
        return None
    return Place(region, network) if _is_uuid(network) else None


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
