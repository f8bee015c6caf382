"""What is wrong is named, once, with what to do about it; and nothing is where all is well."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fleet import HOSTS, V4, Fleet

from dragonflow.regions.cloud import CloudError, FixedIp, Misconfigured, Unauthorized, Unreachable
from dragonflow.regions.consent import Place
from dragonflow.regions.diagnosis import diagnose
from dragonflow.regions.reading import read
from dragonflow.regions.tunnels import tunnels


@pytest.fixture
def fleet() -> Fleet:
    return Fleet("a", "b")


@pytest.fixture
def pair(fleet: Fleet) -> tuple[Place, Place]:
    """Two joined networks with a port each, on the first chassis of each region, all announced."""
    one, other = fleet.network("a", vni=7), fleet.network("b", vni=8)
    fleet.name_each_other(one, other)
    fleet.port(one, 10)
    fleet.port(other, 20)
    fleet.settle()
    for cloud in fleet.clouds.values():
        for host, agent in cloud.all_agents.items():
            cloud.all_agents[host] = msgspec.structs.replace(agent, alive=True)
    return one, other


def causes(fleet: Fleet) -> list[str]:
    return [it.cause for it in diagnose(read(fleet.clouds.values()))]


def only(fleet: Fleet) -> tuple[str, str, str]:
    (found,) = diagnose(read(fleet.clouds.values()))
    assert found.remedy
    return found.cause, found.where, found.detail


def tunnel(fleet: Fleet, region: str, remote_ip: str, **state: Any) -> None:
    agents = fleet.clouds[region].all_agents
    known = {"tunneling_ip": agents[HOSTS[0]].tunnel_ip, "remote_tunnels": {remote_ip: state}}
    agents[HOSTS[0]] = msgspec.structs.replace(agents[HOSTS[0]], configurations=known)


def fail(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, error: CloudError) -> None:
    def networks(**_: object) -> list[object]:
        raise error

    monkeypatch.setattr(fleet.clouds["b"], "networks", networks)


def test_where_all_is_well_nothing_is_found(fleet: Fleet, pair: tuple[Place, Place]) -> None:
    tunnel(fleet, "a", "198.51.2.1", up=True, rtt_ms=0.4, mtu=1500)
    assert not causes(fleet)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Unreachable("b", "nobody answers"), "region-api-down"),
        (Unauthorized("b", "401"), "credentials-refused"),
        (Misconfigured("b", "no such cloud"), "misconfigured"),
    ],
)
def test_a_region_that_does_not_answer_is_all_that_is_told(
    fleet: Fleet, pair: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch, error: CloudError, cause: str
) -> None:
    fail(fleet, monkeypatch, error)
    assert only(fleet)[:2] == (cause, "b")


def test_the_side_that_has_not_joined_is_told_how(fleet: Fleet, pair: tuple[Place, Place]) -> None:
    one, other = pair
    fleet.leave(other, one)
    fleet.settle()
    (found,) = diagnose(read(fleet.clouds.values()))
    assert found.cause == "one-side-not-joined"
    assert f"stretch join {other} --with {one}" in found.remedy


def test_networks_that_can_not_be_one_are_refused_with_the_reason(fleet: Fleet) -> None:
    one, other = fleet.network("a"), fleet.network("b")
    fleet.change_subnet(other, V4, gateway_ip="192.0.2.254")
    fleet.name_each_other(one, other)
    cause, _, detail = only(fleet)
    assert cause == "refused"
    assert "192.0.2.254 in b" in detail


def test_an_address_that_both_gave_away_is_told_with_who_has_it(fleet: Fleet) -> None:
    one, other = fleet.network("a"), fleet.network("b")
    older = fleet.port(one, 10)
    fixed = (FixedIp(fleet.subnet_of(other, V4).id, "192.0.2.10"),)
    fleet.port(other, 99, fixed_ips=fixed)
    fleet.name_each_other(one, other)
    found = {it.cause: it for it in diagnose(read(fleet.clouds.values()))}
    assert found["address-overlap"].where.endswith(str(one))
    assert f"192.0.2.10 was claimed earlier by port {older.id} of region a" in found["address-overlap"].detail


def test_a_changed_segment_is_told(fleet: Fleet, pair: tuple[Place, Place]) -> None:
    fleet.change_network(pair[0], segmentation_id=70)
    cause, where, detail = only(fleet)
    assert cause == "segmentation-mismatch"
    assert where.startswith("b port ")
    assert "geneve 7, but it is: geneve 70" in detail


def test_a_port_that_moved_unheard_is_told(fleet: Fleet, pair: tuple[Place, Place]) -> None:
    (port,) = (it for it in fleet.clouds["a"].all_ports.values() if it.host)
    fleet.change("a", port, host=HOSTS[1])
    cause, _, detail = only(fleet)
    assert cause == "wrong-chassis"
    assert "198.51.1.1, but it is: 198.51.1.2" in detail


def test_mtus_that_differ_are_told(fleet: Fleet, pair: tuple[Place, Place]) -> None:
    fleet.change_network(pair[1], mtu=1400)
    cause, where, _ = only(fleet)
    assert (cause, where) == ("mtu-mismatch", str(pair[0]))


def test_ports_that_nobody_announced_are_counted(fleet: Fleet, pair: tuple[Place, Place]) -> None:
    fleet.port(pair[0], 11)
    fleet.port(pair[0], 12)
    cause, where, detail = only(fleet)
    assert (cause, where) == ("not-announced", str(pair[1]))
    assert detail.startswith("2 ports")


def test_a_dead_controller_matters_where_it_has_stretched_ports(fleet: Fleet, pair: tuple[Place, Place]) -> None:
    agents = fleet.clouds["a"].all_agents
    agents[HOSTS[1]] = msgspec.structs.replace(agents[HOSTS[1]], alive=False)
    assert not causes(fleet)
    agents[HOSTS[0]] = msgspec.structs.replace(agents[HOSTS[0]], alive=False)
    assert only(fleet)[:2] == ("controller-dead", f"a {HOSTS[0]}")


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ({"up": False, "rtt_ms": None, "mtu": None}, "tunnel-down"),
        ({"up": False, "rtt_ms": 1.5, "mtu": 1500}, "underlay-filtered"),
        ({"up": None, "rtt_ms": 1.5, "mtu": 1500}, "underlay-filtered"),
        ({"up": True, "rtt_ms": 1.5, "mtu": 1450}, "mtu-mismatch"),
    ],
)
def test_a_tunnel_says_what_is_wrong_with_its_way(
    fleet: Fleet, pair: tuple[Place, Place], state: dict[str, Any], cause: str
) -> None:
    tunnel(fleet, "a", "198.51.2.1", **state)
    assert only(fleet)[:2] == (cause, f"a {HOSTS[0]} to b 198.51.2.1")


def test_tunnels_are_shown_with_the_region_at_their_other_end(fleet: Fleet, pair: tuple[Place, Place]) -> None:
    tunnel(fleet, "a", "198.51.2.1", up=True, rtt_ms=0.4, mtu=9000)
    (found,) = tunnels(read(fleet.clouds.values()))
    assert (found.region, found.host, found.remote_region) == ("a", HOSTS[0], "b")
    assert found.needs == 1442 + 14 + 8 + 8 + 20  # Ethernet, Geneve, UDP, IPv4
