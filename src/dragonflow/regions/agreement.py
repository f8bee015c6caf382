"""Which pairs of networks are stretched, which are not and why, and what MTU each network is to have. Pure.

A stretch begins when nothing speaks against it. Subnets that cease to be alike in one that stands don't tear it down, for they
can only be changed one side after the other; it is then shown as ``degraded``, and ports with addresses that the other side can't
have are not announced. That it stands is seen by the ports that were announced: nothing is remembered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address

import msgspec

from dragonflow.model import TUNNEL_TYPES
from dragonflow.regions.cloud import Network, Subnet
from dragonflow.regions.consent import Pair, Place, consents, former_mtu, peers
from dragonflow.regions.view import Home, View

_GONE = View()

Views = Mapping[str, View | None]
"""All regions of the configuration; None: what this one holds is not known now."""

HEADERS = {"geneve": 30, "vxlan": 30, "gre": 22}
"""Bytes between the outer IP header and the inner IP packet: UDP, the encapsulation without options, the inner Ethernet header
(RFC 8926, RFC 7348); for GRE with a key (RFC 2890)."""

_ESP = 37
"""Bytes that ESP adds at most in transport mode with AES-GCM (RFC 4106), which Open vSwitch's IPsec uses: 8 of SPI and sequence
number, 8 of initialisation vector, 3 of padding, 2 of trailer, 16 of check value."""

IPV6_MTU = 1280
"""The least that a link with IPv6 must carry (RFC 8200)."""

IPV4_MTU = 576
"""The least that every IPv4 host must be able to take (RFC 1122); below it nothing useful runs."""


class State(StrEnum):
    """How a pair stands."""

    STRETCHED = "stretched"
    DEGRADED = "degraded"
    REFUSED = "refused"
    WAITING = "waiting"
    UNKNOWN = "unknown"


class Standing(msgspec.Struct, frozen=True):
    """How a pair stands, and what speaks against it."""

    state: State
    reasons: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether ports are announced across."""
        return self.state in {State.STRETCHED, State.DEGRADED}


class Agreement(msgspec.Struct, frozen=True):
    """What the regions agree upon."""

    pairs: Mapping[Pair, Standing]
    partners: Mapping[Place, frozenset[Place]]
    """With whom each network is stretched."""

    mtus: Mapping[Place, int]
    """What MTU each network is to have that bears marks; those that are to keep theirs are left out."""
    together: tuple[frozenset[Place], ...]
    """The networks that hang together by stretches, over however many others; those without any are left out."""

    @property
    def disputed(self) -> frozenset[str]:
        """The regions of pairs against which something speaks: of these it matters what is announced in them, see ``_begun``."""
        return frozenset(
            place.region
            for pair, standing in self.pairs.items()
            if standing.state in {State.DEGRADED, State.REFUSED}
            for place in pair
        )


def network(views: Views, place: Place) -> Network | None:
    """The network in a place, if its region is known and it bears marks."""
    view = views.get(place.region)
    return None if view is None else view.networks.get(place.network)


def agree(views: Views) -> Agreement:
    """Judge all pairs."""
    tags = {
        Place(region, it.id): it.tags
        for region, view in views.items()
        if view is not None
        for it in view.networks.values()
    }
    agreed = consents(tags)
    standings = {}
    for place, peer in agreed.waiting:
        if peer.region in views:
            away = views[peer.region] is None
            reason = f"region {peer.region} is away" if away else f"{peer} has not joined: it does not name {place}"
            standings[Pair.of(place, peer)] = Standing(State.UNKNOWN if away else State.WAITING, (reason,))
        else:
            reason = f"{peer.region} is no region of the orchestrator's configuration"
            standings[Pair.of(place, peer)] = Standing(State.REFUSED, (reason,))
    peers_of: defaultdict[Place, set[Place]] = defaultdict(set)
    for pair in agreed.pairs:
        peers_of[pair.one].add(pair.other)
        peers_of[pair.other].add(pair.one)
    subnets = {place: _subnets(views, place) for place in peers_of}
    for pair in agreed.pairs:
        never = tuple(_never(views, pair, peers_of, subnets))
        not_now = tuple(_differences(pair, subnets[pair.one], subnets[pair.other]))
        if never or (not_now and not _begun(views, pair)):
            standings[pair] = Standing(State.REFUSED, never + not_now)
        else:
            standings[pair] = Standing(State.DEGRADED if not_now else State.STRETCHED, not_now)
    partners: defaultdict[Place, set[Place]] = defaultdict(set)
    for pair, standing in standings.items():
        if standing.works:
            partners[pair.one].add(pair.other)
            partners[pair.other].add(pair.one)
    together = tuple(_together(partners))
    alone = (frozenset({place}) for place in tags if place not in partners)
    mtus: dict[Place, int] = {}
    for places in (*together, *alone):
        mtus |= _mtus(views, places, partners)
    return Agreement(standings, {place: frozenset(them) for place, them in partners.items()}, mtus, together)


def _together(partners: Mapping[Place, set[Place]]) -> Iterator[frozenset[Place]]:
    left = set(partners)
    while left:
        found, todo = set(), [left.pop()]
        while todo:
            place = todo.pop()
            found.add(place)
            todo += partners[place] - found
        left -= found
        yield frozenset(found)


def _mtus(views: Views, places: frozenset[Place], partners: Mapping[Place, set[Place]]) -> dict[Place, int]:
    """What MTU networks are to have that hang together: the smallest of all, and of what the ways between them carry.

    Nothing is raised while a region that one of them names is away.
    """
    found = {place: it for place in places if (it := network(views, place)) is not None}
    away = any(views.get(peer.region, _GONE) is None for it in found.values() for peer in peers(it.tags))
    pairs = {Pair.of(place, partner) for place in places for partner in partners.get(place, ())}
    limits = [limit for pair in pairs if (limit := _carried(views, pair)) is not None]
    wanted = min([*map(own_mtu, found.values()), *limits])
    return {place: wanted for place, it in found.items() if not (away and wanted > it.mtu)}


def related(region: str, views: Views, agreement: Agreement) -> frozenset[str]:
    """The regions on which it depends what is to be done in one: those named by its networks, or by what is joined with them."""
    view = views[region]
    places = {Place(region, it) for it in view.networks} if view is not None else set()
    for together in agreement.together:
        if not places.isdisjoint(together):
            places |= together
    named = {peer.region for place in places if (it := network(views, place)) for peer in peers(it.tags)}
    return frozenset((named | {place.region for place in places} | {region}) & views.keys())


def own_mtu(it: Network) -> int:
    """A network's MTU, as it was before it was lowered."""
    former = former_mtu(it.tags)
    return it.mtu if former is None else former


def counterparts(views: Views, home: Place, away: Place) -> dict[str, Subnet]:
    """For each subnet of ``home``, by id, the one in ``away`` with the same CIDR."""
    there = {subnet.cidr: subnet for subnet in _subnets(views, away)}
    return {it.id: there[it.cidr] for it in _subnets(views, home) if it.cidr in there}


def automatic(subnet: Subnet) -> bool:
    """Whether its addresses follow from MACs (SLAAC): Neutron then takes none that one asks for."""
    return subnet.ipv6_address_mode in {"slaac", "dhcpv6-stateless"}


def _subnets(views: Views, place: Place) -> list[Subnet]:
    view = views.get(place.region)
    return [] if view is None else [it for it in view.subnets.values() if it.network_id == place.network]


def _begun(views: Views, pair: Pair) -> bool:
    """Whether anything is announced across a pair now."""
    for place in pair:
        view, across = views[place.region], pair.across(place.region).region
        for port in () if view is None else view.announced:
            home = Home.of(port.device_id)
            if port.network_id == place.network and home is not None and home.region == across:
                return True
    return False


def _never(
    views: Views, pair: Pair, peers_of: Mapping[Place, set[Place]], subnets: Mapping[Place, list[Subnet]]
) -> Iterator[str]:
    """What makes a stretch of these networks impossible."""
    for place in pair:
        across = pair.across(place.region).region
        others = sorted(it.network for it in peers_of[place] if it.region == across)
        if len(others) > 1:
            yield f"{place} is joined with {len(others)} networks of region {across}: {', '.join(others)}"
        it = network(views, place)
        if it is None:
            continue
        if it.network_type is None or it.segmentation_id is None:
            yield f"{place}: the credentials of region {place.region} don't show provider:network_type (an administrator's do)"
        elif it.network_type not in TUNNEL_TYPES:
            yield f"{place} is of type {it.network_type}, but only {', '.join(TUNNEL_TYPES)} can be stretched"
    carried = _carried(views, pair)
    least = IPV6_MTU if any(it.ip_version == 6 for place in pair for it in subnets[place]) else IPV4_MTU
    if carried is not None and carried < least:
        yield f"the way between {pair.one.region} and {pair.other.region} carries an MTU of {carried}, but {least} are needed"


def _differences(pair: Pair, ones: list[Subnet], others: list[Subnet]) -> Iterator[str]:
    """What keeps addresses of one network from being the other's."""
    there = {it.cidr: it for it in others}
    for it in sorted(ones, key=lambda each: each.cidr):
        if it.cidr in there:
            yield from _disputes(pair, it, there.pop(it.cidr))
        else:
            yield f"{pair.one} has subnet {it.cidr}, {pair.other} has not"
    for cidr in sorted(there):
        yield f"{pair.other} has subnet {cidr}, {pair.one} has not"


def _disputes(pair: Pair, one: Subnet, other: Subnet) -> Iterator[str]:
    regions = pair.one.region, pair.other.region
    if one.gateway_ip != other.gateway_ip:
        yield _unlike(one.cidr, "the gateway", regions, one.gateway_ip, other.gateway_ip)
    if one.ipv6_address_mode != other.ipv6_address_mode:
        yield _unlike(one.cidr, "ipv6_address_mode", regions, one.ipv6_address_mode, other.ipv6_address_mode)
    if one.ipv6_ra_mode != other.ipv6_ra_mode:
        yield _unlike(one.cidr, "ipv6_ra_mode", regions, one.ipv6_ra_mode, other.ipv6_ra_mode)
    if automatic(one):
        return
    for mine in one.allocation_pools:
        for theirs in other.allocation_pools:
            first, last = (
                max(_address(mine.start), _address(theirs.start)),
                min(_address(mine.end), _address(theirs.end)),
            )
            if first <= last:
                yield (
                    f"subnet {one.cidr}: {regions[0]} and {regions[1]} both allocate from {first[1]} to {last[1]}; "
                    "give each region an allocation pool of its own"
                )


@lru_cache(maxsize=1 << 14)  # the same few are compared again and again
def _address(text: str) -> tuple[int, str]:
    """An address in numerical order, and as it is written."""
    return int(ip_address(text)), text


def _unlike(cidr: str, what: str, regions: tuple[str, str], one: str | None, other: str | None) -> str:
    return f"subnet {cidr}: {what} is {one or 'none'} in {regions[0]}, {other or 'none'} in {regions[1]}"


def _carried(views: Views, pair: Pair) -> int | None:
    """The largest MTU of a network that fits through the tunnels of a pair both ways; None if nobody said."""
    sides = [(view, network(views, place)) for place in pair if (view := views.get(place.region)) is not None]
    limits = [view.underlay.path_mtu for view, _ in sides if view.underlay.path_mtu is not None]
    if not limits:
        return None
    six = any(":" in vtep for view, _ in sides for vtep in view.vteps.values())
    headers = max((HEADERS.get(it.network_type or "", 0) for _, it in sides if it), default=0)
    return min(limits) - (40 if six else 20) - headers - (_ESP if any(view.underlay.ipsec for view, _ in sides) else 0)
