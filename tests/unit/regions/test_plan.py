"""What is announced where, mended, withdrawn, refused and reported."""

from __future__ import annotations

import msgspec
import pytest
from fleet import V4, V6, Fleet

from dragonflow.regions.agreement import State
from dragonflow.regions.cloud import AddressPair, FixedIp, Pool
from dragonflow.regions.consent import Pair, Place, former_mtu_tag
from dragonflow.regions.view import OWNER, Home, Underlay


@pytest.fixture
def fleet() -> Fleet:
    return Fleet("a", "b", "c")


@pytest.fixture
def pair(fleet: Fleet) -> tuple[Place, Place]:
    one, other = fleet.network("a"), fleet.network("b")
    fleet.name_each_other(one, other)
    return one, other


def standing(fleet: Fleet, one: Place, other: Place):
    return fleet.agreement().pairs[Pair.of(one, other)]


def only(fleet: Fleet, place: Place):
    (port,) = fleet.announced(place).values()
    return port


def test_a_port_is_announced_as_it_is(fleet, pair):
    one, other = pair
    web = fleet.group("a", "web")
    there = fleet.group("b", "web")
    pairs = (AddressPair("192.0.2.250", "02:00:00:00:00:fa"),)
    port = fleet.port(one, 10, security_groups=(web,), allowed_address_pairs=pairs, admin_state_up=False)
    assert fleet.settle() == 1
    made = only(fleet, other)
    assert (made.device_owner, made.device_id) == (OWNER, f"a/{port.id}")
    assert (made.mac_address, made.name, made.admin_state_up) == (port.mac_address, "vm10", False)
    assert made.allowed_address_pairs == pairs
    assert made.security_groups == (there,)
    assert made.project_id == "project-b"
    assert {it.ip_address for it in made.fixed_ips} == {it.ip_address for it in port.fixed_ips}
    assert made.profile == {"port_key": "remote_port", "host_ip": "198.51.1.1", "region": "a", "status": "ACTIVE"}
    assert not fleet.announced(one)


def test_a_port_is_in_the_groups_of_its_groups_names_and_in_no_others(fleet, pair):
    """Not in the default group either, whose members may be let in by all of the project."""
    one, other = pair
    web, db = fleet.group("a", "web"), fleet.group("a", "db")
    there = fleet.group("b", "web")
    port = fleet.port(one, 10, security_groups=(db,))
    fleet.settle()
    assert only(fleet, other).security_groups == ()
    assert fleet.plans()["b"].counts[Pair.of(one, other)].ungrouped == 1
    fleet.change("a", port, security_groups=(db, web))
    fleet.settle()
    assert only(fleet, other).security_groups == (there,)
    assert fleet.plans()["b"].counts[Pair.of(one, other)].ungrouped == 0
    default = fleet.clouds["a"].default_group("somebody-else's")
    fleet.change("a", port, project_id="somebody-else's", security_groups=(default,))
    fleet.settle()
    assert only(fleet, other).security_groups == (), "the default group of another project than the network's"


def test_address_pairs_beyond_the_network_stay_at_home(fleet, pair):
    """Else a tenant of another region could have the whole world in a group."""
    one, other = pair
    mac = "02:00:00:00:00:fa"
    inside = (AddressPair("192.0.2.128/25", mac), AddressPair("2001:db8::7", mac))
    fleet.port(one, 10, allowed_address_pairs=(*inside, AddressPair("0.0.0.0/0", mac), AddressPair("::/0", mac)))
    fleet.settle()
    assert set(only(fleet, other).allowed_address_pairs) == set(inside)


def test_the_sender_learns_the_receivers_segment_where_they_differ(fleet):
    one, other = fleet.network("a", vni=7), fleet.network("b", vni=8, network_type="vxlan")
    fleet.name_each_other(one, other)
    fleet.port(one, 10)
    fleet.port(other, 20)
    fleet.settle()
    shown = {key: only(fleet, other).profile[key] for key in ("network_type", "segmentation_id")}
    assert shown == {"network_type": "geneve", "segmentation_id": 7}
    assert only(fleet, one).profile["segmentation_id"] == 8


def test_changes_are_followed(fleet, pair):
    one, other = pair
    port = fleet.port(one, 10)
    fleet.settle()
    before = only(fleet, other)
    fleet.change("a", port, host="h2", name="new", status="DOWN")
    fleet.settle()
    after = only(fleet, other)
    assert (after.id, after.name) == (before.id, "new")
    assert (after.profile["host_ip"], after.profile["status"]) == ("198.51.1.2", "DOWN")
    del fleet.clouds["a"].all_ports[port.id]
    fleet.settle()
    assert not fleet.announced(other)


def test_a_port_that_lost_its_host_stays_where_it_was(fleet, pair):
    one, other = pair
    port = fleet.port(one, 10)
    fleet.settle()
    fleet.change("a", port, host="", status="DOWN")
    fleet.settle()
    assert only(fleet, other).profile["host_ip"] == "198.51.1.1"
    assert only(fleet, other).profile["status"] == "DOWN"
    fleet.port(one, 11, host="")
    assert fleet.settle() == 0


def test_what_was_changed_lost_or_doubled_by_hand_is_mended(fleet, pair):
    one, other = pair
    fleet.port(one, 10)
    fleet.settle()
    made, cloud = only(fleet, other), fleet.clouds["b"]
    changes = {
        "name": "x",
        "mac_address": "02:00:00:00:00:99",
        "profile": made.profile | {"extra": 1},
        "admin_state_up": False,
        "security_groups": (),
    }
    for name, value in changes.items():
        fleet.change("b", made, **{name: value})
        fleet.settle()
        assert cloud.all_ports[made.id] == made, name
    double = {"id": fleet.new_id(), "mac_address": "02:00:00:00:00:77", "fixed_ips": (), "created_at": "9"}
    cloud.plug(msgspec.structs.replace(made, **double))
    fleet.settle()
    assert only(fleet, other) == made
    del cloud.all_ports[made.id]
    fleet.settle()
    fleet.change("b", only(fleet, other), device_id="nonsense")
    fleet.settle()
    assert only(fleet, other).device_id == made.device_id


def test_ports_of_others_are_nobodys_business(fleet, pair):
    one, other = pair
    router = fleet.port(one, 1, device_owner="network:router_interface")
    fleet.port(other, 1, device_owner="network:router_interface", mac_address="02:00:00:00:01:01")
    fleet.settle()
    assert not fleet.announced(one) | fleet.announced(other)
    assert fleet.clouds["a"].all_ports[router.id] == router


@pytest.mark.parametrize("end", ["leave", "unknown region", "other network"])
def test_nothing_is_left_when_a_side_leaves(fleet, pair, end):
    one, other = pair
    fleet.port(one, 10)
    fleet.port(other, 20)
    fleet.change_network(other, mtu=1400)
    fleet.settle()
    assert fleet.clouds["a"].all_networks[one.network].mtu == 1400
    match end:
        case "leave":
            fleet.leave(one, other)
        case "other network":
            fleet.leave(one, other)
            fleet.name_each_other(one, fleet.network("c"))
        case _:
            gone = fleet.clouds.pop("b")
            assert fleet.announced(one)
            fleet.settle()
            fleet.clouds = {"b": gone}
    fleet.settle()
    for place in pair:
        if place.region in fleet.clouds:
            assert not fleet.announced(place)
            found = fleet.clouds[place.region].all_networks[place.network]
            assert found.mtu == (1442 if place == one else 1400)
            assert former_mtu_tag(1442) not in found.tags


def test_a_region_that_is_away_stops_nobody_and_loses_nothing(fleet, pair):
    one, other = pair
    third = fleet.network("c")
    fleet.name_each_other(one, other, third)
    fleet.port(one, 10)
    fleet.port(other, 20)
    fleet.settle()
    before = fleet.announced(one), fleet.announced(third)
    fleet.clouds["b"].away = True
    assert fleet.settle() == 0
    assert (fleet.announced(one), fleet.announced(third)) == before
    port = fleet.port(one, 11)
    fleet.settle()
    assert Home("a", port.id) in fleet.announced(third)
    assert standing(fleet, one, other).state is State.UNKNOWN
    fleet.leave(one, other)
    fleet.settle()
    assert {home.region for home in fleet.announced(one)} == set()
    fleet.clouds["b"].away = False
    fleet.settle()
    assert {home.region for home in fleet.announced(other)} == set()


def test_one_side_alone_is_no_stretch(fleet):
    one, other = fleet.network("a"), fleet.network("b")
    fleet.consent(one, other)
    fleet.port(one, 10)
    assert fleet.settle() == 0
    found = standing(fleet, one, other)
    assert found.state is State.WAITING
    assert "has not joined" in found.reasons[0]


def test_addresses_that_are_swapped_are_swapped_elsewhere(fleet, pair):
    one, other = pair
    ports = [fleet.port(one, last) for last in (10, 11, 12)]
    fleet.settle()
    moved = [
        msgspec.structs.replace(port, fixed_ips=source.fixed_ips, mac_address=source.mac_address)
        for port, source in zip(ports, [*ports[1:], ports[0]], strict=True)
    ]
    for port in moved:
        fleet.clouds["a"].all_ports[port.id] = port
    fleet.settle()
    shown = {home.port: it.mac_address for home, it in fleet.announced(other).items()}
    assert shown == {port.id: port.mac_address for port in moved}


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gateway_ip": "192.0.2.254"}, "subnet 192.0.2.0/24: the gateway is 192.0.2.1 in a, 192.0.2.254 in b"),
        ({"cidr": "192.0.2.0/25"}, "has subnet 192.0.2.0/24"),
        ({"allocation_pools": (Pool("192.0.2.15", "192.0.2.30"),)}, "both allocate from 192.0.2.15 to 192.0.2.19"),
    ],
)
def test_a_stretch_of_unlike_subnets_does_not_begin(fleet, pair, change, reason):
    one, other = pair
    fleet.port(one, 10)
    fleet.change_subnet(other, V4, **change)
    assert fleet.settle() == 0
    found = standing(fleet, one, other)
    assert found.state is State.REFUSED
    assert any(reason in it for it in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network_type": "vlan"}, "is of type vlan"),
        ({"network_type": None}, "don't show provider:network_type"),
    ],
)
def test_networks_that_no_tunnel_carries_are_refused(fleet, pair, change, reason):
    one, other = pair
    fleet.port(one, 10)
    fleet.change_network(other, **change)
    assert fleet.settle() == 0
    found = standing(fleet, one, other)
    assert found.state is State.REFUSED
    assert reason in found.reasons[0]


def test_modes_of_ipv6_must_be_alike(fleet, pair):
    one, other = pair
    fleet.change_subnet(other, V6, ipv6_address_mode="dhcpv6-stateful")
    assert standing(fleet, one, other).reasons == (
        "subnet 2001:db8::/64: ipv6_address_mode is slaac in a, dhcpv6-stateful in b",
    )


def test_a_network_is_joined_with_one_network_of_a_region(fleet, pair):
    one, other = pair
    second = fleet.network("b")
    fleet.name_each_other(one, second)
    fleet.port(one, 10)
    assert fleet.settle() == 0
    for place in (other, second):
        assert standing(fleet, one, place).state is State.REFUSED
        assert "is joined with 2 networks of region b" in standing(fleet, one, place).reasons[0]


def test_a_stretch_that_stands_outlives_a_change_on_one_side(fleet, pair):
    one, other = pair
    fleet.port(one, 10)
    fleet.settle()
    kept = fleet.announced(other)
    new = fleet.subnet(one, "203.0.113.0/24")
    second = fleet.port(one, 11)
    fixed = (FixedIp(new.id, "203.0.113.11"),)
    third = fleet.port(one, 12, fixed_ips=fixed)
    fleet.settle()
    assert kept.items() <= fleet.announced(other).items()
    assert Home("a", second.id) in fleet.announced(other)
    assert standing(fleet, one, other).state is State.DEGRADED
    (trouble,) = fleet.plans()["b"].troubles
    assert (trouble.home, trouble.place) == (Home("a", third.id), other)
    assert "203.0.113.11 lies in no subnet" in trouble.reason
    fleet.subnet(other, "203.0.113.0/24")
    fleet.settle()
    assert Home("a", third.id) in fleet.announced(other)
    assert standing(fleet, one, other).state is State.STRETCHED


# -- MTU ---------------------------------------------------------------------------------------------------------------


def mtus(fleet: Fleet, *places: Place) -> list[int]:
    return [fleet.clouds[it.region].all_networks[it.network].mtu for it in places]


def test_all_that_hang_together_get_the_smallest_mtu_and_their_own_back(fleet):
    one, other, third = places = fleet.network("a"), fleet.network("b", mtu=1400), fleet.network("c", mtu=1300)
    fleet.name_each_other(one, other)
    fleet.settle()
    assert mtus(fleet, *places) == [1400, 1400, 1300]
    fleet.name_each_other(other, third)
    fleet.settle()
    assert mtus(fleet, *places) == [1300, 1300, 1300]
    fleet.clouds["c"].away = True
    fleet.leave(one, other)
    fleet.settle()
    assert mtus(fleet, *places) == [1442, 1300, 1300]  # of the third nothing is known: nothing is raised
    fleet.clouds["c"].away = False
    fleet.leave(third, other)
    fleet.settle()
    assert mtus(fleet, *places) == [1442, 1400, 1300]
    assert not any(
        "mtu" in tag for cloud in fleet.clouds.values() for it in cloud.all_networks.values() for tag in it.tags
    )


@pytest.mark.parametrize(
    ("underlay", "vtep", "mtu"),
    [
        (Underlay(path_mtu=1400), "198.51.1.1", 1400 - 20 - 30),
        (Underlay(path_mtu=1400, ipsec=True), "198.51.1.1", 1400 - 20 - 30 - 37),
        (Underlay(path_mtu=1400), "2001:db8:1::1", 1400 - 40 - 30),
        (Underlay(path_mtu=9000), "198.51.1.1", 1442),
    ],
)
def test_the_mtu_is_what_the_path_carries(fleet, pair, underlay, vtep, mtu):
    fleet.underlays["b"] = underlay
    agents = fleet.clouds["a"].all_agents
    agents["h1"] = msgspec.structs.replace(agents["h1"], configurations={"tunneling_ip": vtep})
    fleet.settle()
    assert mtus(fleet, *pair) == [mtu, mtu]


def test_a_path_too_narrow_for_ipv6_is_refused(fleet, pair):
    fleet.underlays["b"] = Underlay(path_mtu=1300)
    assert fleet.settle() == 0
    assert standing(fleet, *pair).reasons == ("the way between a and b carries an MTU of 1250, but 1280 are needed",)


# -- conflicts ---------------------------------------------------------------------------------------------------------


def test_the_older_claim_wins_and_the_younger_is_announced_nowhere(fleet):
    places = [fleet.network(name) for name in "abc"]
    older = fleet.port(places[1], 50, mac_address="02:00:00:00:00:b0")
    younger = fleet.port(places[0], 50, mac_address="02:00:00:00:00:a0")
    fleet.name_each_other(*places)
    fleet.settle()
    assert set(fleet.announced(places[2])) == {Home("b", older.id)}
    assert not fleet.announced(places[1])
    reasons = {trouble.home: trouble.reason for trouble in fleet.plans()["c"].troubles}
    assert reasons == {
        Home("a", younger.id): f"192.0.2.50 was claimed earlier by port {older.id} of region b",
    }
    (trouble,) = fleet.plans()["a"].troubles
    assert trouble.home == Home("b", older.id)
    assert younger.id in trouble.reason
    del fleet.clouds["b"].all_ports[older.id]
    fleet.settle()
    assert set(fleet.announced(places[2])) == {Home("a", younger.id)}


def test_an_address_of_a_router_is_not_announced_there(fleet, pair):
    one, other = pair
    fleet.port(one, 2)
    fleet.port(other, 2, device_owner="network:dhcp", mac_address="02:00:00:00:01:02")
    assert fleet.settle() == 0
    (trouble,) = fleet.plans()["b"].troubles
    assert "has its MAC or one of its addresses" in trouble.reason


def test_a_chassis_that_nobody_knows_is_reported(fleet, pair):
    one, _ = pair
    fleet.port(one, 10, host="ironic")
    assert fleet.settle() == 0
    (trouble,) = fleet.plans()["b"].troubles
    assert trouble.reason == "region a shows no Dragonflow chassis ironic in its agent list"


def test_counts_tell_what_is_wanted_there_and_active(fleet, pair):
    one, other = pair
    fleet.port(one, 10)
    fleet.port(one, 11)
    assert fleet.plans()["b"].counts[Pair.of(one, other)].wanted == 2
    fleet.settle()
    made, _ = fleet.announced(other).values()
    fleet.change("b", made, status="ACTIVE")
    count = fleet.plans()["b"].counts[Pair.of(one, other)]
    assert (count.wanted, count.announced, count.active) == (2, 2, 1)
