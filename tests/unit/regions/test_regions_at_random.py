"""Whatever tenants, operators, failures and mischievous hands do to the regions, it comes to what a naive account says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import pytest
from fleet import HOSTS, Fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonflow.regions.cloud import CloudError, Port
from dragonflow.regions.consent import Pair, Place, peers
from dragonflow.regions.view import OWNER, Home

REGIONS = ("a", "b", "c")


class History:
    """Two networks in each of three regions, stretched over all of them with a few ports, and what may happen to them."""

    def __init__(self) -> None:
        self.fleet = Fleet(*REGIONS)
        self.places = [self.fleet.network(name, vni=vni) for name in REGIONS for vni in (7, 8)]
        for parity in (0, 1):
            self.fleet.name_each_other(*self.places[parity::2])
        for number, place in enumerate(self.places):
            for host in HOSTS:
                self.fleet.port(place, 30 + 2 * number + HOSTS.index(host), host=host)
        self.fleet.settle()

    def same(self, place: Place, region: str) -> Place:
        """The network of another region that is meant to be stretched with this one."""
        return self.places[2 * REGIONS.index(region) + self.places.index(place) % 2]

    def some(self, place: Place, number: int, *, announced: bool) -> Port | None:
        ports = self.fleet.clouds[place.region].all_ports.values()
        found = [it for it in ports if it.network_id == place.network and (it.device_owner == OWNER) is announced]
        return sorted(found, key=lambda it: it.id)[number % len(found)] if found else None

    def happen(self, what: str, where: int, number: int) -> None:  # noqa: PLR0912 - one branch an event
        fleet, place = self.fleet, self.places[where]
        cloud, region = fleet.clouds[place.region], place.region
        peer = self.same(place, REGIONS[number % 3])
        own = self.some(place, number, announced=False)
        made = self.some(place, number, announced=True)
        match what:
            case "consent" if peer.region != region:
                fleet.consent(place, peer)
            case "leave":
                fleet.leave(place, peer)
            case "boot":
                fleet.port(place, 10 + number % 6)
            case "router":
                fleet.port(
                    place,
                    10 + number % 6,
                    device_owner="network:router_interface",
                    mac_address=f"02:00:00:00:aa:{number:02x}",
                )
            case "delete" if own:
                del cloud.all_ports[own.id]
            case "migrate" if own:
                fleet.change(region, own, host=HOSTS[number % 2])
            case "shelve" if own:
                fleet.change(region, own, host="")
            case "readdress" if own:
                fleet.change(region, own, fixed_ips=fleet.port(place, 100 + number).fixed_ips)
            case "swap" if own and (other := self.some(place, number + 1, announced=False)):
                changes = {"mac_address": own.mac_address, "fixed_ips": own.fixed_ips}
                cloud.all_ports[own.id] = msgspec.structs.replace(
                    own, mac_address=other.mac_address, fixed_ips=other.fixed_ips
                )
                cloud.all_ports[other.id] = msgspec.structs.replace(other, **changes)
            case "lose" if made:
                del cloud.all_ports[made.id]
            case "spoil" if made:
                spoilt = {
                    "name": "x",
                    "mac_address": f"02:00:00:00:bb:{number:02x}",
                    "device_id": f"{REGIONS[number % 3]}/x",
                }
                field = sorted(spoilt)[number % 3]
                fleet.change(region, made, **{field: spoilt[field]})
            case "double" if made:
                changes = {"id": fleet.new_id(), "mac_address": f"02:00:00:00:cc:{number:02x}", "fixed_ips": ()}
                cloud.plug(msgspec.structs.replace(made, **changes))
            case "adopt" if made:
                fleet.change(region, made, device_owner="compute:nova")
            case "narrow":
                fleet.change_network(place, mtu=1300 + number)
            case "away":
                cloud.away = not cloud.away
            case "fail":
                cloud.writes_left = number % 4
            case "work":
                fleet.round()


EVENTS = (
    *("consent", "leave", "boot", "router", "delete", "migrate", "shelve", "readdress", "swap"),
    *("lose", "spoil", "double", "adopt", "narrow", "away", "fail", "work"),
)

events = st.tuples(st.sampled_from((*EVENTS, "boot", "boot", "work", "work")), st.integers(0, 5), st.integers(0, 30))


def kept(fleet: Fleet) -> list[Port]:
    """What is announced of regions that are away, in networks that name their networks."""
    return [
        port
        for cloud in fleet.clouds.values()
        for port in cloud.all_ports.values()
        if port.device_owner == OWNER
        and (home := Home.of(port.device_id))
        and home.region in fleet.clouds
        and fleet.clouds[home.region].away
        and any(it.region == home.region for it in peers(cloud.all_networks[port.network_id].tags))
    ]


def expected(fleet: Fleet, partners: list[Place]) -> set[Home]:
    """Who is to be announced in a network that is stretched with these, if nobody claims another's address: those with a host."""
    return {
        Home(peer.region, port.id)
        for peer in partners
        for port in fleet.clouds[peer.region].all_ports.values()
        if port.network_id == peer.network
        and port.host
        and not port.device_owner.startswith(("network:", "dragonflow:"))
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(events, min_size=4, max_size=30))
def test_any_history_comes_to_the_same(history):
    world = History()
    fleet = world.fleet
    for event in history:
        with contextlib.suppress(CloudError):  # what Neutron refuses its users
            world.happen(*event)
    before = fleet.foreign()
    for cloud in fleet.clouds.values():
        cloud.writes_left = None
    untouched = kept(fleet)
    fleet.settle()
    assert kept(fleet) == untouched
    for cloud in fleet.clouds.values():
        cloud.away = False
    fleet.settle()
    assert fleet.foreign() == before
    agreement, plans = fleet.agreement(), fleet.plans()
    troubled = {(trouble.place, trouble.home) for each in plans.values() for trouble in each.troubles}
    for place in world.places:
        others = [it for it in (world.same(place, name) for name in REGIONS) if it.region != place.region]
        stretched = [it for it in others if (found := agreement.pairs.get(Pair.of(place, it))) and found.works]
        there = fleet.announced(place)
        wanted = expected(fleet, stretched)
        lacking = wanted - set(there)
        assert all((place, home) in troubled for home in lacking), "missing without a reason"
        for home, port in there.items():
            source = fleet.clouds[home.region].all_ports[home.port]
            assert Place(home.region, source.network_id) in stretched
            assert (port.name, port.mac_address) == (source.name, source.mac_address)
            assert {it.ip_address for it in port.fixed_ips} == {it.ip_address for it in source.fixed_ips}
            if source.host:
                assert port.profile["host_ip"] == f"198.51.{REGIONS.index(home.region) + 1}.{source.host[1]}"
        losers = {home for where, home in troubled if where == place}
        assert losers.isdisjoint(there)
    for cloud in fleet.clouds.values():  # a lowered MTU is remembered, another is not
        for network in cloud.all_networks.values():
            assert sum("mtu" in tag for tag in network.tags) <= 1


def crashing(limit: int) -> Callable[[Fleet], None]:
    """Rounds in which each region's orchestrator dies after so many steps, and another starts from nothing."""

    def settle(fleet: Fleet) -> None:
        for _ in range(40):
            for cloud in fleet.clouds.values():
                cloud.writes_left = limit
            if fleet.round():
                return
        raise AssertionError("never ends")

    return settle


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_who_dies_between_any_two_steps_is_succeeded(limit):
    dying, living = Fleet("a", "b"), Fleet("a", "b")
    for fleet, settle in ((dying, crashing(limit)), (living, Fleet.settle)):
        one, other = fleet.network("a"), fleet.network("b", mtu=1400, vni=9)
        fleet.name_each_other(one, other)
        ports = [fleet.port(one, last) for last in range(10, 15)] + [fleet.port(other, last) for last in range(20, 23)]
        settle(fleet)
        for port in ports[:3]:
            fleet.change("a", port, host="h2")
        del fleet.clouds["a"].all_ports[ports[3].id]
        settle(fleet)
        assert len(fleet.announced(other)) == 4
        assert {it.profile["host_ip"] for it in fleet.announced(other).values()} == {"198.51.1.1", "198.51.1.2"}
        fleet.leave(other, one)
        settle(fleet)
    for name in "ab":
        assert dying.foreign()[name].keys() == living.foreign()[name].keys() == dying.clouds[name].all_ports.keys()
        assert dying.clouds[name].all_networks == living.clouds[name].all_networks
