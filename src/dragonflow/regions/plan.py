"""What has to be done in one region so that it announces what the others hold: a function of what all regions hold now. Pure.

Of a region that is away nothing is known, so nothing follows from it: what it announced elsewhere stays as it is, and what others
announced in it is done when it is back. Steps are made so that any may fail or never be tried: the next plan comes of what is
there then. Carried out whole, the plan after it is empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from dragonflow.regions import claims
from dragonflow.regions.agreement import Agreement, Views, own_mtu
from dragonflow.regions.announcement import Announcement, Crossing, changes, creation
from dragonflow.regions.claims import Lost
from dragonflow.regions.cloud import Network, Port
from dragonflow.regions.consent import Pair, Place, former_mtu_tag, former_mtu_tags, peers
from dragonflow.regions.view import Home, View


class SetMtu(msgspec.Struct, frozen=True):
    """Change a network's MTU."""

    network: str
    mtu: int
    why: str


class AddTag(msgspec.Struct, frozen=True):
    """Tag a network."""

    network: str
    tag: str
    why: str


class RemoveTag(msgspec.Struct, frozen=True):
    """Take a tag off a network."""

    network: str
    tag: str
    why: str


class DeletePort(msgspec.Struct, frozen=True):
    """Delete an announced port."""

    port: str
    why: str


class UpdatePort(msgspec.Struct, frozen=True):
    """Change attributes of an announced port."""

    port: str
    changes: Mapping[str, Any]
    why: str


class CreatePort(msgspec.Struct, frozen=True):
    """Announce a port."""

    port: Mapping[str, Any]
    why: str


NetworkStep = SetMtu | AddTag | RemoveTag
Step = NetworkStep | DeletePort | UpdatePort | CreatePort


class Trouble(NamedTuple):
    """A port that is not announced in a network where it should be."""

    home: Home
    place: Place
    reason: str


class Count(msgspec.Struct):
    """How many ports of the other side are to be announced in a network, how many are, and how many of those are ACTIVE.

    And how many of the first have no security group there, for none goes by the name of theirs: rules that name groups don't let
    them in.
    """

    wanted: int = 0
    announced: int = 0
    active: int = 0
    ungrouped: int = 0


class Plan(msgspec.Struct, frozen=True):
    """What is to be done in a region. Networks come first, step by step; then deletions, changes and creations of ports, in this
    order, for addresses must be free before others get them. Steps of one kind for ports may go beside each other."""

    networks: tuple[NetworkStep, ...] = ()
    deletions: tuple[DeletePort, ...] = ()
    updates: tuple[UpdatePort, ...] = ()
    creations: tuple[CreatePort, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    counts: Mapping[Pair, Count] = {}

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of it in order; empty if all is as it should be."""
        return (*self.networks, *self.deletions, *self.updates, *self.creations)


def plan(region: str, views: Views, agreement: Agreement, losers: Mapping[Home, Lost]) -> Plan:
    """Plan for a region that is known; ``losers`` are those of ``claims.lost``."""
    view = views[region]
    if view is None:
        raise ValueError(f"nothing can be planned in ignorance of region {region}")
    wanted, troubles = _wanted(region, view, views, agreement, losers)
    standing, surplus = _standing(view, views, wanted)
    updates = {
        it.id: (key, changed)
        for key, it in standing.items()
        if key in wanted and (changed := changes(wanted[key], it, view.subnets))
    }
    for port in list(_in_the_way(view, wanted, updates)):
        key, _ = updates.pop(port)
        surplus.append(DeletePort(port, "another port gets its address, and it gets another's"))
        del standing[key]
    return Plan(
        networks=tuple(_of_networks(region, view, agreement)),
        deletions=tuple(surplus),
        updates=tuple(
            UpdatePort(port, changed, f"{key[1]} differs in {', '.join(sorted(changed))}")
            for port, (key, changed) in updates.items()
        ),
        creations=tuple(
            CreatePort(creation(it, view.networks[it.network]), f"{it.home} is to be announced")
            for key, it in wanted.items()
            if key not in standing
        ),
        troubles=tuple(troubles),
        counts=_counts(region, view, agreement, wanted, standing),
    )


_Key = tuple[str, Home]
"""An announced port's network and what it stands for."""


def _kept(view: View, views: Views, port: Port) -> bool:
    """Whether an announced port must stay as it is, for its region is away and this side still consents."""
    home = Home.of(port.device_id)
    if home is None or home.region not in views or views[home.region] is not None:
        return False
    network = view.networks.get(port.network_id)
    return network is not None and any(peer.region == home.region for peer in peers(network.tags))


def _wanted(
    region: str, view: View, views: Views, agreement: Agreement, losers: Mapping[Home, Lost]
) -> tuple[dict[_Key, Announcement], list[Trouble]]:
    """What is to be announced in the region, and what can't be."""
    found: dict[_Key, Announcement] = {}
    troubles: list[Trouble] = []
    taken = claims.holders((it for it in view.announced if _kept(view, views, it)), view)
    taken |= claims.holders(view.ports, view)
    hosts = {(it.network_id, Home.of(it.device_id)): it.profile.get("host_ip") for it in view.announced}
    for crossing in _crossings(region, view, views, agreement):
        there, place = crossing.there, crossing.place
        for port in there.ports:
            if port.network_id != crossing.home.network or claims.ours_alone(port):
                continue
            home = Home(crossing.home.region, port.id)
            # who lost its host, as when it is shelved, or between two in a migration, keeps the last, and is DOWN
            host_ip = there.vteps.get(port.host) or hosts.get((place.network, home))
            its = ((place.network, address) for address in claims.addresses(port, there.subnets))
            holder = next((taken[each] for each in its if each in taken), None)
            verdict: Announcement | str
            if host_ip is None:
                if not port.host:
                    continue
                verdict = f"region {home.region} shows no Dragonflow chassis {port.host} in its agent list"
            elif home in losers:
                verdict = str(losers[home])
            elif holder is not None:
                verdict = f"port {holder.id} of region {region} has its MAC or one of its addresses"
            else:
                verdict = crossing.announce(port, host_ip)
            if isinstance(verdict, str):
                troubles.append(Trouble(home, place, verdict))
            else:
                found[place.network, home] = verdict
    return found, troubles


def _crossings(region: str, view: View, views: Views, agreement: Agreement) -> Iterator[Crossing]:
    """All ways into the region's networks, in an order that depends on nothing else."""
    for place in (Place(region, network) for network in sorted(view.networks)):
        for partner in sorted(agreement.partners.get(place, ())):
            yield Crossing(views, partner, place)


def _standing(
    view: View, views: Views, wanted: Mapping[_Key, Announcement]
) -> tuple[dict[_Key, Port], list[DeletePort]]:
    """The announced ports that stay, and the deletion of all others. Of several for one the oldest stays."""
    found: dict[_Key, Port] = {}
    surplus = []
    for port in sorted(view.announced, key=lambda it: (it.created_at, it.id)):
        home = Home.of(port.device_id)
        if _kept(view, views, port):
            continue
        if home is None or (port.network_id, home) not in wanted:
            surplus.append(
                DeletePort(port.id, f"{port.device_id or 'nothing'} is not to be announced in its network (any more)")
            )
        elif (port.network_id, home) in found:
            surplus.append(DeletePort(port.id, f"{home} is announced by {found[port.network_id, home].id} already"))
        else:
            found[port.network_id, home] = port
    return found, surplus


def _in_the_way(
    view: View, wanted: Mapping[_Key, Announcement], updates: Mapping[str, tuple[_Key, Mapping[str, Any]]]
) -> Iterator[str]:
    """Ports that hold an address which another is to get, while they are to get another themselves.

    Two that swap addresses could wait for each other for ever; so one is deleted and made anew.
    """
    moving = {port: key for port, (key, changed) in updates.items() if {"mac_address", "fixed_ips"} & set(changed)}
    held = claims.holders((it for it in view.announced if it.id in moving), view)
    claimed = {
        (key[0], address): port for port, key in moving.items() for address in wanted[key].addresses(view.subnets)
    }
    blocking = {holder.id for where, holder in held.items() if claimed.get(where, holder.id) != holder.id}
    yield from sorted(blocking)


def _of_networks(region: str, view: View, agreement: Agreement) -> Iterator[NetworkStep]:
    """MTUs. A network's own is noted before it is lowered, and forgotten after it is restored: so any step may be the last."""
    for network in view.networks.values():
        place = Place(region, network.id)
        if place in agreement.mtus:
            yield from _to_mtu(network, agreement.mtus[place])


def _to_mtu(network: Network, wanted: int) -> Iterator[NetworkStep]:
    own = own_mtu(network)
    notes = former_mtu_tags(network.tags)
    right = [former_mtu_tag(own)] if wanted < own else []
    for tag in right:
        if tag not in notes:
            yield AddTag(network.id, tag, f"keeps the network's own MTU while it is {wanted}")
    if network.mtu != wanted:
        why = f"the smallest along its stretches; its own is {own}" if right else "its own"
        yield SetMtu(network.id, wanted, why)
    for tag in notes:
        if tag not in right:
            yield RemoveTag(network.id, tag, "the network has its own MTU again" if not right else "there is another")


def _counts(
    region: str, view: View, agreement: Agreement, wanted: Mapping[_Key, Announcement], standing: Mapping[_Key, Port]
) -> dict[Pair, Count]:
    by_region: defaultdict[tuple[str, str], Count] = defaultdict(Count)
    for (network, home), announcement in wanted.items():
        count = by_region[network, home.region]
        count.wanted += 1
        count.ungrouped += announcement.ungrouped
    for (network, home), port in standing.items():
        count = by_region[network, home.region]
        count.announced += 1
        count.active += port.status == "ACTIVE"
    return {
        Pair.of(place, partner): by_region[network, partner.region]
        for network in view.networks
        for place in [Place(region, network)]
        for partner in agreement.partners.get(place, ())
    }
