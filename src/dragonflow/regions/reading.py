"""What all regions say at about one time, for people: each is asked once, at the same time as the others.

A region that doesn't answer is part of what was read, not an end of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from msgspec import structs

from dragonflow.regions.agreement import Agreement, Views, agree
from dragonflow.regions.claims import Lost, lost
from dragonflow.regions.cloud import Agent, CloudError, Network, RegionApi, Subnet
from dragonflow.regions.consent import Place, peers, tag
from dragonflow.regions.plan import Count, Plan, plan
from dragonflow.regions.view import Home, Underlay, View
from dragonflow.regions.view import read as read_view


class RegionReading(NamedTuple):
    """What one region said; with an ``error`` there is no more than that. ``seconds`` is how long it took."""

    name: str
    seconds: float
    error: CloudError | None = None
    view: View | None = None
    agents: Sequence[Agent] = ()


class Reading(NamedTuple):
    """All regions, by name; what they agree upon, whose claims lose, and what those that answered still lack (see ``plan``)."""

    regions: Mapping[str, RegionReading]
    agreement: Agreement
    losers: Mapping[Home, Lost]
    plans: Mapping[str, Plan]

    @property
    def views(self) -> Views:
        """What each region holds, or None."""
        return {name: region.view for name, region in self.regions.items()}

    def network(self, place: Place) -> Network | None:
        """A network that bears marks, if its region answered."""
        view = self._view(place)
        return None if view is None else view.networks.get(place.network)

    def subnets(self, place: Place) -> list[Subnet]:
        """The subnets of such a network, by CIDR."""
        view = self._view(place)
        found = [] if view is None else [it for it in view.subnets.values() if it.network_id == place.network]
        return sorted(found, key=lambda it: (it.ip_version, it.cidr))

    def ports(self, place: Place) -> Count:
        """Ports of all its peers: how many such a network is to know, and how many it knows."""
        plan = self.plans.get(place.region)
        counts = () if plan is None else [count for pair, count in plan.counts.items() if place in pair]
        return Count(*(sum(getattr(count, each) for count in counts) for each in Count.__struct_fields__))

    @property
    def marked(self) -> list[Place]:
        """The networks that name another one, in order."""
        return sorted(
            Place(region.name, network.id)
            for region in self.regions.values()
            if region.view is not None
            for network in region.view.networks.values()
            if any(peers(network.tags))
        )

    def _view(self, place: Place) -> View | None:
        region = self.regions.get(place.region)
        return None if region is None else region.view


def read(clouds: Iterable[RegionApi], underlays: Mapping[str, Underlay] | None = None) -> Reading:
    """Ask all regions; ``underlays`` is what an orchestrator's configuration says of the ways between them."""
    clouds, known = list(clouds), underlays or {}
    with ThreadPoolExecutor(max(1, len(clouds))) as pool:
        return judge(pool.map(lambda cloud: _region(cloud, known.get(cloud.name, Underlay())), clouds))


def judge(regions: Iterable[RegionReading]) -> Reading:
    """What follows from what the regions said."""
    found = {each.name: each for each in regions}
    views = {name: region.view for name, region in found.items()}
    agreement = agree(views)
    losers = lost(views, agreement)
    plans = {name: plan(name, views, agreement, losers) for name, view in views.items() if view is not None}
    return Reading(found, agreement, losers, plans)


def _region(cloud: RegionApi, underlay: Underlay) -> RegionReading:
    began = time.monotonic()
    try:
        view, agents = read_view(cloud, underlay), cloud.agents()
    except CloudError as error:
        return RegionReading(cloud.name, time.monotonic() - began, error)
    return RegionReading(cloud.name, time.monotonic() - began, None, view, agents)


def foresee(
    clouds: Mapping[str, RegionApi], marks: Iterable[tuple[Place, Place]], underlays: Mapping[str, Underlay]
) -> Agreement:
    """What the regions would agree upon if the first of each two named the second, and nobody anybody else.

    :raises CloudError: one of the regions didn't answer.
    """
    wanted = list(marks)
    views = {}
    for region in {place.region for place, _ in wanted}:
        cloud = clouds[region]
        ids = {place.network for place, _ in wanted if place.region == region}
        networks = {
            it.id: structs.replace(it, tags=tuple(tag(peer) for place, peer in wanted if place.network == it.id))
            for it in cloud.networks(id=ids)
        }
        subnets = {it.id: it for it in cloud.subnets(network_id=ids)}
        views[region] = View(networks=networks, subnets=subnets, underlay=underlays.get(region, Underlay()))
    return agree(views)
